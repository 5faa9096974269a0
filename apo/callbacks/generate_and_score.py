"""Sample text, score it, log it: PHF's GenerateAndScoreCallback.

Every scenario of the config is run at the steps the config names, with the same prompts and sampling streams at every
step and for every method of one seed.  The sampling and scoring itself is `apo.evaluation`, which evaluate.py uses too.
Every run has it, so it is no entry of `callbacks`: its options are those of `evaluation`.
"""

from dataclasses import asdict
from typing import Callable

from apo.callbacks.base import Callback, Checked, Measurement, scheduled
from apo.console import progress
from apo.lazy import Lazy
from apo.schema import EvaluationConfig

evaluation = Lazy("apo.evaluation")


class GenerateAndScoreCallback(Callback):
    """Args:
        judges: `apo.evaluation.Judges`.
        steps_per_epoch: optimiser steps in one pass over the data, for `n_per_epoch`.
        prompts: prompt sets by name.
        heldout: `apo.data.heldout.HeldoutText`, or None where bits per byte is off.
        start: the policy as training began (`apo.models.reference`), or None where it began with nothing.
    """

    name = "generation"

    def __init__(self, config: EvaluationConfig, *, tokenizer, judges, prompts: dict[str, list[str]], heldout,
                 seed: int, steps_per_epoch: float, start=None):
        self.config, self.tokenizer, self.judges, self.start = config, tokenizer, judges, start
        self.prompts, self.heldout, self.seed, self.steps_per_epoch = prompts, heldout, seed, steps_per_epoch

    def due(self, step: int, max_steps: int) -> bool:
        return scheduled(self.config, self.steps_per_epoch, step, max_steps)

    def measure(self, policy, step: int, max_steps: int, check: Callable[[], None]) -> Measurement:
        measurement = Measurement({})
        for name, scenario in self.scenarios(step >= max_steps).items():
            with progress(f"sampling {name}", scenario.num_samples) as bar:
                result = evaluation.run_scenario(name, scenario, policy=policy, tokenizer=self.tokenizer,
                                                 judges=self.judges, evaluation=self.config, prompts=self.prompts,
                                                 seed=self.seed, step=step, start=self.start,
                                                 progress=Checked(bar, check))
            measurement.metrics |= result.metrics
            measurement.timings |= result.timings
            measurement.samples[name] = [asdict(sample) for sample in result.samples]
        if self.heldout is not None:
            measurement.metrics |= evaluation.heldout_bits_per_byte(policy, self.heldout, self.config.batch_size)
        measurement.best = self.best_score(measurement.metrics)
        return measurement

    def scenarios(self, last: bool) -> dict:
        return {name: scenario for name, scenario in self.config.scenarios.items() if last or scenario.while_training}

    def best_score(self, metrics: dict) -> float | None:
        name = self.config.best or next(iter(self.config.scenarios), None)
        if f"generation/{name}/reward" in metrics:
            return -metrics[f"generation/{name}/reward"]
        return metrics.get(f"generation/{name}/score")
