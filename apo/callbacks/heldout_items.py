"""The training objective's own metrics on held-out prompts with completions: `eval/loss`, `eval/rewards/margins`, ...

Every run on preferences or rankings has it, whenever scenarios are sampled.
"""

from typing import Callable

import numpy as np

from apo.callbacks.base import Callback, Checked, Measurement, scheduled
from apo.console import progress
from apo.lazy import Lazy, torch
from apo.metrics import running
from apo.schema import EvaluationConfig

base = Lazy("apo.objectives.base")
generate = Lazy("apo.rollouts.generate")

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
        self.chosen_R = np.arange(rows.num_items)[:MOST]

    def due(self, step: int, max_steps: int) -> bool:
        return scheduled(self.config, self.steps_per_epoch, step, max_steps)

    def measure(self, policy, step: int, max_steps: int, check: Callable[[], None]) -> Measurement:
        total, items, metrics = 0.0, 0, running.Running()
        autocast = torch.autocast(policy.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        bar = progress("held-out items", len(self.chosen_R))
        with generate.evaluating(policy), torch.no_grad(), autocast, bar as shown:
            bar = Checked(shown, check)
            batches = [self.rows.rows(self.chosen_R[start:start + self.batch_size]).to(policy.device)
                       for start in range(0, len(self.chosen_R), self.batch_size)]
            base.tell_of_step(self.objective, policy, batches)
            for batch in batches:
                loss = self.objective.compute_loss(policy, batch)
                total, items = total + float(loss.total), items + self.objective.count_items(batch)
                metrics.add(loss.metrics)
                bar.advance(len(batch))
        return Measurement({"eval/loss": total / items} | {f"eval/{name}": value
                                                          for name, value in metrics.read().items()})
