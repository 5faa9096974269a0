"""Rows of a source to scored documents, or to the reason why not: what training refuses, annotation sets aside."""

from dataclasses import dataclass
from itertools import islice
from typing import Iterable, Iterator

from apo.data.scoring import SegmentScorer, fault_of, segment_scores
from apo.data.sources.base import BadRow, Columns, Document, Source
from apo.errors import DataError, ScorerError
from apo.schema import DataConfig

GIVE_UP = 20
"""Rows in a row, at the beginning or all refused by the scorer, after which going on is of no use."""


@dataclass(frozen=True)
class Shard:
    """Rows number, number + count, ... of the input, counted from 1."""

    number: int
    count: int

    def has(self, row: int) -> bool:
        """`row` is counted from 0."""
        return row % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(slots=True)
class Entry(Document):
    """A row on its way: a document, or what is wrong with it."""

    row: int = 0
    """Of the input, from 0."""
    reason: str | None = None
    """Why there is no document.  null: there is one."""


def entries(source: Source, data: DataConfig, start: int, shard: Shard) -> Iterator[Entry]:
    """The shard's rows from row `start` on, in order, cut and not yet scored.

    Scores that the rows bring are not looked at.  Which column holds the text, the first row that has one says.
    """
    columns: Columns | None = None
    for number, (origin, row) in enumerate(islice(source.rows(), data.max_documents)):
        columns = columns or _columns(row, data)
        if number >= start and shard.has(number):
            yield _entry(number, origin, row, columns, data)


def _columns(row: dict | BadRow, data: DataConfig) -> Columns | None:
    try:
        return None if isinstance(row, BadRow) else Columns.find(row, data)
    except BadRow:
        return None


def _entry(number: int, origin: str, row: dict | BadRow, columns: Columns | None, data: DataConfig) -> Entry:
    try:
        if isinstance(row, BadRow):
            raise row
        texts = (columns or Columns.find(row, data)).texts(row)
        if not any(texts):
            raise BadRow("no text")
    except BadRow as bad:
        return Entry(origin, [], row=number, reason=str(bad))
    return Entry(origin, texts, row=number)


def count(source: Source, data: DataConfig) -> int | None:
    """Rows of the input, for the time that is left; null for a stream, which is not read twice."""
    if data.streaming:
        return None
    known = source.size().documents
    if known is None:
        known = sum(1 for _ in islice(source.rows(), data.max_documents))
    return min(known, data.max_documents or known)


def judged(scorer: SegmentScorer, documents: list[list[str]]) -> list[list[float] | str]:
    """For every document its scores, or the reason why it has none.  A worker's work (`apo/data/scoring.py`)."""
    if not documents:
        return []
    try:
        return [_numbers(scores, texts) for scores, texts in zip(segment_scores(scorer, documents), documents)]
    except MemoryError:
        raise
    except Exception as error:      # whatever a scorer raises, on one text among many
        if len(documents) > 1:
            return [result for document in documents for result in judged(scorer, [document])]
        return [str(error) if isinstance(error, ScorerError) else f"{type(error).__name__}: {error}"]


def _numbers(scores: list[float], texts: list[str]) -> list[float]:
    fault = fault_of(scores, len(texts))
    if fault:
        raise ScorerError(fault.lstrip(":, "))
    return [float(score) for score in scores]


class Patience:
    """Stops what cannot come to anything: nothing usable at the beginning, or a scorer that fails on everything.

    A stretch of rows that cannot be read, further on, is set aside however long it is."""

    def __init__(self, hopeful: bool):
        """`hopeful`: rows have been used before."""
        self.hopeful, self.streak = hopeful, 0

    def see(self, chunk: Iterable[Entry]) -> None:
        """Raises ScorerError or DataError at the last straw."""
        for entry in chunk:
            by_scorer = bool(entry.reason and entry.texts)
            if not entry.reason:
                self.hopeful, self.streak = True, 0
            elif by_scorer or not self.hopeful:
                self.streak += 1
            if self.streak == GIVE_UP and by_scorer:
                raise ScorerError(f"the scorer has refused {GIVE_UP} rows, one after the other; the last is "
                                  f"{entry.origin}: {entry.reason}")
            if self.streak == GIVE_UP:
                raise DataError(f"none of the first {GIVE_UP} rows can be used; the last is "
                                f"{entry.origin}: {entry.reason}")
