"""Rewards other than the data or the scorer gave them: wrong in part (`data.reward_noise`), or on a scale of their own
(`data.standardise_rewards`): mean 0 and standard deviation 1 over the training completions, each counted once, and
held-out ones shifted and scaled by the same two numbers.

Done on the tokenised store, behind which every view lies: weights, thresholds, margins and rankings see the same
rewards, and what is cached of texts and scores stays as the scorer or the data gave it.
"""

from dataclasses import dataclass, replace

import numpy as np

from apo.data.store import TokenStore
from apo.errors import DataError
from apo.seeds import stream


@dataclass(frozen=True)
class RewardScale:
    mean: float
    std: float
    """Of the rewards as they were; the mean of squares, so that theirs becomes exactly 1."""

    @classmethod
    def of(cls, store: TokenStore) -> "RewardScale":
        """Raises DataError where all rewards are equal."""
        scores_S = store.known_scores_S
        if scores_S.min() == scores_S.max():
            raise DataError(f"data.standardise_rewards: all {len(scores_S)} training completions have the reward "
                            f"{-scores_S[0]:g}; there is nothing to scale, leave it out")
        return cls(-float(scores_S.mean()), float(scores_S.std()))

    def applied(self, store: TokenStore) -> TokenStore:
        """A store keeps scores, which are rewards with the other sign."""
        return replace(store, segment_scores_S=(store.segment_scores_S + self.mean) / self.std)

    def describe(self) -> dict[str, float]:
        return {"reward_mean": self.mean, "reward_std": self.std}


NOISE_SEED = 0
"""Which rewards are wrong is a property of the data, the same for every run."""


def with_noise(store: TokenStore, share: float) -> TokenStore:
    """The scores of a share of the segments that have one, drawn at random, dealt out anew among themselves: as many of
    each value as before, so that only what they tell is lost.  The completions of a prompt with such a score stand best
    first again, ranked by their scores; those of the others stay in the order that the data have, people's perhaps."""
    random = stream(NOISE_SEED, "reward noise")
    (known,) = np.nonzero(~np.isnan(store.segment_scores_S))
    chosen = random.choice(known, round(share * len(known)), replace=False)
    scores_S = np.array(store.segment_scores_S)
    scores_S[chosen] = scores_S[random.permutation(chosen)]
    store = replace(store, segment_scores_S=scores_S)
    if not store.of_completions:
        return store
    chosen_D = np.searchsorted(store.document_segments_D1, chosen, side="right") - 1
    return ranked_by_score(store, np.isin(store.document_groups_D, store.document_groups_D[chosen_D]))


def ranked_by_score(store: TokenStore, which_D: np.ndarray) -> TokenStore:
    """The completions of those prompts in the order of their scores, and their ranks by these; others as they are."""
    places_D, groups_D = np.where(which_D, store.document_scores_D, store.document_ranks_D), store.document_groups_D
    order_D = np.lexsort((places_D, groups_D))
    ordered, places_D, which_D = store.in_order(order_D), places_D[order_D], which_D[order_D]
    ranks_D = np.array(ordered.document_ranks_D)
    starts = np.flatnonzero(np.diff(ordered.document_groups_D, prepend=-1))
    for begin, end in zip(starts, [*starts[1:], ordered.num_documents]):
        if which_D[begin]:
            ranks_D[begin:end] = np.searchsorted(places_D[begin:end], places_D[begin:end])
    return replace(ordered, document_ranks_D=ranks_D)
