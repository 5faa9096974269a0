"""How far the policy has moved from where its stage began: KL(policy || start) of what it writes, nats a sample.

    kl_full     mean over samples of the sum over tokens of the exact KL between the two next-token distributions at
                each place of a sample; kl_full/se its standard error

The sum is a Monte Carlo estimate over samples of the KL between the distributions of whole texts, with less variance
than the log-ratio of the sampled tokens (k1) and never below 0 (Rao-Blackwellised; Amini et al. 2025).  The places
are those that sampling visits: at another temperature than 1, with top-k, top-p or banned tokens, they are drawn from
that distribution and not from the policy's own.
"""

import math

import torch

from apo.data.collate import Batch
from apo.models.policy import evaluating
from apo.rollouts.generate import Continuation


@torch.no_grad()
def kl_from_start(policy, start, prompts: list[list[int]], continuations: list[Continuation],
                  batch_size: int) -> dict[str, float]:
    """In the weights' own precision.

    Args:
        start: `apo.models.reference.Reference`, or another policy of the same vocabulary.
        prompts: token ids that each continuation was sampled behind, not empty.
    """
    longest = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]) - len(continuations[row].ids))
    sums = torch.zeros(len(prompts), dtype=torch.float64)
    with evaluating(policy):
        for begin in range(0, len(longest), batch_size):
            rows = longest[begin:begin + batch_size]
            width = len(prompts[rows[0]]) + len(continuations[rows[0]].ids)
            ids_BT, mask_BT = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width).bool()
            for place, row in enumerate(rows):
                prompt, written = prompts[row], continuations[row].ids
                ids_BT[place, :len(prompt) + len(written)] = torch.tensor(prompt + written)
                mask_BT[place, len(prompt):len(prompt) + len(written)] = True
            batch = Batch(ids_BT, torch.zeros(ids_BT.shape), mask_BT).to(policy.device)
            stats = policy.token_stats(batch, want=("kl",), other=start)
            sums[rows] = torch.where(stats.mask_BT, stats.kl_BT.double(), 0).sum(1).cpu()
    spread = float(sums.std()) if len(sums) > 1 else 0.0
    return {"kl_full": float(sums.mean()), "kl_full/se": spread / math.sqrt(len(sums))}
