"""Heads beside the language model, never inside a subclass of one architecture."""

import torch
from torch import nn


class ValueHead(nn.Module):
    """Linear, no bias, zero at the start (PHF): one number per position.

    Its output is raw; what it means (PHF: V = -sigmoid) is the objective's business.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        return self.linear(hidden_ND).squeeze(-1)
