"""What offline reinforcement learning multiplies likelihoods by, as pure functions of log-probabilities and rewards,
and which completions it draws; the methods are in `apo/objectives/offline_rl.py`.

Log-probabilities in nats, masks bool, both on the tokens of completions; weights are without gradient.
"""

from typing import Any

import numpy as np

from apo.lazy import torch
from apo.seeds import stream

LARGEST = 80.0
"""Log of the largest ratio where nothing clips: e^80 is finite in fp32."""


def weighted_nll(logps_BT, mask_BT, weights_B, token_weights_BT):
    """[B]: weight times the sum over the completion's tokens of token weight times -log p, nats."""
    return -weights_B * (token_weights_BT * logps_BT * mask_BT).sum(1)


def gold_weights(logps_BT, floor: float):
    """[B, T]: max(pi, floor), without gradient (GOLD, Pang & He 2021, with the constant of R-GOLD)."""
    return logps_BT.detach().exp().clamp(min=floor)


def ratio_weights(log_ratios, signs, clip: float | None, style: str):
    """What multiplies the likelihood for having been drawn from the reference, without gradient; of any shape.

    Args:
        log_ratios: log pi - log ref, nats.
        signs: of the weight beside it, that broadcasts.
        clip: epsilon; None leaves the ratio as it is.
        style: clamp, the ratio cut to [1 - clip, 1 + clip]: it is bounded and the gradient never ends; ppo, that of
            min(ratio * A, clipped ratio * A): no gradient where the policy has gone further than the clip in the
            direction that the sign asks for.
    """
    ratios = log_ratios.detach().clamp(max=LARGEST).exp()
    if clip is None:
        return ratios
    if style == "clamp":
        return ratios.clamp(1 - clip, 1 + clip)
    too_far = torch.where(signs > 0, ratios > 1 + clip, ratios < 1 - clip)
    return torch.where(too_far, torch.zeros_like(ratios), ratios)


def sequence_ratio(logps_BT, ref_logps_BT, mask_BT):
    """[B]: log pi(y) - log ref(y) of whole completions, nats."""
    return ((logps_BT - ref_logps_BT) * mask_BT).sum(1)


def kl_terms(kind: str, logps_BT, ref_logps_BT, mask_BT, kl_BT=None):
    """[B]: a distance between policy and reference on the tokens of the data, summed, nats.

    published   log pi(y) - log ref(y), the release's: its gradient is that of the likelihood, so that beta times it is
                beta off the advantage and nothing else
    k3          sum of r - 1 - log r, r = ref / pi: 0 at equality, never below
    full        sum of KL(pi || ref) over the vocabulary at each place (`kl_BT`)
    """
    log_ratios_BT = (logps_BT - ref_logps_BT) * mask_BT
    if kind == "published":
        return log_ratios_BT.sum(1)
    if kind == "k3":
        return (((-log_ratios_BT).clamp(max=LARGEST).exp() - 1 + log_ratios_BT) * mask_BT).sum(1)
    if kind == "full":
        return (kl_BT * mask_BT).sum(1)
    raise ValueError(f'no distance "{kind}"')


def unit_rewards(raw_P, train_P):
    """numpy: the first percentile of the training rewards is 0 and the 99th is 1, and what lies beyond is cut."""
    low, high = np.quantile(train_P, [0.01, 0.99])
    if low == high:
        low, high = train_P.min(), train_P.max()
    return np.clip((raw_P - low) / (high - low), 0, 1) if high > low else np.full_like(raw_P, 0.5)


def highest(rewards_P, good_P, count: int):
    """Numbers of the `count` good completions with the highest rewards; of equal ones, by lot and not by place: files
    may be sorted by something else.  numpy."""
    lot_P = stream(0, "ties").permutation(len(rewards_P))
    return np.lexsort((lot_P, -np.where(good_P, rewards_P, -np.inf)))[:count]


def drawn(sampling: str, weights_P, good_P) -> tuple[Any, Any]:
    """(kept [P] bool, weights [P] or None) by the name of a strategy; numpy.

    none            the best completion of each prompt, once an epoch
    good_random     those of them with a weight above 0, once an epoch
    good_priority   those of them, in proportion to the weight
    all_random      every completion with a weight above 0, once an epoch
    all_priority    every completion, in proportion to the weight
    """
    if sampling == "none":
        return good_P, None
    kept_P = (weights_P > 0) & (good_P if sampling.startswith("good") else True)
    return kept_P, weights_P if sampling.endswith("priority") else None
