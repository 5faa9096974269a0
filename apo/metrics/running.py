"""Metrics of a training step, reduced on the device and read once per logging step.

A method's metrics are means, extremes and correlations over the tokens of many micro-batches (and processes).  Reading
each with `.item()` would stop the GPU a dozen times per micro-batch, and averaging per-micro-batch means would weight
rows wrongly, so a metric is kept as its *sufficient statistics*: a short float64 vector that adds up (or takes minima,
maxima) and is turned into a number only when it is logged.  The vectors are also what a checkpoint saves, so that the
first line logged after a resume is the one an uninterrupted run would have written.
"""

import math
from dataclasses import dataclass
from typing import Callable

from apo.lazy import torch


@dataclass
class Stat:
    """`values`: float64 vector; `kind`: how two of them merge and what number they stand for."""

    values: "torch.Tensor"
    kind: str
    edges: tuple[float, ...] = ()
    """Bin edges of a histogram; what lies outside counts in the outermost bins."""


def mean(x_BT, mask_BT=None) -> Stat:
    """Mean of `x` over the positions where `mask` (same shape, bool) holds."""
    x, n = _select(x_BT, mask_BT)
    return Stat(torch.stack([x.sum(), n]), "mean")


def ratio(numerator, denominator) -> Stat:
    """A mean whose two sums are known already (scalars)."""
    return Stat(torch.stack([_scalar(numerator), _scalar(denominator)]), "mean")


def std(x_BT, mask_BT=None) -> Stat:
    """Sample standard deviation (n - 1), as torch.std."""
    x, n = _select(x_BT, mask_BT)
    return Stat(torch.stack([n, x.sum(), (x * x).sum()]), "std")


def minimum(x_BT, mask_BT=None) -> Stat:
    return Stat(_fill(x_BT, mask_BT, math.inf).min().reshape(1), "min")


def maximum(x_BT, mask_BT=None) -> Stat:
    return Stat(_fill(x_BT, mask_BT, -math.inf).max().reshape(1), "max")


def correlation(x_BT, y_BT, mask_BT=None) -> Stat:
    """Pearson's; NaN where one side is constant, as scipy's."""
    (x, n), (y, _) = _select(x_BT, mask_BT), _select(y_BT, mask_BT)
    return Stat(torch.stack([n, x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]), "correlation")


def histogram(x_BT, mask_BT, edges: tuple[float, ...]) -> Stat:
    """Counts per bin, logged as `{"edges": [...], "counts": [...]}`."""
    inner = torch.tensor(edges[1:-1], dtype=torch.float64, device=x_BT.device)
    bins = torch.bucketize(x_BT.detach().double(), inner)
    counts = torch.zeros(len(edges) - 1, dtype=torch.float64, device=x_BT.device)
    return Stat(counts.scatter_add_(0, bins.flatten(), mask_BT.double().flatten()), "histogram", tuple(edges))


def _select(x_BT, mask_BT):
    x = x_BT.detach().double()
    if mask_BT is None:
        return x, torch.tensor(float(x.numel()), dtype=torch.float64, device=x.device)
    return torch.where(mask_BT, x, 0.0), mask_BT.sum().double()


def _fill(x_BT, mask_BT, value: float):
    x = x_BT.detach().double()
    return x if mask_BT is None else torch.where(mask_BT, x, value)


def _scalar(x):
    return torch.as_tensor(x, dtype=torch.float64).detach()


_MERGE: dict[str, Callable] = {"min": lambda a, b: torch.minimum(a, b), "max": lambda a, b: torch.maximum(a, b)}


def _number(stat: Stat, v: list[float]) -> float | dict[str, list[float]]:
    kind = stat.kind
    if kind == "histogram":
        return {"edges": list(stat.edges), "counts": v}
    if kind in ("min", "max"):
        return v[0]
    if kind == "mean":
        return v[0] / v[1] if v[1] else math.nan
    if kind == "std":
        n, s, ss = v
        return math.sqrt(max(ss - s * s / n, 0.0) / (n - 1)) if n > 1 else math.nan
    n, sx, sy, sxx, syy, sxy = v
    spread = max(sxx - sx * sx / n, 0.0) * max(syy - sy * sy / n, 0.0) if n else 0.0
    return (sxy - sx * sy / n) / math.sqrt(spread) if spread > 0 else math.nan


class Running:
    """Accumulates `{name: Stat}` over micro-batches and steps; `read` returns plain numbers and starts anew."""

    def __init__(self):
        self.stats: dict[str, Stat] = {}

    def add(self, metrics: dict[str, Stat]) -> None:
        for name, stat in metrics.items():
            known = self.stats.get(name)
            if known is None:
                self.stats[name] = Stat(stat.values.clone(), stat.kind, stat.edges)
            else:
                known.values = _MERGE.get(stat.kind, torch.add)(known.values, stat.values)

    def read(self) -> dict[str, float | dict]:
        """One device-to-host copy for all metrics (after one reduction over processes, where there are several)."""
        if not self.stats:
            return {}
        stats, self.stats = self.stats, {}
        _reduce_over_processes(stats)
        flat = torch.cat([stat.values for stat in stats.values()]).tolist()
        numbers, at = {}, 0
        for name, stat in stats.items():
            size = stat.values.numel()
            numbers[name] = _number(stat, flat[at:at + size])
            at += size
        return numbers

    def state_dict(self) -> dict:
        return {name: [stat.kind, stat.values.tolist(), stat.edges] for name, stat in self.stats.items()}

    def load_state_dict(self, state: dict, device=None) -> None:
        self.stats = {name: Stat(torch.tensor(values, dtype=torch.float64, device=device), kind, tuple(edges))
                      for name, (kind, values, edges) in state.items()}


def _reduce_over_processes(stats: dict[str, Stat]) -> None:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    operations = torch.distributed.ReduceOp
    for kinds, operation in ((("min",), operations.MIN), (("max",), operations.MAX),
                             (("mean", "std", "correlation", "histogram"), operations.SUM)):
        chosen = [stat for stat in stats.values() if stat.kind in kinds]
        if chosen:
            flat = torch.cat([stat.values for stat in chosen])
            torch.distributed.all_reduce(flat, operation)
            for stat, part in zip(chosen, flat.split([stat.values.numel() for stat in chosen])):
                stat.values = part
