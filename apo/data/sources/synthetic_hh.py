"""Dialogues made from a seed, each with a few replies of known worth: helpful, off the point, evasive, rude.

Every text is synthetic.  A dialogue is about one of three dozen topics (`apo/data/synthetic/hh_words.py`); somebody
asks for help with a thing, and may go on to ask for another, say that a tool is missing, or want it explained again.
What a reply is worth is said by a rule (`apo/data/synthetic/hh_rule.py`) that judges any text, so that what a trained
model writes can be judged as the corpus was (scorer `hh_rule`).  Replies to one dialogue differ in reward.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import Iterator

import numpy as np

from apo.data.sources.base import CompletionSource, Ranked, sources
from apo.data.synthetic import grammar, hh_rule, hh_words, signs, toxicity_words
from apo.data.synthetic.grammar import Choice, Drawing, Grammar, parse
from apo.data.synthetic.hh_rule import ASSISTANT, HUMAN
from apo.data.synthetic.hh_words import TOPICS, Topic
from apo.errors import ConfigError
from apo.schema import DataConfig
from apo.seeds import stream

GIVEN = ("topic", "thing", "a_thing", "A_thing", "task", "tool", "act")
KINDS = {"helpful": 0.50, "off": 0.12, "evasive": 0.20, "rude": 0.18}
"""Kind of reply -> weight."""
MAX_REPLIES, MAX_TRIES = 4, 40
TURNS, FOLLOWING = Choice([0.5, 0.32, 0.18]), ("again", "missing", "unclear")


@sources.register("synthetic_hh")
class SyntheticHH(CompletionSource):
    """Dialogues from a seed (`data.synthetic`), with two to four replies each, ranked by a rule."""

    def __init__(self, data: DataConfig):
        super().__init__(data)
        if data.path:
            raise ConfigError(f"synthetic_hh makes its own text; to read {self} name the source that reads it "
                              "(data.source)")

    def rankings(self) -> Iterator[Ranked]:
        """Prompt i depends on seed and i alone."""
        seed = self.data.synthetic.seed
        for i in range(self.data.synthetic.num_documents):
            yield Dialogue(stream(seed, "synthetic_hh", i)).ranked(f"synthetic dialogue {i}")

    def fingerprint(self) -> str:
        """Over seed and number of prompts and the code and words that make them."""
        total = hashlib.sha256(f"{self.data.synthetic}\n".encode())
        for module in (grammar, toxicity_words, signs, hh_words, hh_rule):
            total.update(Path(module.__file__).read_bytes())
        total.update(Path(__file__).read_bytes())
        return total.hexdigest()


class Dialogue:
    """One prompt and its replies while they are drawn."""

    def __init__(self, rng: np.random.Generator):
        self.rng, self.choose = rng, Drawing(rng)
        self.topic: Topic = TOPICS[rng.integers(len(TOPICS))]
        self.given = {"topic": self.topic.name, "thing": self.pick(self.topic.things),
                      "task": self.pick(self.topic.tasks)}
        self.missing: str | None = None

    def ranked(self, origin: str) -> Ranked:
        prompt, wanted = self.prompt(), 2 + int(self.rng.integers(MAX_REPLIES - 1))
        found: dict[float, str] = {}
        for kind in self.kinds(wanted):
            reply = self.reply(kind)
            found.setdefault(hh_rule.reward(prompt, reply), reply)
            if len(found) == wanted:
                break
        best_first = sorted(found.items(), reverse=True)
        return Ranked(origin, prompt, [reply for _, reply in best_first], [reward for reward, _ in best_first])

    def kinds(self, wanted: int) -> Iterator[str]:
        """The first two differ; then more, for a reply with a reward that another one has is left out."""
        names, weights = list(KINDS), np.array(list(KINDS.values()))
        yield from self.rng.choice(names, 2, replace=False, p=weights / weights.sum())
        for _ in range(MAX_TRIES):
            yield names[self.choose(Choice(weights))]

    def prompt(self) -> str:
        text, before = HUMAN + " " + self.say(human(), "ask"), None
        for _ in range(self.choose(TURNS)):
            text += f"{ASSISTANT}{self.reply('evasive' if self.chance(0.2) else 'helpful', short=True)}{HUMAN} "
            following = [each for each in FOLLOWING if each != before]
            before = following[self.rng.integers(len(following))]
            if before == "again":
                self.given |= {"thing": self.other_thing(), "task": self.pick(self.topic.tasks)}
                self.missing = None
            if before == "missing":
                self.missing = self.given["tool"] = self.pick(self.topic.tools)
            text += self.say(human(), before)
        return text + ASSISTANT

    def reply(self, kind: str, short: bool = False) -> str:
        """Begins with a space."""
        if kind == "evasive":
            return self.joined(self.several("evasive", 1 + self.chance(0.35)))
        if kind == "rude":
            polite = self.steps(int(self.rng.integers(3)), self.given["thing"])
            return self.joined(self.several("rude", 1 + self.chance(0.3)) + polite)
        about = self.given["thing"] if kind == "helpful" else self.other_thing()
        count = int(self.rng.integers(1, 3 if short else 4))
        opening = ("both", "part", "nothing")[self.choose(Choice([0.6, 0.25, 0.15]))]
        sentences = [self.say(assistant(), opening, thing=about), *self.steps(count, about)]
        if not short and self.chance(0.12):
            sentences.append(self.say(assistant(), "evasive"))
        elif not short and self.chance(0.25):
            sentences.append(self.say(assistant(), "close"))
        return self.joined(sentences)

    def steps(self, count: int, about: str) -> list[str]:
        """Steps with different acts and tools."""
        acts = self.rng.permutation(self.topic.acts)
        tools = [str(tool) for tool in self.rng.permutation(self.topic.tools) if tool != self.missing]
        places = ["first", "next", "final"][:count] if count != 2 else ["first", ("next", "final")[self.chance(0.5)]]
        return [self.say(assistant(), place, thing=about, act=str(act), tool=tool)
                for place, act, tool in zip(places, acts, tools)]

    def several(self, rule: str, count: int) -> list[str]:
        """Different sentences."""
        found: dict[str, None] = {}
        while len(found) < count:
            found[self.say(assistant(), rule)] = None
        return list(found)

    def say(self, words: Grammar, rule: str, **given: str) -> str:
        given = self.given | given
        a_thing = f"{'an' if given['thing'][0] in 'aeiou' else 'a'} {given['thing']}"
        return words.expand(rule, self.choose, given | {"a_thing": a_thing, "A_thing": a_thing.capitalize()})

    def joined(self, sentences: list[str]) -> str:
        return " " + " ".join(sentences)

    def pick(self, words: tuple[str, ...]) -> str:
        return words[self.rng.integers(len(words))]

    def other_thing(self) -> str:
        return self.pick(tuple(thing for thing in self.topic.things if thing != self.given["thing"]))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)


@cache
def human() -> Grammar:
    return Grammar(parse(hh_words.HUMAN), GIVEN)


@cache
def assistant() -> Grammar:
    """With the insults of the toxicity corpus, and these with their article."""
    nouns = toxicity_words.INSULTS
    articles = [f"{'an' if word[0] in 'aeiou' else 'a'} {word}" for word in nouns]
    ranks = Choice.ranked(len(nouns))
    return Grammar(parse(hh_words.ASSISTANT) | {"noun": (ranks, list(nouns)), "a_noun": (ranks, articles)}, GIVEN)
