"""How good a reply is to a dialogue of `hh_words.py`, by a rule that needs the two texts and nothing else.

What is asked for is the thing named in the last human turn that names one (a later "Can you explain it again?" is still
about it), with the task named in that turn; a tool of which that turn or a later one says that there is none ("I have
no rag") does not count.  Then, of a reply:

    +0.75       the thing is named (-0.5 if it is not)
    +0.45       the task is named
    +0.6        for every step, three at most.  A step is a sentence of 4 to 16 words that begins with "First", "Then"
                or the like (`ORDER`), says one of the topic's acts and one of its tools, neither of them in a step
                before, and no other thing than the one asked for; a reply that names another thing and not the one
                asked for is about that one, and has no steps
    -0.25       for every other thing of any topic, four at most
    -0.75       for every phrase of `EVASIVE`, two at most
    -1          for every word of `RUDE`, two at most
    -3 * share  of three-word sequences that came before in the reply, above 0.2
    -3 * share  of three-word sequences that the last human turn has, above 0.25
    -0.05       for every word above 60, 40 at most
    -0.25       if the reply does not end in . ! or ?

A reply without a word is 0.  Where the prompt asks for nothing known, only what is taken off counts.  The sum is cut to
-2 ... 3 and rounded to two places.
"""

import re
from dataclasses import dataclass, fields
from functools import lru_cache

from apo.data.synthetic.hh_words import EVASIVE, ORDER, RUDE, TOPICS, Topic
from apo.data.synthetic.signs import ends, repeated, triples, words

LOWEST, HIGHEST = -2.0, 3.0
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
SENTENCE = re.compile(r"[^.!?\n]+")
TURN = re.compile(rf"(?:{HUMAN}|\A\s*{HUMAN.strip()})(.*?)(?={HUMAN}|{ASSISTANT}|\Z)", re.DOTALL)
MISSING = re.compile(r"\bno (\w+)")
TOPIC_OF = {thing: topic for topic in TOPICS for thing in topic.things}
MAX_WORDS, STEP_WORDS, MAX_STEPS = 60, range(4, 17), 3
_EVASIVE = [re.compile(rf"\b{phrase}\b") for phrase in EVASIVE]
_ORDER = re.compile(rf"\s*(?:{'|'.join(ORDER)})\b")


@dataclass(frozen=True)
class Asked:
    topic: Topic
    thing: str
    task: str | None
    missing: frozenset[str]
    """Tools there are none of."""


@dataclass(frozen=True)
class Parts:
    """What a reward is made of; they add up to it before it is cut to its range."""

    thing: float = 0.0
    task: float = 0.0
    steps: float = 0.0
    others: float = 0.0
    evasive: float = 0.0
    rude: float = 0.0
    repetition: float = 0.0
    echo: float = 0.0
    length: float = 0.0
    end: float = 0.0

    @property
    def reward(self) -> float:
        total = sum(getattr(self, each.name) for each in fields(self))
        return round(min(max(total, LOWEST), HIGHEST), 2) + 0.0


def reward(prompt: str, reply: str) -> float:
    """Of a reply to a prompt that ends in `\\n\\nAssistant:`; higher is better."""
    return parts(prompt, reply).reward


def parts(prompt: str, reply: str) -> Parts:
    text = reply.lower()
    found = words(text)
    if not found:
        return Parts()
    request, last = asked(prompt)
    known, threes = set(found), triples(found)
    faults = {
        "evasive": -0.75 * min(sum(bool(phrase.search(" ".join(found))) for phrase in _EVASIVE), 2),
        "rude": -1.0 * min(sum(word in RUDE for word in found), 2),
        "repetition": -3 * max(repeated(found) - 0.2, 0),
        "echo": -3 * max(sum(three in last for three in threes) / len(threes) - 0.25, 0),
        "length": -0.05 * min(max(len(found) - MAX_WORDS, 0), 40),
        "end": 0.0 if ends(text) else -0.25}
    if request is None:
        return Parts(**faults)
    named = request.thing in known
    others = sum(word in TOPIC_OF for word in known) - named
    count = steps(text, request) if named or not others else 0
    return Parts(thing=0.75 if named else -0.5, task=0.45 * (request.task in known),
                 steps=0.6 * min(count, MAX_STEPS), others=-0.25 * min(others, 4), **faults)


@lru_cache(10_000)
def asked(prompt: str) -> tuple[Asked | None, frozenset[tuple[str, ...]]]:
    """What a prompt asks for, and the three-word sequences of its last human turn."""
    turns = [words(turn.lower()) for turn in TURN.findall(prompt)]
    last = frozenset(triples(turns[-1])) if turns else frozenset()
    for back, turn in enumerate(reversed(turns)):
        thing = next((word for word in turn if word in TOPIC_OF), None)
        if thing is not None:
            topic = TOPIC_OF[thing]
            task = next((word for word in turn if word in topic.tasks), None)
            missing = {word for later in turns[len(turns) - back - 1:] for word in MISSING.findall(" ".join(later))}
            return Asked(topic, thing, task, frozenset(missing)), last
    return None, last


def steps(text: str, request: Asked) -> int:
    """Of a reply in lower case."""
    acts, tools, count = set(request.topic.acts), set(request.topic.tools) - request.missing, 0
    for sentence in SENTENCE.findall(text):
        found = words(sentence)
        act = next((word for word in found if word in acts), None)
        tool = next((word for word in found if word in tools), None)
        if (act and tool and len(found) in STEP_WORDS and _ORDER.match(sentence)
                and not any(word in TOPIC_OF and word != request.thing for word in found)):
            count += 1
            acts.remove(act)
            tools.remove(tool)
    return count
