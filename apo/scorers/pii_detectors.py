"""The detectors of the pii scorer: functions from a text to the spans of one kind of private data.

Most are scrubadub's, asked as its `Scrubber` asks them.  Where they are not, or not only:

* **credential**: its pattern takes cubic time in a run of white space behind "login" (4,000 blanks: minutes).  Runs are
  cut to 50, which changes no match.
* **date_of_birth**: scrubadub's rules (a date that dateparser finds, 18 to 100 years old, with a word such as "born"
  within two lines before or one after), written anew: the day that ages are counted from is given, a text without such
  a word is not searched for dates, and every date is looked at once, where scrubadub looks at each of n equal ones n
  times.  What is found is the same.
* **skype**: scrubadub's rules (of the ten words before and after "skype", those of 6 letters or more that textblob's
  speller knows no word near), written anew: nothing is kept from one text to the next, a word is looked up once, and
  not at all where it is too long or has too much else than letters for any word to be near.  Looking one up takes
  textblob up to a second; scrubadub looks up words of hundreds of letters, in time that grows with their square.
* **address**: pyap's US, British and Canadian patterns.  They match a text with its white space and commas made
  uniform; here the places are carried back to the text as it is.
* **name**: entities of spaCy's `en_core_web_sm` (PERSON as `name`, ORG as `organization`: the choice of
  `scrubadub_spacy`, which needs an older transformers and is not used).

Nothing here opens a connection.  Libraries are imported when a detector is made.
"""

import importlib
import importlib.metadata
import re
from bisect import bisect_right
from datetime import date, datetime
from functools import lru_cache
from itertools import accumulate
from typing import Any, Callable, Iterable, Iterator

from apo.errors import ScorerError
from apo.scorers.base import Span

Finder = Callable[[str], Iterable[Span]]

DEFAULT = ("credential", "credit_card", "email", "phone", "social_security_number", "twitter", "url")
SETS = {"default": DEFAULT, "phf": (*DEFAULT, "date_of_birth", "skype", "address", "name")}
DETECTORS = SETS["phf"]
TYPES = (*DETECTORS, "organization")
"""Everything that a span may be: the names of the detectors, and what `name` finds beside people."""
LOCALE, COUNTRIES = "en_US", ("US", "GB", "CA")
SPACY_MODEL, ENTITIES = "en_core_web_sm", {"PERSON": "name", "ORG": "organization"}

LIBRARIES = {"phone": ("phonenumbers",), "credit_card": ("python-stdnum",),
             "social_security_number": ("python-stdnum",), "date_of_birth": ("dateparser",),
             "skype": ("textblob",), "address": ("pyap",), "name": ("spacy", SPACY_MODEL)}
"""What decides a detector's result beside scrubadub, or in its place."""
INSTALL = {"scrubadub": 'pip install "scrubadub>=2.0.1,<3"', "pyap": "pip install pyap==0.3.1",
           "spacy": f"pip install spacy && python -m spacy download {SPACY_MODEL}",
           SPACY_MODEL: f"python -m spacy download {SPACY_MODEL}"}


def libraries(name: str) -> list[str]:
    """The distributions that decide what a detector finds.  Raises ScorerError for one that is not installed."""
    needed = [*(("scrubadub",) if name in DEFAULT else ()), *LIBRARIES.get(name, ())]
    for library in needed:
        try:
            importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            raise ScorerError(f'scorer "pii": the detector "{name}" needs {library}, which is not installed: '
                              f'{INSTALL.get(library, f"pip install {library}")}; or leave it out of scorer.detectors '
                              "(a list of detectors)") from None
    return needed


def make(name: str, today: date) -> Finder:
    """A detector of its own, not to be shared between threads.  Raises ScorerError naming what is not installed."""
    libraries(name)
    own = {"credential": credentials, "date_of_birth": lambda: births(today), "skype": skype_names,
           "address": addresses, "name": names}
    return own[name]() if name in own else of_scrubadub(name)


def of_scrubadub(name: str) -> Finder:
    """scrubadub's detector, and its check of what it finds (digits of a card that add up, numbers that are given)."""
    detector = importlib.import_module("scrubadub.detectors").detector_catalogue.get(name)(locale=LOCALE)

    def find(text: str) -> Iterator[Span]:
        for filth in detector.iter_filth(text):
            if filth.is_valid():
                yield Span(filth.type, filth.beg, filth.end)
    return find


# ---- text made uniform, with the way back ----------------------------------------------------------------------------

class Rewritten:
    """A text with every match of a pattern replaced, and where its characters came from."""

    def __init__(self, text: str, pattern: re.Pattern, replacement: Callable[[re.Match], str]):
        parts: list[str] = []
        self._origins: list[int] = []
        end = 0
        for match in pattern.finditer(text):
            new = replacement(match)
            parts += [text[end:match.start()], new]
            self._origins += [*range(end, match.start()), *range(match.start(), match.start() + len(new))]
            end = match.end()
        self.text = "".join([*parts, text[end:]])
        self._origins += range(end, len(text) + 1)

    def span(self, kind: str, begin: int, end: int) -> Span:
        """Characters `begin` up to `end` of the rewritten text as a span of the original."""
        return Span(kind, self._origins[begin], self._origins[end - 1] + 1)


# ---- detectors that are ours, or have ours around them ---------------------------------------------------------------

LONG_BLANKS = re.compile(r"(\s{50})(\s+)")


