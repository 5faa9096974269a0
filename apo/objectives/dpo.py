"""Direct preference optimisation (Rafailov et al. 2023) and its many losses, by name.

The reference is the policy as the stage began; what it says of each completion comes with the batch
(`apo/reference_logps.py`).  `rewards/*` are beta times the log-ratio whatever the loss, as in TRL.
"""

from dataclasses import dataclass

from apo.errors import ConfigError, nearest
from apo.metrics import running
from apo.objectives import preferences
from apo.objectives.base import Loss, Needs, Objective, objectives


@dataclass
class AgainstReference(Objective):
    """The losses on pairs, the chosen completion first in each row, against `batch.ref_logps_RN`."""

    beta: float = 0.1
    loss_type: str = "sigmoid"
    """sigmoid, hinge, ipo, robust, sigmoid_norm (length-normalised), exo_pair, nca_pair, bco_pair, sppo_hard, apo_zero,
    apo_down, discopop."""
    label_smoothing: float = 0.0
    """Probability that a label is wrong (Mitchell 2023): smooths sigmoid and sigmoid_norm; robust and exo_pair need
    it."""
    nll_weight: float = 0.0
    """Of the mean over tokens of the chosen completion's -log p, added to the loss (TRL's `sft`)."""

    def __post_init__(self):
        known = preferences.DPO_LOSSES
        if self.loss_type not in known:
            raise ConfigError(f'loss_type: no loss "{self.loss_type}".{nearest(self.loss_type, known)} '
                              f"There are: {', '.join(known)}")
        preferences.check_smoothing(self.loss_type, self.label_smoothing)
        if self.beta <= 0:
            raise ConfigError(f"beta: must be above 0, got {self.beta}")

    def count_items(self, batch) -> int:
        return len(batch)

    def ratios(self, batch, stats):
        """[R, N]."""
        return stats.logps_RN - batch.ref_logps_RN

    def smoothing(self, batch, stats):
        """Probability that a label is wrong: one, or [R]."""
        return self.label_smoothing

    def compute_loss(self, policy, batch) -> Loss:
        stats = policy.completion_stats(batch)
        ratios_RN = self.ratios(batch, stats)
        losses_R = preferences.dpo_losses(self.loss_type, *ratios_RN.unbind(1), *stats.lengths_RN.unbind(1),
                                          beta=self.beta, label_smoothing=self.smoothing(batch, stats))
        total, metrics = losses_R.sum(), preference_metrics(self.beta * ratios_RN, stats)
        if self.nll_weight:
            nll_R = -stats.means_RN[:, 0]
            total = total + self.nll_weight * nll_R.sum()
            metrics["nll_loss"] = running.mean(nll_R)
        return Loss(total, metrics, self.beta * (ratios_RN[:, 0] - ratios_RN[:, 1]))


@objectives.register("dpo")
@dataclass
class DPO(AgainstReference):
    """-log sigmoid(beta (log-ratio of the chosen - log-ratio of the rejected)), and its kin."""

    reference_free: bool = False
    """Log-probabilities in place of log-ratios: as though the reference were uniform."""

    @property
    def needs(self) -> Needs:
        return Needs(view="preference", reference=not self.reference_free)

    def ratios(self, batch, stats):
        return stats.logps_RN if self.reference_free else super().ratios(batch, stats)


def preference_metrics(rewards_RN, stats) -> dict[str, running.Stat]:
    """TRL's names; and the mean length of completions, which losses that sum over tokens may drive."""
    chosen_R, rejected_R = rewards_RN.unbind(1)
    return {
        "rewards/chosen": running.mean(chosen_R),
        "rewards/rejected": running.mean(rejected_R),
        "rewards/margins": running.mean(chosen_R - rejected_R),
        "rewards/accuracies": running.mean((chosen_R > rejected_R).float()),
        "logps/chosen": running.mean(stats.logps_RN[:, 0]),
        "logps/rejected": running.mean(stats.logps_RN[:, 1]),
        "completions/mean_length": running.mean(stats.lengths_RN),
    }
