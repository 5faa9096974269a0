"""V: what reward the reference is expected to earn behind a prompt, by a small head on its frozen states of the prompt.

Three heads.  `attention` is that of A-LoL (Baheti et al. 2024): one learned query attends over the states of the
prompt, with a mask, so that V of a prompt does not depend on what it was batched with.  `mean_pool` and `mean_pool_mlp`
are the simpler ones that its release also has.  All end in a sigmoid onto the range of the rewards, and begin as the
constant that the caller names, so that training can only be kept where it beats that constant.
"""

import math

import torch
from torch import nn

HEADS = 8


class PromptValueHead(nn.Module):
    """Args:
        low, high: range of the rewards.
        constant: of V before training, inside the range.
    """

    def __init__(self, kind: str, hidden_size: int, *, low: float, high: float, constant: float, dropout: float):
        super().__init__()
        self.kind, self.low, self.high = kind, low, high
        self.dropout = nn.Dropout(dropout)
        if kind == "attention":
            heads = next(count for count in range(HEADS, 0, -1) if hidden_size % count == 0)
            self.query = nn.Parameter(torch.randn(hidden_size))
            self.attention = nn.MultiheadAttention(hidden_size, heads, batch_first=True)
        elif kind == "mean_pool_mlp":
            self.mlp = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.ReLU())
        elif kind != "mean_pool":
            raise ValueError(f'no head "{kind}"')
        self.output = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.output.weight)
        share = min(max((constant - low) / (high - low), 1e-4), 1 - 1e-4)
        nn.init.constant_(self.output.bias, math.log(share / (1 - share)))

    def forward(self, hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """[B] fp32.  `mask`: bool, the tokens of the prompts; padding may stand on either side."""
        hidden_BTD = self.dropout(hidden_BTD.float())
        if self.kind == "attention":
            query_B1D = self.query.expand(len(hidden_BTD), 1, -1)
            pooled_B1D, _ = self.attention(query_B1D, hidden_BTD, hidden_BTD, key_padding_mask=~mask_BT,
                                           need_weights=False)
            pooled_BD = pooled_B1D[:, 0]
        else:
            pooled_BD = (hidden_BTD * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True)
            pooled_BD = self.mlp(pooled_BD) if self.kind == "mean_pool_mlp" else pooled_BD
        share_B = torch.sigmoid(self.output(self.dropout(pooled_BD))[:, 0])
        return self.low + (self.high - self.low) * share_B
