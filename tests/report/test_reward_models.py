"""Reward models by evaluate.py: the numbers of the run's own last evaluation, a table, a picture, and neither twice."""

import json
import shutil

import numpy as np
import pytest

import evaluate
from apo import experiment
from apo.config import load_config
from apo.metrics.preference import pair_accuracy
from apo.metrics.statistics import t_interval
from apo.report.reward_models import RewardModels
from apo.report.select import divided


def train(folder, *options):
    return experiment.train(load_config([
        f"output_dir={folder / 'outputs'}", f"cache_dir={folder / 'cache'}", "scale=smoke", "method=reward_model",
        "training.precision=fp32", "evaluation.num_bootstrap=10", "init_from.overrides=['training.max_steps=2']",
        *options])).path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reward_models")


@pytest.fixture(scope="module")
def runs(folder):
    rows = [{"prompt": f"Question: what is {i % 50} plus {i % 7}?\n\nAnswer:",
             "completions": [f" The sum is {i % 50 + i % 7}.", " No idea, ask.", " Well, it is a number, or no?"],
             "rewards": [2, 1, 0]} for i in range(80)]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["task=custom", "data.source=completions", f"data.path={folder / 'mine.jsonl'}", "scorer=hh_rule"]
    return [train(folder, *options, f"seed={seed}") for seed in (1, 2)]


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_every_evaluation_has_an_interval_and_a_calibration_error(runs):
    measured = [row for row in rows_of(runs[0]) if "eval/accuracy" in row]
    assert [row["step"] for row in measured] == [0, 3, 6]
    first = measured[0]
    # Before the first step all rewards are 0: every pair a tie, half right, and said to be as likely as not.
    assert first["eval/accuracy"] == 0.5 and first["eval/calibration_error"] == 0
    assert first["eval/pairs"] == 3 * first["eval/prompts"] > 0
    assert all(row["eval/accuracy/low"] <= row["eval/accuracy"] <= row["eval/accuracy/high"] for row in measured)
    assert experiment.score_of(load_config(["task=hh", "method=reward_model"]), first) == "0.5 accuracy"


def test_evaluate_says_what_the_run_said(runs, capsys):
    assert evaluate.main([str(runs[0])]) == 0
    kept, last = json.loads((runs[0] / "evaluation.json").read_text()), rows_of(runs[0])[-1]
    assert {f"eval/{name}" for name in kept["metrics"]} == {name for name in last if name.startswith("eval/")}
    for name, value in kept["metrics"].items():
        assert value == pytest.approx(last[f"eval/{name}"], abs=1e-6), name
    accuracy = pair_accuracy(kept["margins"], kept["prompts"])
    assert (accuracy.low, accuracy.mean) == pytest.approx((last["eval/accuracy/low"], last["eval/accuracy"]))
    assert (runs[0] / "reward_models.png").read_bytes()[:4] == b"\x89PNG"
    out = capsys.readouterr().out
    assert "Reward models on the held-out pairs of their data" in out and f"reward_model/{runs[0].name}" in out
    assert evaluate.main([str(runs[0])]) == 0
    again = capsys.readouterr()
    assert again.out == out and "nothing has changed" in again.err


def test_several_seeds_have_a_t_interval(runs):
    found = RewardModels.of(divided(map(str, runs))[1])
    table = found.table()
    assert [row[2] for row in table.rows] == ["1", "2", ""] and "mean of 2 seeds" in table.rows[-1][1]
    means = [np.mean(np.array(each["margins"]) > 0) for each in found.methods[0].evaluations]
    assert table.rows[-1][5].startswith(f"{t_interval(means).mean:.1f}"[:3])
    drawn = {line.get_gid() for line in found.draw().axes[0].lines}
    assert {run.name for run in runs} <= drawn


def test_a_folder_with_both_kinds_gets_both_tables(runs, folder, tmp_path, capsys):
    assert evaluate.main([str(folder / "outputs"), "--output", str(tmp_path / "x.png"), "--samples", "0"]) == 0
    out = capsys.readouterr().out
    assert "Capability and cost" in out and "calibration error" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x-reward_models.md", "x-reward_models.png", "x.md",
                                                                "x.png"]
    assert evaluate.main([str(folder / "outputs/custom/reward_model"), "--output", str(tmp_path / "y.png")]) == 0
    assert "| custom | reward_model, mean of 2 seeds |" in (tmp_path / "y.md").read_text()


def test_pairs_that_the_start_policy_wrote_are_found_again_or_asked_for(tmp_path, capsys):
    run = train(tmp_path, "task=toxicity", "data.sampled.max_new_tokens=4")
    assert evaluate.main([str(run)]) == 0
    kept, last = json.loads((run / "evaluation.json").read_text()), rows_of(run)[-1]
    assert kept["metrics"]["accuracy"] == pytest.approx(last["eval/accuracy"])
    assert len(list((tmp_path / "cache" / "sampled").glob("*/key.json"))) == 1
    shutil.rmtree(tmp_path / "outputs" / "toxicity" / "mle")
    assert evaluate.main([str(run), "--force"]) == 2
    assert "which is not there or not finished, and nothing is trained here" in capsys.readouterr().err
