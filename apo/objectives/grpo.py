"""Group relative policy optimisation (Shao et al. 2024) and its kin: a prompt's completions are measured against their
mean, token by token with PPO's clip, without a value head.

Dr. GRPO (Liu et al. 2025) is `scale=none average=constant`; DAPO's loss (Yu et al. 2025) is `average=token` with
`clip_high`, `mask_truncated` and beta 0; GSPO (Zheng et al. 2025) is `ratio=sequence average=sequence`.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from apo.errors import ConfigError
from apo.lazy import torch
from apo.metrics import running
from apo.objectives.base import Loss, NothingToDraw, objectives
from apo.objectives.on_policy import (
    OnPolicy,
    advantage_metrics,
    everywhere,
    moved_metrics,
    round_metrics,
    scores_of,
)
from apo.objectives.online import Lesson, Round
from apo.objectives.policy_gradient import (
    clipped_policy_losses,
    group_advantages,
    group_stds,
    kl_losses,
    sequence_log_ratios,
    token_kl,
)


@objectives.register("grpo")
@dataclass
class GRPO(OnPolicy):
    """max(-A r, -A clip(r)) + beta k3."""

    beta: float = 0.0
    """Price of a nat of distance from the reference.  0: no reference is kept in memory."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Whether the distance is a term of the loss (k3, token by token) or off the reward (the log-ratio of the
    completion)."""
    kl_corrected: bool = True
    """In the loss: times the ratio, by which its gradient is that of KL(policy || reference)."""
    scale: Literal["group", "batch", "none"] = "group"
    """Advantages are divided by the standard deviation of rewards in the group, in the round, or not."""
    average: Literal["token", "sequence", "constant"] = "token"
    """Of the loss: over the tokens of the step; over completions, of their means over tokens; over completions, of
    their sums over tokens / `length`."""
    length: int | None = None
    """Tokens that `average=constant` divides by: the longest that a completion can be."""
    ratio: Literal["token", "sequence"] = "token"
    """pi / pi before the round of each token, or the geometric mean over the completion's."""
    clip: float = 0.2
    """epsilon of the ratio."""
    clip_high: float | None = None
    """Above 1; null: the same."""
    mask_truncated: bool = False
    """Leave out completions that were cut at the longest length; they still count in their group's mean."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("clip", "clip_high", "length"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name}: must be above 0, got {value:g}")
        if (self.average == "constant") != (self.length is not None):
            raise ConfigError("length: average=constant divides by it, and nothing else does: set both or neither "
                              "(objective.length=${rollout.max_new_tokens})")

    @property
    def generations(self) -> int:
        return 2

    def learn(self, round: Round, state: dict[str, Any]) -> Lesson:
        """State: `warned_of_kl`.  A completion without a score has advantage 0.  Raises NothingToDraw where
        `mask_truncated` leaves none."""
        kl_C = self.log_ratios(round).double().sum(1)
        penalty_C = self.beta * kl_C if self.kl_in == "reward" else torch.zeros_like(kl_C)
        rewards_C, groups_C = scores_of(round) - penalty_C, torch.as_tensor(round.prompts_C)
        advantages_C = group_advantages(rewards_C, groups_C, self.scale)
        rows_P = np.flatnonzero(round.finished_C) if self.mask_truncated else np.arange(len(kl_C))
        if not len(rows_P):
            raise NothingToDraw("mask_truncated: no completion of the round ended before the longest length: allow "
                                "longer ones, or set it to false")
        metrics = round_metrics(round, kl_C if self.beta else None, penalty_C)
        metrics |= advantage_metrics(advantages_C) | group_metrics(round, rewards_C, groups_C)
        if self.beta:
            k3_CT = token_kl("k3", round.logps_CT, round.ref_logps_CT, round.mask_CT)
            metrics["kl"] = running.mean(k3_CT, round.mask_CT)
        return Lesson(rows_P[:, None], {"advantages": everywhere(advantages_C, round.mask_CT)}, metrics=metrics,
                      state=self.notice(kl_C, state))

    def count_items(self, batch) -> int:
        """Tokens or completions, whichever is averaged over."""
        return super().count_items(batch) if self.average == "token" else len(batch)

    def compute_loss(self, policy, batch) -> Loss:
        stats = policy.completion_tokens(batch, ("entropy",))
        mask_RT, log_ratios_RT = stats.mask_BT, stats.logps_BT - batch.old_logps_RT
        if self.ratio == "sequence":
            log_ratios_RT = sequence_log_ratios(log_ratios_RT, mask_RT, mean=True)[:, None].expand_as(mask_RT)
        losses_RT, clipped_RT = clipped_policy_losses(log_ratios_RT, batch.advantages_RT, self.clip, self.clip_high)
        metrics = moved_metrics(stats, batch) | {
            "policy/clipfrac_avg": running.mean(clipped_RT.float(), mask_RT),
            "clip_ratio/low_mean": running.mean((clipped_RT & (batch.advantages_RT < 0)).float(), mask_RT),
            "clip_ratio/high_mean": running.mean((clipped_RT & (batch.advantages_RT > 0)).float(), mask_RT),
            "loss/policy_avg": running.mean(losses_RT, mask_RT),
        }
        if self.beta and self.kl_in == "loss":
            losses_RT = losses_RT + self.beta * kl_losses(stats.logps_BT, batch.ref_logps_RT, mask_RT,
                                                          log_ratios_RT if self.kl_corrected else None)
        return Loss(self.summed(torch.where(mask_RT, losses_RT, 0.0), mask_RT), metrics)

    def summed(self, losses_RT, mask_RT):
        if self.average == "sequence":
            return (losses_RT.sum(1) / mask_RT.sum(1).clamp(min=1)).sum()
        return losses_RT.sum() / (self.length if self.average == "constant" else 1)


def group_metrics(round: Round, rewards_C, groups_C) -> dict[str, running.Stat]:
    """TRL's.  The share of completions whose group has equal rewards, so that nothing is learned from it."""
    stds_C = group_stds(rewards_C, groups_C)
    finished_C = torch.as_tensor(round.finished_C)
    return {
        "reward": running.mean(rewards_C, ~rewards_C.isnan()),
        "reward_std": running.mean(stds_C),
        "frac_reward_zero_std": running.mean((stds_C < 1e-8).float()),
        "completions/mean_length": running.mean(round.mask_CT.sum(1)),
        "completions/clipped_ratio": running.mean(1 - finished_C.float()),
    }
