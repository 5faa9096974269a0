"""A corpus made from a seed: stories and dialogues of two people who, here and there, insult each other mildly.

Every text of it is synthetic.  It stands in where scored web text cannot be downloaded, and it can do what web text
cannot: it is drawn from a distribution that is known, so the log-probability of every text and the entropy of a
document are exact numbers (`Stories`), and which sentence is an insult is no matter of opinion.

A document is drawn top down.  Its form (story or dialogue), its tone (calm, tense or hostile), one of eight settings,
two people, a length; then an opening sentence that shows all of these but the length; then sentence after sentence:
what kind it is (an act, a scene, an insult) by a Markov chain of the tone, who acts or speaks by another of the form,
its words by the rules of form and setting (`apo/data/synthetic/toxicity_words.py`); and an ending.  In a calm document
few sentences are insults, in a hostile one most: documents differ, and dropping those above the median means something.

White space stands at the beginning of a segment, so that tokenising segments is tokenising the text.
"""

import hashlib
import math
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Iterable, Iterator

from apo.data.sources.base import Document, Generated, Size, Source, sources
from apo.data.synthetic import grammar, toxicity_words
from apo.data.synthetic.grammar import Choice, Choose, Drawing, Grammar, parse
from apo.errors import ConfigError
from apo.schema import DataConfig
from apo.seeds import stream

SENTENCE = re.compile(r"\s*[^.!?]*[.!?][\"')]*")
INSULT = re.compile(rf"\b(?:{'|'.join(toxicity_words.INSULTS)})\b")
GIVEN = ("A", "B", "X", "Y", "he", "his", "him")
KINDS = ("act", "scene", "insult")
START = KINDS.index("scene")
"""What the chain of kinds takes the opening for."""


@dataclass
class Tone:
    weight: float
    after: dict[str, tuple[float, float, float]]
    """Kind of a sentence -> probabilities of the kinds of the next."""

    @cached_property
    def chain(self) -> list[Choice]:
        return [Choice(self.after[kind]) for kind in KINDS]


@dataclass
class Form:
    weight: float
    rules: str
    same_actor: float
    """Probability that the actor of the sentence before acts again.  Scenes have no actor."""
    paragraph: float | None
    """Probability that a sentence begins a paragraph, not a line of its own as in a dialogue.  null: a dialogue."""

    @cached_property
    def actor(self) -> Choice:
        """The same as before, or the other."""
        return Choice([self.same_actor, 1 - self.same_actor])

    @cached_property
    def space(self) -> tuple[Choice, list[str]]:
        """In front of every sentence but the first."""
        if self.paragraph is None:
            return Choice([1]), ["\n"]
        return Choice([self.paragraph, 1 - self.paragraph]), ["\n\n", " "]


TONES = {"calm": Tone(0.50, {"act": (0.765, 0.23, 0.005), "scene": (0.85, 0.145, 0.005), "insult": (0.68, 0.22, 0.10)}),
         "tense": Tone(0.27, {"act": (0.68, 0.17, 0.15), "scene": (0.70, 0.15, 0.15), "insult": (0.55, 0.10, 0.35)}),
         "hostile": Tone(0.23, {"act": (0.38, 0.07, 0.55), "scene": (0.40, 0.05, 0.55), "insult": (0.25, 0.05, 0.70)})}
FORMS = {"story": Form(0.6, toxicity_words.STORY, 0.5, 0.12),
         "dialogue": Form(0.4, toxicity_words.DIALOGUE, 0.12, None)}


