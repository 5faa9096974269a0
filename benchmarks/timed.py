"""What the benchmarks against other libraries share: the time of a trainer's steps, without its first ones, evaluation
and checkpoints; sides that take turns, each in a process of its own; and peers that need an environment of their own.
"""

import json
import subprocess
import sys
import time
from pathlib import Path


def seconds_of(trainer, warm_up: int) -> float:
    """Trains ours to the end; seconds from where it asks for the batch of step `warm_up` on."""
    clock, draw = {}, trainer.source.next

    def timed():
        if trainer.step == warm_up:
            clock["start"] = time.perf_counter()
        return draw()

    trainer._save_checkpoint = lambda *_: None
    trainer.source.next = timed
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


def peak_mb() -> float:
    """Largest resident size of this process."""
    status = Path("/proc/self/status")
    if status.exists():     # getrusage's figure counts the parent too, from before the program was replaced
        return next(int(line.split()[1]) * 1024 / 1e6 for line in status.open() if line.startswith("VmHWM"))
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def report_side(**numbers: float) -> None:
    """What a process that does one side says last; its peak memory beside."""
    print(json.dumps({**numbers, "peak_mb": peak_mb()}))


def side(script: str, name: str, arguments: list[str], python: str = sys.executable) -> dict:
    """What one side reports, in a process of its own.  Ends the program with what it said last where it fails."""
    done = subprocess.run([python, script, "--side", name, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"side {name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def in_turns(script: str, sides, repetitions: int, arguments: list[str],
             pythons: dict[str, str] | None = None) -> dict[str, list[dict]]:
    """What each side reported in each round.  A machine that does other things varies, so the sides take turns.
    `pythons`: of sides that have an interpreter of their own."""
    found: dict[str, list[dict]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name in sides:
            found[name].append(side(script, name, arguments, (pythons or {}).get(name, sys.executable)))
    return found


def peer_python(folder: Path) -> Path:
    """The interpreter of a virtual environment; there or not."""
    return folder / "bin" / "python"


def make_peer(folder: Path, *installs: list[str]) -> None:
    """A virtual environment of this Python with what is named, one call of pip after the other."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    for packages in installs:
        subprocess.run([str(peer_python(folder)), "-m", "pip", "install", "-q", *packages], check=True)
