"""Policy gradients as pure functions: distances, rewards per token, advantages, clipped losses.

Tensors are [C, T]: C completions, T columns; a completion's tokens are those under its mask, one contiguous stretch,
and it does not matter what stands before or behind it.  Where nothing else is said, results are 0 outside the mask.
"""

import math

from apo.lazy import torch

LARGEST = 20.0
"""Of log-ratios, before they are exponentiated: e^20 is beyond every clip and finite in fp32."""
EPSILON = 1e-4
"""Beside a standard deviation that is divided by (TRL's)."""


# ---- distances -------------------------------------------------------------------------------------------------------


def kl_estimates(kind: str, logps_CT, ref_logps_CT, full_CT, mask_CT):
    """Of KL(policy || reference) at each token, nats (Schulman 2020, "Approximating KL divergence").

    k1, log p - log q, is unbiased and may be negative; k3, q/p - 1 - log(q/p), is unbiased and never is; full is the
    sum over the vocabulary, given as `full_CT`."""
    if kind == "full":
        found_CT = full_CT
    else:
        difference_CT = torch.where(mask_CT, ref_logps_CT - logps_CT, 0.0).clamp(-LARGEST, LARGEST)
        found_CT = -difference_CT if kind == "k1" else torch.expm1(difference_CT) - difference_CT
    return torch.where(mask_CT, found_CT, 0.0)


# ---- rewards and advantages ------------------------------------------------------------------------------------------


def last_CT(mask_CT):
    """bool: the last token under the mask of each row."""
    behind_CT = torch.nn.functional.pad(mask_CT[:, 1:], (0, 1))
    return mask_CT & ~behind_CT


def token_rewards(scores_C, kl_CT, mask_CT, beta: float):
    """-beta KL at each token, and the score at the last one (Ziegler et al. 2019, eq. 2)."""
    return torch.where(last_CT(mask_CT), scores_C[:, None], 0.0) - beta * torch.where(mask_CT, kl_CT, 0.0)


def gae(rewards_CT, values_CT, mask_CT, gamma: float, lam: float):
    """(advantages, returns): generalised advantage estimation (Schulman et al. 2016, eq. 16).

    V is 0 behind the last token, also of a completion that was cut: the reward has been given, and nothing follows."""
    values_CT = torch.where(mask_CT, values_CT, 0.0)
    advantages_CT, ahead_C, value_C = torch.zeros_like(rewards_CT), 0.0, 0.0
    for t in range(rewards_CT.shape[1] - 1, -1, -1):
        inside_C = mask_CT[:, t]
        surprise_C = rewards_CT[:, t] + gamma * value_C - values_CT[:, t]
        ahead_C = torch.where(inside_C, surprise_C + gamma * lam * ahead_C, 0.0)
        value_C = values_CT[:, t]
        advantages_CT[:, t] = ahead_C
    return advantages_CT, torch.where(mask_CT, advantages_CT + values_CT, 0.0)


def whiten(x_CT, mask_CT, shift_mean: bool = True):
    """Mean 0 and variance 1 over all tokens of the round, or variance 1 around the mean that they have."""
    inside = x_CT[mask_CT]
    mean = inside.mean()
    spread = torch.rsqrt(inside.var(unbiased=False) + 1e-8)
    whitened_CT = (x_CT - mean) * spread + (0.0 if shift_mean else mean)
    return torch.where(mask_CT, whitened_CT, 0.0)


def groups_of(prompts_C):
    """([C] a number from 0 for each prompt, how many prompts there are)."""
    numbers, places_C = torch.as_tensor(prompts_C).unique(return_inverse=True)
    return places_C, len(numbers)


def _group_sums(x_C, places_C, count):
    return torch.zeros(count, dtype=x_C.dtype).index_add(0, places_C, x_C)


def leave_one_out(rewards_C, prompts_C):
    """Each less the mean of the others of its prompt (Kool et al. 2019; Ahmadian et al. 2024, eq. 8); 0 of one that is
    not known (NaN) or whose others are not."""
    known_C = ~torch.isnan(rewards_C)
    places_C, count = groups_of(prompts_C)
    filled_C = torch.where(known_C, rewards_C, 0.0)
    sums_C = _group_sums(filled_C, places_C, count)[places_C]
    others_C = _group_sums(known_C.to(filled_C.dtype), places_C, count)[places_C] - 1
    baseline_C = (sums_C - filled_C) / others_C.clamp(min=1)
    return torch.where(known_C & (others_C > 0), filled_C - baseline_C, 0.0)


