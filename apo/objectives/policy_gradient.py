"""Policy gradients as pure functions of log-probabilities, rewards and values; the methods that put them together are
`ppo`, `rloo`, `grpo` and `reinforce`, each in a file of its own.

Tensors are [C, T], completions and their tokens, or [R, T] of a batch.  A mask is bool, one run of True in every row,
with padding before it, behind it, or both: no function looks at what stands outside, and all give 0 there.  Log-
probabilities in nats.  Scores and rewards are higher for better; NaN is a score that nobody knows.
"""

import math
from typing import Sequence

from apo.lazy import torch
from apo.objectives.offline_weights import LARGEST

ADAPTIVE_STEP = 0.2
"""Largest relative change of an adaptive coefficient over a horizon's completions, as published."""
STD_EPS = 1e-4
"""Added to the standard deviation of a group, as in TRL."""

Moments = tuple[float, float, float]
"""Of scores seen so far: how many, their mean, the sum of squares about it."""


# ---- distance from the reference -------------------------------------------------------------------------------------


def token_kl(kind: str, logps_CT, ref_logps_CT, mask_CT, kl_CT=None):
    """[C, T]: what each token says of KL(policy || reference), where the policy itself wrote it (Schulman 2020).

    k1      log pi - log ref: the mean is the KL, single ones are below 0 half of the time
    k3      r - 1 - log r, r = ref / pi: the same mean, never below 0
    full    the KL over the vocabulary at the token's place (`kl_CT`), exact
    """
    if kind == "full":
        return torch.where(mask_CT, kl_CT, 0.0)
    log_ratios_CT = torch.where(mask_CT, logps_CT - ref_logps_CT, 0.0)
    if kind == "k1":
        return log_ratios_CT
    if kind == "k3":
        return torch.expm1((-log_ratios_CT).clamp(max=LARGEST)) + log_ratios_CT
    raise ValueError(f'no estimate of the KL "{kind}"')


def next_kl_coef(coef: float, kl: float, target: float | None, horizon: float, completions: int) -> float:
    """The coefficient of the next round (Ziegler et al. 2019, section 2.2); without a target it is fixed.

        coef * (1 + clip(kl / target - 1, -0.2, 0.2) * completions / horizon)

    Of a round longer than the horizon, the horizon: else a long enough one would turn the sign.

    Args:
        kl: of whole completions, nats, mean over the round.
    """
    if target is None:
        return coef
    error = min(max(kl / target - 1, -ADAPTIVE_STEP), ADAPTIVE_STEP)
    return coef * (1 + error * min(completions / horizon, 1.0))


# ---- rewards and what comes after ------------------------------------------------------------------------------------


def token_rewards(scores_C, kl_CT, mask_CT, beta: float):
    """[C, T]: -beta KL of each token, and the score at the completion's last one: the last under the mask, wherever the
    row's padding stands."""
    rewards_CT = torch.where(mask_CT, -beta * kl_CT, 0.0)
    last_C = mask_CT.shape[1] - 1 - mask_CT.flip(1).int().argmax(1)
    ends_CT = torch.zeros_like(mask_CT).scatter(1, last_C[:, None], True) & mask_CT
    return rewards_CT + torch.where(ends_CT, scores_C.to(rewards_CT.dtype)[:, None], 0.0)


def gae(rewards_CT, values_CT, mask_CT, gamma: float, lam: float):
    """(advantages, returns), [C, T] each (Schulman et al. 2016, eq. 16; returns are advantages + values).

        delta_t = r_t + gamma V_t+1 - V_t        A_t = delta_t + gamma lam A_t+1

    Behind the last token V is 0, also where the completion was cut at the longest length: what it is judged by is the
    text as it is, and the score of that has been given.
    """
    values_CT = torch.where(mask_CT, values_CT, 0.0)
    advantages_CT = torch.zeros_like(values_CT)
    advantage_C, value_C = torch.zeros_like(values_CT[:, 0]), torch.zeros_like(values_CT[:, 0])
    for t in reversed(range(mask_CT.shape[1])):
        delta_C = rewards_CT[:, t] + gamma * value_C - values_CT[:, t]
        advantage_C = torch.where(mask_CT[:, t], delta_C + gamma * lam * advantage_C, 0.0)
        advantages_CT[:, t], value_C = advantage_C, values_CT[:, t]
    return advantages_CT, advantages_CT + values_CT


def discounted_returns(rewards_CT, mask_CT, gamma: float):
    """[C, T]: the rewards from each token on, discounted."""
    return gae(rewards_CT, torch.zeros_like(rewards_CT), mask_CT, gamma, 1.0)[0]


def whiten(x_CT, mask_CT, shift_mean: bool = True):
    """To standard deviation 1 over the mask, and mean 0; `shift_mean=False` leaves the mean where it is."""
    chosen = x_CT[mask_CT]
    variance = chosen.var() if len(chosen) > 1 else torch.zeros_like(chosen.sum())
    mean = chosen.mean() if len(chosen) else 0.0
    whitened_CT = (x_CT - mean) * torch.rsqrt(variance + 1e-8)
    return torch.where(mask_CT, whitened_CT if shift_mean else whitened_CT + mean, 0.0)


# ---- scores ----------------------------------------------------------------------------------------------------------


