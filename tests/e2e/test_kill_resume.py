"""Promise 2: kill it anywhere, the same command goes on, and ends with the bits of the uninterrupted run."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from launching import PATIENCE_S, ROOT, Pause, fingerprints, kill_at, run, run_directory

METHODS = ("mle", "filtering", "conditional", "unlikelihood", "awr", "rwr", "dpo", "reward_model", "a_lol")
AFTER_MLE = ("dpo", "reward_model", "a_lol")
LORA = ("model.lora.r=4", "model.lora.dropout=0.1")
OPTIONS = ["--scale", "smoke", "model.dropout=0.1", "training.warmup_steps=2",
           "training.per_device_train_batch_size=4"]


def cases():
    """By `make test` one method of each kind: what it resumes beside weights and optimiser differs."""
    for method, adapter in [*((method, ()) for method in METHODS), *((method, LORA) for method in AFTER_MLE[:2])]:
        of_a_kind = method in ("mle", "conditional", "awr", "a_lol") or adapter
        yield pytest.param(method, adapter, id=method + ("-lora" if adapter else ""),
                           marks=() if of_a_kind else pytest.mark.slow)


@pytest.mark.parametrize("method, adapter", cases())
def test_killed_in_a_step_a_checkpoint_and_an_evaluation(tmp_path, method, adapter):
    """One run, killed three times (and once before final/), in one output root, against one left alone in another."""
    log, marker = tmp_path / "log", tmp_path / "marker"

    def trained(root, method, *options):
        arguments = ["--task", "pep8", "--method", method, *options, "--output-dir", str(tmp_path / root)]
        assert run(arguments, log) == 0, log.read_text()
        return run_directory(tmp_path / root, "pep8", method)
    if adapter:         # the adapter that mle trains on this one is what the run begins with
        base = trained("base", "mle", "--scale", "smoke") / "final"
        adapter = [f"model.name={base}", "model.config={}", *adapter]

    def command(root):
        return ["--task", "pep8", "--method", method, *OPTIONS, *adapter, "--output-dir", str(tmp_path / root)]
    if method in AFTER_MLE:     # what it starts from is trained first, so that the kills are those of the run itself
        for root in ("whole", "killed"):
            trained(root, "mle", "--scale", "smoke", "model.dropout=0.1", *adapter)
    assert run(command("whole"), log) == 0, log.read_text()
    pauses = (Pause("step", 4), Pause("checkpoint", 6), Pause("evaluation", 6), Pause("final", 6))
    for pause in pauses if method != "reward_model" else pauses[:2] + pauses[3:]:       # it writes no text to evaluate
        kill_at(command("killed"), log, pause, marker)
        state = json.loads((run_directory(tmp_path / "killed", "pep8", method) / "status.json").read_text())
        assert state["state"] == "running"
    assert run(command("killed"), log) == 0, log.read_text()
    whole, killed = (run_directory(tmp_path / root, "pep8", method) for root in ("whole", "killed"))
    assert whole.name == killed.name
    assert fingerprints(killed) == fingerprints(whole)
    assert json.loads((killed / "status.json").read_text())["state"] == "done"

    before = {file: file.stat().st_mtime_ns for file in killed.rglob("*") if file.is_file()}
    log.write_text("")
    assert run(command("killed"), log) == 0
    assert "finished; nothing to do" in log.read_text()
    assert before == {file: file.stat().st_mtime_ns for file in killed.rglob("*") if file.is_file()}


def test_same_seed_same_bits_and_another_seed_others(tmp_path):
    log = tmp_path / "log"
    common = ["--task", "pep8", "--method", "conditional", "--scale", "smoke", "model.dropout=0.1"]
    for root, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run([*common, "--seed", str(seed), "--output-dir", str(tmp_path / root)], log) == 0, log.read_text()
    a, b, c = (fingerprints(run_directory(tmp_path / root, "pep8", "conditional")) for root in "abc")
    assert a == b
    assert a["final/model.safetensors"] != c["final/model.safetensors"] and a["metrics.jsonl"] != c["metrics.jsonl"]


class TestTheRealCommand:
    """`python train.py` as a user starts it, killed from outside while it runs, without help from inside."""

    def start(self, root, log):
        arguments = [sys.executable, "train.py", "--task", "pep8", "--method", "mle", "--scale", "smoke",
                     "--output-dir", str(root), "training.max_steps=40", "training.logging_steps=1",
                     "training.save_steps=4"]
        return subprocess.Popen(arguments, cwd=ROOT, stdout=log, stderr=log)

    def kill_when(self, process, seen) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not seen():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.0005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL

    @pytest.mark.slow
    def test_killed_while_stepping_saving_and_evaluating(self, tmp_path):
        with open(tmp_path / "log", "w") as log:
            assert self.start(tmp_path / "whole", log).wait() == 0
            whole = run_directory(tmp_path / "whole", "pep8", "mle")
            killed = tmp_path / "killed" / "pep8" / "mle" / whole.name

            def steps_logged():
                file = killed / "metrics.jsonl"
                return file.exists() and file.read_text().count('"loss"') >= 6
            self.kill_when(self.start(tmp_path / "killed", log), steps_logged)

            def saving():
                return any((killed / "checkpoints").glob(".incomplete-checkpoint-*"))
            self.kill_when(self.start(tmp_path / "killed", log), saving)
            assert saving(), "the kill came after the save"

            def evaluating():
                status = json.loads((killed / "status.json").read_text())
                return status["step"] >= 18 and status["message"].startswith("measuring")
            self.kill_when(self.start(tmp_path / "killed", log), evaluating)
            assert evaluating(), "the kill came after the evaluation"

            assert self.start(tmp_path / "killed", log).wait() == 0
        assert fingerprints(killed) == fingerprints(whole)
