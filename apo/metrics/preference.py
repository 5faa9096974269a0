"""How well rewards tell the better of two answers from the worse: accuracy and calibration over pairs.

A *margin* is the reward of the answer that people chose minus that of the one they rejected.  In the model of Bradley
and Terry, which reward models are trained by, sigmoid(margin) is the probability that the chosen one is the better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Sequence

from apo.lazy import Lazy
from apo.metrics.statistics import Interval, wilson

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


def pair_accuracy(margins_P: Sequence[float], confidence: float = 0.95) -> Interval:
    """Share of pairs in which the chosen answer has the higher reward, with Wilson's interval.  A tie is half a pair.

    Raises ValueError where there is no pair, or a margin that is no number."""
    return _share(_margins(margins_P), confidence)


def calibration_curve(margins_P: Sequence[float], bins: int = 10, confidence: float = 0.95) -> Calibration:
    """How often the reward model is right where it says it is so sure.

    A model is as sure of the answer it prefers as sigmoid(|margin|) says, 1/2 to 1, and right where the margin is
    positive; a tie is half right.  `bins` are of equal width in that confidence.  Raises ValueError as
    `pair_accuracy` does."""
    margins_P = _margins(margins_P)
    sure_P = (1 + np.tanh(np.abs(margins_P) / 2)) / 2
    edges = np.linspace(0.5, 1, bins + 1)
    bin_P = np.clip(np.searchsorted(edges, sure_P, side="right") - 1, 0, bins - 1)
    made, error = [], 0.0
    for i in range(bins):
        inside = bin_P == i
        count = int(inside.sum())
        if count:
            made.append(Bin(float(edges[i]), float(edges[i + 1]), count, float(sure_P[inside].mean()),
                            _share(margins_P[inside], confidence)))
            error += count / len(margins_P) * abs(made[-1].confidence - made[-1].observed.mean)
    return Calibration(made, error)


def _share(margins_P: np.ndarray, confidence: float) -> Interval:
    return wilson(float((margins_P > 0).sum() + (margins_P == 0).sum() / 2), len(margins_P), confidence)


def _margins(margins_P: Sequence[float]) -> np.ndarray:
    margins_P = np.asarray(margins_P, float)
    if not len(margins_P) or np.isnan(margins_P).any():
        raise ValueError("no pairs" if not len(margins_P) else "a margin is not a number")
    return margins_P
