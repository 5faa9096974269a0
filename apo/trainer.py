"""The only training loop: `transformers.Trainer`, with what is slow or wrong in it for our purpose overridden.

The Trainer keeps optimisers, schedules, gradient clipping, mixed precision, DDP, FSDP and DeepSpeed.  It is told that
every step is one batch (no accumulation) and the micro-batches are ours, inside `training_step`, because then
* the loss is a sum over the micro-batches divided by the number of items in the whole step, whatever its factoring;
* running out of memory halves the micro-batch and does the step again, at the same effective batch;
* a signal ends the step between two micro-batches, with the weights as the last step left them.

Other things done differently, and why: the Trainer reads the loss from the device every micro-batch (its NaN filter),
walks all parameters every micro-batch to count FLOPs, calls `model.train()` every time, hides NaN from the log and
steps on it, starts its running loss anew after a resume, and writes checkpoints in place.

Randomness has no state to save: dropout is seeded anew from (seed, step) before every step.
"""

import json
import math
import signal
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from apo import checkpoint as checkpoints
from apo.callbacks.base import Callback, Measurement
from apo.console import Progress, say, warn
from apo.data.collate import Batch
from apo.data.sampling import BatchSource
from apo.errors import Interrupted, NonFiniteLoss, OutOfMemory
from apo.metrics import running
from apo.models.adapters import is_adapted
from apo.models.policy import Policy
from apo.models.save import restore_policy, save_policy
from apo.objectives.base import Objective, tell_of_step
from apo.rundir import RunDirectory, write_json, write_jsonl
from apo.schema import TrainingConfig
from apo.seeds import stream_seed
from apo.signals import SignalCatcher, StopRequested
from apo.training_arguments import arguments


class TrainingModule(nn.Module):
    """Policy and objective as one module, so that a wrapper such as DDP sees one forward per backward."""

    def __init__(self, policy: Policy, objective: Objective):
        super().__init__()
        self.policy, self.objective = policy, objective

    def forward(self, batch: Batch):
        return self.objective.compute_loss(self.policy, batch)


@dataclass
class Progressed:
    """What a checkpoint remembers beside the Trainer's own state."""

    metrics_size: int = 0
    last_logged: int = 0
    best_step: int | None = None
    best: float | None = None
    micro_batch_size: int = 0
    measured: dict[str, int] = field(default_factory=dict)
    """Callback -> last step it measured; -1 before the first."""


class SourceLoader:
    """What the Trainer takes for its dataloader.  No look-ahead: the source's cursor is where training is."""

    def __init__(self, source: BatchSource, steps: int):
        self.source, self.steps = source, steps
        self.cursor = source.state_dict()

    def __len__(self) -> int:
        return self.steps

    def __iter__(self):
        while True:
            self.cursor = self.source.state_dict()
            yield self.source.next()


