"""The two operations sampling needs of a model, behind one interface: read prompts, then one token at a time.

`ModelDecoder` drives any causal model of transformers through its own forward pass and cache; `LlamaDecoder` (in
`fast_llama.py`) does the same arithmetic for one family several times faster.  Rows of unequal length stand
right-aligned: padding comes first, is masked, and does not count in the positions.

Shapes: B rows, T tokens, V vocabulary.
"""

import inspect
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Unsupported(Exception):
    """This decoder cannot drive this model; the caller takes the next slower way."""


class Decoder(ABC):
    @abstractmethod
    def prefill(self, ids_BT: Tensor, padding_B: Tensor | None) -> Tensor:
        """Read left-padded prompts (`padding_B` tokens of padding each; None: none anywhere); [B, V] logits of the
        token after them.  Forgets what was read before."""

    @abstractmethod
    def step(self, tokens_B: Tensor) -> Tensor:
        """Append one token to each row; [B, V] logits of the next."""

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be named more than once."""


def attended(ids_BT: Tensor, padding_B: Tensor) -> Tensor:
    """[B, T] bool, False on padding."""
    return torch.arange(ids_BT.shape[1], device=ids_BT.device) >= padding_B.unsqueeze(-1)


class ModelDecoder(Decoder):
    """Any causal language model that keeps a cache of transformers' kind.  Raises Unsupported where it does not."""

    def __init__(self, model):
        self.model = model
        accepted = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in accepted
        self.options = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self.cache = self.mask_BT = self.positions_B = None

    def prefill(self, ids_BT, padding_B):
        self.cache = self.mask_BT = self.positions_B = None
        positions_BT = None
        if padding_B is not None:
            self.mask_BT = attended(ids_BT, padding_B)
            positions_BT = (self.mask_BT.cumsum(-1) - 1).clamp(min=0)
            self.positions_B = positions_BT[:, -1]
        return self._forward(ids_BT, positions_BT)

    def step(self, tokens_B):
        if self.mask_BT is None:
            return self._forward(tokens_B.unsqueeze(-1), None)
        self.mask_BT = torch.cat([self.mask_BT, torch.ones_like(self.mask_BT[:, :1])], -1)
        self.positions_B = self.positions_B + 1
        return self._forward(tokens_B.unsqueeze(-1), self.positions_B.unsqueeze(-1))

    def select(self, rows):
        self.cache.batch_select_indices(rows)
        if self.mask_BT is not None:
            self.mask_BT, self.positions_B = self.mask_BT[rows], self.positions_B[rows]

    def _forward(self, ids_BT: Tensor, positions_BT: Tensor | None) -> Tensor:
        """Mask and positions are passed only where rows are padded: without them attention takes its faster kernel."""
        extra = {} if self.mask_BT is None else {"attention_mask": self.mask_BT.long()}
        if positions_BT is not None and self.takes_positions:
            extra["position_ids"] = positions_BT
        output = self.model(input_ids=ids_BT, past_key_values=self.cache, use_cache=True, **extra, **self.options)
        self.cache = output.get("past_key_values")
        if not hasattr(self.cache, "batch_select_indices"):
            raise Unsupported(f"{type(self.model).__name__} keeps no key-value cache")
        return output.logits[:, -1]
