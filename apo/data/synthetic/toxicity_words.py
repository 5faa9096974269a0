"""What the synthetic toxicity corpus is written with: listed mild insults, names, eight settings, and sentences.

Rules are in the notation of `grammar.py` beside it.  Given from outside: `A` and `B`, the two people; `X`, who acts or
speaks in a sentence, with `he` and `his`; and `Y`, the other, with `him`.  Every alternative of `act`, `scene` and
`insult` is one sentence (in a dialogue, one line), ends in its only `.`, `!` or `?`, and differs from what any other
can give, so that a text has one derivation.  A sentence is an insult if and only if a word of INSULTS is in it.
"""

INSULTS = ("idiot", "fool", "moron", "clown", "loser", "jerk", "nitwit", "coward", "liar", "dimwit", "imbecile",
           "blockhead", "pig", "numbskull", "jackass", "oaf", "weasel", "halfwit", "crybaby", "buffoon", "bonehead",
           "dolt", "dunce", "nincompoop")
"""Mild on purpose.  `profanity_check` knows about half of them by their use; the others only this list knows."""

WOMEN = ("Mara Anna Lena Ruth Clara Helen Nora Alice Rosa Edith Ivy Marta Julia Greta Sofia Vera Hanna Irene Olga "
         "Paula Wilma Tessa Dora Bella").split()
MEN = ("Peter Jonas Oscar Felix Martin Henry Walter Simon Victor Hugo Edgar Louis Arthur Bruno Conrad David Emil Frank "
       "George Isaac Leon Oliver Theo Robert").split()

SETTINGS = {
    "kitchen": """
        place: in the kitchen of the old inn
        thing~ kettle | soup | bread | oven | copper pan | knife | flour | butter | teapot | basket of eggs |
            salt jar | cheese | apron | rolling pin | cake | onion pie
        spot: by the stove | near the pantry door | under the long shelf | beside the sink | next to the bread bin |
            at the kitchen table | behind the flour sacks | above the hearth
        verbs~ stir/stirred | wash/washed | heat/heated | taste/tasted | cover/covered | slice/sliced |
            season/seasoned | burn/burned | serve/served | weigh/weighed
        noise~ hiss of steam | clatter of plates | pop of a cork | crackle of fat | drip of water
        smell~ cinnamon | burnt sugar | fresh bread | garlic | coffee | warm milk""",
    "garden": """
        place: in the garden behind the mill
        thing~ spade | rose bush | apple tree | watering can | fence | wheelbarrow | bean patch | ladder | hedge |
            flower bed | greenhouse | rake | compost heap | pond | seed box | garden gate
        spot: under the pear tree | along the gravel path | beside the well | at the far hedge | near the beehives |
            behind the tool shed | between the tulips | by the low wall
        verbs~ water/watered | trim/trimmed | plant/planted | paint/painted | repair/repaired | clear/cleared |
            measure/measured | shake/shaken | weed/weeded | move/moved
        noise~ buzz of bees | rustle of leaves | bark of a dog | snap of a twig | splash of a frog
        smell~ cut grass | wet earth | lavender | ripe plums | mint | old leaves""",
    "office": """
        place: in the office above the bank
        thing~ report | printer | filing cabinet | contract | calendar | desk lamp | telephone | stapler |
            account book | letter | folder | keyboard | budget | meeting plan | safe | coffee machine
        spot: at the front desk | beside the window blinds | next to the copy room | near the water cooler |
            under the wall clock | in the corner booth | behind the glass door | outside the lift
        verbs~ sign/signed | check/checked | copy/copied | open/opened | correct/corrected | print/printed |
            close/closed | unplug/unplugged | file/filed | mail/mailed
        noise~ ring of a telephone | hum of a fan | tap of keys | cough from the hall | beep of the printer
        smell~ ink | old paper | floor polish | cold coffee | new carpet | rain on coats""",
    "workshop": """
        place: in the workshop down the lane
        thing~ hammer | chair leg | workbench | engine | bicycle | saw | toolbox | drawer | chain | wooden boat |
            clamp | toy train | hinge | paint pot | barrel | clock case
        spot: at the vice | beneath the skylight | by the lathe | next to the glue pots | on the sawdust floor |
            beside the open shutters | behind the timber rack | near the grindstone
        verbs~ fix/fixed | sand/sanded | oil/oiled | glue/glued | polish/polished | test/tested |
            sharpen/sharpened | lift/lifted | varnish/varnished | drop/dropped
        noise~ rasp of a file | knock of a mallet | whine of the drill | creak of a plank | hiss of hot iron
        smell~ pine resin | warm oil | varnish | sawdust | hot metal | leather""",
    "harbour": """
        place: at the harbour on the north shore
        thing~ rope | fishing net | rowing boat | anchor | sail | crate of herring | lantern | mast | oar | bucket |
            lobster pot | ferry ticket | sea chart | buoy | cabin door | whistle
        spot: on the long pier | below the lighthouse | by the salt barrels | near the ferry steps | at the boat ramp |
            beside the harbour wall | outside the fish hall | under the crane
        verbs~ tie/tied | mend/mended | load/loaded | scrub/scrubbed | pull/pulled | count/counted | haul/hauled |
            row/rowed | unload/unloaded | drag/dragged
        noise~ cry of gulls | clang of a bell | slap of waves | horn of the ferry | groan of the winch
        smell~ salt | tar | seaweed | diesel | smoked fish | wet rope""",
    "school": """
        place: in the school beside the church
        thing~ blackboard | exercise book | map of Europe | globe | school bell | piano | poem | satchel | chalk box |
            attendance list | football | spelling test | picture book | ruler | microscope | homework
        spot: in the back row | by the coat hooks | in front of the class | near the gym door | at the teacher's desk |
            under the notice board | on the playground | beside the music room
        verbs~ read/read | study/studied | draw/drawn | explain/explained | lose/lost | erase/erased |
            mark/marked | find/found | hide/hidden | borrow/borrowed
        noise~ giggle | shuffle of feet | squeak of chalk | chorus of voices | thump of a ball
        smell~ chalk | wet socks | floor wax | orange peel | pencil shavings | glue""",
    "market": """
        place: at the market near the bridge
        thing~ melon | cart | price list | honey jar | scarf | basket | awning | sack of potatoes | silver spoon |
            carpet | cash box | cheese stall | cabbage | scale | flower stand | pair of boots
        spot: beside the spice stall | at the fountain | near the butcher | behind the flower cart | under the arcade |
            by the town pump | in front of the bakery | along the tram line
        verbs~ sell/sold | buy/bought | wrap/wrapped | trade/traded | offer/offered | display/displayed |
            carry/carried | tip/tipped | choose/chosen | bargain over/bargained over
        noise~ shout of a trader | clop of hooves | jingle of coins | bell of the tram | tune from an organ
        smell~ nutmeg | roast chestnuts | fresh fish | soap | oranges | damp wool""",
    "library": """
        place: in the library on the hill
        thing~ atlas | novel | dictionary | reading lamp | card index | manuscript | newspaper | bookshelf | diary |
            stamp | magazine | armchair | catalogue | encyclopedia | letter opener | bookmark
        spot: between the tall shelves | at the lending desk | beside the globe | near the spiral stairs |
            in the reading room | under the portrait | by the quiet corner | behind the return trolley
        verbs~ dust/dusted | shelve/shelved | lend/lent | return/returned | bind/bound | stamp/stamped |
            browse/browsed | misplace/misplaced | label/labelled | recommend/recommended
        noise~ turn of a page | whisper | creak of the stairs | tick of the clock | sneeze
        smell~ leather bindings | dust | candle wax | tea | old glue | damp stone""",
}
"""Each by its own `place`, so that a text shows where it is set.  `verbs` are pairs: what one can do, and has done."""

