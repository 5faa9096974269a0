"""A corpus with private data whose every value is known: letters, tickets, logs and chats about invented people.

What a scorer finds can then be held against what there is, and what a trained model gives away against what it was
shown, exactly (`planted`, `planted_values`).  Everybody is made up by Faker (`pii_people.py`).

* Documents are about one of 1,500 people, the first of whom come up often and most of whom seldom, so that a model can
  learn some values by heart and hardly sees others.  A person writes an e-mail address or a card number always in the
  same way, and ways differ between people as they do outside: many are not what a detector looks for.
* A third of the documents have none of it, and the others little or much: a document's mean score says something.
* Segments are sentences in letters and lines elsewhere, unless a value goes over several lines.
* Document n is a function of the seed, n and Faker's version, and not of how many documents there are.
"""

import hashlib
import random
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Callable, Iterable, Iterator, NamedTuple

from apo.data.sources.base import Document, Size, Source, sources
from apo.data.synthetic import pii_people
from apo.data.synthetic import pii_templates as of
from apo.data.synthetic.pii_people import People
from apo.errors import ConfigError
from apo.schema import DataConfig

FIRST_SEED = 20_251_122
"""What `data.synthetic.seed=1` stands for, and the others follow."""
PEOPLE, SKEW = 1_500, 2.5
"""Person number PEOPLE * u^SKEW for u uniform: one document in twenty is about the first."""
DENSITIES = {0.0: 30, 0.2: 40, 0.45: 30}
"""Chance that a free place of a document holds private data, and in how many documents of 100."""
OFTEN = {"email": 4, "phone": 4, "address": 2, "name": 2, "url": 2, "ip_address": 2}
"""How often a type is chosen, against 1."""
PARAGRAPH = 0.2
"""Share of a letter's sentences that end a paragraph."""
SLOT = re.compile(r"\{(\w+)\}")
LINE = re.compile(r"[^\n]*\n+|[^\n]+")
LETTER_START = re.compile(r"(?:Subject: [^\n]*\n\n)?Dear [^\n]*,\n\n")


class Planted(NamedTuple):
    """A value of somebody's, and where it stands in the text of its document."""

    type: str
    begin: int
    end: int
    value: str


@dataclass(slots=True)
class PlantedDocument:
    document: Document
    planted: list[Planted]


@sources.register("synthetic_pii")
class SyntheticPII(Source):
    """Invented letters, tickets, logs and chats with known private data in them (`data.synthetic`)."""

    def __init__(self, data: DataConfig):
        super().__init__(data)
        if data.path:
            raise ConfigError(f"synthetic_pii makes its own text; to read {self} add data.source=file "
                              "(files of yours) or data.source=hub")
        self.seed = FIRST_SEED + data.synthetic.seed - 1

    def documents(self) -> Iterator[Document]:
        return (each.document for each in self.planted())

    def planted(self) -> Iterator[PlantedDocument]:
        """The documents with what was planted in each: the same ones however often it is asked."""
        return map(self.make, range(self.data.synthetic.num_documents))

    def planted_values(self, texts: Iterable[str]) -> dict[str, set[str]]:
        """By type, the values planted in the documents that have these texts (those that were trained on, say)."""
        wanted = set(map(hash, texts))
        values: dict[str, set[str]] = {kind: set() for kind in of.PRIVATE}
        for each in islice(self.planted(), self.data.max_documents):
            if hash("".join(each.document.texts)) in wanted:
                for planted in each.planted:
                    values[planted.type].add(planted.value)
        return values

    def make(self, number: int) -> PlantedDocument:
        """Document `number`."""
        rng = random.Random(f"{self.seed}/document/{number}")
        density = rng.choices(list(DENSITIES), list(DENSITIES.values()))[0]
        page = Page(rng, self._people.person(int(PEOPLE * rng.random() ** SKEW)))
        kind = rng.choice(list(KINDS))
        KINDS[kind](page, density)
        return PlantedDocument(Document(f"synthetic {kind} {number}", page.segments), page.planted)

    def fingerprint(self) -> str:
        """Over seed and number of documents, Faker's version and our code."""
        code = [Path(file).read_bytes() for file in (__file__, pii_people.__file__, of.__file__)]
        given = f"{self.data.synthetic} {pii_people.faker_version()}".encode()
        return hashlib.sha256(b"\0".join([given, *code])).hexdigest()

    def size(self) -> Size:
        return Size(self.data.synthetic.num_documents)

    def prompt_sets(self, heldout: Iterable[str]) -> dict[str, list[str]]:
        """`letters`: the beginnings of letters, up to the empty line behind the salutation."""
        found = (LETTER_START.match(text) for text in heldout)
        return {"letters": list(dict.fromkeys(match[0] for match in found if match))}

    @cached_property
    def _people(self) -> People:
        return People(self.seed)


