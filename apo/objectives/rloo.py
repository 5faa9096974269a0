"""REINFORCE with a leave-one-out baseline (Kool et al. 2019; Ahmadian et al. 2024, RLOO)."""

from dataclasses import dataclass
from typing import Any

from apo.errors import ConfigError
from apo.lazy import torch
from apo.metrics import running
from apo.objectives.base import Loss, objectives
from apo.objectives.on_policy import OnPolicy, ratio_metrics
from apo.objectives.online import Lesson, Round
from apo.objectives.policy_gradient import clipped_policy_losses, leave_one_out, sequence_ratios


@objectives.register("rloo")
@dataclass
class RLOO(OnPolicy):
    """A completion's reward, beta times its distance from the reference taken off, against the mean of the other
    completions of its prompt; the whole completion is one action, with one ratio."""

    clip: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        if self.clip <= 0:
            raise ConfigError(f"clip: must be above 0, got {self.clip:g}")

    @property
    def generations(self) -> int:
        return 2

    def count_items(self, batch) -> int:
        """Completions."""
        return len(batch)

    def lesson(self, round: Round, scores_C, state: dict[str, Any]) -> Lesson:
        rewards_C, metrics = self.rewards(round, scores_C)
        advantages_C = leave_one_out(rewards_C, round.prompts_C)
        metrics |= {"advantages_std": running.std(advantages_C)}
        return Lesson(None, {"advantages": advantages_C[:, None] * round.mask_CT}, metrics=metrics)

    def compute_loss(self, policy, batch) -> Loss:
        stats = policy.completion_tokens(batch)
        mask_RT = stats.mask_BT
        ratios_R = sequence_ratios(stats.logps_BT, batch.old_logps_RT, mask_RT, mean=False)
        advantages_R = batch.advantages_RT.sum(1) / mask_RT.sum(1).clamp(min=1)
        losses_R = clipped_policy_losses(ratios_R, advantages_R, self.clip)
        everywhere_R = torch.ones_like(ratios_R).bool()
        gone_R = torch.where(mask_RT, stats.logps_BT - batch.old_logps_RT, 0.0).sum(1)
        metrics = ratio_metrics(ratios_R.detach(), everywhere_R, gone_R, torch.zeros_like(gone_R), self.clip)
        return Loss(losses_R.sum(), metrics | {"loss/policy_avg": running.mean(losses_R)})