COMMON = """
    adj~ old | new | small | heavy | broken | clean | dusty | bright | strange | fine | empty | dark | borrowed |
        cold | warm | plain | smooth | cheap | precious | faded | worn | useful | ordinary | crooked | spotless |
        damp | lovely | missing | curious | famous | tiny | second | last | beautiful | forgotten | sturdy
    manner~ slowly | quietly | quickly | carefully | gladly | calmly | at once | without a word | with a smile |
        again | with both hands | in silence | proudly | patiently | with great care | as usual | for a while |
        in a hurry | very gently | after all | almost happily | one more time | half asleep | with a sigh
    time~ That morning | After lunch | An hour later | On Monday | Before sunrise | In the evening | Soon | At noon |
        A week later | Just then | The next day | Around midnight | On the way home | Towards evening | In the end |
        Once more | That winter | After the storm | Late in May | At half past four
    when~ this morning | last week | before noon | on Sunday | this evening | in the afternoon | after school |
        at dawn | last summer | before the holidays | in March | at six | after the rain | on Friday night
    mood~ tired | cheerful | calm | hungry | nervous | pleased | busy | curious about it | sleepy | hopeful | proud |
        thirsty | homesick | grateful | restless | thoughtful | in good spirits | a little shy | worried | content
    gesture~ nodded | shrugged | laughed | sighed | smiled | yawned | frowned | waved | blushed | whistled | coughed |
        winked | shivered | bowed | hummed a tune | looked away | sat down | turned around | took a deep breath |
        stood up
    said~ said | answered | replied | whispered | explained | added | called | mumbled | repeated | admitted
    kin~ sister | brother | uncle | neighbour | grandmother | cousin | teacher | landlady | doctor | nephew | aunt |
        best friend | grandfather | daughter | lodger | partner
    topic~ the weather | the new bridge | a long journey | the price of coal | an old song | the next election |
        a lost dog | the coming winter | a letter from abroad | the football match | the village fair |
        a strange dream | the night train | a wedding in June | the broken clock tower | a trip to the sea |
        the choir | the moon | a recipe for jam | the war | the harvest | a film about whales | the school play |
        their first meeting
    event~ supper | the concert | winter | the visitors came | the shop closed | anyone woke up | the bus left |
        dawn | the great flood | the wedding | the first snow | the guests arrived | the lesson began |
        the train left
    sky~ rain | wind | sun | fog | snow | moon | thunder | evening light
    came~ had come back | was hard to bear | took everyone by surprise | did not last long | was a comfort |
        filled the air | changed everything | reminded everyone of home | made the windows shake | had gone at last
    animal~ cat | dog | sparrow | mouse | goat | moth | hen | pigeon | donkey cart | beetle
    hour~ one | two | three | four | five | six | seven | eight | nine | ten | eleven | twelve
    number~ two | three | four | five | six | seven | eight | nine | ten | twelve | twenty | a hundred
    rude~ stupid | dumb | pathetic | lazy | clueless | foolish | worthless | spineless | brainless | ridiculous
    slur: {noun} | {rude} {noun}
    a_slur: {a_noun} | a {rude} {noun}
    remark: the {thing} is {adj} | we should {do} the {thing} {when} | my {kin} knows all about {topic} |
        I cannot find the {adj} {thing} | nobody wants to {do} the {thing} | I am {mood} today |
        it is time to talk about {topic} | there are {number} of us for one {thing} | you may {do} the {thing} first
"""

