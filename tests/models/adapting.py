"""What tests of adapters share: a batch, and a few steps on such."""

import torch

from apo.data.collate import Batch


def make_batch(seed=0, high=256):
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randint(0, high, (3, 12), generator=generator), torch.rand(3, 12),
                 torch.ones(3, 12, dtype=torch.bool))


def train(policy, steps=3, rate=1e-2, high=256):
    policy.train()
    optimiser = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=rate)
    for step in range(steps):
        stats = policy.token_stats(make_batch(step, high), ("values",) if policy.value_head else ())
        loss = -stats.logps_BT.mean()
        if policy.value_head:
            loss = loss + (stats.values_BT - 1).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return policy.eval()
