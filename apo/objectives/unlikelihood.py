"""Unlikelihood training (Welleck et al. 2019), token-level, as in PHF.

Deviations from the release, which stay available as `as_released: true`:
* There `if self.score_threshold:` takes a threshold of exactly 0 for none, so its private-data and PEP8 runs (t = 0)
  trained on the convex mixture a = 1 - score, nearly plain MLE.  Here `null` means none and 0.0 means zero.
* log(1 - p) is computed as log(-expm1(log p)), exact for p near 1, where 1 - exp(log p) loses all digits.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from apo.lazy import torch
from apo.metrics import running
from apo.objectives.base import Loss, Objective, objectives

FLOOR = 1e-20
"""1 - p is not taken below this (the released value): the loss of one token is at most 46 nats."""


def aligned_weight(scores_BT, threshold: float | None):
    """How far a token counts as aligned: 1[score <= threshold], or 1 - score where there is no threshold. [B, T]"""
    return 1 - scores_BT if threshold is None else (scores_BT <= threshold).to(scores_BT.dtype)


def unlikelihood_losses(logps_BT, aligned_BT):
    """The two parts, each [B, T] in nats: -a log p and -(1 - a) log(1 - p)."""
    log_one_minus_p_BT = (-torch.expm1(logps_BT)).clamp(min=FLOOR).log()
    return -aligned_BT * logps_BT, -(1 - aligned_BT) * log_one_minus_p_BT


@objectives.register("unlikelihood")
@dataclass
class Unlikelihood(Objective):
    """-[a log p + alpha (1 - a) log(1 - p)] per token, a = 1 where the token's segment scores <= threshold."""

    score_threshold: float | dict[Literal["percentile"], float] | None = None
    """A number, `{percentile: p}` of the training segments' scores, or null: a = 1 - score."""
    alpha: float = 1.0
    """Weight of the unlikelihood part."""
    as_released: bool = False
    """Take a threshold of exactly 0 for none, as the release does."""

    thresholds: ClassVar[tuple[str, ...]] = ("score_threshold",)

    def compute_loss(self, policy, batch) -> Loss:
        stats = policy.token_stats(batch)
        none = self.score_threshold is None or (self.as_released and self.score_threshold == 0)
        mask_BT = stats.mask_BT
        judged_BT = batch.judged(mask_BT)
        aligned_BT = aligned_weight(batch.scores_BT, None if none else self.score_threshold)
        aligned_BT = torch.where(judged_BT, aligned_BT, 1)          # nothing is held against a prompt
        likelihood_BT, unlikelihood_BT = unlikelihood_losses(stats.logps_BT, aligned_BT)
        return Loss(((likelihood_BT + self.alpha * unlikelihood_BT) * mask_BT).sum(), {
            "avg_token_score": running.mean(batch.scores_BT, judged_BT),
            "aligned_token_count": running.mean(aligned_BT, judged_BT),
            "likelihood_loss": running.mean(likelihood_BT, mask_BT),
            "unlikelihood_loss": running.mean(unlikelihood_BT, mask_BT),
        })
