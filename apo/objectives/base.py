"""What an objective is.

    @objectives.register("dpo")
    @dataclass
    class DPO(Objective):
        beta: float = 0.1                       # a field is an option: `objective.beta=0.3`
        def compute_loss(self, policy, batch): ...

The loss is returned as a *sum* over items (scored tokens, or sequences) and divided by the trainer by the number of
items in the whole effective batch.  That is the only reduction under which splitting a step into micro-batches, or
over processes, changes nothing when rows hold different numbers of scored tokens.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from apo.metrics.running import Stat
from apo.registry import Registry

objectives = Registry("objective", "apo.objectives")


@dataclass(frozen=True)
class Needs:
    """What a method trains on and needs beside the policy."""

    view: str = "scored_text"
    """The shape of record its batches are made from: scored_text, or one of `apo.compared.VIEWS`."""
    value_head: bool = False
    reference: bool = False


@dataclass
class Loss:
    total: "torch.Tensor"  # noqa: F821
    """Scalar with gradient: the sum over items."""
    metrics: dict[str, Stat] = field(default_factory=dict)
    margins_R: "torch.Tensor | None" = None  # noqa: F821
    """Of pairs: the reward of the chosen completion less that of the rejected, as a log-odds.  Held-out accuracy and
    calibration go by it."""


@dataclass
class Objective:
    """Base class.  Fields of a subclass are its options, checked when the config is composed."""

    name: ClassVar[str] = ""
    writes_text: ClassVar[bool] = True
    """What it trains is a language model, worth sampling from."""
    thresholds: ClassVar[tuple[str, ...]] = ()
    """Options that may be `{percentile: p}` of the training scores; resolved to numbers before training."""

    @property
    def needs(self) -> Needs:
        return Needs()

    def count_items(self, batch) -> int:
        """Items of a batch, over which the loss is averaged: by default the tokens that are predicted and count."""
        return int(batch.loss_mask_BT[:, 1:].sum())

    def over_step(self, policy, batch) -> "torch.Tensor | None":  # noqa: F821
        """Sums over a micro-batch of what the loss of every row needs of all rows of its step (a baseline, say).  Those
        of the whole step are `batch.over_step` in `compute_loss`, or None where the batch is the whole step."""
        return None

    def compute_loss(self, policy, batch) -> Loss:
        """`policy.token_stats(batch, want)` gives everything; see `apo.models.policy`."""
        raise NotImplementedError(type(self).__name__)


def tell_of_step(objective: Objective, policy, parts: list, total=lambda sums: sums) -> None:
    """Puts what the objective wants to know of all parts of a step into each, taking one after the other to where the
    policy is.  `total`: over processes."""
    if type(objective).over_step is Objective.over_step:
        return
    import torch
    with torch.no_grad():
        sums = total(torch.stack([objective.over_step(policy, part.to(policy.device)) for part in parts]).sum(0))
    for part in parts:
        part.over_step = sums
