"""What a source of documents is, and how one row becomes a document or a complaint.

A source yields documents in an order of its own that never changes, each with its origin ("file, row 12") for
messages, cut into segments, with a score per segment or none at all (the scorer then annotates).  All formats share
one reader of rows, so that one mistake has one wording wherever it stands.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import islice
from typing import Any, Callable, ClassVar, Iterable, Iterator, Protocol

from apo.data.records import Standing
from apo.data.sentences import sentences, version
from apo.errors import ConfigError, DataError, nearest
from apo.registry import Registry
from apo.schema import DataConfig

sources = Registry("source", "apo.data.sources")

TEXT_COLUMNS = ("texts", "text")
SCORE_COLUMNS = ("scores", "score")
MAX_COMPLAINTS = 5
"""Bad rows shown in one message."""
LOOK_AHEAD = 10_000
"""Rows read after the first bad one to find more of them."""


@dataclass(slots=True)
class Document:
    """A `ScoredText` on its way: `scores` is null until the scorer has seen it."""

    origin: str
    texts: list[str]
    scores: list[float] | None = None
    standing: Standing | None = None
    """Of a completion, whose `texts` are the prompt and itself; None for any other text."""


@dataclass(slots=True)
class Ranked:
    """A prompt and its completions, best first."""

    origin: str
    prompt: str
    completions: list[str]
    rewards: list[float] | None = None
    """Higher is better, and so in falling order; null where only the order is known."""
    ended: list[bool] | None = None
    """Whether each ends where it stops, or was cut off; null: all end."""

    def documents(self, group: int) -> Iterator[Document]:
        """One for every completion, with the prompt for its first segment, which has no score."""
        for i, completion in enumerate(self.completions):
            rank = i if self.rewards is None else sum(reward > self.rewards[i] for reward in self.rewards)
            standing = Standing(group, rank, self.ended is None or self.ended[i])
            scores = None if self.rewards is None else [math.nan, -self.rewards[i]]
            yield Document(self.origin, [self.prompt, completion], scores, standing)


class BadRow(Exception):
    """A row that cannot be used; the reason, without the place."""


Row = tuple[str, "dict[str, Any] | BadRow"]
"""(origin, row): a reader hands over a BadRow in place of what it could not parse."""


@dataclass(slots=True)
class Size:
    """What is known without network and without reading everything; null where it is not."""

    documents: int | None = None
    bytes: int | None = None


class DocumentStream(ABC):
    """Documents with a cursor.  Iterating goes on from the cursor; at the end it returns to the beginning."""

    @abstractmethod
    def __iter__(self) -> Iterator[Document]: ...

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Where the next document is, as something `json` can write."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(slots=True)
class Generated:
    """A document of a generator, with log p (nats) of its text: the sum over all ways of making it.  Of a completion
    (one with a standing) both are conditional on its prompt."""

    document: Document
    log_prob: float


class Generator(Protocol):
    """What makes a synthetic corpus.  It knows the distribution it draws from, so that KL(data || model) is exact."""

    def sample(self, count: int, seed: int) -> list[Generated]: ...

    def entropy(self) -> float:
        """Of one document, nats; of a completion whose prompt is known."""


class Source(ABC):
    """Built from the data options alone; opens nothing until it is asked for documents."""

    name: ClassVar[str]
    record: ClassVar[str] = "scored_text"
    local: ClassVar[bool] = True
    """Its fingerprint needs no connection, so it is compared even before a finished run is reported."""
    needs_path: ClassVar[str] = ""
    """What `data.path` is to be, of a source that cannot do without."""

    def __init__(self, data: DataConfig):
        """Raises ConfigError for options that no documents can come of."""
        if self.needs_path and not data.path:
            raise ConfigError(f"data.path: missing: {self.needs_path}")
        self.data = data

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """Every document, in the source's own order."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever `documents` would yield anything else."""

    def rows(self) -> Iterator["Row"]:
        """What `documents` is made from, before it is cut and checked: annotation sets bad rows aside and goes on."""
        return ((document.origin, {"texts": document.texts}) for document in self.documents())

    def stream(self) -> DocumentStream:
        """The documents with a cursor, for `data.streaming`."""
        raise ConfigError(f"data.streaming needs data.source=hub; {self.name} is read as a whole")

    def size(self) -> Size:
        return Size()

    @property
    def generator(self) -> Generator | None:
        """What the documents are drawn from; None for text that was found."""
        return None

    def prompt_sets(self, heldout: Iterable[str]) -> dict[str, list[str]]:
        """Named sets of prompts made from the texts of held-out documents; of completions, from their prompts."""
        return {}

    def __str__(self) -> str:
        path = self.data.path
        return self.name if not path else path if isinstance(path, str) else ", ".join(path)

    def limited(self) -> Iterator[Document]:
        """`documents`, up to `data.max_documents`."""
        return islice(self.documents(), self.data.max_documents)


