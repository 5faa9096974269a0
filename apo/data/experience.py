"""Batches of completions that the policy wrote: what it thought of each token as the round began stands beside it."""

from dataclasses import dataclass

from torch import Tensor

from apo.data.completions import CompletionBatch


@dataclass
class ExperienceBatch(CompletionBatch):
    """All on the tokens themselves: [R, T] fp32, 0 outside completions; None of what the method did not make."""

    old_logps_RT: Tensor | None = None
    """log p under the policy as the round began."""
    old_values_RT: Tensor | None = None
    """The value head's output then, at the state that predicts the token."""
    advantages_RT: Tensor | None = None
    returns_RT: Tensor | None = None
