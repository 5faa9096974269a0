"""REINFORCE (Williams 1992) on whole completions, with a baseline that knows of no prompt."""

from dataclasses import dataclass
from typing import Any, Literal

from apo.lazy import torch
from apo.metrics import running
from apo.objectives.base import Loss, objectives
from apo.objectives.on_policy import OnPolicy
from apo.objectives.online import Lesson, Round
from apo.objectives.policy_gradient import moments


@objectives.register("reinforce")
@dataclass
class Reinforce(OnPolicy):
    """-(reward - baseline) log p of a completion.  There is no ratio: a second epoch over a round takes its gradient
    from samples of a policy that is gone."""

    baseline: Literal["mean", "running", "none"] = "mean"
    """Off the rewards: the mean of the round, that of all rounds before it (of the first, its own), or nothing."""

    def count_items(self, batch) -> int:
        """Completions."""
        return len(batch)

    def lesson(self, round: Round, scores_C, state: dict[str, Any]) -> Lesson:
        rewards_C, metrics = self.rewards(round, scores_C)
        known_C = ~torch.isnan(rewards_C)
        seen = moments(state.get("rewards", {}), rewards_C[known_C].double())
        baseline = 0.0
        if self.baseline == "running" and state:
            baseline = state["rewards"]["mean"]
        elif self.baseline != "none":
            baseline = float(rewards_C[known_C].mean())
        advantages_C = torch.where(known_C, rewards_C - baseline, 0.0)
        metrics["objective/baseline"] = running.ratio(baseline, 1)
        return Lesson(None, {"advantages": advantages_C[:, None] * round.mask_CT}, metrics=metrics,
                      state={"rewards": seen})

    def compute_loss(self, policy, batch) -> Loss:
        stats = policy.completion_tokens(batch)
        total = -(batch.advantages_RT * stats.logps_BT).sum()
        gone_RT = stats.logps_BT.detach() - batch.old_logps_RT
        return Loss(total, {"loss/policy_avg": running.ratio(total, len(batch)),
                            "policy/approxkl_avg": running.mean(gone_RT.square() / 2, stats.mask_BT)})
