"""The training objective's own metrics on held-out prompts with completions: `eval/loss`, `eval/rewards/margins`, ...

Every run on preferences or rankings has it, whenever scenarios are sampled.
"""

from typing import Callable

import numpy as np

from apo.callbacks.base import Callback, Checked, Measurement, scheduled
from apo.console import progress
from apo.lazy import Lazy
from apo.schema import EvaluationConfig

heldout_items = Lazy("apo.heldout_items")

MOST = 512
"""Items measured on, of the held-out ones the first in an order that is the same for every run."""


class HeldoutItems(Callback):
    """Args:
        rows: `apo.data.ranked.RankedRows` of the held-out documents, with reference log-probabilities where needed.
        batch_size: rows at once.
        precision: fp32 or bf16, that of training and of the reference: before the first step the two are equal.
    """

    name = "heldout_items"

    def __init__(self, config: EvaluationConfig, objective, rows, *, steps_per_epoch: float, batch_size: int,
                 precision: str):
        self.config, self.objective, self.rows, self.precision = config, objective, rows, precision
        self.steps_per_epoch, self.batch_size = steps_per_epoch, batch_size
        self.chosen_P = np.arange(rows.num_items)[:MOST]

    def due(self, step: int, max_steps: int) -> bool:
        return scheduled(self.config, self.steps_per_epoch, step, max_steps)

    def measure(self, policy, step: int, max_steps: int, check: Callable[[], None]) -> Measurement:
        with progress("held-out items", len(self.chosen_P)) as bar:
            measured = heldout_items.measure_items(
                policy, self.objective, self.rows, self.chosen_P, batch_size=self.batch_size, precision=self.precision,
                confidence=self.config.confidence, bar=Checked(bar, check))
        return Measurement({f"eval/{name}": value for name, value in measured.metrics.items()})
