"""A pipeline killed inside a stage goes on there, and ends with the bits of one that was left alone; two at once share
the stage that both begin with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import PATIENCE_S, ROOT, Pause, fingerprints, kill_at, launch, run

STAGES = "sft,reward_model,dpo,kto"
OPTIONS = ["--task", "hh", "--scale", "smoke", "model.dropout=0.1", "evaluation.num_bootstrap=10",
           "evaluation.scenarios.replies.num_samples=2"]


def command(root: Path, stages: str = STAGES) -> list[str]:
    return ["--pipeline", stages, *OPTIONS, "--output-dir", str(root)]


def runs(root: Path, stages: str = STAGES) -> dict[str, Path]:
    """Stage -> its run directory, by the pipeline's record."""
    [file] = (root / "pipelines").glob(f"{stages.replace(',', '-')}-*.json")
    return {stage["name"]: root / stage["run"] for stage in json.loads(file.read_text())["stages"]}


def state(directory: Path) -> str:
    return json.loads((directory / "status.json").read_text())["state"]


def files(root: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in root.rglob("*") if file.is_file() and ".lock" not in file.name}


def assert_equal(one: Path, other: Path) -> None:
    made, same = runs(one), runs(other)
    assert [directory.name for directory in made.values()] == [directory.name for directory in same.values()]
    for name in made:
        assert fingerprints(made[name]) == fingerprints(same[name]), name


@pytest.mark.slow
def test_killed_in_the_third_stage_of_four(tmp_path):
    log, marker, whole, killed = (tmp_path / name for name in ("log", "marker", "whole", "killed"))
    assert run(command(whole), log) == 0, log.read_text()
    for pause in (Pause("step", 4, "dpo"), Pause("checkpoint", 6, "dpo"), Pause("final", 6, "dpo")):
        kill_at(command(killed), log, pause, marker)
        assert [state(directory) for directory in list(runs(killed).values())[:3]] == ["done", "done", "running"]
        assert not runs(killed)["kto"].exists()
    log.write_text("")
    assert run(command(killed), log) == 0, log.read_text()
    assert log.read_text().count("is finished; nothing to do") == 2
    assert_equal(whole, killed)
    before = files(killed)
    log.write_text("")
    assert run(command(killed), log) == 0
    assert log.read_text().count("is finished; nothing to do") == 4 and files(killed) == before


def test_two_at_once_share_their_first_stage(tmp_path):
    both = [("sft,dpo", tmp_path / "one"), ("sft,simpo", tmp_path / "other")]
    started = [launch(command(tmp_path / "out", stages), log) for stages, log in both]
    for process, (_, log) in zip(started, both):
        process.join(PATIENCE_S)
        assert process.exitcode == 0, log.read_text()
    first, second = (runs(tmp_path / "out", stages) for stages, _ in both)
    assert first["sft"] == second["sft"] and first["dpo"] != second["simpo"]
    said = [log.read_text() for _, log in both]
    assert sorted(text.count(f"done: {first['sft']}") for text in said) == [0, 1]
    assert sorted(text.count(f"{first['sft']} is finished; nothing to do") for text in said) == [0, 1]
    assert all(state(directory) == "done" for directory in (*first.values(), *second.values()))


@pytest.mark.slow
def test_the_real_command_killed_from_outside(tmp_path):
    """`python train.py`, killed while the third stage steps, without help from inside."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    more = ["dpo.training.max_steps=40", "dpo.training.logging_steps=1", "dpo.training.save_steps=4"]

    def start(root, log):
        return subprocess.Popen([sys.executable, "train.py", *command(root), *more], cwd=ROOT, stdout=log, stderr=log)

    with open(tmp_path / "log", "w") as log:
        assert start(whole, log).wait() == 0
        process, deadline = start(killed, log), time.monotonic() + PATIENCE_S
        third = killed / runs(whole)["dpo"].relative_to(whole)
        while not (third / "metrics.jsonl").is_file() or (third / "metrics.jsonl").read_text().count('"loss"') < 6:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.0005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL and state(third) == "running"
        assert start(killed, log).wait() == 0
    assert_equal(whole, killed)
