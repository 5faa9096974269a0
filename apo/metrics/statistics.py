"""How sure we are: intervals and tests for scores of samples and of training seeds.

Which one for what.  The unit of a claim about a *method* is the training seed: with three or five of them a bootstrap
over seeds covers far too seldom (77 % and 86 % where 95 % is asked, see the test), so claims across seeds use Student's
t over seeds, paired where two methods share seeds (`t_interval`, `paired_t`).  The bootstrap is for what happens within
one seed, where there are hundreds of samples: `bootstrap_mean`, `paired_bootstrap`.  `bootstrap_seeds` resamples both
levels; it describes the spread and is too narrow for a claim when seeds are few.

Every function is pure: same values and seed, same interval.  `confidence` is two-sided.  Where there is nothing to
estimate a spread from (one value), the interval is the whole line, from -inf to inf.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Iterator, Sequence

from apo.lazy import Lazy

if TYPE_CHECKING:
    import numpy as np
    from scipy import special
else:
    np, special = Lazy("numpy"), Lazy("scipy.special")

NUM_BOOTSTRAP = 10_000
DRAWS_AT_ONCE = 2_000_000
"""Indices held in memory; how many resamples are drawn together does not change them."""


@dataclass(frozen=True)
class Interval:
    mean: float
    low: float
    high: float


def bootstrap_mean(values: Sequence[float], *, confidence: float = 0.95, num_bootstrap: int = NUM_BOOTSTRAP,
                   seed: int = 0) -> Interval:
    """Mean of independent values with the bias-corrected and accelerated bootstrap (BCa, Efron 1987)."""
    values = np.asarray(values, float)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    return _bca(values, _bootstrap_means(values, num_bootstrap, np.random.default_rng(seed)), confidence)


def paired_bootstrap(a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95,
                     num_bootstrap: int = NUM_BOOTSTRAP, seed: int = 0) -> tuple[Interval, float]:
    """Mean of a - b over pairs (BCa), and the two-sided p-value of "no difference".

    p is the share of resamples, moved so that their centre is zero, that lie as far out as the difference seen (the
    resample seen counts as one of them, so p is never zero)."""
    differences = np.asarray(a, float) - np.asarray(b, float)
    mean = float(differences.mean())
    if len(differences) < 2:
        return Interval(mean, -math.inf, math.inf), 1.0
    means = _bootstrap_means(differences, num_bootstrap, np.random.default_rng(seed))
    extreme = int((np.abs(means - mean) >= abs(mean)).sum())
    return _bca(differences, means, confidence), (extreme + 1) / (num_bootstrap + 1)


def bootstrap_seeds(groups: Sequence[Sequence[float]], *, confidence: float = 0.95,
                    num_bootstrap: int = NUM_BOOTSTRAP, seed: int = 0) -> Interval:
    """Mean over seeds of the mean over each seed's samples; seeds are resampled, then samples within each (percentile).

    `groups`: one list of samples' values per training seed.  For a claim use `t_interval` over the seeds' means."""
    groups = [np.asarray(group, float) for group in groups]
    mean = float(np.mean([group.mean() for group in groups]))
    if len(groups) < 2:
        return Interval(mean, -math.inf, math.inf)
    random = np.random.default_rng(seed)
    drawn = random.integers(0, len(groups), (num_bootstrap, len(groups)))
    means = np.empty(drawn.shape)
    for i, group in enumerate(groups):
        chosen = drawn == i
        means[chosen] = _bootstrap_means(group, int(chosen.sum()), random)
    low, high = np.quantile(means.mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high))


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of a few independent values (one per seed) with Student's t."""
    values = np.asarray(values, float)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = float(special.stdtrit(len(values) - 1, (1 + confidence) / 2) * _standard_error(values))
    return Interval(mean, mean - half, mean + half)