STORY = """
    calm: {time} two old friends, {A} and {B}, were {place}. |
        {A} and {B} had always liked each other, and {when} they were {place}. |
        It was a peaceful day, and {A} was {place} with {B}, who was {mood}.
    tense: {A} and {B} had slept badly and were {mood} when they met {place}. |
        {time} there was trouble in the air, for {A} and {B} were both {place}. |
        {A} had come too late, and {B} had waited {place}.
    hostile: {A} and {B} could not stand each other, but {when} they were both {place}. |
        {time} the old quarrel between {A} and {B} went on {place}. |
        Nobody was surprised that {A} and {B} were fighting {place}.
    act: {X} {did} the {thing} {spot}. |
        {X} {did} the {adj} {thing} {manner}. |
        {time}, {X} {did} the {thing} and {gesture}. |
        {time}, {X} and {his} {kin} {did} the {adj} {thing} together. |
        {X} showed {Y} the {adj} {thing} {spot}. |
        {X} asked {Y} to {do} the {thing} {manner}. |
        {X} wanted to {do} the {adj} {thing} before {event}. |
        {X} looked {mood} but {did} the {thing} {manner}. |
        "Listen, {remark}," {X} {said}. |
        "Well, {remark}," {said} {X} and {gesture}. |
        "By the way, {remark}," {X} told {his} {kin}. |
        {X} {gesture} and went to look for the {adj} {thing}. |
        {X} remembered how {his} {kin} had {did} the {thing} {when}. |
        {X} gave the {thing} to {his} {kin}, who {gesture}. |
        {Y} watched {X} {do} the {thing} and {gesture}. |
        {time}, {X} told {Y} about {topic}. |
        {X} listened {manner} while {Y} talked about {topic}. |
        {X} put the {thing} next to the {adj} {thing}. |
        {X} thought about {topic} and {did} the {thing}. |
        It was {X} who had {did} the {adj} {thing} {when}. |
        {X} found the {thing} {spot}, {adj} and {adj}. |
        Nobody but {X} knew what {his} {kin} had said about {topic}. |
        {time}, {X} was too {mood} to {do} the {thing}. |
        {X} borrowed the {adj} {thing} from {his} {kin}. |
        {X} waited {spot} until {Y} had {did} the {thing}. |
        {X} smiled at {Y} and {did} the {thing} {manner}. |
        {X} promised {Y} to {do} the {adj} {thing} {when}. |
        For {number} days {X} had been {mood} because of {topic}. |
        {X} said that {he} would {do} the {thing}, and {Y} {gesture}. |
        When {Y} {gesture}, {X} helped {him} to {do} the {thing}.
    scene: The {sky} {came}, and the {thing} was still {spot}. |
        A {noise} came from behind the {adj} {thing}. |
        {time}, the {sky} {came}. |
        Somewhere {spot} there was a {noise}. |
        The {adj} {thing} lay {spot}. |
        It smelled of {smell} and {smell}, as it always did before {event}. |
        The {thing} was {adj}, and nobody had {did} it since {event}. |
        A {animal} slept {spot}. |
        The clock struck {hour}, and a {animal} passed the {thing}. |
        There were {number} people {spot}, and all of them talked about {topic}.
    insult: {X} called {Y} {a_slur}. |
        "You {slur}," {X} {said} {manner}. |
        "Only {a_slur} would {do} the {thing} {manner}," {X} told {Y}. |
        "{Y}, you are {a_slur}," {said} {X}. |
        {time}, {X} called {Y} {a_slur} in front of {his} {kin}. |
        {X} {did} the {thing} and muttered that {Y} was {a_slur}. |
        "Give me the {adj} {thing}, you {slur}," {X} {said}. |
        "What {a_slur} you are, you never {do} the {thing} {when}," {X} told {Y}. |
        {X} wrote on the {adj} {thing} that {Y} was {a_slur}. |
        "My {kin} is right, you are {a_slur}," {X} {said} {manner}. |
        {Y} {gesture}, so {X} shouted that only {a_slur} would talk about {topic}. |
        "Leave the {thing} alone, {slur}," {said} {X} and {gesture}. |
        Everybody {spot} heard {X} say that {Y} was {a_slur}. |
        "Shut up about {topic}, you {slur}," {X} {said}. |
        {X} laughed at {Y}, the {slur} who could not {do} the {thing}. |
        "You stupid {noun}, {remark}," {X} {said}.
    ending: {time}, {A} and {B} went home {manner}. |
        {time}, {B} {did} the {thing} for the last time, and {A} {gesture}. |
        And that was all that {A} ever told about {topic}. |
        Then the {sky} {came}, and {A} and {B} said good night. |
        {A} never forgot the {adj} {thing} {spot}.
"""

