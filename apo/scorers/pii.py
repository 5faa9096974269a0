"""Private data: filths that scrubadub finds, per character of text (PHF).

A *filth* is scrubadub's word for a piece of private data.  What its detectors find is merged as scrubadub merges it:
spans that overlap or touch are one filth.  `pii_detectors.py` holds the detectors and says where they are ours.

* The score is a function of the text and the options: the day that ages are counted from is an option, and a detector
  that keeps state from one text to the next is made anew for every thread.
* A document is searched as a whole, and a filth counts for the segment it begins in, so that segments' scores weighted
  by their lengths add up to the document's, a date of birth is seen beside the line before it that says "born", and an
  address over two lines is one.  What a later segment holds of it does not count there.
* Where a detector fails on a text, a warning says which and shows the text, and what the others found counts.  PHF
  gives such a text 0, the score of a clean one; raising instead would let one odd sample stop a run.
"""

import importlib.metadata
import threading
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from datetime import date
from itertools import accumulate
from typing import ClassVar, Iterable

from apo.console import warn
from apo.errors import ConfigError, nearest
from apo.scorers import pii_detectors
from apo.scorers.base import Scorer, Span, file_sha256, quoted, scorers
from apo.scorers.pii_detectors import DETECTORS, SETS, Finder

_of_thread = threading.local()


@scorers.register("pii")
@dataclass
class PIIScorer(Scorer):
    """Filths per character.  The empty text scores 0."""

    parallel: ClassVar[bool] = True

    detectors: str | list[str] = "default"
    """`default`: scrubadub's own (credential, credit_card, email, phone, social_security_number, twitter, url).  `phf`:
    those, date_of_birth, skype, address and name.  Or a list of these names."""
    today: str = "2023-01-01"
    """The day that ages are counted from, by which a date is one of birth (18 to 100 years before it)."""
    as_released: bool = False
    """As PHF's script that scored the training data: every segment is searched alone, its filths are divided by its
    length twice, and a text on which a detector fails has none."""

    def __post_init__(self):
        names = SETS.get(self.detectors) if isinstance(self.detectors, str) else self.detectors
        if names is None:
            raise ConfigError(f'scorer.detectors: no set "{self.detectors}".{nearest(self.detectors, SETS)} There are: '
                              f'{", ".join(SETS)}; or a list of detectors, such as [{self.detectors}]')
        unknown = [name for name in names if name not in DETECTORS]
        if unknown or not names:
            raise ConfigError([f'scorer.detectors: no detector "{name}".{nearest(name, DETECTORS)} There are: '
                               f'{", ".join(DETECTORS)}' for name in unknown] or ["scorer.detectors: an empty list"])
        try:
            date.fromisoformat(self.today)
        except ValueError:
            raise ConfigError(f'scorer.today: "{self.today}" is no date such as 2023-01-01') from None
        self._names = tuple(name for name in DETECTORS if name in names)
        self._last: tuple[list[str], list[list[Span]]] = ([], [])

    @property
    def one_segment_is_a_text(self) -> bool:
        return not self.as_released

    def score(self, texts: list[str]) -> list[float]:
        return [len(found) / len(text) if text else 0.0 for text, found in zip(texts, self.spans(texts))]

    def score_segments(self, segments: list[str]) -> list[float]:
        """Filths that begin in the segment / characters of the segment."""
        if self.as_released:
            return [score / len(segment) if segment else 0.0 for segment, score in zip(segments, self.score(segments))]
        ends = list(accumulate(map(len, segments)))
        counts = Counter(bisect_right(ends, span.begin) for span in self.spans(["".join(segments)])[0])
        return [counts[i] / len(segment) if segment else 0.0 for i, segment in enumerate(segments)]

    def explain(self, texts: list[str]) -> list[dict[str, float]]:
        """Filths per character by type, `{"email": 0.002, ...}`; they add up to the score."""
        counts = [Counter(span.type for span in found) for found in self.spans(texts)]
        return [{name: count / len(text) for name, count in sorted(counter.items())}
                for text, counter in zip(texts, counts)]

    def spans(self, texts: list[str]) -> list[list[Span]]:
        """The filths of every text.  One that several detectors found is named after the longest of their spans.

        Score, explanation and spans of the same texts are asked for one after the other, so the last are kept."""
        known, found = self._last
        if known != texts:
            found = [self.find(text) for text in texts]
            self._last = (list(texts), found)
        return found

    def find(self, text: str) -> list[Span]:
        """Never raises, unless a detector cannot be made (ScorerError)."""
        found: list[Span] = []
        for name, finder in self._finders().items():
            try:
                found.extend(finder(text))
            except Exception as error:  # whatever goes wrong inside says that the text is odd, not that the program is
                what = "the text scores 0, as released" if self.as_released else "what the others find counts"
                warn(f'scorer "pii": detector {name} failed on {quoted(text)} ({type(error).__name__}: '
                     f"{quoted(str(error))}); {what}")
                if self.as_released:
                    return []
        return merged(found)

    def code(self) -> dict[str, str]:
        """Raises ScorerError naming what is not installed."""
        libraries = sorted({library for name in self._names for library in pii_detectors.libraries(name)})
        return {**super().code(), "detectors": file_sha256(pii_detectors.__file__),
                **{library: importlib.metadata.version(library) for library in libraries}}

    def _finders(self) -> dict[str, Finder]:
        made = _of_thread.__dict__.setdefault("finders", {})
        key = (self._names, self.today)
        if key not in made:
            made[key] = {name: pii_detectors.make(name, date.fromisoformat(self.today)) for name in self._names}
        return made[key]


def merged(spans: Iterable[Span]) -> list[Span]:
    """Spans that overlap or touch as one, named after the longest of them; of equally long ones, the last (a social
    security number may look like a telephone number, not the other way round)."""
    result: list[Span] = []
    longest = 0
    for span in sorted(spans, key=lambda span: (span.begin, -span.end)):
        length = span.end - span.begin
        if not result or span.begin > result[-1].end:
            result.append(span)
            longest = length
            continue
        last = result[-1]
        result[-1] = Span(span.type if length >= longest else last.type, last.begin, max(last.end, span.end))
        longest = max(longest, length)
    return result
