"""What the synthetic dialogues are written with: topics, and the sentences of people who ask and of who answers.

A topic is four lists of single words: the *things* one may ask for help with, the *tasks* one may want to do to any of
them, and the *tools* and *acts* that a step of an answer is made of ("Then turn the chain with the spanner").  A thing
belongs to one topic and is no other word that is said, so that a thing found in a text says what the text is about.

Rules are in the notation of `grammar.py` beside it.  Given from outside: `topic`, `thing` (`a_thing` and
`A_thing` with its article), `task`, `tool`, `act`.
"""

import re
from dataclasses import dataclass

from apo.data.synthetic.toxicity_words import INSULTS


@dataclass(frozen=True)
class Topic:
    name: str
    things: tuple[str, ...]
    tasks: tuple[str, ...]
    tools: tuple[str, ...]
    acts: tuple[str, ...]


def _topic(lines: str) -> Topic:
    name, *lists = (part.strip() for part in lines.split("|"))
    return Topic(name, *(tuple(words.split()) for words in lists))


TOPICS = tuple(_topic(lines) for lines in re.split(r"\n    (?! )", """
    cooking | soup stew omelette pie risotto curry |
        make season thicken reheat | pot ladle whisk salt butter | stir heat cover taste
    baking | bread cake muffin biscuit pretzel bun |
        bake glaze freeze slice | oven tin flour sugar spoon | roll dust fill coat
    gardening | rose tulip hedge lawn cactus fern |
        plant water trim move | spade hose shears compost rake | loosen soak cut feed
    bicycles | chain brake tyre saddle pedal gear |
        fix clean replace adjust | spanner pump rag oil patch | wipe turn tighten press
    painting | portrait landscape mural sketch poster fresco |
        start finish frame restore | canvas easel sponge varnish roller | mark shade dab blend
    sewing | shirt skirt curtain pillow jacket sleeve |
        mend shorten hem dye | needle thread thimble scissors ribbon | pin stitch fold press
    knitting | scarf sock mitten sweater hat blanket |
        knit wash stretch repair | yarn hook bobbin ruler needle | knot loop measure turn
    woodwork | chair table shelf drawer stool cradle |
        build sand stain assemble | hammer saw glue chisel clamp | nail join plane smooth
    plumbing | tap sink shower toilet boiler pipe |
        unblock seal install inspect | wrench plunger bucket washer tape | unscrew flush plug grease
    electricity | lamp fuse doorbell fan socket switch |
        rewire test mount label | screwdriver pliers meter cable drill | isolate strip connect check
    computers | laptop keyboard printer monitor router mouse |
        reset update configure protect | password backup adapter manual charger | restart unplug scan link
    photography | photo camera lens album negative slide |
        develop print sharpen store | tripod filter flash timer cloth | focus light tilt crop
    music | guitar piano violin flute drum trumpet |
        tune practise polish restring | metronome bow pick tuner stand | pluck strum press adjust
    fitness | squat plank pushup lunge sprint handstand |
        learn improve practise plan | mat band bench timer coach | repeat slow balance track
    hiking | trail summit ridge valley canyon waterfall |
        reach map cross explore | compass boots rope whistle guidebook | scout mark approach follow
    camping | tent campfire hammock lantern cooler stove |
        pitch pack dry carry | peg tarp mallet rope bag | anchor shelter secure raise
    fishing | trout salmon carp pike perch eel |
        catch clean smoke release | rod net bait reel hook | lure lift hold rinse
    dogs | puppy poodle terrier beagle spaniel collie |
        train groom bathe calm | leash treat comb cloth ball | reward walk brush guide
    aquariums | goldfish snail coral guppy shrimp turtle |
        feed house move breed | siphon gravel thermometer bucket filter | rinse cover settle observe
    beekeeping | hive queen swarm honeycomb bee larva |
        move inspect winter protect | smoker veil gloves syrup frame | calm lift feed scrape
    cars | engine gearbox bumper windscreen battery radiator |
        repair check polish charge | jack funnel coolant grease rag | lift drain fill loosen
    boats | sail rudder mast canoe kayak dinghy |
        rig moor balance varnish | cleat winch paddle bailer rope | hoist lash steer lower
    housework | carpet sofa window chandelier mattress bathtub |
        clean freshen dust whiten | vinegar sponge bucket soap duster | scrub rinse wipe spray
    laundry | tablecloth jeans blouse suit duvet apron |
        wash iron bleach dry | basket detergent starch hanger peg | soak wring hang sort
    chess | opening endgame pawn bishop knight rook |
        study defend sacrifice promote | clock notebook board coach diagram | attack guard trade trap
    writing | poem letter essay novel speech diary |
        begin shorten edit publish | pencil notebook dictionary thesaurus desk | draft read revise title
    languages | verb noun accent dialect idiom alphabet |
        memorise pronounce learn explain | flashcard podcast tutor song dictionary | repeat copy compare drill
    mathematics | equation fraction integral triangle matrix proof |
        solve simplify draw verify | calculator ruler formula graph notebook | factor plot invert expand
    astronomy | comet planet nebula galaxy eclipse moon |
        find photograph track draw | telescope binoculars chart eyepiece tripod | locate centre magnify follow
    pottery | vase bowl mug teapot plate jug |
        shape glaze fire decorate | clay wheel kiln wire sponge | throw centre trim smooth
    jewellery | ring bracelet necklace brooch earring pendant |
        polish resize mend engrave | pliers file torch cloth wire | solder bend heat buff
    drinks | espresso cappuccino lemonade cocoa smoothie cider |
        brew sweeten chill serve | grinder kettle blender ice straw | pour mix strain froth
    parties | birthday wedding picnic barbecue reunion banquet |
        plan host decorate cater | balloon invitation playlist candle budget | schedule announce open fill
    travel | passport visa suitcase itinerary ticket hostel |
        renew book pack choose | website app guidebook insurance calendar | compare confirm check note
    money | mortgage loan pension invoice tax salary |
        pay reduce plan negotiate | spreadsheet bank receipt adviser calculator | list compare file review
    birds | parrot canary owl sparrow finch heron |
        feed tame watch cage | seed birdbath feeder binoculars whistle | attract settle lure photograph""")[1:])

