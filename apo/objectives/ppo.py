"""Proximal policy optimisation (Schulman et al. 2017) on whole completions with a price on leaving the reference
(Ziegler et al. 2019; Ouyang et al. 2022).

Every token has a reward: -beta KL, and the last one the score.  A value head beside the model says what is still to
come, and is trained on what came.  Whatever takes a statistic (whitening, the scale of scores) takes it over the whole
round, in `learn`, so that how a round is cut into steps and steps into micro-batches changes no number.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from apo.errors import ConfigError
from apo.lazy import torch
from apo.metrics import running
from apo.objectives.base import Loss, Needs, objectives
from apo.objectives.on_policy import (
    OnPolicy,
    advantage_metrics,
    moved_metrics,
    round_metrics,
    scores_of,
)
from apo.objectives.online import Lesson, Round
from apo.objectives.policy_gradient import (
    clipped_policy_losses,
    clipped_value_losses,
    deviation,
    gae,
    next_kl_coef,
    token_kl,
    token_rewards,
    whiten,
    with_scores,
)

STOP_AT = 1.5
"""Times the target KL, as in TRL."""


@objectives.register("ppo")
@dataclass
class PPO(OnPolicy):
    """max(-A r, -A clip(r)) + value_coef times half the clipped squared error of V - entropy_coef H, over tokens."""

    kl: Literal["k1", "k3", "full"] = "k1"
    """The distance in the reward: log-ratio, k3, or the exact KL over the vocabulary.  As a reward only the first has
    the gradient of KL(policy || reference); the others are the classic trainer's."""
    kl_target: float | None = None
    """Nats of a completion that beta is adapted to; null: it is fixed."""
    kl_horizon: float = 10_000
    """Completions over which an adapted beta changes by a fifth at most."""
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    """epsilon of the ratio."""
    value_clip: float | None = 0.2
    """A value no further than this from where it was as the round began, in rewards; null: not clipped."""
    value_coef: float = 0.1
    is_detached: bool = False
    """Keep the value loss's gradient out of the trunk."""
    entropy_coef: float = 0.0
    whiten_advantages: bool = True
    whiten_rewards: bool = False
    """Scale the tokens' rewards, about their mean, to standard deviation 1 over the round."""
    score_baseline: float = 0.0
    """Off every score."""
    score_scale: Literal["none", "std"] = "none"
    """std: divided by the standard deviation of all scores so far."""
    score_clip: float | None = None
    """Scores, after that, no further from 0."""
    target_kl: float | None = None
    """Where the mean of log pi before the round - log pi exceeds 1.5 times this in a step, the rest of the round is
    left out.  null: never."""
    ratio_limit: float | None = 10.0
    """A completion whose mean ratio is larger is left out of the loss.  null: none is."""

    drift: ClassVar["running.Running | None"] = None
    """log pi before the round - log pi, over the tokens seen since `exhausted` was asked."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("kl_target", "kl_horizon", "clip", "value_clip", "score_clip", "target_kl"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name}: must be above 0, got {value:g}")
        for name in ("value_coef", "entropy_coef"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: must not be below 0, got {getattr(self, name):g}")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: lies from 0 to 1, got {getattr(self, name):g}")
        if self.ratio_limit is not None and self.ratio_limit <= 1:
            raise ConfigError(f"ratio_limit: must be above 1, the ratio before the first step, got "
                              f"{self.ratio_limit:g}")
        if self.kl_target is not None and self.beta == 0:
            raise ConfigError("kl_target: a beta of 0 stays 0 however it is adapted: set beta, where it begins")

    @property
    def needs(self) -> Needs:
        return replace(super().needs, value_head=True)

    @property
    def exact_kl(self) -> bool:
        return self.kl == "full" and self.beta > 0

    # ---- a round -----------------------------------------------------------------------------------------------------

    def learn(self, round: Round, state: dict[str, Any]) -> Lesson:
        """State: `kl_coef`, `score_moments`, `warned_of_kl`.  A completion without a score has advantage 0, and its
        returns are the values that are there."""
        scores_C, moments = self.scaled(scores_of(round), state.get("score_moments", (0, 0.0, 0.0)))
        coef, kl_CT = state.get("kl_coef", self.beta), self.distances(round)
        log_ratios_C = self.log_ratios(round).sum(1)
        judged_CT = round.mask_CT & ~scores_C.isnan()[:, None]
        rewards_CT = token_rewards(scores_C.nan_to_num(0.0), kl_CT, round.mask_CT, coef)
        if self.whiten_rewards:
            rewards_CT = whiten(rewards_CT, judged_CT, shift_mean=False)
        advantages_CT, returns_CT = gae(rewards_CT, round.values_CT, round.mask_CT, self.gamma, self.lam)
        if self.whiten_advantages:
            advantages_CT = whiten(advantages_CT, judged_CT)
        tokens = {"advantages": torch.where(judged_CT, advantages_CT, 0.0),
                  "returns": torch.where(judged_CT, returns_CT, round.values_CT * round.mask_CT)}
        # k3 is a price; what measures is k1, which shows where the mean is below 0, or the exact KL
        kl_C = kl_CT.sum(1) if self.exact_kl else log_ratios_C
        after = {"kl_coef": next_kl_coef(coef, float(kl_C.mean()), self.kl_target, self.kl_horizon, len(kl_C)),
                 "score_moments": list(moments)} | self.notice(log_ratios_C, state)
        metrics = round_metrics(round, kl_C if self.beta else None, coef * kl_CT.sum(1), scores_C)
        metrics |= {"objective/kl_coef": running.ratio(coef, 1.0)} | lesson_metrics(round, tokens, judged_CT)
        return Lesson(np.arange(len(kl_C))[:, None], tokens, metrics=metrics, state=after)

    def scaled(self, scores_C, moments):
        """Scores as they go into the reward, and the moments with them."""
        scores_C = scores_C - self.score_baseline
        moments = with_scores(moments, scores_C)
        if self.score_scale == "std":
            scores_C = scores_C / deviation(moments)
        return scores_C if self.score_clip is None else scores_C.clamp(-self.score_clip, self.score_clip), moments

    def distances(self, round: Round):
        """[C, T], what is priced."""
        if self.beta == 0:
            return torch.zeros_like(round.logps_CT)
        return token_kl(self.kl, round.logps_CT, round.ref_logps_CT, round.mask_CT, round.kl_CT)

    # ---- a step ------------------------------------------------------------------------------------------------------

    def compute_loss(self, policy, batch) -> Loss:
        stats = policy.completion_tokens(batch, ("values", "entropy"), detach_values=self.is_detached)
        log_ratios_RT = stats.logps_BT - batch.old_logps_RT
        counted_RT = stats.mask_BT & self.within_limit(log_ratios_RT.detach(), stats.mask_BT)[:, None]
        policy_losses_RT, clipped_RT = clipped_policy_losses(log_ratios_RT, batch.advantages_RT, self.clip)
        value_losses_RT, value_clipped_RT = clipped_value_losses(stats.values_BT, batch.old_values_RT,
                                                                 batch.returns_RT, self.value_clip)
        losses_RT = policy_losses_RT + self.value_coef * value_losses_RT - self.entropy_coef * stats.entropy_BT
        if self.target_kl is not None and torch.is_grad_enabled():
            self.note_drift(-log_ratios_RT, stats.mask_BT)
        return Loss(torch.where(counted_RT, losses_RT, 0.0).sum(), moved_metrics(stats, batch) | {
            "policy/clipfrac_avg": running.mean(clipped_RT.float(), stats.mask_BT),
            "policy/left_out": running.mean((~counted_RT).float(), stats.mask_BT),
            "loss/policy_avg": running.mean(policy_losses_RT, counted_RT),
            "loss/value_avg": running.mean(value_losses_RT, counted_RT),
            "val/clipfrac_avg": running.mean(value_clipped_RT.float(), stats.mask_BT),
        })

    def within_limit(self, log_ratios_RT, mask_RT):
        """[R] bool.  Of each completion by itself: TRL leaves out a whole minibatch by its mean, so that what counts
        depends on what it is batched with."""
        if self.ratio_limit is None:
            return torch.ones_like(mask_RT[:, 0])
        ratios_RT = torch.where(mask_RT, log_ratios_RT.exp(), 0.0)
        return ~(ratios_RT.sum(1) > self.ratio_limit * mask_RT.sum(1))        # what is no number stays, and is seen

    def note_drift(self, drift_RT, mask_RT) -> None:
        """A step that is done again after it ran out of memory notes some rows twice, which weighs them and moves no
        mean far; there is no telling here where a step begins."""
        if self.drift is None:
            self.drift = running.Running()
        self.drift.add({"drift": running.mean(drift_RT, mask_RT)})

    def exhausted(self) -> bool:
        """Whether the step just made was too far from where the round began.  TRL asks before the step and leaves that
        one out too; here it has been made, for to ask before it costs a wait for the device in every micro-batch."""
        if self.target_kl is None or self.drift is None:
            return False
        return self.drift.read().get("drift", 0.0) > STOP_AT * self.target_kl


def lesson_metrics(round: Round, tokens: dict, judged_CT) -> dict[str, running.Stat]:
    """Of returns and of how much of them the values as the round began explain; a round of equal returns says nothing
    of that."""
    returns_N, values_N = tokens["returns"][judged_CT].double(), round.values_CT[judged_CT].double()
    variance = returns_N.var(correction=0)
    known = float(variance > 0)
    unexplained = (returns_N - values_N).var(correction=0) / variance if known else torch.tensor(0.0)
    return advantage_metrics(tokens["advantages"], judged_CT) | {
        "returns/mean": running.mean(tokens["returns"], judged_CT),
        "returns/var": running.ratio(variance, 1.0),
        "val/var_explained": running.ratio((1 - unexplained) * known, known),
    }
