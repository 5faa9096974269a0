"""Advantage- and reward-weighted regression (Peng et al. 2019; Peters & Schaal 2007), token-level, as in PHF.

Reward of a token = -score of its segment.  RWR is this class with alpha = 1.

Deviations from the release:
* Released RWR subtracts a value head that starts at zero, passes through -sigmoid and never gets a gradient: a
  constant baseline of -0.5, a factor exp(0.5 / beta) on the loss.  Method `rwr` has no baseline;
  `objective.use_value_head=true` brings the constant back.
* A `fixed_value` of 0 is a value (released: `if self.fixed_value:`).
* `normalize_advantage` uses the statistics of one micro-batch, here as there, and so is the one option under which
  the micro-batch size changes the result.
"""

from dataclasses import dataclass
from typing import Literal

from apo.lazy import torch
from apo.metrics import running
from apo.objectives.base import Loss, Needs, Objective, objectives

WEIGHT_BINS = (0.0, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 10.0, 100.0,
               1e4)
VALUE_BINS = tuple(-1 + 0.05 * i for i in range(21))


def regression_weights(advantage_BT, beta: float, clip_weight_max: float):
    """min(exp(advantage / beta), clip_weight_max), without gradient. [B, T]"""
    return torch.exp(advantage_BT.detach() / beta).clamp(0, clip_weight_max)


def normalised(advantage_BT, mask_BT):
    """Mean 0, standard deviation 1 over the positions that count; others 0."""
    chosen = advantage_BT[mask_BT]
    return torch.where(mask_BT, (advantage_BT - chosen.mean()) / (chosen.std() + 1e-10), 0.0)


@objectives.register("awr")
@dataclass
class AWR(Objective):
    """alpha * mean(w * CE) + (1 - alpha) * MSE(r, V), w = min(exp((r - V) / beta), clip_weight_max)."""

    alpha: float = 0.5
    """Weight of the language-model loss against the value loss."""
    beta: float = 1.0
    """Temperature of the weights; the larger, the nearer to MLE."""
    use_value_head: bool = True
    """false: advantage = reward, no value loss."""
    fixed_value: float | None = None
    """A constant baseline in place of the head's value."""
    clip_value: bool = False
    """Clip V to [-1, 0]."""
    clip_weight_max: float = 1000.0
    normalize_advantage: bool = False
    is_detached: bool = False
    """Keep the value loss's gradient out of the trunk."""
    value_activation: Literal["sigmoid", "linear"] = "sigmoid"
    """V = -sigmoid(head), for scores in [0, 1]; or the head's output itself."""

    @property
    def needs(self) -> Needs:
        return Needs(value_head=self.use_value_head)

    def values(self, raw_BT):
        values_BT = -torch.sigmoid(raw_BT) if self.value_activation == "sigmoid" else raw_BT
        return values_BT.clamp(-1, 0) if self.clip_value else values_BT

    def advantage(self, reward_BT, values_BT, mask_BT):
        if self.fixed_value is not None:
            advantage_BT = reward_BT - self.fixed_value
        elif self.use_value_head:
            advantage_BT = reward_BT - values_BT.detach()
        else:
            advantage_BT = reward_BT
        return normalised(advantage_BT, mask_BT) if self.normalize_advantage else advantage_BT

    def compute_loss(self, policy, batch) -> Loss:
        want = ("values",) if self.use_value_head else ()
        stats = policy.token_stats(batch, want, detach_values=self.is_detached)
        mask_BT, reward_BT = stats.mask_BT, -batch.scores_BT
        judged_BT = batch.judged(mask_BT)
        values_BT = self.values(stats.values_BT) if self.use_value_head else None
        advantage_BT = self.advantage(reward_BT, values_BT, judged_BT)
        weights_BT = regression_weights(advantage_BT, self.beta, self.clip_weight_max)
        weights_BT = torch.where(judged_BT, weights_BT, 1)          # a prompt has no reward: as in mle
        lm_loss_BT = -stats.logps_BT
        total = self.alpha * (weights_BT * lm_loss_BT * mask_BT).sum()
        metrics = {
            "lm_loss": running.mean(lm_loss_BT, mask_BT),
            "weighted_lm_loss": running.mean(weights_BT * lm_loss_BT, mask_BT),
            "weight_avg": running.mean(weights_BT, judged_BT),
            "weights_min": running.minimum(weights_BT, judged_BT),
            "weights_max": running.maximum(weights_BT, judged_BT),
            "weight_dist": running.histogram(weights_BT, judged_BT, WEIGHT_BINS),
            "advantage_avg": running.mean(advantage_BT, judged_BT),
        }
        if self.use_value_head:
            value_loss_BT = (reward_BT - values_BT) ** 2
            total = total + (1 - self.alpha) * (value_loss_BT * judged_BT).sum()
            metrics |= value_metrics(value_loss_BT, values_BT, reward_BT, judged_BT)
        return Loss(total, metrics)


def value_metrics(value_loss_BT, values_BT, reward_BT, mask_BT) -> dict[str, running.Stat]:
    return {
        "value_loss": running.mean(value_loss_BT, mask_BT),
        "value_min": running.minimum(values_BT, mask_BT),
        "value_max": running.maximum(values_BT, mask_BT),
        "value_avg": running.mean(values_BT, mask_BT),
        "value_dist": running.histogram(values_BT, mask_BT, VALUE_BINS),
        "value_std": running.std(values_BT, mask_BT),
        "value_reward_corr": running.correlation(values_BT, reward_BT, mask_BT),
    }
