"""The batch every objective sees: token ids and, on the same grid, what is known about each token.

All tensors are [rows, block] and indexed by the token itself, never by the position that predicts it: the shift
belongs to `apo/models/policy.py` alone.
"""

from dataclasses import dataclass
from typing import Iterator, Sequence

import torch
from torch import Tensor


@dataclass
class Batch:
    input_ids_BT: Tensor
    """int64."""
    scores_BT: Tensor
    """float32: score of the segment a token belongs to, 0 where that has none.  The control token and the end-of-text
    token in front of a segment carry that segment's score."""
    loss_mask_BT: Tensor
    """bool: does predicting token t count?  Column 0 has no prediction, whatever is written there."""
    attention_mask_BT: Tensor | None = None
    """bool, or null where every position may be attended (packed rows, and padding on the right)."""
    scored_BT: Tensor | None = None
    """bool: has the token a score?  Null where all that count have one."""

    def __len__(self) -> int:
        return self.input_ids_BT.shape[0]

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> "Batch":
        """Those rows; an index by a slice is a view, not a copy."""
        return Batch(*(None if tensor is None else tensor[rows] for tensor in self._tensors()))

    def split(self, rows: int) -> "list[Batch]":
        """Micro-batches of at most `rows` rows, in order."""
        if rows < 1:
            raise ValueError(f"a micro-batch needs at least one row, not {rows}")
        return [self[start:start + rows] for start in range(0, len(self), rows)]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        return Batch(*(None if tensor is None else tensor.to(device, non_blocking=non_blocking)
                       for tensor in self._tensors()))

    def pin_memory(self) -> "Batch":
        return Batch(*(None if tensor is None else tensor.pin_memory() for tensor in self._tensors()))

    def tensors(self) -> dict[str, Tensor]:
        """Those that tell one batch from another, by name: what is left of a batch on which training broke."""
        return {"input_ids": self.input_ids_BT, "scores": self.scores_BT, "loss_mask": self.loss_mask_BT}

    def _tensors(self) -> Iterator[Tensor | None]:
        yield self.input_ids_BT
        yield self.scores_BT
        yield self.loss_mask_BT
        yield self.attention_mask_BT
        yield self.scored_BT

    def judged(self, mask_BT: Tensor) -> Tensor:
        """bool: of the tokens in a mask those that have a score; the rest are prompts, of which nothing is known."""
        return mask_BT if self.scored_BT is None else mask_BT & self.scored_BT
