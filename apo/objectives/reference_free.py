"""Preference methods that need no reference: SimPO and ORPO."""

from dataclasses import dataclass

from apo.metrics import running
from apo.objectives import preferences
from apo.objectives.base import Loss, Needs, Objective, objectives
from apo.objectives.dpo import preference_metrics


@dataclass
class ReferenceFree(Objective):
    beta: float = 0.1

    @property
    def needs(self) -> Needs:
        return Needs(view="preference")

    def count_items(self, batch) -> int:
        return len(batch)

    def margins(self, stats):
        """[R], of beta times the mean over tokens."""
        return self.beta * (stats.means_RN[:, 0] - stats.means_RN[:, 1])


@objectives.register("simpo")
@dataclass
class SimPO(ReferenceFree):
    """-log sigmoid(beta (mean log p of the chosen - of the rejected) - gamma) (Meng et al. 2024, eq. 6)."""

    beta: float = 2.0
    gamma: float = 0.5
    """By how much the chosen is to lead, in units of beta times nats per token."""
    nll_weight: float = 0.0
    """Of the mean over tokens of the chosen completion's -log p, added to the loss (CPO's alpha)."""

    def compute_loss(self, policy, batch) -> Loss:
        stats = policy.completion_stats(batch)
        losses_R = preferences.simpo_losses(*stats.means_RN.unbind(1), beta=self.beta, gamma=self.gamma)
        nll_R = -stats.means_RN[:, 0]
        metrics = preference_metrics(self.beta * stats.means_RN, stats) | {"nll_loss": running.mean(nll_R)}
        return Loss((losses_R + self.nll_weight * nll_R).sum(), metrics, self.margins(stats))


@objectives.register("orpo")
@dataclass
class ORPO(ReferenceFree):
    """-log p of prompt and chosen completion + beta times -log sigmoid(log-odds ratio) (Hong et al. 2024, eq. 6)."""

    prompt_in_nll: bool = True
    """Count the prompt's tokens in the first term, as the release and TRL do; false: the completion's alone."""

    def compute_loss(self, policy, batch) -> Loss:
        stats = policy.completion_stats(batch, prompts=self.prompt_in_nll)
        logps_R, tokens_R = stats.logps_RN[:, 0], stats.lengths_RN[:, 0]
        if self.prompt_in_nll:
            logps_R, tokens_R = logps_R + stats.prompt_logps_R, tokens_R + batch.prompt_lengths_R - 1
        nll_R = -logps_R / tokens_R
        ratio_R = preferences.orpo_losses(*stats.means_RN.unbind(1), beta=self.beta)
        metrics = preference_metrics(self.beta * stats.means_RN, stats)
        metrics |= {"nll_loss": running.mean(nll_R), "odds_ratio_loss": running.mean(ratio_R)}
        return Loss((nll_R + ratio_R).sum(), metrics, self.margins(stats))
