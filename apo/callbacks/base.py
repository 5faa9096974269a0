"""Something measured now and then while a model trains, and by `evaluate.py` when it is done.

    @callbacks.register("kl")
    @dataclass
    class KL(Callback):
        '''What it measures.'''                 # its options: `callbacks.kl.num_samples=256`
        num_samples: int = 1024

        def measure(self, policy, step, max_steps, check): ...

A callback says at which steps it is due and returns metrics; the trainer logs them, remembers that the step was
measured (so that a run killed inside a measurement measures again, and one killed after it does not), and forks the
global random state around it, so that measuring never changes training.  Those that look at the model alone
(`of_model`) are measured by `evaluate.py` too.
"""

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, ClassVar

from apo.registry import Registry

if TYPE_CHECKING:
    from apo.schema import Config, EvaluationConfig

callbacks = Registry("callback", "apo.callbacks")


@dataclass
class Context:
    """What a callback may look at."""

    config: "Config"
    tokenizer: Any
    corpus: Any
    """`apo.data.corpus.Corpus`: scored documents by split, and the source they are of."""
    scorer: Any
    """What annotates the corpus (`apo.scorers.base.Scorer`), or None where the data bring their scores."""
    cache: Any
    """`apo.cache.Cache`."""
    rows: Any = None
    """The batch source that the model trains on; None in `evaluate.py`."""
    steps_per_epoch: float | None = None


class Callback(ABC):
    name: ClassVar[str]
    of_model: ClassVar[bool] = False
    """Depends on the model and not on its training: `evaluate.py` measures it as well."""

    def bind(self, context: Context) -> "Callback":
        """A copy that knows its run; before anything is sampled or trained, so what it cannot do without is asked for
        here.  Cheap: what takes time waits for the first measurement."""
        bound = copy(self)
        bound.context = context
        return bound

    def depends_on(self, context: Context) -> dict[str, Any]:
        """What its numbers depend on beside config, model and data, as something `json` can write.  In `context` only
        the config is sure to be there."""
        return {}

    def due(self, step: int, max_steps: int) -> bool:
        """Is there a measurement after optimiser step `step` (0: before the first)?  By default when scenarios are."""
        context = self.context
        return scheduled(context.config.evaluation, context.steps_per_epoch or max_steps, step, max_steps)

    @abstractmethod
    def measure(self, policy, step: int, max_steps: int, check: Callable[[], None]) -> "Measurement":
        """Measure the policy and leave it in the mode it was in.  Call `check` now and then: it raises where a signal
        asks the run to stop, and the measurement is made anew after the resume."""


class Measurement:
    """Metrics for metrics.jsonl, wall-clock timings for timings.jsonl, samples for samples/ and the loggers."""

    def __init__(self, metrics: dict, timings: dict | None = None, samples: dict[str, list[dict]] | None = None,
                 best: float | None = None):
        self.metrics, self.timings, self.samples = metrics, timings or {}, samples or {}
        self.best = best
        """Lower is better; picks the best checkpoint.  None: this measurement has no say."""


class Checked:
    """A progress bar that also looks for signals."""

    def __init__(self, bar, check: Callable[[], None]):
        self.bar, self.check = bar, check

    def advance(self, n: int = 1) -> None:
        self.check()
        self.bar.advance(n)

    def note(self, text: str) -> None:
        self.bar.note(text)


def scheduled(evaluation: "EvaluationConfig", steps_per_epoch: float, step: int, max_steps: int) -> bool:
    """Whether the config's schedule of evaluations has one after this step."""
    if step == 0:
        return evaluation.at_start
    if step >= max_steps and evaluation.at_end:
        return True
    every = [evaluation.every_n_steps] if evaluation.every_n_steps else []
    if evaluation.n_per_epoch:
        every.append(max(1, round(min(steps_per_epoch, max_steps) / evaluation.n_per_epoch)))
    return step in evaluation.on_steps or any(step % n == 0 for n in every)
