"""Group relative policy optimisation (Shao et al. 2024, GRPO) and what became of it (DAPO, Dr. GRPO, GSPO)."""

from dataclasses import dataclass
from typing import Any, Literal

from apo.errors import ConfigError
from apo.lazy import torch
from apo.metrics import running
from apo.objectives.base import Loss, objectives
from apo.objectives.on_policy import OnPolicy, ratio_metrics, reward_metrics
from apo.objectives.online import Lesson, Round
from apo.objectives.policy_gradient import (
    clipped_policy_losses,
    group_advantages,
    groups_of,
    kl_estimates,
    ratios,
    sequence_ratios,
)


@objectives.register("grpo")
@dataclass
class GRPO(OnPolicy):
    """A completion's reward against the mean of its prompt's, over their deviation, for every token of it."""

    kl_in: Literal["loss", "reward"] = "loss"
    """Where beta times the distance stands: at each token of the loss, as k3 (the paper's), or in the reward, as k1,
    whose gradient is that of the distance."""
    scale: Literal["group", "batch", "none"] = "group"
    """What advantages are divided by: the standard deviation of the prompt's rewards, of all, or nothing (Dr. GRPO)."""
    average: Literal["token", "sequence", "constant"] = "token"
    """Of the loss: over all tokens of the step (DAPO), over completions of their means over tokens (the paper), or over
    completions of their sums over `length` (Dr. GRPO)."""
    length: int | None = None
    """Tokens that average=constant divides by."""
    ratio: Literal["token", "sequence"] = "token"
    """sequence: the geometric mean over a completion's tokens (GSPO)."""
    clip: float = 0.2
    clip_high: float | None = None
    """Above 1; null: as below (DAPO: 0.28)."""
    mask_truncated: bool = False
    """Completions that were cut have no advantage (DAPO)."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("clip", "clip_high"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ConfigError(f"{name}: must be above 0, got {getattr(self, name):g}")
        if (self.average == "constant") != (self.length is not None):
            raise ConfigError("length: average=constant divides by it, and nothing else does: give both or neither "
                              "(objective.length=${rollout.max_new_tokens})")
        if self.length is not None and self.length < 1:
            raise ConfigError(f"length: must be at least 1, got {self.length}")

    @property
    def generations(self) -> int:
        return 2

    def count_items(self, batch) -> int:
        """Tokens or completions, whichever is averaged over."""
        return super().count_items(batch) if self.average == "token" else len(batch)

    def lesson(self, round: Round, scores_C, state: dict[str, Any]) -> Lesson:
        if self.kl_in == "reward":
            rewards_C, metrics = self.rewards(round, scores_C)
        else:
            rewards_C, metrics = scores_C, reward_metrics(round, scores_C, torch.zeros_like(scores_C))
        advantages_C = group_advantages(rewards_C, round.prompts_C, self.scale)
        if self.mask_truncated:
            advantages_C = torch.where(torch.from_numpy(round.finished_C), advantages_C, 0.0)
        places_C, count = groups_of(round.prompts_C)
        spread_G = torch.stack([rewards_C[places_C == group].std() for group in range(count)])
        lengths_C = round.mask_CT.sum(1).float()
        metrics |= {"reward": running.mean(rewards_C, ~torch.isnan(rewards_C)),
                    "reward_std": running.mean(spread_G, ~torch.isnan(spread_G)),
                    "frac_reward_zero_std": running.mean((spread_G < 1e-8).float()),
                    "completions/mean_length": running.mean(lengths_C),
                    "completions/max_length": running.maximum(lengths_C),
                    "completions/clipped_ratio": running.ratio(int((~round.finished_C).sum()), len(lengths_C))}
        return Lesson(None, {"advantages": advantages_C[:, None] * round.mask_CT}, metrics=metrics)

    def compute_loss(self, policy, batch) -> Loss:
        stats = policy.completion_tokens(batch)
        mask_RT, old_RT = stats.mask_BT, batch.old_logps_RT
        if self.ratio == "token":
            ratios_RT = ratios(stats.logps_BT, old_RT, mask_RT)
        else:
            ratios_RT = sequence_ratios(stats.logps_BT, old_RT, mask_RT, mean=True)[:, None].expand_as(old_RT)
        losses_RT = clipped_policy_losses(ratios_RT, batch.advantages_RT, self.clip, self.clip_high)
        high = self.clip if self.clip_high is None else self.clip_high
        still_RT, worse_RT = ratios_RT.detach(), batch.advantages_RT < 0
        metrics = ratio_metrics(still_RT, mask_RT, stats.logps_BT, old_RT, self.clip, high) | {
            "clip_ratio/low_mean": running.mean(((still_RT < 1 - self.clip) & worse_RT).float(), mask_RT),
            "clip_ratio/high_mean": running.mean(((still_RT > 1 + high) & (batch.advantages_RT > 0)).float(), mask_RT)}
        if self.beta and self.kl_in == "loss":
            kl_RT = kl_estimates("k3", stats.logps_BT, batch.ref_logps_RT, None, mask_RT)
            losses_RT = losses_RT + self.beta * kl_RT
            metrics["kl"] = running.mean(kl_RT, mask_RT)
        losses_RT = torch.where(mask_RT, losses_RT, 0.0)
        if self.average == "sequence":
            total = (losses_RT.sum(1) / mask_RT.sum(1).clamp(min=1)).sum()
        elif self.average == "constant":
            total = losses_RT.sum() / self.length
        else:
            total = losses_RT.sum()
        return Loss(total, metrics | {"loss/policy_avg": running.mean(losses_RT, mask_RT)})
