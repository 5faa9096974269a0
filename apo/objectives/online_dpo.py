"""DPO on pairs of the policy's own samples, ordered by their rewards.

`online_dpo` measures against the policy as the stage began, as DPO does, and so has DPO's optimum.
`external_reward_dpo` measures against the policy as the round began: each round is a DPO stage of its own, which begins
where the one before it ended, and nothing holds the policy to where it was first.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from apo.errors import ConfigError
from apo.lazy import torch
from apo.objectives.base import Needs, objectives
from apo.objectives.dpo import AgainstReference
from apo.objectives.online import VIEW, Lesson, Online, Round
from apo.objectives.pairs_from_round import RoundPairs, all_pairs, best_and_worst


@dataclass
class FromPairs(Online, AgainstReference):
    """A DPO loss on pairs that are made of each round."""

    pairs: Literal["best_and_worst", "all"] = "best_and_worst"
    """Of the completions of a prompt: the one with the highest reward against that with the lowest, or every two."""
    minimum_gap: float = 0.0
    """Pairs whose rewards differ by less are left out; equal rewards make no pair in any case."""
    length_penalty: float = 0.0
    """Taken off the reward of a completion for each of its tokens."""
    length_tolerance: float = 0.0
    """Of the completions whose reward lies within it of the highest, the shortest is the better one."""

    off_policy: ClassVar[bool] = True
    completions_per_row: ClassVar[int] = 2

    def __post_init__(self):
        super().__post_init__()
        for name in ("minimum_gap", "length_penalty", "length_tolerance"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: must not be below 0, got {getattr(self, name):g}")
        if self.length_tolerance and self.pairs == "all":
            raise ConfigError("length_tolerance: is about which completion is the best, and pairs=all takes every two; "
                              "leave it at 0, or use length_penalty")

    @property
    def generations(self) -> int:
        return 2

    def rows_of(self, prompts: int, generations: int) -> int:
        return prompts * (generations * (generations - 1) // 2 if self.pairs == "all" else 1)

    def count_items(self, batch) -> int:
        """Pairs."""
        return len(batch)

    def learn(self, round: Round, state: dict[str, Any]) -> Lesson:
        found = self.choose(round).some()
        return Lesson(found.pairs_P2, ref_logps_C=self.reference_logps(round), metrics=found.metrics())

    def choose(self, round: Round) -> RoundPairs:
        told = (round.scores_C, round.prompts_C, round.mask_CT.sum(1).numpy(), round.texts_C)
        if self.pairs == "all":
            return all_pairs(*told, self.minimum_gap, self.length_penalty)
        return best_and_worst(*told, self.minimum_gap, self.length_penalty, self.length_tolerance)

    def reference_logps(self, round: Round):
        """[C]."""
        raise NotImplementedError(type(self).__name__)


@objectives.register("online_dpo")
@dataclass
class OnlineDPO(FromPairs):
    """DPO on pairs of fresh samples (Guo et al. 2024, OAIF), against the policy as the stage began."""

    labels: Literal["hard", "bradley_terry"] = "hard"
    """hard: the better one is preferred; bradley_terry: with the probability sigmoid(difference of rewards)."""

    def __post_init__(self):
        super().__post_init__()
        if self.labels == "bradley_terry" and (self.loss_type != "sigmoid" or self.label_smoothing):
            raise ConfigError("labels: bradley_terry says how sure each label is, which takes loss_type=sigmoid and "
                              "label_smoothing=0")

    @property
    def needs(self) -> Needs:
        return Needs(view=VIEW, reference_model=True)

    def reference_logps(self, round: Round):
        return round.ref_logps_CT.sum(1)

    def smoothing(self, batch, stats):
        if self.labels == "hard":
            return self.label_smoothing
        rewards_RN = batch.rewards_RN - self.length_penalty * stats.lengths_RN
        return torch.sigmoid(rewards_RN[:, 1] - rewards_RN[:, 0])


@objectives.register("external_reward_dpo")
@dataclass
class ExternalRewardDPO(FromPairs):
    """DPO on pairs of a round's samples, ordered by a reward from outside, against the policy as the round began."""

    def reference_logps(self, round: Round):
        return round.logps_CT.sum(1)
