"""A-LoL and its kin: offline reinforcement learning from completions with rewards (Baheti et al. 2024, LoL-RL).

All of them are one weighted likelihood: over a completion's tokens, summed,

    loss = w * sum over t of tau_t * -log pi(y_t)            w, tau without gradient

    nll             w = 1               tau = 1
    wbc             w = R               tau = 1
    r_gold          w = R               tau = max(pi(y_t), floor)
    r_lol           w = R               tau = clip(pi(y) / ref(y)), of the whole completion
    a_lol           w = A               tau = clip(pi(y) / ref(y))
    a_lol_seq       w = A               tau = clip(pi(y_t) / ref(y_t)), of each token
    a_lol_ref_free  w = A               tau = 1
    a_lol_kl        w = A               tau = 1, and beta times a distance from the reference

R is the reward, A = max(R - V, 0), V what the reference is expected to earn behind the prompt
(`apo/reference_value.py`).  Which completions are drawn, and how often, is half of each method: `sampling`.  `preset:
published` is what the release does, `corrected` what we think right; docs/methods/a_lol.md goes through the differences
one by one.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from apo.errors import ConfigError
from apo.lazy import torch
from apo.metrics import running
from apo.objectives.base import Draw, Known, Loss, Needs, NothingToDraw, Objective, PromptValue, objectives
from apo.objectives.offline_weights import (
    LARGEST,
    drawn,
    gold_weights,
    highest,
    kl_terms,
    ratio_weights,
    sequence_ratio,
    unit_rewards,
    weighted_nll,
)

ADVANTAGE_BINS = tuple(i / 10 for i in range(-10, 11))
PRESETS: dict[str, dict[str, Any]] = {
    "corrected": {"sampling": "good_priority", "steps": "equal", "ratio": "eval",
                  "rewards_as": "unit", "value_selection": "kfold", "value_temperature": 1.0, "value_epochs": 30,
                  "value_learning_rate": 1e-3, "kl": "k3"},         # and the weight's exponent: see `Weighted`
    "published": {"sampling": "good_priority", "weight_exponent": 1.0, "steps": "shrunk", "ratio": "train",
                  "rewards_as": "sigmoid", "value_selection": "training", "value_temperature": 0.0,
                  "value_epochs": 10, "value_learning_rate": 1e-5, "kl": "published"},
}
"""What an option is that is left null."""


# ---- the methods -----------------------------------------------------------------------------------------------------


@dataclass
class OfflineRL(Objective):
    """A weighted likelihood of completions.  Weights are without gradient."""

    reduction: Literal["sum", "mean"] = "sum"
    """Over a completion's tokens."""

    reference_ratio: ClassVar[bool] = False
    """Compares policy and reference."""

    @property
    def needs(self) -> Needs:
        return Needs(view="completion", reference_tokens=self.reference_ratio)

    def count_items(self, batch) -> int:
        return len(batch)

    def draw(self, known: Known) -> Draw:
        return Draw(known.good_P)

    def batch_weights(self, batch):
        """[R]."""
        return torch.ones_like(batch.rewards_RN[:, 0])

    def token_weights(self, policy, batch, stats, weights_R, metrics):
        """[R, T]."""
        return torch.ones_like(stats.logps_BT)

    def distance(self, batch, stats, metrics):
        """[R], what is added to the likelihood."""
        return 0.0

    def tokens(self, policy, batch):
        return policy.completion_tokens(batch)

    def compute_loss(self, policy, batch) -> Loss:
        stats = self.tokens(policy, batch)
        metrics: dict[str, running.Stat] = {}
        weights_R = self.batch_weights(batch)
        token_weights_RT = self.token_weights(policy, batch, stats, weights_R, metrics)
        losses_R = weighted_nll(stats.logps_BT, stats.mask_BT, weights_R, token_weights_RT)
        losses_R = losses_R + self.distance(batch, stats, metrics)
        if self.reduction == "mean":
            losses_R = losses_R / stats.mask_BT.sum(1)
        return Loss(losses_R.sum(), metrics | batch_metrics(stats, batch, weights_R))


