"""What the benchmarks against other libraries share: the time of a trainer's steps, without its first ones, evaluation
and checkpoints, and sides that take turns, each in a process of its own."""

import json
import resource
import subprocess
import sys
import time


def seconds_of(trainer, warm_up: int) -> float:
    """Trains ours to the end; seconds from step `warm_up` on."""
    clock, step = {}, trainer.training_step

    def timed(*arguments):
        if trainer.step == warm_up:
            clock["start"] = time.perf_counter()
        return step(*arguments)

    trainer._save_checkpoint = lambda *_: None
    trainer.training_step = timed
    trainer.fit()
    return time.perf_counter() - clock["start"]


def trained_by_trl(trainer, warm_up: int) -> tuple[float, float]:
    """(seconds from step `warm_up` on, mean loss) of one of transformers' trainers."""
    from transformers import TrainerCallback
    clock: dict[str, float] = {}

    class Clock(TrainerCallback):
        def on_step_begin(self, args, state, control, **unused):
            if state.global_step == warm_up:
                clock["start"] = time.perf_counter()

    trainer.add_callback(Clock())
    result = trainer.train()
    return time.perf_counter() - clock["start"], result.training_loss


def report_side(**numbers: float) -> None:
    """What a process that does one side says last; its peak memory beside."""
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**numbers, "peak_mb": peak_mb}))


def in_turns(script: str, sides, repetitions: int, arguments: list[str]) -> dict[str, list[dict]]:
    """What each side reported in each round.  A machine that does other things varies, so the sides take turns."""
    found: dict[str, list[dict]] = {side: [] for side in sides}
    for _ in range(repetitions):
        for side in sides:
            done = subprocess.run([sys.executable, script, "--side", side, *arguments], check=True,
                                  capture_output=True, text=True)
            found[side].append(json.loads(done.stdout.strip().splitlines()[-1]))
    return found
