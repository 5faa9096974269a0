"""What policy gradients on rounds share: rewards with a distance to the reference, and what is said of every round.

Each completion is a row.  All that depends on more than one completion (baselines, whitening) is computed of the whole
round, so that minibatches and micro-batches cannot change it.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from apo.console import warn
from apo.errors import ConfigError
from apo.lazy import torch
from apo.metrics import running
from apo.metrics.running import Stat
from apo.objectives.base import Needs, NothingToDraw
from apo.objectives.online import VIEW, Lesson, Online, Round
from apo.objectives.policy_gradient import kl_estimates

NEGATIVE = -1.0
"""Nats of mean k1 below which something is wrong with the sampling."""


@dataclass
class OnPolicy(Online):
    """Base class."""

    beta: float = 0.05
    """Reward that a nat of distance from the reference costs.  0: no reference is needed."""

    def __post_init__(self):
        if self.beta < 0:
            raise ConfigError(f"beta: must not be below 0, got {self.beta:g}")

    @property
    def needs(self) -> Needs:
        return Needs(view=VIEW, reference_model=self.beta > 0)

    def learn(self, round: Round, state: dict[str, Any]) -> Lesson:
        scores_C = torch.from_numpy(round.scores_C)
        if torch.isnan(scores_C).all():
            raise NothingToDraw("no completion of the round has a reward")
        lesson = self.lesson(round, scores_C.float(), state)
        lesson.metrics |= round_metrics(round)
        lesson.rows_PN = np.arange(len(scores_C))[:, None]
        return lesson

    @abstractmethod
    def lesson(self, round: Round, scores_C, state: dict[str, Any]) -> Lesson:
        """Advantages and the like; `scores_C` fp32, NaN where not known."""

    def distances(self, round: Round, kind: Literal["k1", "k3", "full"] = "k1"):
        """[C, T]; zeros without a reference."""
        if round.ref_logps_CT is None:
            return torch.zeros(round.mask_CT.shape)
        return kl_estimates(kind, round.logps_CT, round.ref_logps_CT, round.kl_CT, round.mask_CT)

    def rewards(self, round: Round, scores_C):
        """[C]: the score less beta times the summed distance; and metrics of both."""
        kl_C = self.distances(round).sum(1)
        return scores_C - self.beta * kl_C, reward_metrics(round, scores_C, -self.beta * kl_C)


def reward_metrics(round: Round, scores_C, penalties_C) -> dict[str, Stat]:
    """Of what a round earned, under TRL's names."""
    known_C = ~torch.isnan(scores_C)
    return {"objective/scores": running.mean(scores_C, known_C), "objective/scores_std": running.std(scores_C, known_C),
            "objective/non_score_reward": running.mean(penalties_C),
            "objective/rlhf_reward": running.mean(scores_C + penalties_C, known_C)}


def round_metrics(round: Round) -> dict[str, Stat]:
    """Of any round."""
    metrics = {"objective/entropy": running.mean(-round.logps_CT.sum(1)),
               "val/num_eos_tokens": running.ratio(int(round.finished_C.sum()), 1)}
    if round.ref_logps_CT is not None:
        kl_C = torch.where(round.mask_CT, round.logps_CT - round.ref_logps_CT, 0.0).sum(1)
        metrics["objective/kl"] = running.mean(kl_C)
        if float(kl_C.mean()) < NEGATIVE:
            warn(f"the mean distance from the reference is {float(kl_C.mean()):.2f} nats: no such distance is below 0, "
                 "so what is sampled is not what the policy says it would write")
    return metrics


def ratio_metrics(ratios_CT, mask_CT, logps_CT, old_logps_CT, clip: float,
                  high: float | None = None) -> dict[str, Stat]:
    """Of a minibatch: how far the policy has gone since the round began."""
    gone_CT = logps_CT.detach() - old_logps_CT
    outside_CT = (ratios_CT < 1 - clip) | (ratios_CT > 1 + (clip if high is None else high))
    return {"policy/approxkl_avg": running.mean(gone_CT.square() / 2, mask_CT),
            "policy/policykl_avg": running.mean(-gone_CT, mask_CT),
            "policy/clipfrac_avg": running.mean(outside_CT.float(), mask_CT),
            "val/ratio": running.mean(ratios_CT, mask_CT), "val/ratio_std": running.std(ratios_CT, mask_CT),
            "val/ratio_max": running.maximum(ratios_CT, mask_CT)}