def credentials() -> Finder:
    find_all = of_scrubadub("credential")

    def find(text: str) -> Iterator[Span]:
        if not LONG_BLANKS.search(text):
            yield from find_all(text)
            return
        # A line that ends inside the run ends the password, so its end is kept.
        short = Rewritten(text, LONG_BLANKS, lambda run: run[1] + ("\n" if "\n" in run[2] else ""))
        yield from (short.span(*span) for span in find_all(short.text))
    return find


SKYPE_TOKEN = re.compile(r"[a-zA-Z][a-zA-Z0-9_\-,.]+")
SKYPE_LETTERS, SKYPE_RADIUS = 6, 10
LONGEST_WORD, MOST_EDITS = 18, 2
"""Of textblob's list of English words, all of small letters; the speller looks for words at two edits or less."""


def skype_names() -> Finder:
    word = importlib.import_module("textblob").Word

    @lru_cache(maxsize=100_000)
    def misspelt(token: str) -> bool:
        far = len(token) > LONGEST_WORD + MOST_EDITS or len(re.sub("[a-z]", "", token)) > MOST_EDITS
        return far or word(token).spellcheck()[0][1] < 0.5

    def find(text: str) -> Iterator[Span]:
        if "skype" not in text.lower():
            return
        tokens = SKYPE_TOKEN.findall(text)
        places = [i for i, token in enumerate(tokens) if "skype" in token.lower()]
        near = (tokens[j] for i in places for j in range(max(i - SKYPE_RADIUS, 0), i + SKYPE_RADIUS + 1)
                if j != i and j < len(tokens) and len(tokens[j]) >= SKYPE_LETTERS)
        # In capitals it is looked up, and then also searched for, in small letters; dots in it stand for anything.
        names = {(token.lower() if token.isupper() else token): None for token in near}
        found = [name for name in names if misspelt(name)]
        if found:
            yield from (Span("skype", match.start(), match.end()) for match in re.finditer("|".join(found), text))
    return find


BIRTH_WORDS = ("birth", "born", "dob", "d.o.b.")
LINES_BEFORE, LINES_AFTER = 2, 1
AGES = range(18, 101)


def births(today: date) -> Finder:
    """Time grows with the number of dates and not with its square: a date is parsed once, however often it stands in
    the text."""
    dateparser = importlib.import_module("dateparser")
    search_dates = importlib.import_module("dateparser.search").search_dates
    settings = {"RELATIVE_BASE": datetime(today.year, today.month, today.day), "TIMEZONE": "UTC"}

    def is_of_age(found: datetime | None) -> bool:
        return found is not None and today.year - found.year in AGES

    @lru_cache(maxsize=10_000)
    def is_date(words: str) -> bool:
        return is_of_age(dateparser.parse(words, languages=["en"], settings=settings))

    def find(text: str) -> Iterator[Span]:
        near = Near(text)
        if not near.any:
            return
        dates = search_dates(text, languages=["en"], settings=settings) or ()
        for words in dict.fromkeys(words for words, found in dates if not words.startswith("+") and is_of_age(found)):
            places = list(occurrences(words, text))
            if any(near.birth(place, place + len(words)) for place in places) and is_date(words):
                yield from (Span("date_of_birth", place, place + len(words)) for place in places)
    return find


class Near:
    """Which lines of a text have a word of birth near them."""

    def __init__(self, text: str):
        lines = text.split("\n")
        self._ends = list(accumulate(len(line) + 1 for line in lines))
        said = [any(word in line for word in BIRTH_WORDS) for line in text.lower().split("\n")]
        self.any = any(said)
        self._near = [any(said[max(i - LINES_BEFORE, 0):i + LINES_AFTER + 1]) for i in range(len(lines))]

    def birth(self, begin: int, end: int) -> bool:
        """Whether characters `begin` up to `end` lie on one line, with a word of birth near it."""
        line = bisect_right(self._ends, begin)
        return end < self._ends[line] and self._near[line]


def occurrences(words: str, text: str) -> Iterator[int]:
    """Where `words` stands in the text, without overlaps."""
    place = text.find(words)
    while place >= 0:
        yield place
        place = text.find(words, place + len(words))


SPACES_AND_COMMAS = re.compile(r"[\s,]+")
DASHES = str.maketrans("\u2010\u2011\u2012\u2013\u2014\u2015", "------")
TRIMMED = " ,;:"


def addresses() -> Finder:
    parser = importlib.import_module("pyap.parser").AddressParser
    parsers = [parser(country=country) for country in COUNTRIES]

    def find(text: str) -> Iterator[Span]:
        plain = uniform(text)
        for each in parsers:
            for found in filter(None, each.parse(plain.text)):
                begin, end = found.match_start, found.match_end
                whole = plain.text[begin:end]
                begin += len(whole) - len(whole.lstrip(TRIMMED))
                end -= len(whole) - len(whole.rstrip(TRIMMED))
                if begin < end:
                    yield plain.span("address", begin, end)
    return find


def uniform(text: str) -> Rewritten:
    """As pyap makes a text before it matches: ", " for what holds a comma or a newline, " " for other white space, and
    one kind of dash.  Made anew by pyap, it stays as it is."""
    return Rewritten(text.translate(DASHES), SPACES_AND_COMMAS,
                     lambda run: ", " if "," in run[0] or "\n" in run[0] else " ")


def names() -> Finder:
    spacy: Any = importlib.import_module("spacy")
    model = spacy.load(SPACY_MODEL)

    def find(text: str) -> Iterator[Span]:
        for entity in model(text).ents:
            if entity.label_ in ENTITIES:
                yield Span(ENTITIES[entity.label_], entity.start_char, entity.end_char)
    return find