def with_scores(moments: Sequence[float], scores_C) -> Moments:
    """Moments of the scores so far and these (Chan et al. 1979); NaN is left out."""
    count, mean, squares = moments
    known = scores_C[~scores_C.isnan()].double()
    if not len(known):
        return count, mean, squares
    new, new_mean = len(known), float(known.mean())
    total, shift = count + new, new_mean - mean
    squares += float(((known - new_mean) ** 2).sum()) + shift * shift * count * new / total
    return total, mean + shift * new / total, squares


def deviation(moments: Sequence[float]) -> float:
    """Sample standard deviation; 1 where all scores were equal, which nothing can be divided by."""
    count, _, squares = moments
    found = math.sqrt(squares / (count - 1)) if count > 1 else 0.0
    return found or 1.0


# ---- advantages of whole completions ---------------------------------------------------------------------------------


def leave_one_out(rewards_C, groups_C):
    """[C]: mean reward of the other completions of the group (Kool et al. 2019; Ahmadian et al. 2024).  NaN
    where no other has a score, and where it has none itself."""
    sums_C, counts_C = in_groups(rewards_C, groups_C)
    baselines_C = (sums_C - rewards_C) / (counts_C - 1)
    return torch.where(counts_C > 1, baselines_C, torch.nan)


def group_advantages(rewards_C, groups_C, scale: str):
    """[C]: rewards less the mean of their group, their own included (Shao et al. 2024, sec. 4.1.2); 0 for a NaN.

    Args:
        scale: group, divided by the group's standard deviation + 1e-4; batch, by that of all completions; none.
    """
    advantages_C = rewards_C - group_means(rewards_C, groups_C)
    if scale == "group":
        advantages_C = advantages_C / (group_stds(rewards_C, groups_C) + STD_EPS)
    elif scale == "batch":
        advantages_C = advantages_C / (group_stds(rewards_C, torch.zeros_like(groups_C)) + STD_EPS)
    return advantages_C.nan_to_num(0.0)


def group_means(rewards_C, groups_C):
    """[C]: of each completion's group; NaN is left out."""
    sums_C, counts_C = in_groups(rewards_C, groups_C)
    return sums_C / counts_C


def group_stds(rewards_C, groups_C):
    """[C]: sample standard deviation of each completion's group; 0 where one has a score, or none."""
    squares_C, counts_C = in_groups((rewards_C - group_means(rewards_C, groups_C)) ** 2, groups_C)
    return (squares_C / (counts_C - 1).clamp(min=1)).sqrt()


def in_groups(x_C, groups_C):
    """(sum, number) over each completion's group, [C] each; NaN is left out."""
    known_C = ~x_C.isnan()
    numbers, group_C = torch.unique(groups_C, return_inverse=True)
    zeros = torch.zeros(len(numbers), dtype=x_C.dtype, device=x_C.device)
    sums = zeros.index_add(0, group_C, torch.where(known_C, x_C, 0.0))
    counts = zeros.index_add(0, group_C, known_C.to(x_C.dtype))
    return sums[group_C], counts[group_C]


# ---- losses ----------------------------------------------------------------------------------------------------------


def clipped_policy_losses(log_ratios, advantages, clip: float, clip_high: float | None = None):
    """(losses, clipped), of any shape: max(-A r, -A clip(r, 1 - clip, 1 + clip_high)) with r = pi / pi before the round
    (Schulman et al. 2017, eq. 7), and whether the clipped one was the larger, where there is no gradient.

    Args:
        log_ratios: log pi - log pi before the round, of tokens or of sequences.
        clip_high: as clip where None.
    """
    ratios = log_ratios.clamp(max=LARGEST).exp()
    plain = -advantages * ratios
    cut = -advantages * ratios.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    return torch.maximum(plain, cut), cut > plain


def clipped_value_losses(values, old_values, returns, clip: float | None):
    """(losses, clipped): half the larger of two squared errors, of the value and of the value no further than `clip`
    from where it was as the round began (PPO's released code; no equation)."""
    plain = (values - returns) ** 2
    if clip is None:
        return 0.5 * plain, torch.zeros_like(plain).bool()
    cut = (old_values + (values - old_values).clamp(-clip, clip) - returns) ** 2
    return 0.5 * torch.maximum(plain, cut), cut > plain


def sequence_log_ratios(log_ratios_RT, mask_RT, mean: bool):
    """[R]: of whole completions: the sum over tokens, or their mean (GSPO, Zheng et al. 2025, eq. 7)."""
    sums_R = torch.where(mask_RT, log_ratios_RT, 0.0).sum(1)
    return sums_R / mask_RT.sum(1).clamp(min=1) if mean else sums_R


def kl_losses(logps_RT, ref_logps_RT, mask_RT, log_ratios=None):
    """[R, T]: k3 as a term of the loss, with gradient (Shao et al. 2024, eq. 4).

    Its gradient alone is that of KL(reference || policy).  Times the ratio (`log_ratios`, which broadcast) it is that
    of KL(policy || reference), for the ratio has the gradient of the likelihood (TRL's bias correction)."""
    k3_RT = token_kl("k3", logps_RT, ref_logps_RT, mask_RT)
    return k3_RT if log_ratios is None else k3_RT * log_ratios.clamp(max=LARGEST).exp()