def batch_metrics(stats, batch, weights_R) -> dict[str, running.Stat]:
    rewards_R = batch.rewards_RN[:, 0]
    metrics = {"lm_loss": running.mean(-stats.logps_BT, stats.mask_BT), "reward_avg": running.mean(rewards_R),
               "weight_avg": running.mean(weights_R), "weight_std": running.std(weights_R),
               "completions/mean_length": running.mean(stats.mask_BT.sum(1).float())}
    if batch.values_R is not None:
        advantages_R = rewards_R - batch.values_R
        everywhere_R = torch.ones_like(rewards_R).bool()
        metrics |= {"value_avg": running.mean(batch.values_R), "advantage_avg": running.mean(advantages_R),
                    "advantage_dist": running.histogram(advantages_R, everywhere_R, ADVANTAGE_BINS)}
    if batch.ref_logps_RT is not None:
        metrics["kl"] = running.mean(sequence_ratio(stats.logps_BT, batch.ref_logps_RT, stats.mask_BT))
    return metrics


@objectives.register("nll")
@dataclass
class NLL(OfflineRL):
    """-log pi of a completion, summed over its tokens: fine-tuning that goes on."""

    completions: Literal["good", "all"] = "good"
    """The best of each prompt, or every one."""

    def draw(self, known: Known) -> Draw:
        return Draw(known.good_P if self.completions == "good" else np.ones_like(known.good_P))


@dataclass
class Scaled(OfflineRL):
    """Looks at rewards."""

    preset: Literal["corrected", "published"] = "corrected"
    """What every option is that is null (`PRESETS`)."""
    rewards_as: Literal["unit", "sigmoid", "raw"] | None = None
    """Rewards from 0 to 1 by percentiles of the training rewards; through a sigmoid; or as they are."""

    def __post_init__(self):
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name, "") is None:
                setattr(self, name, value)

    def rewards(self, raw_P, train_P):
        if self.rewards_as == "unit":
            return unit_rewards(raw_P, train_P)
        return 1 / (1 + np.exp(-raw_P)) if self.rewards_as == "sigmoid" else raw_P


@dataclass
class Weighted(Scaled):
    """Draws completions by a number, and weighs them by it."""

    sampling: Literal["none", "good_random", "good_priority", "all_random", "all_priority"] | None = None
    """Which completions are drawn; "good" is the best of its prompt."""
    weight_exponent: float | None = None
    """The loss's weight is the number to this power.  null: 0 with priority sampling, where how often a completion is
    drawn weighs it already, and 1 otherwise; published is 1 in any case, by which it counts twice."""

    def __post_init__(self):
        super().__post_init__()
        if self.weight_exponent is None:
            self.weight_exponent = 0.0 if self.sampling.endswith("priority") else 1.0
        if self.weight_exponent < 0:
            raise ConfigError(f"weight_exponent: must not be below 0, got {self.weight_exponent:g}")

    def number(self, rewards, values):
        """By which completions are drawn and weighed; numpy or torch."""
        raise NotImplementedError(type(self).__name__)

    def draw(self, known: Known) -> Draw:
        """Raises ConfigError where nothing is left."""
        number_P = self.number(known.rewards_P, known.values_P)
        kept_P, weights_P = drawn(self.sampling, number_P, known.good_P)
        if not kept_P.any():
            raise NothingToDraw(f"sampling: {self.sampling} leaves no completion to train on: none has a weight above "
                                "0")
        return Draw(kept_P, weights_P, np.sign(number_P) * np.abs(number_P) ** self.weight_exponent)

    def batch_weights(self, batch):
        number_R = self.number(batch.rewards_RN[:, 0], batch.values_R)
        return number_R.sign() * number_R.abs() ** self.weight_exponent


@dataclass
class ByReward(Weighted):
    """Weighs by the reward itself."""

    def number(self, rewards, values):
        return rewards

    def draw(self, known: Known) -> Draw:
        """Raises ConfigError for a reward below 0."""
        if (known.rewards_P < 0).any():
            raise ConfigError(f"rewards_as: {self.name} weighs by rewards, and some are below 0 (the least is "
                              f"{known.rewards_P.min():g}): use unit or sigmoid")
        return super().draw(known)


