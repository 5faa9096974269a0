"""Batches of prompts with several completions each, the prompt computed once.

A row holds a prompt and its completions one after another: `prompt | completion 1 | completion 2 ...`.  A completion
attends to the prompt and to itself and its positions go on where the prompt's end, so every log-probability is the one
it would have in a row of its own (`unshared` gives those rows), at the price of one prompt instead of several.
"""

from dataclasses import dataclass, fields
from typing import ClassVar, Sequence

import torch
from torch import Tensor

PADDING = -1


@dataclass
class CompletionBatch:
    """R rows of up to N completions.  Completions of a row stand in the order of the view: of a preference, the chosen
    one first."""

    input_ids_RT: Tensor
    """int64."""
    branch_RT: Tensor
    """int64: 0 in the prompt, k in completion k (from 1), PADDING behind the last."""
    rewards_RN: Tensor
    """float32, higher is better; 0 where there is no completion."""
    present_RN: Tensor
    """bool."""
    ref_logps_RN: Tensor
    """float32: summed log p of each completion under the reference; NaN where none was asked for."""
    values_R: Tensor | None = None
    """float32: V of the prompt, the reference's expected reward; None where none was asked for."""
    ref_logps_RT: Tensor | None = None
    """float32: log p of each completion token under the reference, on the token itself, 0 elsewhere; None."""
    over_step: ClassVar[Tensor | None] = None
    """What the objective asked for over all rows of the step, of which this batch is a part (`Objective.over_step`)."""

    def __len__(self) -> int:
        return self.input_ids_RT.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        there = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in there.items() if tensor is not None}

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> "CompletionBatch":
        """Those rows, cut to the longest of them."""
        chosen = {name: tensor[rows] for name, tensor in self.tensors().items()}
        width = int((chosen["branch_RT"] != PADDING).sum(1).max())
        return type(self)(**chosen | {name: tensor[:, :width] for name, tensor in chosen.items()
                                      if name.endswith("_RT")})

    def split(self, rows: int) -> "list[CompletionBatch]":
        """Micro-batches of at most `rows` rows, in order."""
        if rows < 1:
            raise ValueError(f"a micro-batch needs at least one row, not {rows}")
        return [self[start:start + rows] for start in range(0, len(self), rows)]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "CompletionBatch":
        moved = type(self)(**{name: tensor.to(device, non_blocking=non_blocking)
                              for name, tensor in self.tensors().items()})
        moved.over_step = self.over_step
        return moved

    @property
    def prompt_lengths_R(self) -> Tensor:
        return (self.branch_RT == 0).sum(1)

    @property
    def lengths_RN(self) -> Tensor:
        """float32: tokens of each completion, its end of text included; 0 where there is none."""
        number_N = torch.arange(1, self.rewards_RN.shape[1] + 1, device=self.branch_RT.device)
        return (self.branch_RT[:, :, None] == number_N).sum(1).float()

    def positions_RT(self) -> Tensor:
        """int64: those a row of its own would have."""
        place_RT = torch.arange(self.branch_RT.shape[1], device=self.branch_RT.device).expand_as(self.branch_RT)
        starts_RT = torch.zeros_like(place_RT)
        begins_RT = self.branch_RT[:, 1:] != self.branch_RT[:, :-1]
        starts_RT[:, 1:] = torch.where(begins_RT, place_RT[:, 1:], 0)
        inside_RT = place_RT - starts_RT.cummax(1).values
        return inside_RT + torch.where(self.branch_RT > 0, self.prompt_lengths_R[:, None], 0)

    def attention_mask_R1TT(self) -> Tensor:
        """bool [R, 1, T, T]: what each token (third axis) attends to; padding to itself alone."""
        asks_RT1, asked_R1T = self.branch_RT[:, :, None], self.branch_RT[:, None, :]
        width = self.branch_RT.shape[1]
        past_TT = torch.ones(width, width, dtype=torch.bool, device=self.branch_RT.device).tril()
        mask_RTT = past_TT & ((asked_R1T == asks_RT1) | (asked_R1T == 0) & (asks_RT1 > 0))
        own_TT = torch.eye(width, dtype=torch.bool, device=self.branch_RT.device)
        return torch.where(asks_RT1 == PADDING, own_TT, mask_RTT)[:, None]

    def predictions(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of every completion token: row, place, place of the state that predicts it, and its completion as r * N + n.
        The first token of a completion is predicted at the last of the prompt.  All int64 [M]."""
        row_M, place_M = (self.branch_RT > 0).nonzero(as_tuple=True)
        branch_M = self.branch_RT[row_M, place_M]
        first_M = self.branch_RT[row_M, place_M - 1] != branch_M
        from_M = torch.where(first_M, self.prompt_lengths_R[row_M], place_M) - 1
        return row_M, place_M, from_M, row_M * self.rewards_RN.shape[1] + branch_M - 1

    def unshared(self) -> "CompletionBatch":
        """The same completions one to a row, [R * N] rows with an empty one where there is no completion: for
        architectures that take no such mask, and to compare with."""
        ids, number = [], self.rewards_RN.shape[1]
        for row_ids, branches in zip(self.input_ids_RT, self.branch_RT):
            ids += [(row_ids[branches == 0], row_ids[branches == k + 1]) for k in range(number)]
        singly = (tensor.reshape(-1, 1) for tensor in (self.rewards_RN, self.ref_logps_RN, self.present_RN))
        return laid_out([(prompt.tolist(), [completion.tolist()]) for prompt, completion in ids], *singly)


def laid_out(rows: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], rewards_RN: Tensor, ref_logps_RN: Tensor,
             present_RN: Tensor) -> CompletionBatch:
    """From the token ids of each row's prompt and completions, padded on the right."""
    width = max(len(prompt) + sum(map(len, completions)) for prompt, completions in rows)
    ids_RT = torch.zeros(len(rows), width, dtype=torch.int64)
    branch_RT = torch.full((len(rows), width), PADDING)
    for row, (prompt, completions) in enumerate(rows):
        end = 0
        for branch, part in enumerate([prompt, *completions]):
            begin, end = end, end + len(part)
            ids_RT[row, begin:end] = torch.as_tensor(part, dtype=torch.int64)
            branch_RT[row, begin:end] = branch
    to = rewards_RN.device
    return CompletionBatch(ids_RT.to(to), branch_RT.to(to), rewards_RN, present_RN, ref_logps_RN)
