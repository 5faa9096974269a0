"""Runs of `train.py` in processes of their own, and killing them from outside at a known place.

Importing transformers' Trainer takes ten seconds, so the processes come from a forkserver that has it loaded; what
they run is the command's own `main`.  A `Pause` makes the child write a marker file and wait at a chosen place, so that
the parent's SIGKILL is seen to hit there.  The real command is killed in test_kill_resume.py as well, without pauses.
"""

import hashlib
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 180
_context = None


@dataclass
class Pause:
    """Where a child stops and waits to be killed: `place` of PLACES, at optimiser step, or round, `step`, of the run of
    `method` where a child trains several."""

    place: str
    step: int
    method: str = ""


def forkserver():
    global _context
    if _context is None:
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload(["apo.trainer", "apo.experiment", "apo.callbacks.generate_and_score"])
    return _context


def launch(arguments: list[str], log: Path, pause: Pause | None = None, marker: Path | None = None):
    process = forkserver().Process(target=_child, args=(arguments, str(log), pause, str(marker)))
    process.start()
    return process


def run(arguments: list[str], log: Path) -> int:
    """Exit code of a whole run."""
    process = launch(arguments, log)
    process.join(PATIENCE_S)
    if process.is_alive():
        process.kill()
        raise AssertionError(f"still running after {PATIENCE_S} s: {log.read_text()[-2000:]}")
    return process.exitcode


def kill_at(arguments: list[str], log: Path, pause: Pause, marker: Path) -> None:
    """Start, wait until the child stands at the place, SIGKILL it there."""
    process = launch(arguments, log, pause, marker)
    deadline = time.monotonic() + PATIENCE_S
    while not marker.exists():
        if not process.is_alive() or time.monotonic() > deadline:
            raise AssertionError(f"never came to {pause} (exit code {process.exitcode}): {log.read_text()[-2000:]}")
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    marker.unlink()


def _child(arguments: list[str], log: str, pause: Pause | None, marker: str) -> None:
    stream = open(log, "a", buffering=1)
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
    sys.argv = ["train.py", *arguments]
    if pause is not None:
        from apo import experiment
        place = PLACES[pause.place]
        if not pause.method:
            place(pause.step, Path(marker))
        else:
            train = experiment.train

            def trained(config):
                if config.method == pause.method:
                    place(pause.step, Path(marker))
                return train(config)
            experiment.train = trained
    from apo.launch import main
    sys.exit(main())


def _wait(marker: Path) -> None:
    marker.write_text("here")
    time.sleep(PATIENCE_S)


def _in_step(step: int, marker: Path) -> None:
    """After the first micro-batch's backward, before the second's."""
    from apo.trainer import ScoredTextTrainer
    training_step = ScoredTextTrainer.training_step

    def stepped(self, *arguments):
        if self.step == step:
            check, seen = self.signals.check, []

            def checked():
                seen.append(1)
                if len(seen) == 3:      # once at the start of the step, once before each micro-batch
                    _wait(marker)
                check()
            self.signals.check = checked
        return training_step(self, *arguments)
    ScoredTextTrainer.training_step = stepped


def _in_checkpoint(step: int, marker: Path) -> None:
    """Weights and optimiser are written, the list that seals them is not."""
    from apo import checkpoint
    seal = checkpoint.seal

    def sealed(folder):
        if folder.name.endswith(f"-{step}"):
            _wait(marker)
        seal(folder)
    checkpoint.seal = sealed


def _in_evaluation(step: int, marker: Path) -> None:
    """Between two scenarios of one evaluation."""
    from apo import evaluation
    run_scenario, seen = evaluation.run_scenario, []

    def scenario(*args, **options):
        if options["step"] == step:
            seen.append(1)
            if len(seen) == 2:
                _wait(marker)
        return run_scenario(*args, **options)
    evaluation.run_scenario = scenario


def _before_final(step: int, marker: Path) -> None:
    """After the last checkpoint, before final/ is written."""
    from apo import experiment

    def save_final(*_):
        _wait(marker)
    experiment.save_final = save_final


def _in_sampling(number: int, marker: Path) -> None:
    """A round of samples has been drawn and not been judged."""
    from apo.experience.writing import Writer
    write = Writer.write

    def written(self, policy, prompts, at, progress):
        found = write(self, policy, prompts, at, progress)
        if at == number:
            _wait(marker)
        return found
    Writer.write = written


def _in_scoring(number: int, marker: Path) -> None:
    """A round of samples is being judged, by a scorer or by a rubric."""
    from apo.experience.judging import ByRubric
    from apo.experience.writing import ByScorer

    def waiting(judge):
        def judged(self, pairs, at, check):
            found = judge(self, pairs, at, check)
            if at == number:
                _wait(marker)
            return found
        return judged
    for kind in (ByScorer, ByRubric):
        kind.__call__ = waiting(kind.__call__)


def _after_a_round(number: int, marker: Path) -> None:
    """A round is on the disk, and no checkpoint knows of it."""
    from apo.experience.kept import Kept
    save = Kept.save

    def saved(self, folder, at, samples):
        save(self, folder, at, samples)
        if at == number:
            _wait(marker)
    Kept.save = saved


PLACES = {"step": _in_step, "checkpoint": _in_checkpoint, "evaluation": _in_evaluation, "final": _before_final,
          "sampling": _in_sampling, "scoring": _in_scoring, "round": _after_a_round}


def run_directory(root: Path, task: str, method: str) -> Path:
    (found,) = (root / task / method).iterdir()
    return found


def fingerprints(run: Path) -> dict[str, str]:
    """sha256 of everything that must not depend on what happened on the way."""
    last = max((run / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    files = [*sorted((run / "final").iterdir()), last / "optimizer.pt", *sorted(last.glob("*.safetensors")),
             run / "metrics.jsonl", *sorted((run / "samples").glob("*")), *sorted((run / "rounds").glob("*.jsonl"))]
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