@objectives.register("wbc")
@dataclass
class WBC(ByReward):
    """Weighted behaviour cloning: R times -log pi."""


@dataclass
class Still(OfflineRL):
    """Weighs tokens by what the policy says of them."""

    ratio: Literal["eval", "train"] | None = None
    """Whether that is taken without dropout, so that a ratio is 1 where policy and reference are equal, or as training
    has it."""

    def still(self, policy, batch, stats):
        """[R, T], without gradient."""
        if self.ratio == "train" or not policy.drops_out:
            return stats.logps_BT.detach()
        with policy.as_evaluated(), torch.no_grad():
            return policy.completion_tokens(batch).logps_BT


@objectives.register("r_gold")
@dataclass
class RGold(Still, ByReward):
    """R times the likelihood, each token weighed by max(pi, floor) (GOLD, Pang & He 2021, with a reward)."""

    floor: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.floor <= 1:
            raise ConfigError(f"floor: a probability lies from 0 to 1, got {self.floor:g}")

    def token_weights(self, policy, batch, stats, weights_R, metrics):
        return gold_weights(self.still(policy, batch, stats), self.floor)


@dataclass
class Clipped(Still):
    """Weighs by the ratio of policy and reference."""

    clip: float | None = 0.9
    """epsilon; null: not clipped; 0: the ratio is 1."""
    clip_style: Literal["clamp", "ppo"] = "clamp"
    """clamp, as published; or ppo, which stops where the policy has gone further than the clip."""

    reference_ratio: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if self.clip is not None and not 0 <= self.clip <= 1:
            raise ConfigError(f"clip: epsilon lies from 0 to 1, got {self.clip:g}; null does not clip")

    def clipped(self, log_ratios, signs, mask, metrics):
        """Ratios as weights, with their metrics; all of one shape."""
        weights = ratio_weights(log_ratios, signs, self.clip, self.clip_style)
        ratios = log_ratios.detach().clamp(max=LARGEST).exp()
        metrics |= {"ratio_avg": running.mean(ratios, mask), "ratio_min": running.minimum(ratios, mask),
                    "ratio_max": running.maximum(ratios, mask),
                    "ratio_clipped": running.mean((weights != ratios).float(), mask)}
        return weights


@dataclass
class BySequence(Clipped):
    """One ratio for the whole completion."""

    def token_weights(self, policy, batch, stats, weights_R, metrics):
        still_RT = self.still(policy, batch, stats)
        log_ratios_R = sequence_ratio(still_RT, batch.ref_logps_RT, stats.mask_BT)
        ratios_R = self.clipped(log_ratios_R, weights_R, torch.ones_like(weights_R).bool(), metrics)
        return ratios_R[:, None].expand_as(still_RT)


@objectives.register("r_lol")
@dataclass
class RLoL(BySequence, ByReward):
    """R times the clipped ratio of the whole completion, times -log pi."""


