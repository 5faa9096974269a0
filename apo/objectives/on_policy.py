"""What ppo, rloo, grpo and reinforce share: the price of a distance from the reference, and the metrics of a round and
of how far the policy has moved within it.

Each completion is a row.  All that depends on more than one (baselines, whitening) is computed of the whole round, so
that minibatches and micro-batches cannot change it.  `objective/*` is measured once, as the round begins, on what the
policy wrote: so the KL there is the policy's own.

The policy drops nothing out while it is trained (`apo/experience/make.py`): what is compared with the policy as the
round began, which dropped nothing out either, would otherwise differ from it before the first step.
"""

from dataclasses import dataclass
from typing import Any

from apo.console import warn
from apo.errors import ConfigError
from apo.lazy import torch
from apo.metrics import running
from apo.objectives.base import Needs, NothingToDraw
from apo.objectives.offline_weights import LARGEST
from apo.objectives.online import VIEW, Online, Round
from apo.objectives.policy_gradient import token_kl

TOO_LOW_KL = -1.0
"""Nats.  The mean log-ratio of a completion that the policy itself wrote is a KL, which has no business below 0."""


@dataclass
class OnPolicy(Online):
    """Raises the likelihood of its own completions by how much better they are than expected."""

    beta: float = 0.05
    """Reward that a nat of distance from the reference costs.  0: no reference is kept in memory."""

    def __post_init__(self):
        if self.beta < 0:
            raise ConfigError(f"beta: must not be below 0, got {self.beta:g}")

    @property
    def needs(self) -> Needs:
        return Needs(view=VIEW, reference_model=self.beta > 0)

    def log_ratios(self, round: Round):
        """[C, T]: log pi - log ref, whose sum is the KL of a completion; 0 without a reference."""
        if not self.needs.reference_model:
            return torch.zeros_like(round.logps_CT)
        return token_kl("k1", round.logps_CT, round.ref_logps_CT, round.mask_CT)

    def notice(self, kl_C, state: dict[str, Any]) -> dict[str, Any]:
        """What the next state says of warnings.  Warns the first time that the mean KL is plainly below 0."""
        kl, warned = float(kl_C.mean()), bool(state.get("warned_of_kl"))
        if kl < TOO_LOW_KL and not warned:
            warn(f"objective/kl is {kl:.2f} nats, and no KL is below 0: completions are not drawn from the policy "
                 "whose log-probabilities are trained on. Banned tokens do that, and a sampler that is less precise "
                 "than training")
        return {"warned_of_kl": warned or kl < TOO_LOW_KL}


def scores_of(round: Round):
    """[C] float64 tensor.  Raises NothingToDraw where not one is known."""
    scores_C = torch.as_tensor(round.scores_C, dtype=torch.float64)
    if scores_C.isnan().all():
        raise NothingToDraw("scorer: no completion of the round has a reward")
    return scores_C


def everywhere(advantages_C, mask_CT):
    """[C, T] fp32: each completion's number at all its tokens."""
    return torch.where(mask_CT, advantages_C.float()[:, None], 0.0)


def of_rows(x_RT, mask_RT):
    """[R]: the number that a completion has at all its tokens."""
    return x_RT.gather(1, mask_RT.int().argmax(1, keepdim=True)).squeeze(1)


def round_metrics(round: Round, kl_C=None, penalty_C=0.0, scores_C=None) -> dict[str, running.Stat]:
    """Args:
        kl_C: distance of each completion from the reference, nats; None where there is none.
        penalty_C: what its reward loses by that.
        scores_C: as they stand in the reward, where that is not as they are.
    """
    raw_C = scores_of(round)
    known_C = ~raw_C.isnan()
    non_scores_C = torch.zeros_like(raw_C) - penalty_C
    metrics = {
        "objective/entropy": running.mean(-(round.logps_CT * round.mask_CT).sum(1)),
        "objective/scores": running.mean(raw_C, known_C),
        "objective/scores_std": running.std(raw_C, known_C),
        "objective/non_score_reward": running.mean(non_scores_C),
        "objective/rlhf_reward": running.mean(non_scores_C + (raw_C if scores_C is None else scores_C), known_C),
        "val/num_eos_tokens": running.ratio(float(round.finished_C.sum()), 1.0),
    }
    return metrics if kl_C is None else metrics | {"objective/kl": running.mean(kl_C)}


def advantage_metrics(advantages_CT, mask_CT=None) -> dict[str, running.Stat]:
    return {"advantages/mean": running.mean(advantages_CT, mask_CT),
            "advantages/std": running.std(advantages_CT, mask_CT)}


def moved_metrics(stats, batch) -> dict[str, running.Stat]:
    """How far the policy has moved since the round began, over tokens."""
    mask_RT = stats.mask_BT
    log_ratios_RT = stats.logps_BT.detach() - batch.old_logps_RT
    ratios_RT = log_ratios_RT.clamp(max=LARGEST).exp()
    return {
        "policy/policykl_avg": running.mean(-log_ratios_RT, mask_RT),
        "policy/approxkl_avg": running.mean(0.5 * log_ratios_RT ** 2, mask_RT),
        "policy/entropy_avg": running.mean(stats.entropy_BT, mask_RT),
        "val/ratio": running.mean(ratios_RT, mask_RT),
        "val/ratio_var": running.mean((ratios_RT - 1) ** 2, mask_RT),
    }
