"""Losses on preferences and rankings, as pure functions of summed or mean log-probabilities.

For a pair, `a` and `b` are log pi(y | x) - log pi_ref(y | x) of the chosen and the rejected completion, sums over their
tokens, in nats, [B] each; without a reference they are log pi(y | x).  Each function gives one loss per pair, [B];
reductions belong to the objectives.  log sigma is always `logsigmoid`, never the logarithm of a sigmoid.
"""

import math
from typing import Callable

from apo.errors import ConfigError
from apo.lazy import torch

TAU = 0.05
"""Temperature of DiscoPOP's gate (Lu et al. 2024)."""


def _log_sigmoid(x_B):
    return torch.nn.functional.logsigmoid(x_B)


# ---- pairs against a reference ---------------------------------------------------------------------------------------


def sigmoid(a, b, lengths_w, lengths_l, beta, smoothing):
    """Rafailov et al. 2023, eq. 7; smoothed, as though a label were wrong with that probability (Mitchell 2023)."""
    return -(1 - smoothing) * _log_sigmoid(beta * (a - b)) - smoothing * _log_sigmoid(-beta * (a - b))


def sigmoid_norm(a, b, lengths_w, lengths_l, beta, smoothing):
    """`sigmoid` on means over tokens (Lambert et al. 2024, length-normalised DPO)."""
    return sigmoid(a / lengths_w, b / lengths_l, lengths_w, lengths_l, beta, smoothing)


def hinge(a, b, lengths_w, lengths_l, beta, smoothing):
    """SLiC (Zhao et al. 2023) on log-ratios (Liu et al. 2024)."""
    return torch.relu(1 - beta * (a - b))


def ipo(a, b, lengths_w, lengths_l, beta, smoothing):
    """Azar et al. 2023, eq. 17, on means over tokens, as its authors do."""
    return (a / lengths_w - b / lengths_l - 1 / (2 * beta)) ** 2


def robust(a, b, lengths_w, lengths_l, beta, smoothing):
    """Unbiased where a label is wrong with probability `smoothing` < 1/2 (Chowdhury et al. 2024, eq. 9)."""
    right, wrong = _log_sigmoid(beta * (a - b)), _log_sigmoid(-beta * (a - b))
    return (-(1 - smoothing) * right + smoothing * wrong) / (1 - 2 * smoothing)


def exo_pair(a, b, lengths_w, lengths_l, beta, smoothing):
    """KL(policy's preference || smoothed label) (Ji et al. 2024, eq. 16)."""
    right, wrong = _log_sigmoid(beta * (a - b)), _log_sigmoid(-beta * (a - b))
    return right.exp() * (right - math.log(1 - smoothing)) + wrong.exp() * (wrong - math.log(smoothing))


def nca_pair(a, b, lengths_w, lengths_l, beta, smoothing):
    """Chen et al. 2024: raises the chosen's likelihood itself and not only its lead."""
    return -_log_sigmoid(beta * a) - 0.5 * _log_sigmoid(-beta * a) - 0.5 * _log_sigmoid(-beta * b)


def bco_pair(a, b, lengths_w, lengths_l, beta, smoothing):
    """Jung et al. 2024, without the running mean that they take off both rewards."""
    return -_log_sigmoid(beta * a) - _log_sigmoid(-beta * b)


def sppo_hard(a, b, lengths_w, lengths_l, beta, smoothing):
    """Wu et al. 2024, with preferences of 0 and 1."""
    return (a - 1 / (2 * beta)) ** 2 + (b + 1 / (2 * beta)) ** 2


def apo_zero(a, b, lengths_w, lengths_l, beta, smoothing):
    """D'Oosterlinck et al. 2024: up with the chosen, down with the rejected."""
    return 1 - torch.sigmoid(beta * a) + torch.sigmoid(beta * b)


def apo_down(a, b, lengths_w, lengths_l, beta, smoothing):
    """D'Oosterlinck et al. 2024: down with both, more with the rejected."""
    return torch.sigmoid(beta * a) + 1 - torch.sigmoid(beta * (a - b))


def discopop(a, b, lengths_w, lengths_l, beta, smoothing):
    """Lu et al. 2024: between a logistic and an exponential loss, by a gate on the lead."""
    lead = beta * (a - b)
    gate = torch.sigmoid(lead / TAU)
    return -(1 - gate) * _log_sigmoid(lead) + gate * torch.exp(-lead)


DPO_LOSSES: dict[str, Callable] = {loss.__name__: loss for loss in (
    sigmoid, sigmoid_norm, hinge, ipo, robust, exo_pair, nca_pair, bco_pair, sppo_hard, apo_zero, apo_down, discopop)}
SMOOTHING = ("sigmoid", "sigmoid_norm", "robust", "exo_pair")
"""Losses that `label_smoothing` means something to."""
NEED_SMOOTHING = ("exo_pair",)


