"""The five shapes of data, and the sample: what every source yields and every scorer and metric reads.

A *score* is misalignment, lower is better; a *reward* is higher is better.  Plain dataclasses without behaviour, so
that scorers and metrics can import them without the rest of `apo.data`.
"""

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class ScoredText:
    """A document as a list of segments, with one score each; joined, the segments give the text back (PHF)."""

    texts: list[str]
    scores: list[float]
    """NaN for a segment without a score: the prompt in front of a completion."""
    rank: int | None = None
    """Of a completion (`texts` are prompt and completion): its place among those of its prompt, 0 for the best."""
    ended: bool = True
    """Of a completion: it ends here, and was not cut off."""

    @property
    def avg_score(self) -> float:
        """Mean of the segment scores, each segment counted once whatever its length (PHF)."""
        known = [score for score in self.scores if not math.isnan(score)]
        return sum(known) / len(known)

    @property
    def text(self) -> str:
        return "".join(self.texts)


@dataclass(slots=True)
class ScoredCompletion:
    prompt: str
    completion: str
    reward: float


@dataclass(slots=True)
class Preference:
    prompt: str
    chosen: str
    rejected: str
    margin: float | None = None
    """Reward of the chosen minus reward of the rejected, where it is known."""


@dataclass(slots=True)
class Ranking:
    prompt: str
    completions: list[str]
    rewards: list[float]


@dataclass(slots=True)
class Prompt:
    prompt: str
    reference: str | None = None


@dataclass(slots=True)
class Sample:
    """One text drawn from a model.  `text` is the continuation alone, cleaned of end-of-text and control tokens."""

    prompt: str
    text: str
    score: float | None
    index: int
    """Place within its scenario; with `seed` it fixes the sample's randomness."""
    seed: int
    step: int | None
    """Optimiser step of the model that wrote it; null for a model that is not being trained."""
    scenario: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
