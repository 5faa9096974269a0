"""REINFORCE (Williams 1992) with the price on leaving the reference that ppo has: the plainest policy gradient, by
which the others are measured.

A token's advantage is what comes from it on, the score and the price of its own and later tokens, less a baseline.  It
has no ratio and no clip, so it is exact where every completion is trained on once (one epoch, one step a round), and
only near that where not.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from apo.errors import ConfigError
from apo.lazy import torch
from apo.metrics import running
from apo.objectives.base import Loss, objectives
from apo.objectives.on_policy import OnPolicy, advantage_metrics, moved_metrics, round_metrics, scores_of
from apo.objectives.online import Lesson, Round
from apo.objectives.policy_gradient import discounted_returns, token_rewards


@objectives.register("reinforce")
@dataclass
class Reinforce(OnPolicy):
    """-A log pi, summed over a completion's tokens."""

    baseline: Literal["mean", "running", "none"] = "mean"
    """Off every return: the mean over the round's tokens; a running mean over the rounds before; nothing."""
    baseline_decay: float = 0.9
    """Of the running mean: what is left of it after a round."""
    gamma: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        for name in ("baseline_decay", "gamma"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: lies from 0 to 1, got {getattr(self, name):g}")

    def learn(self, round: Round, state: dict[str, Any]) -> Lesson:
        """State: `baseline` (running), `warned_of_kl`.  A completion without a score has advantage 0."""
        scores_C, kl_CT = scores_of(round), self.log_ratios(round)
        judged_CT = round.mask_CT & ~scores_C.isnan()[:, None]
        rewards_CT = token_rewards(scores_C.nan_to_num(0.0), kl_CT, round.mask_CT, self.beta)
        returns_CT = discounted_returns(rewards_CT, round.mask_CT, self.gamma)
        baseline, after = self.baselines(float(returns_CT[judged_CT].double().mean()), state)
        tokens = {"advantages": torch.where(judged_CT, returns_CT - baseline, 0.0)}
        kl_C = kl_CT.sum(1)
        metrics = round_metrics(round, kl_C if self.beta else None, self.beta * kl_C)
        metrics |= advantage_metrics(tokens["advantages"], judged_CT)
        metrics |= {"returns/mean": running.mean(returns_CT, judged_CT),
                    "returns/baseline": running.ratio(baseline, 1.0)}
        return Lesson(np.arange(len(kl_C))[:, None], tokens, metrics=metrics, state=after | self.notice(kl_C, state))

    def baselines(self, mean: float, state: dict[str, Any]) -> tuple[float, dict[str, float]]:
        """(of this round, what the next state keeps)."""
        if self.baseline != "running":
            return mean if self.baseline == "mean" else 0.0, {}
        before = state.get("baseline", mean)        # of the first round its own
        return before, {"baseline": self.baseline_decay * before + (1 - self.baseline_decay) * mean}

    def count_items(self, batch) -> int:
        """Completions: the gradient of an expectation over them is a sum over the tokens of each."""
        return len(batch)

    def compute_loss(self, policy, batch) -> Loss:
        stats = policy.completion_tokens(batch, ("entropy",))
        losses_R = -(batch.advantages_RT * stats.logps_BT).sum(1)
        return Loss(losses_R.sum(), moved_metrics(stats, batch) | {"loss/policy_avg": running.mean(losses_R)})