def check_smoothing(loss_type: str, smoothing: float) -> None:
    """Raises ConfigError where the loss does not smooth, or not by so much."""
    if smoothing and loss_type not in SMOOTHING:
        raise ConfigError(f"label_smoothing: {loss_type} has none; {', '.join(SMOOTHING)} do")
    if not 0 <= smoothing < 0.5:
        raise ConfigError(f"label_smoothing: the share of wrong labels lies from 0 to below 0.5, got {smoothing:g}")
    if loss_type in NEED_SMOOTHING and not smoothing:
        raise ConfigError(f"label_smoothing: {loss_type} needs one above 0 (1e-3 in the paper)")


def dpo_losses(loss_type: str, ratios_w_B, ratios_l_B, lengths_w_B, lengths_l_B, *, beta: float,
               label_smoothing: float = 0.0):
    """[B], by name (`DPO_LOSSES`).  `lengths`: tokens of the completions."""
    return DPO_LOSSES[loss_type](ratios_w_B, ratios_l_B, lengths_w_B, lengths_l_B, beta, label_smoothing)


def kto_losses(ratios_N, desirable_N, baseline, *, beta: float, desirable_weight: float = 1.0,
               undesirable_weight: float = 1.0):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, eq. 8), [N].

    Args:
        desirable_N: bool.
        baseline: scalar, an estimate of KL(policy || reference), nats, without gradient.
    """
    lead_N = beta * torch.where(desirable_N, ratios_N - baseline, baseline - ratios_N)
    weights_N = torch.where(desirable_N, float(desirable_weight), float(undesirable_weight))
    return weights_N * (1 - torch.sigmoid(lead_N))


# ---- pairs without a reference ---------------------------------------------------------------------------------------


def log1mexp(x):
    """log(1 - e^x) for x < 0, exact near 0 and far from it (Maechler 2012)."""
    x = x.clamp(max=-1e-7)
    near = x > -0.6931472
    return torch.where(near, torch.log(-torch.expm1(torch.where(near, x, -1.0))),
                       torch.log1p(-torch.exp(torch.where(near, -1.0, x))))


def orpo_losses(mean_logps_w_B, mean_logps_l_B, *, beta: float):
    """beta times -log sigma of the log odds ratio (Hong et al. 2024, eq. 7), [B]; the likelihood term is the caller's.
    p of a completion is the geometric mean over its tokens."""
    odds_w_B, odds_l_B = (mean_B - log1mexp(mean_B) for mean_B in (mean_logps_w_B, mean_logps_l_B))
    return -beta * _log_sigmoid(odds_w_B - odds_l_B)


def simpo_losses(mean_logps_w_B, mean_logps_l_B, *, beta: float, gamma: float):
    """-log sigma(beta (difference of means) - gamma) (Meng et al. 2024, eq. 6), [B]."""
    return -_log_sigmoid(beta * (mean_logps_w_B - mean_logps_l_B) - gamma)


# ---- rankings --------------------------------------------------------------------------------------------------------


def pro_losses(mean_logps_BN, rewards_BN, present_BN, numerator: str = "max_gap"):
    """The ranking terms of PRO (Song et al. 2023, eq. 7) by log-sum-exp, summed over k, [B].

        L_k = logsumexp(s_k G_k, {s_i g_ki : i > k}) - s_k G_k,    g_ki = r_k - r_i,  G_k = max over i > k of g_ki

    s: means of log p over tokens, of completions sorted by falling reward r.  Rows may have fewer completions.
    `numerator`: max_gap as above (paper and release), or one, s_k itself in place of s_k G_k.
    Raises ValueError for rewards that are not sorted.
    """
    count = mean_logps_BN.shape[1]
    losses_B = torch.zeros_like(mean_logps_BN[:, 0])
    for k in range(count - 1):
        gaps_BI = rewards_BN[:, k, None] - rewards_BN[:, k + 1:]
        there_BI = present_BN[:, k + 1:]
        if (gaps_BI[there_BI] < 0).any():
            raise ValueError("rewards are not sorted, the best first")
        top_B = torch.where(there_BI, gaps_BI, 0).amax(1) if numerator == "max_gap" else 1.0
        positive_B = mean_logps_BN[:, k] * top_B
        negatives_BI = (mean_logps_BN[:, k + 1:] * gaps_BI).masked_fill(~there_BI, -torch.inf)
        term_B = torch.cat([positive_B[:, None], negatives_BI], 1).logsumexp(1) - positive_B
        losses_B = losses_B + torch.where(there_BI.any(1), term_B, 0)
    return losses_B


# ---- reward models ---------------------------------------------------------------------------------------------------


def bradley_terry_losses(rewards_w_B, rewards_l_B, margins_B=None, *, centre: float = 0.0):
    """-log sigma(r_w - r_l - margin) + centre (r_w + r_l)^2, [B] (Ouyang et al. 2022, eq. 1; Touvron et al. 2023, eq.
    2; Eisenstein et al. 2023)."""
    lead_B = rewards_w_B - rewards_l_B - (0 if margins_B is None else margins_B)
    return -_log_sigmoid(lead_B) + centre * (rewards_w_B + rewards_l_B) ** 2
