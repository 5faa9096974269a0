"""What methods that learn from their own samples share.

The policy writes a round of completions (`apo/rollouts/rounds.py`), which are scored, and of which policy, reference
and value head say what they think as the round begins: a `Round`.  The method makes a `Lesson` of it, rows to train on
for some epochs, and its loss sees those rows as it would see any others.  What a method carries from one round to the
next (an adaptive coefficient, a running mean) is a few numbers, part of every checkpoint.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from apo.metrics.running import Stat
from apo.objectives.base import Needs, Objective

VIEW = "rollout"


@dataclass
class Round:
    """C completions, those of one prompt side by side, of up to T tokens; a completion's tokens stand from column 0.

    Tensors are on the CPU, fp32 (mask: bool), 0 outside the mask."""

    prompts_C: "numpy.ndarray"  # noqa: F821
    """int64: which prompt of the round each answers."""
    scores_C: "numpy.ndarray"  # noqa: F821
    """float64: rewards, higher is better, as the scorer gives them or a judge does; NaN where a judge could not be
    understood."""
    finished_C: "numpy.ndarray"  # noqa: F821
    """bool: ended by itself, with its end of text or a stop string, and was not cut at the longest length."""
    sampled_C: "numpy.ndarray"  # noqa: F821
    """bool: written by the policy; False for completions that the data bring."""
    mask_CT: "torch.Tensor"  # noqa: F821
    logps_CT: "torch.Tensor"  # noqa: F821
    """log p of each token under the policy as the round began, nats."""
    ref_logps_CT: "torch.Tensor | None" = None  # noqa: F821
    """Under the policy as the stage began, where the method `needs.reference_model`."""
    values_CT: "torch.Tensor | None" = None  # noqa: F821
    """The value head at the state that predicts each token, where the method `needs.value_head`."""
    kl_CT: "torch.Tensor | None" = None  # noqa: F821
    """KL(policy || reference), exact over the vocabulary, at the state that predicts each token; where asked for."""
    texts_C: "numpy.ndarray | None" = None  # noqa: F821
    """int64: equal for completions of one prompt that are the same tokens; what methods on pairs need."""


@dataclass
class Lesson:
    """What is trained on until the next round."""

    rows_PN: "numpy.ndarray"  # noqa: F821
    """int64: completions of each row, all of one prompt, the best first.  Their scores stand in a batch as
    `rewards_RN`."""
    tokens: "dict[str, torch.Tensor]" = field(default_factory=dict)  # noqa: F821
    """`advantages`, `returns`: [C, T], 0 outside the mask; what stands in a batch as `advantages_RT` and so on."""
    ref_logps_C: "torch.Tensor | None" = None  # noqa: F821
    """Of each completion, what a preference loss measures against."""
    metrics: dict[str, Stat] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    """What the next round's `learn` is given; of plain numbers, for it stands in checkpoints as JSON."""


class Online(Objective):
    """Base class.  A subclass is a dataclass like every objective, and says how it learns from a round."""

    off_policy: ClassVar[bool] = False
    """What it trains on may be drawn from another distribution than the policy's own (top-p, a least length)."""
    completions_per_row: ClassVar[int] = 1
    """Of what it trains on: 2 of pairs."""
    by_reward: ClassVar[bool] = True
    """It learns from rewards, so that something has to give them."""

    @property
    def needs(self) -> Needs:
        return Needs(view=VIEW)

    @property
    def generations(self) -> int:
        """Completions of each prompt that it needs at least."""
        return 1

    @property
    def exact_kl(self) -> bool:
        """Whether `Round.kl_CT` is computed."""
        return False

    @property
    def with_given(self) -> bool:
        """Whether a round holds the completions that the data have to its prompts, beside those sampled."""
        return False

    def rows_of(self, prompts: int, generations: int) -> int:
        """Rows that a round of so many prompts and completions of each has if nothing is left out."""
        return prompts * generations // self.completions_per_row

    @abstractmethod
    def learn(self, round: Round, state: dict[str, Any]) -> Lesson:
        """What to train on.  A pure function.  `state`: what the lesson before left; {} at the first.

        Raises NothingToDraw where the round has nothing to train on: another one is sampled."""

    def take_up(self, state: dict[str, Any]) -> None:
        """Told the state of the lesson that is trained on from here: before its first step, and after every resume.
        For what the loss itself changes from round to round."""

    def exhausted(self) -> bool:
        """Whether the rest of this round is not worth training on; asked after every step, and said once."""
        return False

    def count_items(self, batch) -> int:
        """Tokens of the completions."""
        return int((batch.branch_RT > 0).sum())
