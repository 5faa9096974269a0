"""Something measured now and then while a model trains.

A callback says at which steps it is due and returns metrics; the trainer logs them, remembers that the step was
measured (so that a run killed inside a measurement measures again, and one killed after it does not), and forks the
global random state around it, so that measuring never changes training.
"""

from abc import ABC, abstractmethod
from typing import Callable


class Callback(ABC):
    name: str

    @abstractmethod
    def due(self, step: int, max_steps: int) -> bool:
        """Is there a measurement after optimiser step `step` (0: before the first)?"""

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