RUDE = (*INSULTS, "stupid", "lazy", "useless", "silly", "clueless")
"""Words that are rude wherever they stand; the insults are those of the toxicity corpus."""
EVASIVE = ("not sure", "no idea", "do not know", "ask someone", "ask somebody", "hard to say", "it depends",
           "cannot help", "can not help", "look it up", "maybe", "who knows", "another time")
"""Phrases that are a way of not answering."""
ORDER = ("first", "second", "third", "then", "next", "now", "after that", "finally", "last", "to begin")
"""A step begins with one of these."""

HUMAN = """
    ask: How do I {task} the {thing}? |
        How can I {task} my {thing} {when}? |
        I want to {task} my {thing}. Where do I begin? |
        Can you help me to {task} my {thing}? |
        What is the best way to {task} the {thing}? |
        I am new to {topic}. How do I {task} this {thing}? |
        Please tell me how to {task} this {thing} {when}. |
        My {kin} wants me to {task} the {thing}. What do I do? |
        I tried to {task} the {thing}, and it went wrong. What now? |
        I have to {task} the old {thing} of my {kin}. Any advice? |
        I would like to {task} the {thing} {when}, but I never did it before. |
        What do I need to {task} the {thing}?
    again: Thank you. And how do I {task} the {thing}? |
        Good. Now I also want to {task} the {thing}. |
        I see. What if I want to {task} the {thing}? |
        Let us talk about the {thing}. How do I {task} it?
    missing: I have no {tool}. What else can I use? |
        There is no {tool} here. Can it be done without? |
        My {kin} says there is no {tool} left. What now?
    unclear: I did not understand that. Can you explain it again? |
        That did not work. What else can I do? |
        Can you tell me more?
    kin~ brother | sister | neighbour | father | mother | boss | friend | aunt | cousin | uncle
    when~ today | tomorrow | this week | on my own | before Sunday | without help | in a hurry | the right way
"""

ASSISTANT = """
    both: To {task} the {thing}, take your time. |
        Sure, here is how to {task} the {thing}. |
        You can {task} the {thing} in a few steps. |
        It is easy to {task} the {thing}. |
        Here is the way to {task} the {thing}.
    part: Let me tell you about the {thing}. |
        The {thing} needs some care. |
        {A_thing} is not difficult. |
        Of course, the {thing}.
    nothing: Sure. |
        Of course. |
        I am glad that you ask. |
        That is a good question.
    first: First, {step}. | To begin, {step}.
    next: Then {step}. | Next, {step}. | Now {step}. | After that, {step}.
    final: Finally, {step}. | Last, {step}.
    step: {act} it with the {tool} | {act} the {thing} with the {tool} | use the {tool} to {act} the {thing} |
        take the {tool} and {act} it
    close: Good luck! | Have fun! | That is all. | Tell me how it went.
    evasive: I am not sure about that. | I have no idea. | I do not know much about {topic}. |
        Maybe ask someone else. | That is hard to say. | Well, it depends. | I cannot help you with that. |
        You could look it up. | I am not sure how to {task} {a_thing}. | You should ask somebody who likes {topic}. |
        Who knows? | Let us talk about it another time.
    rude: What {a_rude} question. | You {noun}! | Only {a_noun} would ask that. | Do not be so {rude_word}. |
        Do it yourself, {noun}. | Every {noun} can {task} {a_thing}. | You are too {rude_word} for {topic}. |
        I will not help {a_noun} with {a_thing}.
    rude_word~ silly | lazy | stupid | useless | clueless
    a_rude~ a silly | a lazy | a stupid | a useless | a clueless
"""