class CompletionSource(Source):
    """A source of prompts with completions, one or several each: answers, replies.

    Each completion becomes a document of two segments, prompt and completion, of which the first has no score: it is
    never prefixed or penalised, and in the loss only where `data.loss_on` says so.  Completions of one prompt stand
    next to each other and stay together when documents are split.  A prompt ends without white space; what separates
    it from the completion begins the completion, so that the two are tokenised as they would be together.
    """

    record: ClassVar[str] = "ranking"

    @abstractmethod
    def rankings(self) -> Iterator[Ranked]:
        """Every prompt with its completions, in the source's own order."""

    def documents(self) -> Iterator[Document]:
        for group, ranked in enumerate(self.rankings()):
            yield from ranked.documents(group)

    def limited(self) -> Iterator[Document]:
        """Up to `data.max_documents`, and on to the last completion of the prompt that is reached there."""
        taken = 0
        for group, ranked in enumerate(self.rankings()):
            if self.data.max_documents is not None and taken >= self.data.max_documents:
                return
            taken += len(ranked.completions)
            yield from ranked.documents(group)

    def prompt_sets(self, heldout: Iterable[str]) -> dict[str, list[str]]:
        """`heldout`: every held-out prompt, once."""
        return {"heldout": list(dict.fromkeys(heldout))}


class Cell(str):
    """Text that may stand for a number: CSV has no other kind."""

    __slots__ = ()


def lines(text: str) -> list[str]:
    """Cut after every newline, and only there: `str.splitlines` also cuts at form feeds and Unicode separators."""
    parts = text.split("\n")
    cut = [part + "\n" for part in parts[:-1]]
    return cut + [parts[-1]] if parts[-1] else cut


def cut(text: str, segment_by: str) -> list[str]:
    """The segments of a text (`data.segment_by`); joined, they are the text again."""
    return lines(text) if segment_by == "line" else sentences(text) if segment_by == "sentence" else [text]


def segmentation(segment_by: str) -> str:
    """What the segments depend on, for the names of cached data and for metadata."""
    return f"sentence ({version()})" if segment_by == "sentence" else segment_by


@dataclass(slots=True)
class Columns:
    """Which columns of the rows hold the text and the scores.  Fixed by the first row and held to after it."""

    text: str
    score: str | None
    segment_by: str
    """How text is cut.  If it is, a score of the whole says nothing of the pieces: the scorer makes new ones."""

    @classmethod
    def find(cls, names: Iterable[str], data: DataConfig) -> "Columns":
        names = list(names)
        text = _column(names, data.text_column, TEXT_COLUMNS, "data.text_column")
        if text is None:
            raise BadRow(f"has no column \"texts\" or \"text\"; it has {_listed(names)}. "
                         "Name the one that holds the text with data.text_column")
        score = _column(names, data.score_column, SCORE_COLUMNS, "data.score_column")
        return cls(text, score, data.segment_by)

    def read(self, row: dict[str, Any], origin: str) -> Document:
        """Raises BadRow."""
        texts, single = self.texts(row), isinstance(row[self.text], str)
        if single and self.segment_by != "document":
            return Document(origin, texts)
        return Document(origin, texts, self._scores(row, len(texts), single))

    def texts(self, row: dict[str, Any]) -> list[str]:
        """The segments: the row's own, or its text cut.  Raises BadRow."""
        if self.text not in row:
            raise BadRow(f'no "{self.text}"; the row has {_listed(row)}')
        value = row[self.text]
        if isinstance(value, str):
            return cut(text_in(value, self.text), self.segment_by)
        if not isinstance(value, list):
            raise BadRow(f'"{self.text}" is {_kind(value)}, not text or a list of texts')
        return [text_in(text, self.text) for text in value]

    def _scores(self, row: dict[str, Any], count: int, single: bool) -> list[float] | None:
        if self.score is None:
            late = [name for name in SCORE_COLUMNS if row.get(name) is not None]
            if late:
                raise BadRow(f'has "{late[0]}", but the first row has none: score all rows or none')
            return None
        if self.score not in row:
            raise BadRow(f'no "{self.score}"; the row has {_listed(row)}')
        value = row[self.score]
        if single and not isinstance(value, list):
            return [number_in(value, self.score)]
        if not isinstance(value, list):
            raise BadRow(f'"{self.score}" is {_kind(value)}; with a list of texts it must be a list of as many numbers')
        if len(value) != count:
            raise BadRow(f'{count} {"text" if count == 1 else "texts"} but {len(value)} in "{self.score}"')
        return [number_in(number, self.score) for number in value]