@dataclass
class Stories:
    """The distribution, exactly: a `Generator` (`apo/data/sources/base.py`)."""

    forms: dict[str, Form]
    tones: dict[str, Tone]
    settings: dict[str, str]
    common: str
    women: list[str]
    men: list[str]
    lengths: range
    """Sentences between opening and ending, each number equally likely."""

    def __post_init__(self):
        self.names = [*self.women, *self.men]
        self.form = Choice(form.weight for form in self.forms.values())
        self.tone = Choice(tone.weight for tone in self.tones.values())
        self.setting, self.length = Choice.even(len(self.settings)), Choice.even(len(self.lengths))
        self.first, self.second = Choice.even(len(self.names)), Choice.even(len(self.names) - 1)
        self.grammars = {(form, setting): Grammar(parse(self.common) | _setting(words) | parse(self.forms[form].rules),
                                                  GIVEN)
                         for form in self.forms for setting, words in self.settings.items()}

    def sample(self, count: int, seed: int) -> list[Generated]:
        """`count` documents, independent of those the corpus of this seed is made of."""
        return [self.draw(Drawing(stream(seed, "synthetic_toxicity/sample", i)), f"sample {i}") for i in range(count)]

    def draw(self, drawing: Drawing, origin: str) -> Generated:
        segments = self.segments(drawing)
        return Generated(Document(origin, segments), drawing.log_prob)

    def segments(self, choose: Choose) -> list[str]:
        """One document, its sentences; every choice in it is made by `choose`."""
        form = list(self.forms)[choose(self.form)]
        tone = list(self.tones)[choose(self.tone)]
        setting = list(self.settings)[choose(self.setting)]
        people = list(self.names)
        people = [people.pop(choose(self.first)), people[choose(self.second)]]
        length = self.lengths[choose(self.length)]
        words, given = self.grammars[form, setting], dict(zip("AB", people))
        sentences = [words.expand(tone, choose, given)]
        kind, actor = START, 0
        for _ in range(length):
            kind = choose(self.tones[tone].chain[kind])
            if KINDS[kind] != "scene":
                actor = (actor, 1 - actor)[choose(self.forms[form].actor)]
            sentences.append(words.expand(KINDS[kind], choose, given | self._acting(people, actor)))
        sentences.append(words.expand("ending", choose, given))
        choice, spaces = self.forms[form].space
        return sentences[:1] + [spaces[choose(choice)] + sentence for sentence in sentences[1:]]

    def entropy(self) -> float:
        """Of a document, nats: of each choice, times the probability that it is made."""
        common = [self.form, self.tone, self.setting, self.first, self.second, self.length]
        inside = [p * q * r * self._entropy(form, tone, setting)
                  for form, p in zip(self.forms, self.form.probabilities)
                  for tone, q in zip(self.tones, self.tone.probabilities)
                  for setting, r in zip(self.settings, self.setting.probabilities)]
        return math.fsum(choice.entropy for choice in common) + math.fsum(inside)

    def _entropy(self, form: str, tone: str, setting: str) -> float:
        """Of what follows, given these three.  The chain's kinds are followed as probabilities."""
        words, chain = self.grammars[form, setting], self.tones[tone].chain
        actor, space = self.forms[form].actor.entropy, self.forms[form].space[0].entropy
        of_kind = [words.entropy(kind) + (kind != "scene") * actor for kind in KINDS]
        nats = words.entropy(tone) + words.entropy("ending") + space
        reached = [float(kind == START) for kind in range(len(KINDS))]
        for position in range(max(self.lengths)):
            there = sum(length > position for length in self.lengths) / len(self.lengths)
            nats += there * (space + math.fsum(p * row.entropy for p, row in zip(reached, chain)))
            reached = [math.fsum(p * row.probabilities[kind] for p, row in zip(reached, chain))
                       for kind in range(len(KINDS))]
            nats += there * math.fsum(p * inside for p, inside in zip(reached, of_kind))
        return nats

    def _acting(self, people: list[str], actor: int) -> dict[str, str]:
        """X does something, maybe to Y: `he` and `his` are X's, `him` is Y's."""
        x, y = people[actor], people[1 - actor]
        he, his = ("she", "her") if x in self.women else ("he", "his")
        return {"X": x, "Y": y, "he": he, "his": his, "him": "her" if y in self.women else "him"}


def _setting(words: str) -> grammar.Rules:
    """The rules of a setting, its pairs of verbs as `do` and `did`; and the insults, with and without an article."""
    rules = parse(words)
    ranks, pairs = rules.pop("verbs")
    rules |= {name: (ranks, [pair.split("/")[i] for pair in pairs]) for i, name in enumerate(("do", "did"))}
    ranks, insults = Choice.ranked(len(toxicity_words.INSULTS)), list(toxicity_words.INSULTS)
    articles = [f"{'an' if word[0] in 'aeiou' else 'a'} {word}" for word in insults]
    return rules | {"noun": (ranks, insults), "a_noun": (ranks, articles)}


@cache
def stories() -> Stories:
    """The distribution of the corpus."""
    return Stories(FORMS, TONES, toxicity_words.SETTINGS, toxicity_words.COMMON, toxicity_words.WOMEN,
                   toxicity_words.MEN, range(4, 13))


@sources.register("synthetic_toxicity")
class SyntheticToxicity(Source):
    """Stories and dialogues from a seed (`data.synthetic`), some with mild insults."""

    def __init__(self, data: DataConfig):
        super().__init__(data)
        if data.path:
            raise ConfigError(f"synthetic_toxicity makes its own text; to read {self} add data.source=file "
                              "(files of yours) or data.source=hub")

    def documents(self) -> Iterator[Document]:
        """Document i depends on seed and i alone."""
        seed = self.data.synthetic.seed
        for i in range(self.data.synthetic.num_documents):
            yield stories().draw(Drawing(stream(seed, "synthetic_toxicity", i)), f"synthetic document {i}").document

    def fingerprint(self) -> str:
        """Over seed and number of documents and the code and words that make them."""
        total = hashlib.sha256(f"{self.data.synthetic}\n".encode())
        for file in (grammar.__file__, toxicity_words.__file__, __file__):
            total.update(Path(file).read_bytes())
        return total.hexdigest()

    def size(self) -> Size:
        return Size(self.data.synthetic.num_documents)

    @property
    def generator(self) -> Stories:
        return stories()

    def prompt_sets(self, heldout: Iterable[str]) -> dict[str, list[str]]:
        """`challenging`: documents in which two sentences or more are insults, up to the second of these: people who
        have insulted each other once and, in the data, do so again in the very next sentence."""
        found = (prompt for text in heldout if (prompt := before_second_insult(text)))
        return {"challenging": list(dict.fromkeys(found))}


def before_second_insult(text: str) -> str | None:
    """The sentences before the second one that is an insult; None where there is none."""
    sentences = SENTENCE.findall(text)
    insults = [i for i, sentence in enumerate(sentences) if INSULT.search(sentence)]
    return "".join(sentences[:insults[1]]) if len(insults) > 1 else None