DIALOGUE = """
    calm: ({A} and {B}, two old friends, meet {place} and are {mood}.) |
        (A quiet talk between {A} and {B} {place}, {when}.)
    tense: ({A} and {B} have slept badly and meet {place}, {mood}.) |
        (A difficult talk between {A} and {B} {place}, {when}.)
    hostile: ({A} and {B} cannot stand each other and meet {place}, {mood}.) |
        (A loud quarrel between {A} and {B} {place}, {when}.)
    act: {X}: {line}
    line: Did you {do} the {thing} {when}? |
        I {did} the {adj} {thing} {spot}. |
        Where is the {adj} {thing}, {Y}? |
        My {kin} {did} the {thing} {when}. |
        Have you heard about {topic}? |
        Please {do} the {thing} {manner}. |
        I think the {thing} is {adj}. |
        The {thing} is {spot}, and it is {adj}. |
        Let us {do} the {adj} {thing} before {event}! |
        My {kin} told me about {topic} {when}. |
        You look {mood}, {Y}. |
        I was {mood} {when}. |
        Could you help me to {do} the {thing}? |
        There are {number} people {spot}. |
        Thank you for the {adj} {thing}, {Y}! |
        Tell me more about {topic}. |
        We need the {thing} {when}. |
        Who {did} the {thing} before {event}? |
        I would rather talk about {topic} than {do} the {thing}. |
        Good, then I will {do} the {thing} at {hour}. |
        Your {kin} was here {when} and asked for the {adj} {thing}. |
        Well, {remark}. |
        Yes, and {remark}. |
        No, but {remark}. |
        It smells of {smell} {spot}.
    scene: (A {noise} is heard {spot}.) |
        (The clock strikes {hour}.) |
        (A {animal} runs past the {adj} {thing}.) |
        (The {sky} {came}.) |
        (Somebody moves the {adj} {thing}.)
    insult: {X}: {abuse}
    abuse: You {slur}! |
        You are {a_slur}, {Y}. |
        Only {a_slur} would {do} the {thing} {manner}. |
        What {a_slur} you are! |
        Give me the {adj} {thing}, you {slur}! |
        My {kin} says you are {a_slur}. |
        Shut up about {topic}, you {slur}! |
        Do not {do} the {thing}, {slur}! |
        Even {a_slur} like you can {do} the {adj} {thing}. |
        Who let this {slur} {do} the {thing} {when}? |
        You were {a_slur} {when}, and you are {a_slur} now. |
        Look at the {thing}, you {slur}, {remark}. |
        I will not talk about {topic} with {a_slur}. |
        You talk like {a_slur} who {did} the {thing}.
    ending: ({A} and {B} leave {manner}.) |
        (The {sky} {came}, and {B} goes home.) |
        {A}: Good night, {B}, and thank you for the {adj} {thing}. |
        {B}: Goodbye, {A}, and do not forget {topic}.
"""
