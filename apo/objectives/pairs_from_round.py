"""Which completions of a round are paired, by their rewards: pure functions of numbers.

A pair says that one text is better than another, so completions whose reward is not known (NaN), one text twice and
equal rewards make none.  All of that is counted: where most of a round makes no pair, little is learnt of it.  What is
equal is taken in the order of the round, which so gives the same pairs each time.

C completions, those of one prompt side by side; K different ones of a prompt; P pairs.
"""

from dataclasses import dataclass, field
from itertools import combinations
from typing import Iterator

import numpy as np

from apo.metrics import running
from apo.objectives.base import NothingToDraw


@dataclass
class RoundPairs:
    """`considered` counts what could have made a pair, prompts or pairs: it is those kept and the four kinds that are
    not."""

    pairs_P2: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """The better completion and the worse."""
    gaps_P: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """How much higher the reward of the better one is, length penalty taken off."""
    longer_P: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """How many tokens more the better one has."""
    considered: int = 0
    unparsed: int = 0
    """For want of two known rewards."""
    identical: int = 0
    """Of one text."""
    tied: int = 0
    """Equal rewards."""
    below_gap: int = 0

    def metrics(self) -> dict[str, running.Stat]:
        shares = {name: running.ratio(getattr(self, name), self.considered)
                  for name in ("unparsed", "identical", "tied", "below_gap")}
        return {f"pairs/{name}": stat for name, stat in {
            "kept": running.ratio(len(self.pairs_P2), self.considered), **shares,
            "gap": running.ratio(self.gaps_P.sum(), len(self.gaps_P)),
            "length_difference": running.ratio(self.longer_P.sum(), len(self.longer_P))}.items()}

    def some(self) -> "RoundPairs":
        """Itself.  Raises NothingToDraw where there is no pair."""
        if len(self.pairs_P2):
            return self
        raise NothingToDraw(f"a round without a pair to learn from: of {self.considered} possible, {self.unparsed} "
                            f"lack a known reward, {self.identical} are of one text, {self.tied} are tied and "
                            f"{self.below_gap} lie below the least gap")


@dataclass(frozen=True)
class Candidates:
    """The different texts of one prompt that have a known reward, each where it comes first."""

    completions_K: np.ndarray
    rewards_K: np.ndarray
    """The mean over the times that the text comes."""
    copies: int
    """Further completions of these texts."""
    unknown: int
    """Completions without a reward."""


def candidates(rewards_C, prompts_C, texts_C) -> Iterator[Candidates]:
    """Of each prompt in turn."""
    for members in np.split(np.arange(len(prompts_C)), np.flatnonzero(np.diff(prompts_C)) + 1):
        if not len(members):
            return                                  # a round of nothing
        known = members[~np.isnan(rewards_C[members])]
        _, first_K, text_N = np.unique(texts_C[known], return_index=True, return_inverse=True)
        rewards_K = rewards_C[known[first_K]]       # and what the others differ by: equal rewards stay what they are
        off_K = np.bincount(text_N, rewards_C[known] - rewards_K[text_N], len(first_K))
        rewards_K = rewards_K + off_K / np.bincount(text_N, minlength=len(first_K))
        order = np.argsort(first_K)
        yield Candidates(known[first_K[order]], rewards_K[order], len(known) - len(first_K), len(members) - len(known))


def best_and_worst(scores_C, prompts_C, lengths_C, texts_C, minimum_gap: float = 0.0, length_penalty: float = 0.0,
                   length_tolerance: float = 0.0) -> RoundPairs:
    """The best completion of each prompt against its worst.

    Args:
        scores_C: rewards, higher is better, NaN where not known.
        lengths_C: in tokens.
        texts_C: equal for equal texts of a prompt.
        minimum_gap: least difference of rewards.
        length_penalty: taken off the reward for each token (as Dong et al. 2024, RLHF workflow, do).
        length_tolerance: the better one is the shortest of those whose reward lies within it of the highest, so that a
            judge's taste for length is not learnt where quality is level (Wu et al. 2024, Meta-Rewarding; theirs is a
            share of the range of the prompt's rewards).  Where that is the worst too, the pair is tied.
    """
    making = _Making(scores_C, lengths_C, minimum_gap, length_penalty)
    for some in candidates(making.rewards_C, prompts_C, texts_C):
        making.found.considered += 1
        if len(some.completions_K) > 1:
            making.weigh(some, shortest_of_best(some, making.lengths_C, length_tolerance), some.rewards_K.argmin())
        elif some.copies:
            making.found.identical += 1
        else:
            making.found.unparsed += 1
    return making.done()


def all_pairs(scores_C, prompts_C, lengths_C, texts_C, minimum_gap: float = 0.0,
              length_penalty: float = 0.0) -> RoundPairs:
    """Every two different completions of a prompt; arguments as of `best_and_worst`."""
    making = _Making(scores_C, lengths_C, minimum_gap, length_penalty)
    for some in candidates(making.rewards_C, prompts_C, texts_C):
        different = len(some.completions_K)
        known = different + some.copies
        making.found.considered += _twos(known + some.unknown)
        making.found.unparsed += _twos(known + some.unknown) - _twos(known)
        making.found.identical += _twos(known) - _twos(different)
        for one, other in combinations(range(different), 2):
            making.weigh(some, *((one, other) if some.rewards_K[one] >= some.rewards_K[other] else (other, one)))
    return making.done()


def shortest_of_best(some: Candidates, lengths_C, tolerance: float) -> int:
    """Place of the shortest within the tolerance of the highest reward: of such the one with the highest reward, of
    such the first."""
    near = np.flatnonzero(some.rewards_K >= some.rewards_K.max() - tolerance)
    return min(near, key=lambda place: (lengths_C[some.completions_K[place]] if tolerance else 0,
                                        -some.rewards_K[place], place))


class _Making:
    """Pairs and counts as they come."""

    def __init__(self, scores_C, lengths_C, minimum_gap: float, length_penalty: float):
        self.lengths_C, self.minimum_gap = np.asarray(lengths_C), minimum_gap
        self.rewards_C = np.asarray(scores_C, np.float64) - length_penalty * self.lengths_C
        self.found = RoundPairs()
        self.pairs: list[np.ndarray] = []
        self.gaps: list[float] = []

    def weigh(self, some: Candidates, better: int, worse: int) -> None:
        gap = some.rewards_K[better] - some.rewards_K[worse]
        if gap <= 0:
            self.found.tied += 1
        elif gap < self.minimum_gap:
            self.found.below_gap += 1
        else:
            self.pairs.append(some.completions_K[[better, worse]])
            self.gaps.append(gap)

    def done(self) -> RoundPairs:
        if self.pairs:
            self.found.pairs_P2, self.found.gaps_P = np.array(self.pairs), np.array(self.gaps)
            self.found.longer_P = self.lengths_C[self.found.pairs_P2] @ np.array([1, -1])
        return self.found


def _twos(count: int) -> int:
    return count * (count - 1) // 2
