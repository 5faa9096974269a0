"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024): from single completions that are desirable or not.

The baseline is an estimate of how far the policy as a whole has moved: the mean log-ratio of completions behind prompts
of others.  Every loss of a step depends on it, so it is taken over the whole step, however that is cut.
"""

from dataclasses import dataclass

from apo.errors import ConfigError
from apo.lazy import torch
from apo.metrics import running
from apo.objectives import preferences
from apo.objectives.base import Loss, Needs, Objective, objectives


@objectives.register("kto")
@dataclass
class KTO(Objective):
    """1 - sigmoid(beta (log-ratio - baseline)) for a desirable completion, 1 - sigmoid(beta (baseline - log-ratio)) for
    an undesirable one; baseline = max(0, mean log-ratio of mismatched completions), without gradient."""

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    """Where one kind is rarer, the paper asks for desirable_weight x desirable : undesirable_weight x undesirable
    completions between 1:1 and 4:3."""

    def __post_init__(self):
        if self.beta <= 0:
            raise ConfigError(f"beta: must be above 0, got {self.beta}")
        for name in ("desirable_weight", "undesirable_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: must not be below 0, got {getattr(self, name)}")

    @property
    def needs(self) -> Needs:
        return Needs(view="label", reference=True)

    def count_items(self, batch) -> int:
        return len(batch)

    def over_step(self, policy, batch) -> "torch.Tensor":
        """[sum of the mismatched log-ratios, their number]."""
        return mismatched(policy.completion_stats(batch).logps_RN - batch.ref_logps_RN)

    def compute_loss(self, policy, batch) -> Loss:
        """A batch of `apo.data.labelled`: [R, 2] of a completion and a mismatched one, the label its reward."""
        stats = policy.completion_stats(batch)
        ratios_RN = stats.logps_RN - batch.ref_logps_RN
        summed = batch.over_step if batch.over_step is not None else mismatched(ratios_RN)
        baseline = (summed[0] / summed[1]).clamp(min=0).detach()
        ratios_R, desirable_R = ratios_RN[:, 0], batch.rewards_RN[:, 0] > 0
        losses_R = preferences.kto_losses(ratios_R, desirable_R, baseline, beta=self.beta,
                                          desirable_weight=self.desirable_weight,
                                          undesirable_weight=self.undesirable_weight)
        metrics = {"kl": running.ratio(baseline, 1.0), "completions/mean_length": running.mean(stats.lengths_RN[:, 0])}
        for name, mask_R in (("chosen", desirable_R), ("rejected", ~desirable_R)):
            metrics[f"rewards/{name}"] = running.mean(self.beta * ratios_R, mask_R)
            metrics[f"logps/{name}"] = running.mean(stats.logps_RN[:, 0], mask_R)
        return Loss(losses_R.sum(), metrics)


def mismatched(ratios_RN: "torch.Tensor") -> "torch.Tensor":
    ratios_R = ratios_RN[:, 1].detach()
    return torch.stack([ratios_R.sum(), torch.ones_like(ratios_R).sum()])
