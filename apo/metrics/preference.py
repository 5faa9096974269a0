"""How well rewards tell the better of two answers from the worse: accuracy and calibration over pairs.

A *margin* is the reward of the answer that people chose minus that of the one they rejected.  In the model of Bradley
and Terry, which reward models are trained by, sigmoid(margin) is the probability that the chosen one is the better.

Pairs of one prompt share its completions and are not independent, so intervals go by prompts (`clustered_share`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Sequence

from apo.lazy import Lazy
from apo.metrics.statistics import Interval, clustered_share

if TYPE_CHECKING:
    import numpy as np
else:
    np = Lazy("numpy")


@dataclass(frozen=True)
class Bin:
    """Pairs about which a reward model is about equally sure."""

    low: float
    high: float
    """Confidences from `low` up to `high`, which only the last bin includes."""
    count: int
    confidence: float
    """Mean over the pairs of the probability it gives to the answer it prefers."""
    observed: Interval
    """Share of the pairs in which people prefer that answer too."""


@dataclass(frozen=True)
class Calibration:
    bins: list[Bin]
    """Those with a pair in them, from unsure to sure."""
    expected_error: float
    """Mean over pairs of |confidence - observed share| of their bin, 0 to 1."""


def pair_accuracy(margins_P: Sequence[float], prompts_P: Sequence[int] | None = None,
                  confidence: float = 0.95) -> Interval:
    """Share of pairs in which the chosen answer has the higher reward.  A tie is half a pair.

    `prompts_P`: the number of each pair's prompt; None where no two pairs have the same.  Raises ValueError where there
    is no pair, or a margin that is no number."""
    return clustered_share(_right(_margins(margins_P)), prompts_P, confidence)


def calibration_curve(margins_P: Sequence[float], prompts_P: Sequence[int] | None = None, bins: int = 10,
                      confidence: float = 0.95) -> Calibration:
    """How often the reward model is right where it says it is so sure.

    A model is as sure of the answer it prefers as sigmoid(|margin|) says, 1/2 to 1, and right where the margin is
    positive; a tie is half right.  `bins` are of equal width in that confidence.  Raises ValueError as
    `pair_accuracy` does."""
    margins_P = _margins(margins_P)
    right_P, sure_P = _right(margins_P), (1 + np.tanh(np.abs(margins_P) / 2)) / 2
    prompts_P = np.arange(len(margins_P)) if prompts_P is None else np.asarray(prompts_P)
    edges = np.linspace(0.5, 1, bins + 1)
    bin_P = np.clip(np.searchsorted(edges, sure_P, side="right") - 1, 0, bins - 1)
    made, error = [], 0.0
    for i in range(bins):
        inside = bin_P == i
        count = int(inside.sum())
        if count:
            made.append(Bin(float(edges[i]), float(edges[i + 1]), count, float(sure_P[inside].mean()),
                            clustered_share(right_P[inside], prompts_P[inside], confidence)))
            error += count / len(margins_P) * abs(made[-1].confidence - made[-1].observed.mean)
    return Calibration(made, error)


def _right(margins_P: np.ndarray) -> np.ndarray:
    return (1 + np.sign(margins_P)) / 2


def _margins(margins_P: Sequence[float]) -> np.ndarray:
    margins_P = np.asarray(margins_P, float)
    if not len(margins_P) or np.isnan(margins_P).any():
        raise ValueError("no pairs" if not len(margins_P) else "a margin is not a number")
    return margins_P
