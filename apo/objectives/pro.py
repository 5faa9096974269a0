"""Preference ranking optimisation (Song et al. 2023): the best completion against the rest, then the next, and so on.

Deviations from the release, which is in `docs/methods/pro.md`: the ranking loss is computed by log-sum-exp and not by
exponentials that overflow, and the likelihood term may be a mean over tokens.
"""

from dataclasses import dataclass
from typing import Literal

from apo.metrics import running
from apo.objectives import preferences
from apo.objectives.base import Loss, Needs, Objective, objectives


@objectives.register("pro")
@dataclass
class PRO(Objective):
    """Sum over k of -log softmax of completion k among k, k + 1, ..., each log-probability (mean over tokens) scaled by
    its reward's distance to k's; plus sft_weight (n - 1)^2 times the best completion's -log p."""

    sft_weight: float = 0.05
    sft_term: Literal["sum", "mean"] = "sum"
    """Over the tokens of the best completion; the release sums."""

    @property
    def needs(self) -> Needs:
        return Needs(view="ranking")

    def count_items(self, batch) -> int:
        return len(batch)

    def compute_loss(self, policy, batch) -> Loss:
        stats = policy.completion_stats(batch)
        ranking_R = preferences.pro_losses(stats.means_RN, batch.rewards_RN, batch.present_RN)
        nll_R = -(stats.logps_RN if self.sft_term == "sum" else stats.means_RN)[:, 0]
        weight_R = self.sft_weight * (batch.present_RN.sum(1) - 1) ** 2
        last_R = stats.means_RN.gather(1, batch.present_RN.sum(1, keepdim=True) - 1).squeeze(1)
        return Loss((ranking_R + weight_R * nll_R).sum(), {
            "ranking_loss": running.mean(ranking_R),
            "sft_loss": running.mean(nll_R),
            "logps/chosen": running.mean(stats.logps_RN[:, 0]),
            "rewards/accuracies": running.mean((stats.means_RN[:, 0] > last_R).float()),
            "completions/mean_length": running.mean(stats.lengths_RN, batch.present_RN),
        })
