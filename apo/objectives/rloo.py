"""REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al. 2024): a completion is one action, and the mean reward of
the prompt's other completions is what it is measured against.  No value head."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from apo.errors import ConfigError
from apo.lazy import torch
from apo.metrics import running
from apo.objectives.base import Loss, objectives
from apo.objectives.on_policy import (
    OnPolicy,
    advantage_metrics,
    everywhere,
    moved_metrics,
    of_rows,
    round_metrics,
    scores_of,
)
from apo.objectives.online import Lesson, Round
from apo.objectives.policy_gradient import clipped_policy_losses, leave_one_out, sequence_log_ratios


@objectives.register("rloo")
@dataclass
class RLOO(OnPolicy):
    """max(-A r, -A clip(r)), r = pi(y) / pi(y) before the round, of whole completions."""

    clip: float = 0.2
    """epsilon of the ratio."""

    def __post_init__(self):
        super().__post_init__()
        if self.clip <= 0:
            raise ConfigError(f"clip: must be above 0, got {self.clip:g}")

    @property
    def generations(self) -> int:
        return 2

    def learn(self, round: Round, state: dict[str, Any]) -> Lesson:
        """State: `warned_of_kl`.  A completion without a score, or alone with one behind its prompt, has advantage
        0."""
        kl_C = self.log_ratios(round).double().sum(1)
        rewards_C = scores_of(round) - self.beta * kl_C
        advantages_C = (rewards_C - leave_one_out(rewards_C, torch.as_tensor(round.prompts_C))).nan_to_num(0.0)
        advantages_CT = everywhere(advantages_C, round.mask_CT)
        metrics = round_metrics(round, kl_C if self.beta else None, self.beta * kl_C)
        return Lesson(np.arange(len(kl_C))[:, None], {"advantages": advantages_CT},
                      metrics=metrics | advantage_metrics(advantages_C), state=self.notice(kl_C, state))

    def count_items(self, batch) -> int:
        """Completions: the ratio is one of the whole, and so is the loss."""
        return len(batch)

    def compute_loss(self, policy, batch) -> Loss:
        stats = policy.completion_tokens(batch, ("entropy",))
        log_ratios_R = sequence_log_ratios(stats.logps_BT - batch.old_logps_RT, stats.mask_BT, mean=False)
        advantages_R = of_rows(batch.advantages_RT, stats.mask_BT)
        losses_R, clipped_R = clipped_policy_losses(log_ratios_R, advantages_R, self.clip)
        return Loss(losses_R.sum(), moved_metrics(stats, batch) | {
            "policy/clipfrac_avg": running.mean(clipped_R.float()),
            "loss/policy_avg": running.mean(losses_R),
        })
