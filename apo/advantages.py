"""What a run on advantages is given before its first step, for whoever wants to know what its weights are: the fit of
V, percentiles of V, R and A of good and bad completions, the share that is left out, how many completions the weights
are worth, the best and the worst, and how much of the choice a plain threshold on the reward would make alike.

Numbers in, numbers out; a run writes them into its directory (`advantages.json`), where `apo/report` draws them.
"""

from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from apo.objectives.base import Draw
from apo.objectives.offline_weights import highest

FILE = "advantages.json"
PERCENTILES = (0, 10, 25, 50, 75, 90, 100)
SHOWN = 10
"""Examples from either end."""
BINS, POINTS = 40, 2000
"""What a picture needs of single completions: bins of A, about so many, and good completions at most."""


@dataclass
class Advantages:
    """Of the training completions, [P] each."""

    rewards_P: np.ndarray
    """On the objective's scale."""
    values_P: np.ndarray
    good_P: np.ndarray
    draw: Draw
    fit: dict[str, Any]
    """As `apo.reference_value.reference_value` gives it."""
    documents_P: np.ndarray

    @property
    def advantages_P(self) -> np.ndarray:
        return self.rewards_P - self.values_P

    def sizes(self) -> dict[str, float]:
        """For the manifest and the log."""
        return {"dropped": self.dropped, "effective_share": self.effective_share,
                "value_explained": self.fit["explained"], "same_as_threshold": self.same_as_threshold}

    @property
    def dropped(self) -> float:
        """Share of good completions that training learns nothing of: they are not served, or weigh nothing."""
        return float(1 - ((self.weights_P != 0) & self.good_P).sum() / self.good_P.sum())

    @property
    def weights_P(self) -> np.ndarray:
        """What each counts for in the mean update of the beginning: how often it is served, times its weight then."""
        weights_P = self.draw.kept_P.astype(float)
        for each_P in (self.draw.weights_P, self.draw.loss_weights_P):
            weights_P = weights_P if each_P is None else weights_P * each_P
        return weights_P

    @property
    def effective_share(self) -> float:
        """(sum w)^2 / (n sum w^2) over the kept completions: how many equally weighted ones they are worth, as a
        share."""
        weights_P = self.weights_P[self.draw.kept_P]
        total = float((weights_P ** 2).sum())
        return float(weights_P.sum() ** 2 / (len(weights_P) * total)) if total else 0.0

    @property
    def same_as_threshold(self) -> float:
        """Share of the good completions with an advantage above 0 that are also among as many with the highest
        reward."""
        above_P = (self.advantages_P > 0) & self.good_P
        same = above_P[highest(self.rewards_P, self.good_P, int(above_P.sum()))]
        return float(same.mean()) if len(same) else float("nan")

    def summary(self) -> dict[str, Any]:
        kinds = {"good": self.good_P, "bad": ~self.good_P}
        numbers = {"V": self.values_P, "R": self.rewards_P, "A": self.advantages_P}
        percentiles = {name: {kind: dict(zip(map(str, PERCENTILES), np.percentile(array[mask], PERCENTILES).tolist()))
                              for kind, mask in kinds.items() if mask.any()} for name, array in numbers.items()}
        above = {kind: float((self.advantages_P[mask] > 0).mean()) for kind, mask in kinds.items() if mask.any()}
        return {"completions": len(self.rewards_P), "good": int(self.good_P.sum()), "kept": int(self.draw.kept_P.sum()),
                "share_of_steps": self.draw.steps, "advantage_above_0": above, **self.sizes(),
                "percentiles": percentiles, "histogram": self.histogram(), "points": self.points(), "fit": self.fit}

    def histogram(self) -> dict[str, list[float]]:
        """Counts of A, of good and bad completions in the same bins.  0 is an edge, so that no bin holds both what is
        kept and what is not."""
        advantages_P = self.advantages_P
        low, high = min(float(advantages_P.min()), 0.0), max(float(advantages_P.max()), 0.0)
        width = (high - low) / BINS or 1.0
        first = np.floor(low / width)
        edges = width * np.arange(first, max(np.ceil(high / width), first + 1) + 1)
        within_P = advantages_P.clip(edges[0], edges[-1])      # rounding may put an end just outside
        return {"edges": _short(edges), "good": np.histogram(within_P[self.good_P], edges)[0].tolist(),
                "bad": np.histogram(within_P[~self.good_P], edges)[0].tolist()}

    def points(self) -> dict[str, list]:
        """R and V of good completions and whether each is served: at most `POINTS`, evenly chosen by rank of A.  By
        their place in the data a stride could meet the same one of every prompt's completions again and again."""
        good = np.flatnonzero(self.good_P)
        ranked = good[np.argsort(self.advantages_P[good], kind="stable")]
        shown = min(len(ranked), POINTS)
        chosen = ranked[np.arange(shown) * (len(ranked) - 1) // max(shown - 1, 1)]
        return {"R": _short(self.rewards_P[chosen]), "V": _short(self.values_P[chosen]),
                "kept": self.draw.kept_P[chosen].tolist()}

    def extremes(self, text_of: Callable[[int], tuple[str, str]]) -> dict[str, list[dict[str, Any]]]:
        """The good completions with the highest and the lowest advantages, the most extreme first.  `text_of`: prompt
        and completion of a document."""
        good = np.flatnonzero(self.good_P)
        ranked = good[np.argsort(-self.advantages_P[good], kind="stable")]
        return {end: [self._example(item, text_of) for item in items[:SHOWN]]
                for end, items in (("top", ranked), ("bottom", ranked[::-1]))}

    def _example(self, item: int, text_of: Callable[[int], tuple[str, str]]) -> dict[str, Any]:
        prompt, completion = text_of(int(self.documents_P[item]))
        return {"A": float(self.advantages_P[item]), "R": float(self.rewards_P[item]),
                "V": float(self.values_P[item]), "prompt": prompt, "completion": completion}

    def describe(self) -> str:
        """One line for the log."""
        left_out = "the prompts of its fit" if self.fit["selection"] == "training" else "prompts left out of its fit"
        return (f"{self.dropped:.0%} of the good completions count for nothing; V explains "
                f"{self.fit['explained']:.0%} of the rewards' variance on {left_out} ({self.fit['epochs']} epochs); a "
                f"threshold on the reward would keep {self.same_as_threshold:.0%} of those with an advantage above 0")


def _short(numbers: np.ndarray) -> list[float]:
    """To five digits, as many as a picture can show."""
    return [float(f"{number:.5g}") for number in numbers]