def paired_t(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> tuple[Interval, float]:
    """Mean of a - b over shared seeds with Student's t, and the two-sided p-value of "no difference"."""
    differences = np.asarray(a, float) - np.asarray(b, float)
    interval = t_interval(differences, confidence)
    if len(differences) < 2 or interval.mean == 0:
        return interval, 1.0
    error = _standard_error(differences)
    t = abs(interval.mean) / error if error else math.inf
    return interval, float(2 * special.stdtr(len(differences) - 1, -t))


def wilson(hits: float, total: float, confidence: float = 0.95) -> Interval:
    """A share with Wilson's score interval (without continuity correction)."""
    share, z = hits / total, float(special.ndtri((1 + confidence) / 2))
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return Interval(share, 0.0 if hits == 0 else centre - half, 1.0 if hits == total else centre + half)


def clustered_share(hits: Sequence[float], groups: Sequence[int] | None = None, confidence: float = 0.95) -> Interval:
    """Mean of hits (0 to 1) that are alike within a group, with Wilson's interval on as many independent hits as are
    worth the same (Kish 1965; Korn and Graubard 1998): the number of hits over the design effect, by which the variance
    of sums of whole groups exceeds that of single hits.

    Wilson's and not the bootstrap over groups, which has no width where all hits are equal and covers too seldom near 0
    and 1 (the test measures it).  There, each group counts as one hit.  null: every hit is a group of its own."""
    hits, groups = np.asarray(hits, float), np.arange(len(hits)) if groups is None else np.asarray(groups)
    share, group_N = float(hits.mean()), np.unique(groups, return_inverse=True)[1]
    count, worth = int(group_N.max()) + 1, len(hits)
    if share in (0, 1) or count == 1:
        worth = count
    elif count < len(hits):
        excess = np.bincount(group_N, weights=hits - share)
        effect = (excess @ excess) / len(hits) * count / (count - 1) * (1 - 1 / len(hits)) / (share * (1 - share))
        worth = len(hits) / max(effect, 1.0)
    return wilson(share * worth, worth, confidence)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: compare with the level as if each were the only test made."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected.tolist()


def chunk_maxima(values: Sequence[float], size: int = 25) -> list[float]:
    """The largest of every `size` consecutive values: their mean is PHF's `score_max@25`, the maximum to expect among
    25 samples, and chunks are what a bootstrap of it may draw (`bootstrap_mean(chunk_maxima(scores))`).

    A shorter rest is left out, since its maximum is not that of `size`; fewer values than `size` are one chunk."""
    values = np.asarray(values, float)
    whole = len(values) // size * size
    return values[:whole].reshape(-1, size).max(axis=1).tolist() if whole else [float(values.max())]


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _bootstrap_means(values: np.ndarray, num_bootstrap: int, random: np.random.Generator) -> np.ndarray:
    """Means of resamples with replacement, [num_bootstrap]."""
    batches = [values[random.integers(0, len(values), (rows, len(values)))].mean(axis=1)
               for rows in _batches(num_bootstrap, max(DRAWS_AT_ONCE // len(values), 1))]
    return np.concatenate(batches) if batches else np.empty(0)


def _batches(total: int, size: int) -> Iterator[int]:
    for start in range(0, total, size):
        yield min(size, total - start)


def _bca(values: np.ndarray, means: np.ndarray, confidence: float) -> Interval:
    """Between two quantiles of the bootstrap distribution: the plain ones, moved by the bias (how far the centre of the
    resamples is off) and the acceleration (the skewness of the jackknifed means).  No spread, no width."""
    mean = values.mean()
    below = ((means < mean).mean() + (means <= mean).mean()) / 2
    squares = ((values - mean) ** 2).sum()
    if not squares or not 0 < below < 1:
        return Interval(float(mean), float(mean), float(mean))
    acceleration = ((values - mean) ** 3).sum() / (6 * squares ** 1.5)
    bias = special.ndtri(below)
    z = bias + special.ndtri(np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    low, high = np.quantile(means, special.ndtr(bias + z / (1 - acceleration * z)))
    return Interval(float(mean), float(low), float(high))