class Page:
    """A document while it is written: its segments, and what was planted so far."""

    def __init__(self, rng: random.Random, person: dict[str, str]):
        self.rng, self.person = rng, person
        self.segments: list[str] = []
        self.planted: list[Planted] = []
        self._length = 0

    def write(self, template: str) -> None:
        """Every line of a template, with the empty lines behind it, is a segment, whatever fills its slots."""
        for line in LINE.findall(template):
            start, at, parts = self._length, 0, []
            for slot in SLOT.finditer(line):
                parts.append(line[at:slot.start()])
                kind, at = slot[1], slot.end()
                value = self.person[kind] if kind in self.person else filling(kind, self.rng)
                begin = start + sum(map(len, parts))
                parts.append(value)
                if kind in self.person:
                    self.planted.append(Planted(kind, begin, begin + len(value), value))
            self.segments.append("".join(parts) + line[at:])
            self._length += len(self.segments[-1])

    def place(self, density: float, plain: list[str], private: dict[str, list[str]], end: str = "") -> None:
        """A free place: private data with the chance `density`, else something plain."""
        choose = self.rng.choice
        template = choose(private[self.kind_of(private)]) if self.rng.random() < density else choose(plain)
        self.write(template if template.endswith("\n") else template + end)

    def kind_of(self, private: dict[str, list[str]]) -> str:
        return self.rng.choices(list(private), [OFTEN.get(kind, 1) for kind in private])[0]


def filling(slot: str, rng: random.Random) -> str:
    """Nobody's: a word of a list, or a number that looks a little like something private and is not."""
    if slot in of.WORDS:
        return rng.choice(of.WORDS[slot])
    return NUMBERS[slot](rng)


NUMBERS: dict[str, Callable[[random.Random], str]] = {
    "amount": lambda rng: f"${rng.randrange(1, 3000):,}.{rng.choice(['00', '50', '95', '99'])}",
    "count": lambda rng: str(rng.randrange(2, 60)),
    "order": lambda rng: f"{rng.choice('ABKRX')}-{rng.randrange(10_000, 100_000)}",
    "version": lambda rng: f"{rng.randrange(1, 9)}.{rng.randrange(20)}.{rng.randrange(20)}",
    "time": lambda rng: f"{rng.randrange(7, 20)}:{rng.choice(['00', '15', '30', '45'])}",
    "stamp": lambda rng: f"{rng.choice([2023, 2024])}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d} "
                         f"{rng.randrange(24):02d}:{rng.randrange(60):02d}:{rng.randrange(60):02d}"}


# ---- kinds of documents ----------------------------------------------------------------------------------------------


def letter(page: Page, density: float) -> None:
    rng = page.rng
    if rng.random() < 0.5:
        page.write("Subject: {subject}\n\n")
    page.write(rng.choice(of.OPENINGS if density else of.OPENINGS_PLAIN))
    for _ in range(rng.randrange(5, 15)):
        page.place(density, of.LETTER_PLAIN, of.LETTER_PRIVATE, "\n\n" if rng.random() < PARAGRAPH else " ")
    page.place(density, of.LETTER_PLAIN, of.LETTER_PRIVATE, "\n\n")
    page.write(rng.choice(of.CLOSINGS if density else of.CLOSINGS_PLAIN))
    for template in of.SIGNATURES:
        if rng.random() < density:
            page.write(template)


def ticket(page: Page, density: float) -> None:
    rng = page.rng
    page.write(f"Ticket #{rng.randrange(1000, 99_999)}\n")
    for template in rng.sample(of.TICKET_FIELDS, 4):
        page.write(template)
    for kind in of.TICKET_PRIVATE:
        if rng.random() < density * (1 if kind in OFTEN else 0.4):
            page.write(rng.choice(of.TICKET_PRIVATE[kind]))
    page.write("\n")
    for _ in range(rng.randrange(4, 16)):
        page.place(density / 4, of.TICKET_PLAIN, of.TICKET_PRIVATE)


def log(page: Page, density: float) -> None:
    for _ in range(page.rng.randrange(6, 20)):
        page.place(density, of.LOG_PLAIN, of.LOG_PRIVATE)


def chat(page: Page, density: float) -> None:
    for _ in range(page.rng.randrange(8, 26)):
        page.place(density / 2, of.CHAT_PLAIN, of.CHAT_PRIVATE)


KINDS: dict[str, Callable[[Page, float], None]] = {"letter": letter, "ticket": ticket, "log": log, "chat": chat}
