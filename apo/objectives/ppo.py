"""Proximal policy optimisation of a language model (Schulman et al. 2017; Ziegler et al. 2019; Ouyang et al. 2022)."""

from dataclasses import dataclass
from typing import Any, Literal

from apo.errors import ConfigError
from apo.lazy import torch
from apo.metrics import running
from apo.objectives.base import Loss, Needs, objectives
from apo.objectives.on_policy import OnPolicy, ratio_metrics, reward_metrics
from apo.objectives.online import VIEW, Lesson, Round
from apo.objectives.policy_gradient import (
    adapted,
    clipped_policy_losses,
    clipped_value_losses,
    deviation,
    gae,
    moments,
    ratios,
    token_rewards,
    whiten,
)

PATIENCE = 1.5
"""Times `target_kl` at which a round is broken off, as in the classic trainer."""


@objectives.register("ppo")
@dataclass
class PPO(OnPolicy):
    """Clipped policy and value losses on advantages over a value head; the reward of a token is -beta times its
    distance from the reference, and the score comes at the last."""

    kl: Literal["k1", "k3", "full"] = "k1"
    """What stands for the distance at a token."""
    kl_target: float | None = None
    """Nats a completion that beta is adapted to; null: beta stays."""
    kl_horizon: float = 10_000
    """Completions over which it is adapted."""
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float | None = 0.2
    value_coef: float = 0.1
    entropy_coef: float = 0.0
    whiten_advantages: bool = True
    whiten_rewards: bool = False
    """Variance alone."""
    score_baseline: float = 0.0
    """Off every score."""
    score_scale: Literal["none", "std"] = "none"
    """std: over the standard deviation of all scores so far."""
    score_clip: float | None = None
    """Largest size of a score, scaled."""
    target_kl: float | None = None
    """The rest of a round is left out once the policy has gone 1.5 times so far from where the round began, mean of
    log p then less log p now; null: never."""
    ratio_limit: float | None = 10.0
    """Completions with a mean ratio above it are left out of a step.  By completion, so that it does not depend on what
    stands in one micro-batch."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: must lie from 0 to 1, got {getattr(self, name):g}")
        for name in ("clip", "value_clip", "kl_target", "kl_horizon", "score_clip", "target_kl", "ratio_limit"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ConfigError(f"{name}: must be above 0, got {getattr(self, name):g}")
        for name in ("value_coef", "entropy_coef"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: must not be below 0, got {getattr(self, name):g}")
        if self.kl_target is not None and not self.beta:
            raise ConfigError("kl_target: adapts beta, which is 0 and stays 0: give beta a start above it")
        self.gone: list[Any] = []
        """Sum and count of log p then less log p now over what a step has seen."""

    @property
    def needs(self) -> Needs:
        return Needs(view=VIEW, value_head=True, reference_model=self.beta > 0)

    @property
    def exact_kl(self) -> bool:
        return self.kl == "full" and self.beta > 0

    def lesson(self, round: Round, scores_C, state: dict[str, Any]) -> Lesson:
        mask_CT, beta = round.mask_CT, state.get("beta", self.beta)
        given_C = torch.where(torch.isnan(scores_C), scores_C[~torch.isnan(scores_C)].mean(), scores_C)
        seen = moments(state.get("scores", {}), given_C.double())
        shaped_C = (given_C - self.score_baseline) / (deviation(seen) if self.score_scale == "std" else 1.0)
        if self.score_clip is not None:
            shaped_C = shaped_C.clamp(-self.score_clip, self.score_clip)
        kl_CT = self.distances(round, self.kl)
        rewards_CT = token_rewards(shaped_C, kl_CT, mask_CT, beta)
        if self.whiten_rewards:
            rewards_CT = whiten(rewards_CT, mask_CT, shift_mean=False)
        advantages_CT, returns_CT = gae(rewards_CT, round.values_CT, mask_CT, self.gamma, self.lam)
        metrics = reward_metrics(round, scores_C, -beta * kl_CT.sum(1)) | {
            "objective/kl_coef": running.ratio(beta, 1),
            "ppo/advantages_mean": running.mean(advantages_CT, mask_CT),
            "ppo/returns_mean": running.mean(returns_CT, mask_CT), "ppo/returns_std": running.std(returns_CT, mask_CT),
            "val/mean": running.mean(round.values_CT, mask_CT),
            "val/var_explained": running.mean(explained(round.values_CT, returns_CT, mask_CT)[None])}
        if self.whiten_advantages:
            advantages_CT = whiten(advantages_CT, mask_CT)
        after = beta
        if self.kl_target is not None:
            distance = float(self.distances(round).sum(1).mean())
            after = adapted(beta, distance, self.kl_target, len(scores_C), self.kl_horizon)
        return Lesson(None, {"advantages": advantages_CT, "returns": returns_CT}, metrics=metrics,
                      state={"beta": after, "scores": seen})

    def compute_loss(self, policy, batch) -> Loss:
        stats = policy.completion_tokens(batch, want=("values", "entropy"))
        mask_RT, advantages_RT = stats.mask_BT, batch.advantages_RT
        ratios_RT = ratios(stats.logps_BT, batch.old_logps_RT, mask_RT)
        used_RT = mask_RT
        metrics = ratio_metrics(ratios_RT.detach(), mask_RT, stats.logps_BT, batch.old_logps_RT, self.clip)
        if self.ratio_limit is not None:
            means_R = torch.where(mask_RT, ratios_RT.detach(), 0.0).sum(1) / mask_RT.sum(1).clamp(min=1)
            used_RT = mask_RT & (means_R <= self.ratio_limit)[:, None]
            metrics["policy/left_out"] = running.mean((means_R > self.ratio_limit).float())
        policy_RT = torch.where(used_RT, clipped_policy_losses(ratios_RT, advantages_RT, self.clip), 0.0)
        value_RT = torch.where(used_RT, clipped_value_losses(stats.values_BT, batch.old_values_RT, batch.returns_RT,
                                                             self.value_clip), 0.0)
        total = policy_RT.sum() + self.value_coef * value_RT.sum()
        if self.entropy_coef:
            total = total - self.entropy_coef * torch.where(used_RT, stats.entropy_BT, 0.0).sum()
        if self.target_kl is not None:
            gone_RT = torch.where(mask_RT, batch.old_logps_RT - stats.logps_BT.detach(), 0.0)
            self.gone.append((gone_RT.sum().double(), mask_RT.sum()))
        moved_RT = (stats.values_BT.detach() - batch.old_values_RT).abs()
        metrics |= {"loss/policy_avg": running.mean(policy_RT, mask_RT),
                    "loss/value_avg": running.mean(value_RT, mask_RT),
                    "policy/entropy_avg": running.mean(stats.entropy_BT, mask_RT),
                    "val/vpred": running.mean(stats.values_BT, mask_RT)}
        if self.value_clip is not None:
            metrics["val/clipfrac_avg"] = running.mean((moved_RT > self.value_clip).float(), mask_RT)
        return Loss(total, metrics)

    def exhausted(self) -> bool:
        """A step that was done twice, for want of memory, counts twice on both sides of the mean."""
        gone, self.gone = self.gone, []
        if not gone:
            return False
        return float(sum(each for each, _ in gone)) / float(sum(count for _, count in gone)) > PATIENCE * self.target_kl


def explained(values_CT, returns_CT, mask_CT):
    """Share of the variance of the returns that V explains, a scalar."""
    returns = returns_CT[mask_CT]
    return 1 - (returns - values_CT[mask_CT]).var(unbiased=False) / returns.var(unbiased=False).clamp(min=1e-8)
