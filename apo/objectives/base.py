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

from apo.errors import ConfigError
from apo.metrics.running import Stat
from apo.registry import Registry

objectives = Registry("objective", "apo.objectives")


@dataclass(frozen=True)
class PromptValue:
    """How V, the reference's expected reward behind a prompt, is fitted: a head on the frozen reference's states."""

    head: str = "attention"
    """attention (one learned query over the prompt), mean_pool, mean_pool_mlp."""
    targets: str = "generations"
    """generations: the scorer's rewards of what the reference itself writes; data: the mean reward of the completions
    that the data have to the prompt."""
    prompts: int = 256
    """Training prompts that it is fitted on, drawn from the seed."""
    generations: int = 1
    """Of the reference, behind each."""
    temperature: float = 1.0
    """0: greedy."""
    epochs: int = 30
    """At most: fewer, down to none at all (a constant), where that has the smaller error."""
    learning_rate: float = 1e-3
    batch_size: int = 16
    dropout: float = 0.1
    selection: str = "kfold"
    """By which error the number of epochs is chosen: kfold (five), heldout (a fifth of the prompts), training."""


@dataclass(frozen=True)
class Needs:
    """What a method trains on and needs beside the policy."""

    view: str = "scored_text"
    """The shape of record its batches are made from: scored_text, or one of `apo.compared.VIEWS`."""
    value_head: bool = False
    reference: bool = False
    """What it says of each completion, in one number."""
    reference_tokens: bool = False
    """What it says of each token of each completion."""
    reference_model: bool = False
    """The reference itself, as `Objective.reference`: a copy of the policy in memory."""
    prompt_value: PromptValue | None = None
    """V of the reference behind each prompt."""


class NothingToDraw(ConfigError):
    """An objective finds no completion worth training on."""


@dataclass
class Known:
    """What is known of the training completions before the first step, numpy [P] each."""

    rewards_P: "numpy.ndarray"  # noqa: F821
    values_P: "numpy.ndarray"  # noqa: F821
    """V of the prompt; NaN where none was asked for."""
    good_P: "numpy.ndarray"  # noqa: F821
    """bool: the best of its prompt, or one of them."""


@dataclass
class Draw:
    """Which completions are served, and how often."""

    kept_P: "numpy.ndarray"  # noqa: F821
    """bool."""
    weights_P: "numpy.ndarray | None" = None  # noqa: F821
    """In proportion to which they are drawn; None: each once an epoch."""
    loss_weights_P: "numpy.ndarray | None" = None  # noqa: F821
    """What the loss multiplies each by, as far as it is known before training; None: 1."""
    steps: float = 1.0
    """Share of the run's steps that is made."""


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
    reference: ClassVar["apo.models.reference.Reference | None"] = None  # noqa: F821
    """The policy as the stage began, where `needs.reference_model`."""

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

    def draw(self, known: Known) -> Draw:
        """Of the view `completion`: what is trained on."""
        return Draw(known.good_P | ~known.good_P)

    def rewards(self, raw_P, train_P):
        """Of the view `completion`, numpy: raw rewards on the scale that the loss wants; `train_P` are those of the
        training completions, by which a scale may be chosen."""
        return raw_P

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