def read_rows(rows: Iterable[Row], data: DataConfig, name: str) -> Iterator[Document]:
    """Documents of (origin, row) pairs.  Raises DataError as `told` does."""
    columns: Columns | None = None

    def read(row: dict[str, Any], origin: str) -> Document:
        nonlocal columns
        if columns is None:
            columns = _first(row, data, name)
        return columns.read(row, origin)

    return told(rows, read, name)


def _first(row: dict[str, Any], data: DataConfig, name: str) -> Columns:
    try:
        return Columns.find(row, data)
    except BadRow as bad:
        raise DataError(f"{name} {bad}") from None


def told(rows: Iterable[Row], read: Callable[[dict[str, Any], str], Any], name: str | None = None) -> Iterator[Any]:
    """`read(row, origin)` of every row.

    Raises DataError with up to five bad rows in one message, and where there is none at all but a `name` of the file or
    dataset to complain about.
    """
    complaints: list[str] = []
    found, after_first = False, 0
    for origin, row in rows:
        try:
            if isinstance(row, BadRow):
                raise row
            made = read(row, origin)
        except BadRow as bad:
            complaints.append(f"{origin}: {bad}")
        else:
            found = True
            if not complaints:
                yield made
        after_first += bool(complaints)
        if len(complaints) == MAX_COMPLAINTS or after_first > LOOK_AHEAD:
            break
    if complaints:
        raise DataError(complaint_of(complaints))
    if name and not found:
        raise DataError(f"{name}: no rows; there is nothing to train on")


def complaint_of(complaints: list[str]) -> str:
    if len(complaints) == 1:
        return complaints[0]
    many = f"the first {MAX_COMPLAINTS}" if len(complaints) == MAX_COMPLAINTS else str(len(complaints))
    return f"{many} rows that cannot be used:\n" + "\n".join(f"  - {complaint}" for complaint in complaints)


def _column(names: list[str], asked: str | None, usual: tuple[str, ...], option: str) -> str | None:
    if asked is None:
        return next((name for name in usual if name in names), None)
    if asked not in names:
        raise BadRow(f'has no column "{asked}" ({option}).{nearest(asked, names)} It has {_listed(names)}')
    return asked


def text_at(row: dict[str, Any], column: str) -> str:
    """The text in a column.  Raises BadRow."""
    return text_in(_at(row, column), column)


def whole_number_at(row: dict[str, Any], column: str) -> int:
    """The whole number in a column.  Raises BadRow."""
    number = number_in(_at(row, column), column)
    if number != int(number):
        raise BadRow(f'"{column}" holds {number} where a whole number is needed')
    return int(number)


def list_at(row: dict[str, Any], column: str) -> list[dict[str, Any]]:
    """The objects in a column.  Raises BadRow."""
    value = _at(row, column)
    if not isinstance(value, list):
        raise BadRow(f'"{column}" is {_kind(value)}, not a list')
    for item in value:
        if not isinstance(item, dict):
            raise BadRow(f'"{column}" holds {_kind(item)} where an object is needed')
    return value


def _at(row: dict[str, Any], column: str) -> Any:
    if column not in row:
        raise BadRow(f'no "{column}"; the row has {_listed(row)}')
    return row[column]


def text_in(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise BadRow(f'"{column}" holds {_kind(value)} where text is needed')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRow(f'"{column}" holds half a surrogate pair at character {error.start}: not valid Unicode') from None
    return value


def number_in(value: Any, column: str) -> float:
    if isinstance(value, Cell):
        try:
            value = float(value)
        except ValueError:
            pass
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRow(f'"{column}" holds {_kind(value)} where a number is needed')
    if not math.isfinite(value):
        raise BadRow(f'"{column}" holds {value}: scores must be finite')
    return float(value)


def numbers_in(values: list[Any], column: str) -> list[float]:
    return [number_in(value, column) for value in values]


def _kind(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    if isinstance(value, str):
        return f'the text "{value[:30]}"' if value else "an empty text"
    if isinstance(value, bool | int | float):
        return f"the {'truth value' if isinstance(value, bool) else 'number'} {value}"
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else type(value).__name__


def _listed(names: Iterable[str]) -> str:
    names = [f'"{name}"' for name in names]
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "no columns"