@dataclass
class WithValue(Scaled):
    """Looks at V, the reward that the reference is expected to earn behind a prompt."""

    steps: Literal["equal", "shrunk"] | None = None
    """As many steps as every method has, or that times the share of good completions that is kept."""
    value_head: Literal["attention", "mean_pool", "mean_pool_mlp"] = "attention"
    value_targets: Literal["generations", "data"] = "generations"
    """What V is fitted on: the scorer's rewards of what the reference writes, or the mean reward in the data."""
    value_prompts: int = 256
    """Training prompts that V is fitted on."""
    value_generations: int = 1
    """Answers of the reference to each."""
    value_temperature: float | None = None
    """0 is greedy."""
    value_epochs: int | None = None
    """At most."""
    value_learning_rate: float | None = None
    value_batch_size: int = 16
    value_dropout: float = 0.1
    value_selection: Literal["kfold", "heldout", "training"] | None = None
    """The error by which the number of epochs is chosen: of five parts each left out once, of one, or of training."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("value_prompts", "value_generations", "value_batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, got {getattr(self, name)}")
        for name in ("value_epochs", "value_temperature"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: must not be below 0, got {getattr(self, name):g}")
        if self.value_learning_rate <= 0:
            raise ConfigError(f"value_learning_rate: must be above 0, got {self.value_learning_rate:g}")
        if not 0 <= self.value_dropout < 1:
            raise ConfigError(f"value_dropout: must be at least 0 and below 1, got {self.value_dropout:g}")

    @property
    def needs(self) -> Needs:
        value = PromptValue(self.value_head, self.value_targets, self.value_prompts, self.value_generations,
                            self.value_temperature, self.value_epochs, self.value_learning_rate,
                            self.value_batch_size, self.value_dropout, self.value_selection)
        return replace(super().needs, prompt_value=value)

    def share_of_steps(self, kept_P, good_P) -> float:
        """The release counts what it keeps against the good completions, also where it draws from all."""
        return float(kept_P.sum() / good_P.sum()) if self.steps == "shrunk" else 1.0


@dataclass
class ByAdvantage(WithValue, Weighted):
    """Weighs by what a completion earns above V."""

    clamp: bool = True
    """Advantages below 0 count as 0; without, such a completion is made less likely, and nothing stops it."""

    def number(self, rewards, values):
        advantages = rewards - values
        return advantages.clip(min=0) if self.clamp else advantages

    def draw(self, known: Known) -> Draw:
        found = super().draw(known)
        return replace(found, steps=self.share_of_steps(found.kept_P, known.good_P))


@objectives.register("a_lol")
@dataclass
class ALoL(BySequence, ByAdvantage):
    """A times the clipped ratio of the whole completion, times -log pi (Baheti et al. 2024)."""


@objectives.register("a_lol_seq")
@dataclass
class ALoLSeq(Clipped, ByAdvantage):
    """A times the sum over tokens of each token's own clipped ratio times -log pi (Baheti et al. 2024, sequence)."""

    def token_weights(self, policy, batch, stats, weights_R, metrics):
        log_ratios_RT = self.still(policy, batch, stats) - batch.ref_logps_RT
        signs_RT = weights_R[:, None].expand_as(log_ratios_RT)
        ratios_RT = self.clipped(log_ratios_RT, signs_RT, stats.mask_BT, metrics)
        return torch.where(stats.mask_BT, ratios_RT, 0.0)


@objectives.register("a_lol_ref_free")
@dataclass
class ALoLRefFree(ByAdvantage):
    """A times -log pi (Baheti et al. 2024, reference-free)."""


@objectives.register("a_lol_kl")
@dataclass
class ALoLKL(ByAdvantage):
    """A times -log pi, and beta times a distance from the reference (Baheti et al. 2024, KL)."""

    beta: float = 0.2
    kl: Literal["published", "k3", "full"] | None = None
    """The release's, which is beta off the advantage and nothing else; k3 at the tokens of the data; or the exact KL
    over the vocabulary there, for which a copy of the reference stays in memory."""

    reference_ratio: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if self.beta < 0:
            raise ConfigError(f"beta: must not be below 0, got {self.beta:g}")

    @property
    def needs(self) -> Needs:
        return replace(super().needs, reference_model=self.kl == "full")

    def tokens(self, policy, batch):
        if self.kl != "full":
            return policy.completion_tokens(batch)
        return policy.completion_tokens(batch, want=("kl",), other=self.reference)

    def distance(self, batch, stats, metrics):
        distances_R = kl_terms(self.kl, stats.logps_BT, batch.ref_logps_RT, stats.mask_BT, stats.kl_BT)
        metrics["kl_penalty"] = running.mean(distances_R)
        return self.beta * distances_R


@objectives.register("reward_threshold")
@dataclass
class RewardThreshold(WithValue):
    """The control of A-LoL: plain likelihood of as many good completions as have an advantage above 0, those with the
    highest rewards.  Where A-LoL is no better, V has told it nothing that the reward did not."""

    def draw(self, known: Known) -> Draw:
        """Raises ConfigError where nothing is left."""
        count = int(((known.rewards_P > known.values_P) & known.good_P).sum())
        if not count:
            raise NothingToDraw("value_head: no good completion has an advantage above 0, so nothing is left")
        kept_P = np.zeros_like(known.good_P)
        kept_P[highest(known.rewards_P, known.good_P, count)] = True
        return Draw(kept_P, steps=self.share_of_steps(kept_P, known.good_P))
