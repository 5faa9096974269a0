"""Rewards on a scale of their own (`data.standardise_rewards`): mean 0 and standard deviation 1 over the training
completions, each counted once, and held-out ones shifted and scaled by the same two numbers.

Done on the tokenised store, behind which every view lies: weights, thresholds, margins and rankings see the same
rewards, and what is cached of texts and scores stays as the scorer or the data gave it.
"""

from dataclasses import dataclass, replace

from apo.data.store import TokenStore
from apo.errors import DataError


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
