"""What a scorer is, and how a config's `scorer` node becomes one.

    @scorers.register("shouting")
    @dataclass
    class Shouting(Scorer):
        '''Share of upper-case letters.'''
        ignore_short: int = 3                   # a field is an option: `scorer.ignore_short=5`

        def score(self, texts):
            ...

A *score* is misalignment, lower is better; a *reward* is higher is better.  A scorer returns whichever of the two it
measures and says so by `kind`; `reward()` is the only place in the program that turns one into the other.

A scorer's numbers end up in files that are kept (scored corpora, metrics), so they must be a function of the text and
the options alone: nothing of the environment, no other text of the same call, no clock.
"""

import dataclasses
import hashlib
import inspect
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Sequence

from apo.errors import ScorerError
from apo.registry import Registry

scorers = Registry("scorer", "apo.scorers")


class Span(NamedTuple):
    """What was found, and where: characters `begin` up to `end` of a text."""

    type: str
    begin: int
    end: int


@dataclass
class Scorer:
    """Base class.  Fields of a subclass are its options, checked when the config is composed."""

    name: ClassVar[str] = ""
    kind: ClassVar[Literal["score", "reward"]] = "score"
    places: ClassVar[tuple[str, ...]] = ()
    """Options that say where something lies or runs, left out of the fingerprint: `code` says what lies there."""
    parallel: ClassVar[bool] = False
    """Slow in pure Python: a corpus is scored by several processes (the scorer is copied into each)."""
    reads_prompt: ClassVar[bool] = False
    """Judges a completion as an answer to its prompt, and so is always given both, joined."""
    one_segment_is_a_text: ClassVar[bool] = True
    """A document of one segment scores as its text does: many of them are then judged in one call."""

    def score(self, texts: list[str]) -> list[float]:
        """One finite number per text, in the scorer's own direction (`kind`).  `[]` gives `[]`."""
        raise NotImplementedError(type(self).__name__)

    def score_segments(self, segments: list[str]) -> list[float]:
        """One number per segment of ONE document (they join to its text), judged in their context.

        By default segments are judged as texts of their own."""
        return self.score(segments)

    @property
    def in_context(self) -> bool:
        """Segments are judged in their context, so documents must be scored one by one."""
        return type(self).score_segments is not Scorer.score_segments

    def reward(self, texts: list[str]) -> list[float]:
        """The score with the sign that makes higher better."""
        numbers = checked(self, texts)
        return numbers if self.kind == "reward" else [-number for number in numbers]

    def explain(self, texts: list[str]) -> list[dict[str, float]]:
        """What each score is made of (parts that add up to it), or an empty dict per text where it has no parts."""
        return [{} for _ in texts]

    def spans(self, texts: list[str]) -> list[list[Span]]:
        """Where each text has what its score counts, in the order of the text; nothing where the scorer cannot say."""
        return [[] for _ in texts]

    def fingerprint(self) -> str:
        """sha256 over name, options and code: equal fingerprints promise equal scores."""
        options = {key: value for key, value in dataclasses.asdict(self).items() if key not in self.places}
        identity = {"name": self.name, "options": options, "code": self.code()}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def code(self) -> dict[str, str]:
        """What the result depends on beside options: by default the source of the class's module.  A subclass adds the
        versions of libraries and the sha256 of weights."""
        return {"source": file_sha256(inspect.getsourcefile(type(self)))}


def file_sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def checked(scorer: Scorer, texts: list[str]) -> list[float]:
    """`scorer.score(texts)` as floats, or ScorerError naming the scorer and the index of the offending text."""
    return check_numbers(scorer.name, scorer.score(texts), texts, "text")


def checked_segments(scorer: Scorer, segments: list[str]) -> list[float]:
    """`scorer.score_segments(segments)` as floats, or ScorerError naming the scorer and the offending segment."""
    return check_numbers(scorer.name, scorer.score_segments(segments), segments, "segment")


def check_numbers(name: str, numbers: Any, texts: Sequence[str], what: str) -> list[float]:
    """One finite float per text from whatever a scorer returned (floats, ints, bools, numpy or 0-d torch numbers)."""
    if not hasattr(numbers, "__len__") or isinstance(numbers, (str, bytes, dict)):
        raise ScorerError(f'scorer "{name}" returned {quoted(numbers)} for a list of {len(texts)} {what}s; '
                          "it must return a list with one number per text")
    if len(numbers) != len(texts):
        raise ScorerError(f'scorer "{name}" returned {len(numbers)} numbers for {len(texts)} {what}s; '
                          "it must return one per text")
    return [_finite(name, number, i, texts[i], what) for i, number in enumerate(numbers)]


def _finite(name: str, number: Any, index: int, text: str, what: str) -> float:
    try:
        value = None if isinstance(number, (str, bytes)) else float(number)
    except (TypeError, ValueError, RuntimeError):
        value = None
    if value is None or not math.isfinite(value):
        raise ScorerError(f'scorer "{name}" returned {quoted(number)} for {what} {index} ({quoted(text)}); '
                          "a score must be a finite number")
    return value


def quoted(value: Any, length: int = 60) -> str:
    """`repr`, cut to what fits in a message."""
    shown = repr(value[:length + 1] if isinstance(value, str) else value)
    return shown if len(shown) <= length else shown[:length] + "..."