class ScoredTextTrainer(Trainer):
    """Trains `policy` on `source` under `objective` into `run`, from its newest sound checkpoint if there is one.

    Args:
        tokens_per_step: of the whole effective batch, for the token count in the logs.
        callbacks: measured when due, in order; the first that reports a `best` picks the best checkpoint.
        loggers: objects with `begin(step)`, `log(step, metrics)` and `samples(step, name, rows)`.
    """

    def __init__(self, policy: Policy, objective: Objective, source: BatchSource, config: TrainingConfig, *,
                 run: RunDirectory, seed: int, max_steps: int, tokens_per_step: int, extra_metrics=None,
                 callbacks: list[Callback] = (), loggers: list = (), bar: Progress | None = None,
                 tokenizer=None):
        self.options, self.run, self.seed, self.source = config, run, seed, source
        self.periodic, self.loggers, self.bar, self.tokenizer = list(callbacks), list(loggers), bar, tokenizer
        self.tokens_per_step, self.extra_metrics = tokens_per_step, extra_metrics or (lambda tokens: {})
        self.progressed = Progressed(measured={callback.name: -1 for callback in self.periodic})
        self.running = running.Running()
        self.signals = SignalCatcher()
        source.check = self.signals.check
        self._in_step = False
        self._clock, self._clock_step = time.monotonic(), 0
        super().__init__(model=TrainingModule(policy, objective), args=arguments(config, run, seed, max_steps),
                         callbacks=[])
        for noisy in (PrinterCallback, ProgressCallback):
            self.remove_callback(noisy)
        self.add_callback(_Begin(self))
        self.loader = SourceLoader(source, max_steps)
        rows_per_process = config.effective_batch_size // self.args.world_size
        self.progressed.micro_batch_size = min(config.per_device_train_batch_size, rows_per_process)
        if config.activation_checkpointing:
            policy.model.activation_checkpointing_enable()
            if is_adapted(policy.model):
                policy.model.enable_input_require_grads()       # else nothing that is trained goes into a block
        if config.torch_compile:
            policy.body.compile()

    @property
    def policy(self) -> Policy:
        return self.model.policy

    @property
    def step(self) -> int:
        return self.state.global_step

    # ---- the run -----------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train to the last step.  Raises Interrupted after saving where a signal asked for it."""
        start = checkpoints.latest(self.run.checkpoints)
        if start is None:
            self.run.truncate_metrics(0)
        elif checkpoints.step_of(start) >= self.args.max_steps:
            self._restore_finished(start)
            return
        with self._guarded():
            self.train(resume_from_checkpoint=str(start) if start else None)

    @contextmanager
    def _guarded(self):
        """A signal ends in a saved checkpoint, memory that does not suffice in a sentence."""
        with self.signals.catching():
            try:
                yield
            except StopRequested as stop:
                self._stop(stop.signum)
            except RuntimeError as error:       # torch.OutOfMemoryError is one
                if not _is_out_of_memory(error):
                    raise
                raise OutOfMemory("out of memory outside forward and backward (the optimiser's moments, or an "
                                  "evaluation): lower evaluation.batch_size or choose a smaller model") from error

    def _stop(self, signum: int) -> None:
        name = signal.Signals(signum).name
        if self._in_step:       # the rows of the unfinished step are drawn again
            self.source.load_state_dict(self.loader.cursor)
        if self.step > 0 and self.step != self._saved_step():
            self._save_checkpoint(self.model, None)
        self.run.set_status("preempted", self.step, self.args.max_steps, name)
        raise Interrupted(f"{name}: stopped after step {self.step} of {self.args.max_steps}; the same command goes on "
                          "from there", signum)

    def _saved_step(self) -> int:
        saved = checkpoints.listed(self.run.checkpoints)
        return checkpoints.step_of(saved[-1]) if saved else 0

    def _restore_finished(self, start: Path) -> None:
        """A run killed after its last checkpoint: nothing to train, but a last measurement may be missing."""
        say(f"going on from {start}: training is complete")
        self._load_from_checkpoint(str(start))
        self.state.global_step, self.state.max_steps = checkpoints.step_of(start), self.args.max_steps
        self._restore(start)
        with self._guarded():
            self._measure()

    # ---- one step ----------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> SourceLoader:
        return self.loader

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        return [next(epoch_iterator)], None

    def training_step(self, model: nn.Module, batch: Batch, num_items_in_batch=None) -> torch.Tensor:
        """Forward and backward of the whole step; halves the micro-batch where memory does not suffice."""
        model.train()       # whole: what `from_pretrained` loads is in eval mode inside a wrapper that is not
        self._in_step = True
        while True:
            self.signals.check()
            torch.manual_seed(stream_seed(self.seed, "dropout", self.step, self.args.process_index))
            try:
                loss, metrics = self._accumulate(model, batch)
                break
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._halve(error)
            model.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        self.running.add(self.source.news() | metrics)
        self._loss, self._batch = loss, batch
        return loss

    def _accumulate(self, model: nn.Module, batch: Batch):
        objective, processes = self.model.objective, self.args.world_size
        items = self._items(objective.count_items(batch))
        step_metrics, losses = running.Running(), []
        parts = batch.split(self.progressed.micro_batch_size)
        if len(parts) > 1 or processes > 1:
            with self.compute_loss_context_manager():
                tell_of_step(objective, self.policy, parts, self._over_processes)
        for number, part in enumerate(parts):
            self.signals.check()
            last = number == len(parts) - 1
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    result = model(part.to(self.args.device, non_blocking=True))
                # DDP averages gradients over processes, so that a sum over all of them needs their number
                self.accelerator.backward(result.total * (processes / items))
            losses.append(result.total.detach())
            step_metrics.add(result.metrics)
        total = torch.stack(losses).sum()
        step_metrics.add({"loss": running.ratio(total, torch.tensor(items / processes, device=total.device))})
        return total * (processes / items), step_metrics.stats

    def _items(self, own: int) -> int:
        """Items of the step over all processes; at least 1, so that a step without any is a zero, not a NaN."""
        return max(int(self._over_processes(torch.tensor(own, device=self.args.device))), 1)

    def _over_processes(self, sums: torch.Tensor) -> torch.Tensor:
        if self.args.world_size > 1:
            torch.distributed.all_reduce(sums)
        return sums

    def _halve(self, error: Exception) -> None:
        size = self.progressed.micro_batch_size
        if size == 1:
            raise OutOfMemory("out of memory with one row at a time: lower data.block_size, choose a smaller model, or "
                              "set training.activation_checkpointing=true") from error
        self.progressed.micro_batch_size = size // 2
        warn(f"out of memory with {size} rows at a time: going on with {size // 2}, at the same effective batch")

    def _get_grad_norm(self, model, grad_norm=None):
        """The one place where the step waits for the device: NaN must be seen before the optimiser steps."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        watched = [self._loss] if self.args.fp16 else [self._loss, torch.as_tensor(grad_norm, device=self._loss.device)]
        if not torch.stack([value.float() for value in watched]).isfinite().all():
            self._crash(float(self._loss), float(grad_norm))
        return grad_norm

    def _crash(self, loss: float, grad_norm: float) -> None:
        folder = self.run.path / "crash"
        folder.mkdir(exist_ok=True)
        file = folder / f"batch-{self.step}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in self._batch.tensors().items()}, file)
        raise NonFiniteLoss(f"step {self.step + 1}: loss {loss:g}, gradient norm {grad_norm:g}; the optimiser has not "
                            f"stepped. The batch is in {file}; the last checkpoint is kept. Try a lower "
                            "training.learning_rate or training.precision=fp32")

    def floating_point_ops(self, inputs) -> int:
        return 0

    # ---- after a step ------------------------------------------------------------------------------------------------

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, epoch, ignore_keys, start_time,
                                 learning_rate=None) -> None:
        """Log, then measure, then save, so that a checkpoint holds what was measured at its step."""
        if not self._in_step:       # the Trainer asks once more at the end of its epoch
            return
        self._in_step = False
        if self.bar:
            self.bar.advance()
        last = self.step >= self.args.max_steps
        if last or self.step == 1 or self.step % self.options.logging_steps == 0:
            self._log_step(grad_norm, learning_rate)
        improved = self._measure()
        if improved or last or self.step % self.args.save_steps == 0:
            self._save_checkpoint(self.model, None)

    def _log_step(self, grad_norm, learning_rate) -> None:
        if self.step == self.progressed.last_logged:
            return
        metrics = self.running.read()
        metrics["grad_norm"] = float(grad_norm)
        metrics["learning_rate"] = learning_rate
        metrics["epoch"] = self.source.epoch
        metrics["documents_seen"] = self.source.documents_seen
        metrics |= self.extra_metrics(self.tokens_seen)
        self._log_speed()
        self.progressed.last_logged = self.step
        if self.bar:
            self.bar.note(f"loss {metrics['loss']:.3f}")
        self._write(metrics)
        self.run.set_status("running", self.step, self.args.max_steps)

    def _log_speed(self) -> None:
        """Of the steps this process did since the last line."""
        seconds, steps = time.monotonic() - self._clock, self.step - self._clock_step
        self.run.append(self.run.timings_file, {"step": self.step, "phase": "train", "seconds": round(seconds, 3),
                                                "tokens_per_second": round(steps * self.tokens_per_step / seconds)})
        self._clock, self._clock_step = time.monotonic(), self.step

    @property
    def tokens_seen(self) -> int:
        return self.step * self.tokens_per_step

    def _write(self, metrics: dict) -> None:
        numbers = {key: finite(value) for key, value in metrics.items()}
        row = {"step": self.step, "num_tokens": self.tokens_seen, **numbers}
        self.run.append(self.run.metrics_file, row)
        for logger in self.loggers:
            logger.log(self.step, row)

    def _measure(self) -> bool:
        """Run what is due and has not run at this step; is the policy the best so far?"""
        improved = False
        for callback in self.periodic:
            measured = self.progressed.measured.get(callback.name, -1) >= self.step
            if measured or not callback.due(self.step, self.args.max_steps):
                continue
            self.run.set_status("running", self.step, self.args.max_steps, f"measuring {callback.name}")
            if self.bar:
                self.bar.note(f"measuring {callback.name}")
                self.bar.show()
            began = time.monotonic()
            with torch.random.fork_rng():
                measurement = callback.measure(self.policy, self.step, self.args.max_steps, self.signals.check)
            self._record(callback.name, measurement)
            improved |= self._is_best(measurement.best)
            self._clock += time.monotonic() - began         # measuring is not training
        return improved

    def _record(self, name: str, measurement: Measurement) -> None:
        for scenario, rows in measurement.samples.items():
            write_jsonl(self.run.samples_file(scenario, self.step), rows)
            for logger in self.loggers:
                logger.samples(self.step, scenario, rows)
        self._write(measurement.metrics)
        if measurement.timings:
            self.run.append(self.run.timings_file, {"step": self.step, "phase": name, **measurement.timings})
        self.progressed.measured[name] = self.step

    def _is_best(self, best: float | None) -> bool:
        if best is None or self.step == 0 or (self.progressed.best is not None and best >= self.progressed.best):
            return False
        self.progressed.best, self.progressed.best_step = best, self.step
        return True

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model, trial) -> None:
        if not self.args.should_save:
            return
        target = self.run.checkpoints / f"{checkpoints.PREFIX}{self.step}"
        self.progressed.metrics_size = self.run.metrics_size()
        with self.run.folder(target) as folder:
            save_policy(self.policy, folder)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(folder)
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self.state.save_to_json(str(folder / "trainer_state.json"))
            write_json(folder / "state.json", {"source": self.source.state_dict(), "running": self.running.state_dict(),
                                               "progressed": vars(self.progressed)})
            checkpoints.seal(folder)
        checkpoints.rotate(self.run.checkpoints, self.options.save_total_limit, self.progressed.best_step)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        restore_policy(self.policy, Path(resume_from_checkpoint))

    def _restore(self, start: Path) -> None:
        state = json.loads((start / "state.json").read_text())
        self.source.load_state_dict(state["source"])
        self.loader.cursor = state["source"]
        self.running.load_state_dict(state["running"], self.args.device)
        micro_batch_size = self.progressed.micro_batch_size
        self.progressed = Progressed(**state["progressed"])
        self.progressed.micro_batch_size = micro_batch_size     # the user may have named another since
        self.run.truncate_metrics(self.progressed.metrics_size)
        for logger in self.loggers:
            logger.begin(checkpoints.step_of(start))

    def _load_rng_state(self, checkpoint) -> None:
        """Nothing to load: every step seeds its own dropout."""

    # ---- what the Trainer would say ----------------------------------------------------------------------------------

    def log(self, logs, start_time=None) -> None:
        """The Trainer's own lines (its summary at the end) are not ours."""


class _Begin(TrainerCallback):
    """After the Trainer has built or loaded everything, before its first step."""

    def __init__(self, trainer: ScoredTextTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **unused) -> None:
        trainer = self.trainer
        if state.global_step:
            start = trainer.run.checkpoints / f"{checkpoints.PREFIX}{state.global_step}"
            trainer._restore(start)
            say(f"going on from {start}")
            if trainer.bar:
                trainer.bar.go_on_from(state.global_step)
        trainer.run.set_status("running", state.global_step, state.max_steps)
        if trainer._measure():
            trainer._save_checkpoint(trainer.model, None)
        trainer._clock, trainer._clock_step = time.monotonic(), state.global_step


def finite(value):
    """NaN (a correlation with a constant, say) is null in JSON."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_out_of_memory(error: Exception) -> bool:
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in said or "out of memory" in said
