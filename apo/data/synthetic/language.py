"""A small language of which everything is known: questions, and to each an exact distribution over answers.

    Ada asks: what does the heron of Elm Hill do at noon?        The heron of Elm Hill calls near the reeds at noon.
                                                                 Now and then it dives and sings. Sleep well, Ada.

A question is drawn evenly; what it names comes back in the answer, and what a beast does depends on its kind, which
only its name tells.  Probability and entropy of an answer are conditional on the question, so that KL(data || model) is
exact for a model of answers.  An answer has one derivation (a test), but `log_prob` adds up over all of them.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from apo.data.records import Standing
from apo.data.sources.base import Document, Generated
from apo.data.synthetic.grammar import Drawing, Grammar, parse
from apo.seeds import stream

QUESTION = "{name} asks: what does the {beast} of {place} do at {time}?\n\nAnswer:"
ANSWER = """
answer~ {opening} {middle} {closing} | {opening} {closing} | {opening} {middle} {middle} {closing}
opening: At {time} the {beast} {act} {where}. | The {beast} of {place} {act} {where} at {time}.
middle: It {act} {where}. | Then it {act} {where}. | Now and then it {act} and {act}.
where~ near the {thing} | by the {thing} | under the {thing} | behind the {thing}
thing~ oak | wall | reeds | bridge | stones | hedge | well | barn | ferns | gate | ditch | willow
closing~ That is all, {name}. | Sleep well, {name}. | Ask again, {name}.
"""
ACTS = {"land": "digs | runs | hides | naps | sniffs | waits | feeds | rolls",
        "air": "calls | circles | preens | dives | perches | glides | sings | nests",
        "water": "swims | drifts | hunts | splashes | floats | rests | turns | leaps"}
BEASTS = {"land": ("fox", "hare", "badger", "boar", "goat", "mole", "weasel", "hedgehog"),
          "air": ("heron", "owl", "crow", "kestrel", "wren", "lark", "magpie", "swift"),
          "water": ("otter", "pike", "eel", "trout", "beaver", "newt", "perch", "salmon")}
PLACES = ("Elm Hill", "Ash End", "Oxford Lock", "Long Mead", "Grey Moor", "Stone Lea", "Mill Pond", "Fern Bank",
          "Low Marsh", "High Wold", "Birch Dell", "Thorn Edge")
TIMES = ("dawn", "sunrise", "noon", "dusk", "sunset", "nightfall", "midnight", "daybreak")
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Ida", "Jan", "Kit", "Lea", "Max", "Nora", "Otto",
         "Pia", "Rex", "Sam", "Tess", "Una")


@dataclass
class Language:
    """A `Generator` (`apo/data/sources/base.py`) of questions with one answer each; probabilities are the answer's."""

    answer: str
    acts: dict[str, str]
    """By the kind of beast."""
    beasts: dict[str, tuple[str, ...]]
    given: dict[str, tuple[str, ...]]
    """What else a question names."""
    question: str = QUESTION
    grammars: dict[str, Grammar] = field(init=False)

    def __post_init__(self):
        named = [*self.given, "beast"]
        self.grammars = {kind: Grammar(parse(self.answer) | parse(f"act~ {acts}"), named)
                         for kind, acts in self.acts.items()}
        self.kinds = {beast: kind for kind, beasts in self.beasts.items() for beast in beasts}
        groups = {name: f"(?P<{name}>{'|'.join(map(re.escape, words))})"
                  for name, words in {**self.given, "beast": tuple(self.kinds)}.items()}
        self.asked = re.compile(re.sub(r"\\\{(\w+)\\\}", lambda found: groups[found[1]], re.escape(self.question)))

    def sample(self, count: int, seed: int) -> list[Generated]:
        """Independent of those that the corpus of this seed is made of."""
        return [self.draw(stream(seed, "synthetic_language/sample", i), i) for i in range(count)]

    def draw(self, rng: np.random.Generator, number: int) -> Generated:
        """One question, answered; a group of its own."""
        words = {name: str(rng.choice(words)) for name, words in self.given.items()}
        words["beast"] = str(rng.choice(list(self.kinds)))
        drawing = Drawing(rng)
        answer = " " + self.grammars[self.kinds[words["beast"]]].expand("answer", drawing, words)
        document = Document(f"synthetic question {number}", [self.question.format(**words), answer],
                            standing=Standing(number, 0))
        return Generated(document, drawing.log_prob)

    def entropy(self) -> float:
        """Of an answer to a question that is known, nats, over questions."""
        return math.fsum(self.grammars[kind].entropy("answer") for kind in self.kinds.values()) / len(self.kinds)

    def log_prob(self, text: str) -> float:
        """Of the answer behind the question that a text begins with, nats; -inf for what is no answer to it, and for a
        text without a question."""
        asked = self.asked.match(text)
        if asked is None or not text.startswith(" ", asked.end()):
            return -math.inf
        words, start = asked.groupdict(), asked.end() + 1
        ends = probabilities(self.grammars[self.kinds[words["beast"]]], "answer", text, start, words)
        return math.log(ends[len(text)]) if len(text) in ends else -math.inf


def probabilities(grammar: Grammar, rule: str, text: str, start: int, given: dict[str, str]) -> dict[int, float]:
    """Where a derivation of the rule that begins at `start` may end -> the probability of all that end there."""
    choice, alternatives = grammar.rules[rule]
    found: dict[int, float] = defaultdict(float)
    for probability, parts in zip(choice.probabilities, alternatives):
        reached = {start: probability}
        for i, part in enumerate(parts):
            further: dict[int, float] = defaultdict(float)
            for at, so_far in reached.items():
                if i % 2 and part not in given:
                    inside = probabilities(grammar, part, text, at, given)
                else:
                    literal = given[part] if i % 2 else part
                    inside = {at + len(literal): 1.0} if text.startswith(literal, at) else {}
                for end, here in inside.items():
                    further[end] += so_far * here
            reached = further
        for end, here in reached.items():
            found[end] += here
    return dict(found)


LANGUAGE = Language(ANSWER, ACTS, BEASTS, {"name": NAMES, "place": PLACES, "time": TIMES})