def group_advantages(rewards_C, prompts_C, scale: str):
    """Each less its prompt's mean (Shao et al. 2024, GRPO), over the prompt's standard deviation (`group`), that of all
    of them (`batch`), or nothing (`none`, Liu et al. 2025); 0 of one that is not known (NaN)."""
    known_C = ~torch.isnan(rewards_C)
    places_C, count = groups_of(prompts_C)
    filled_C = torch.where(known_C, rewards_C, 0.0)
    sizes_G = _group_sums(known_C.to(filled_C.dtype), places_C, count)
    means_G = _group_sums(filled_C, places_C, count) / sizes_G.clamp(min=1)
    centred_C = torch.where(known_C, filled_C - means_G[places_C], 0.0)
    if scale == "group":
        squares_G = _group_sums(centred_C.square(), places_C, count)
        centred_C = centred_C / ((squares_G / (sizes_G - 1).clamp(min=1)).sqrt() + EPSILON)[places_C]
    elif scale == "batch":
        known = filled_C[known_C]
        centred_C = centred_C / ((known.std() if len(known) > 1 else known.new_tensor(0.0)) + EPSILON)
    return centred_C


# ---- losses ----------------------------------------------------------------------------------------------------------


def ratios(logps_CT, old_logps_CT, mask_CT):
    """[C, T], pi / pi_old of each token; 1 outside the mask."""
    return torch.where(mask_CT, logps_CT - old_logps_CT, 0.0).clamp(-LARGEST, LARGEST).exp()


def sequence_ratios(logps_CT, old_logps_CT, mask_CT, mean: bool):
    """[C], pi / pi_old of the whole completion; with `mean` its geometric mean over tokens (Zheng et al. 2025)."""
    total_C = torch.where(mask_CT, logps_CT - old_logps_CT, 0.0).sum(1)
    if mean:
        total_C = total_C / mask_CT.sum(1).clamp(min=1)
    return total_C.clamp(-LARGEST, LARGEST).exp()


def clipped_policy_losses(ratios, advantages, low: float, high: float | None = None):
    """max(-A r, -A clip(r, 1 - low, 1 + high)), any shape (Schulman et al. 2017, eq. 7).  `high`: null for `low`."""
    clipped = ratios.clamp(1 - low, 1 + (low if high is None else high))
    return torch.maximum(-advantages * ratios, -advantages * clipped)


def clipped_value_losses(values, old_values, returns, clip: float | None):
    """max of (V - R)^2 / 2 and the same with V kept within `clip` of what it was; null does not clip."""
    losses = (values - returns).square() / 2
    if clip is None:
        return losses
    near = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum(losses, (near - returns).square() / 2)


# ---- coefficients ----------------------------------------------------------------------------------------------------


def adapted(beta: float, kl: float, target: float, count: int, horizon: float) -> float:
    """beta after `count` completions at a mean distance of `kl` nats (Ziegler et al. 2019, section 2.2)."""
    return beta * (1 + max(-0.2, min(0.2, kl / target - 1)) * count / horizon)


def moments(state: dict[str, float], numbers) -> dict[str, float]:
    """Count, mean and sum of squared deviations of all numbers so far (Chan et al. 1979)."""
    count, mean, squares = (state.get(name, 0.0) for name in ("count", "mean", "squares"))
    own, own_mean = len(numbers), float(numbers.mean())
    total, apart = count + own, own_mean - mean
    return {"count": total, "mean": mean + apart * own / total,
            "squares": squares + float((numbers - own_mean).square().sum()) + apart ** 2 * count * own / total}


def deviation(state: dict[str, float]) -> float:
    """Sample standard deviation of `moments`; 1 of fewer than two numbers, or of equal ones."""
    if state["count"] < 2 or state["squares"] <= 0:
        return 1.0
    return math.sqrt(state["squares"] / (state["count"] - 1))
