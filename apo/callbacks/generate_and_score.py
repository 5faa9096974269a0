"""Sample text, score it, log it: PHF's GenerateAndScoreCallback.

Every scenario of the config is run at the steps the config names, with the same prompts and sampling streams at every
step and for every method of one seed.  The sampling and scoring itself is `apo.evaluation`, which evaluate.py uses too.
"""

from dataclasses import asdict
from typing import Callable

from apo.callbacks.base import Callback, Measurement
from apo.console import progress
from apo.evaluation import heldout_bits_per_byte, run_scenario
from apo.schema import EvaluationConfig


class GenerateAndScoreCallback(Callback):
    """Args:
        steps_per_epoch: optimiser steps in one pass over the data, for `n_per_epoch`.
        prompts: prompt sets by name.
        heldout: `apo.data.heldout.HeldoutText`, or None where bits per byte is off.
    """

    name = "generation"

    def __init__(self, config: EvaluationConfig, *, tokenizer, scorer, prompts: dict[str, list[str]], heldout,
                 seed: int, steps_per_epoch: float):
        self.config, self.tokenizer, self.scorer = config, tokenizer, scorer
        self.prompts, self.heldout, self.seed, self.steps_per_epoch = prompts, heldout, seed, steps_per_epoch

    def due(self, step: int, max_steps: int) -> bool:
        config = self.config
        if step == 0:
            return config.at_start
        if step >= max_steps and config.at_end:
            return True
        every = [config.every_n_steps] if config.every_n_steps else []
        if config.n_per_epoch:
            every.append(max(1, round(min(self.steps_per_epoch, max_steps) / config.n_per_epoch)))
        return step in config.on_steps or any(step % n == 0 for n in every)

    def measure(self, policy, step: int, max_steps: int, check: Callable[[], None]) -> Measurement:
        measurement = Measurement({})
        for name, scenario in self.scenarios(step >= max_steps).items():
            with progress(f"sampling {name}", scenario.num_samples) as bar:
                result = run_scenario(name, scenario, policy=policy, tokenizer=self.tokenizer, scorer=self.scorer,
                                      evaluation=self.config, prompts=self.prompts, seed=self.seed, step=step,
                                      progress=_Checked(bar, check))
            measurement.metrics |= result.metrics
            measurement.timings |= result.timings
            measurement.samples[name] = [asdict(sample) for sample in result.samples]
        if self.heldout is not None:
            measurement.metrics |= heldout_bits_per_byte(policy, self.heldout, self.config.batch_size)
        measurement.best = self.best_score(measurement.metrics)
        return measurement

    def scenarios(self, last: bool) -> dict:
        return {name: scenario for name, scenario in self.config.scenarios.items() if last or scenario.while_training}

    def best_score(self, metrics: dict) -> float | None:
        name = self.config.best or next(iter(self.config.scenarios), None)
        if f"generation/{name}/reward" in metrics:
            return -metrics[f"generation/{name}/reward"]
        return metrics.get(f"generation/{name}/score")


class _Checked:
    """A progress bar that also looks for signals."""

    def __init__(self, bar, check: Callable[[], None]):
        self.bar, self.check = bar, check

    def advance(self, n: int = 1) -> None:
        self.check()
        self.bar.advance(n)

    def note(self, text: str) -> None:
        self.bar.note(text)
