"""A run that learns from its own samples, killed while it samples, while it scores, when a round is written and inside
an epoch over it, ends with the bits of the uninterrupted run."""

import json

import pytest
from launching import Pause, fingerprints, kill_at, run, run_directory

OPTIONS = ["--scale", "smoke", "model.dropout=0.1", "training.per_device_train_batch_size=4", "training.save_steps=2",
           "training.max_steps=8", "rollout.prompts=8", "rollout.generations=2", "rollout.max_new_tokens=12"]
PAUSES = (Pause("sampling", 0), Pause("scoring", 1), Pause("round", 1), Pause("step", 5), Pause("checkpoint", 6),
          Pause("final", 8))


@pytest.mark.parametrize("method, options", [
    ("ppo", ("rollout.epochs=2", "objective.kl_target=0.5", "objective.score_scale=std")),
    pytest.param("spin", ("objective.merge_previous=true", "data.block_size=256"), marks=pytest.mark.slow),
    pytest.param("online_dpo", (), marks=pytest.mark.slow),
    pytest.param("self_rewarding", (), marks=pytest.mark.slow)])
def test_killed_while_sampling_scoring_and_learning(tmp_path, method, options):
    log, marker = tmp_path / "log", tmp_path / "marker"

    def command(root):
        return ["--task", "hh", "--method", method, *OPTIONS, *options, "--output-dir", str(tmp_path / root)]
    for root in ("whole", "killed"):
        start = ["--task", "hh", "--method", "mle", "--scale", "smoke", "model.dropout=0.1", "--output-dir",
                 str(tmp_path / root)]
        assert run(start, log) == 0, log.read_text()
    assert run(command("whole"), log) == 0, log.read_text()
    whole = run_directory(tmp_path / "whole", "hh", method)
    killed = tmp_path / "killed" / "hh" / method / whole.name
    for pause in PAUSES:
        kill_at(command("killed"), log, pause, marker)
        assert json.loads((killed / "status.json").read_text())["state"] == "running"
    assert run(command("killed"), log) == 0, log.read_text()
    assert len(list((killed / "rounds").glob("*.jsonl"))) >= 2
    assert fingerprints(killed) == fingerprints(whole)
