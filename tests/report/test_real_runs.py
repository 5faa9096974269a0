"""The commands on two real runs of a few steps: evaluate.py twice, and chat.py on both."""

import io
import json
import sys
from pathlib import Path

import pytest

import evaluate
from apo.report.runs import read_jsonl

OVERRIDES = ["task=pep8", "scale=smoke", "training.max_steps=2", "evaluation.num_bootstrap=200", "offline=true"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    from apo.config import load_config
    from apo.experiment import train
    out = tmp_path_factory.mktemp("outputs")
    return [train(load_config([*OVERRIDES, f"method={method}", f"output_dir={out}"])).path
            for method in ("mle", "conditional")]


def evaluated(runs, *words) -> int:
    return evaluate.main([*map(str, runs), *words])


def test_evaluate_writes_and_prints_everything_and_reuses_it(runs, capsys):
    control = 'conditional: evaluation.prefix="<|misaligned|>" evaluation.banned_tokens=["<|aligned|>"]'
    assert evaluated(runs, "--also", control) == 0
    first = capsys.readouterr()
    for words in ("- mle [95 %]", "conditional (prefix=<|misaligned|>)", "One seed", "bits per byte", "def "):
        assert words in first.out
    folder = runs[0].parent.parent
    assert (folder / "comparison.png").stat().st_size > 0
    assert "| conditional |" in (folder / "comparison.md").read_text()
    assert evaluated(runs, "--also", control) == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert second.err.count("nothing has changed") == 3


def test_both_methods_met_the_same_prompts_and_seed(runs):
    one, other = (read_jsonl(run / "samples/evaluation-functions.jsonl") for run in runs)
    assert [(each["prompt"], each["index"], each["seed"]) for each in one] == [
        (each["prompt"], each["index"], each["seed"]) for each in other]
    assert len(one) == 8 and not any("<|" in each["prompt"] + each["text"] for each in one + other)


def test_numbers_agree_with_the_samples(runs):
    kept = json.loads((runs[0] / "evaluation.json").read_text())
    for scenario, found in kept["scenarios"].items():
        scores = [each["score"] for each in read_jsonl(runs[0] / f"samples/evaluation-{scenario}.jsonl")]
        assert found["scores"] == scores
        assert found["metrics"]["score"] == pytest.approx(sum(scores) / len(scores))
    assert 0 < kept["heldout"]["bits_per_byte_clean"] < 20


def test_an_override_of_a_scenario_reaches_every_run(runs, capsys):
    assert evaluated(runs, "evaluation.scenarios.functions.num_samples=3", "--output", str(runs[0] / "x.png")) == 0
    assert "functions: 3 samples a run" in capsys.readouterr().out
    assert (runs[0] / "x.png").is_file()


def test_runs_of_different_budgets_are_refused_before_sampling(runs, tmp_path, capsys):
    text = (runs[1] / "config.yaml").read_text()
    other = tmp_path / "other-s1"
    (other / "final").mkdir(parents=True)
    (other / "final/config.json").write_text("{}")
    (other / "config.yaml").write_text(text.replace("max_steps: 2", "max_steps: 3"))
    (other / "manifest.json").write_text((runs[1] / "manifest.json").read_text())
    (other / "metrics.jsonl").write_text((runs[1] / "metrics.jsonl").read_text())
    assert evaluated([runs[0], other]) == 2
    assert "--allow training.max_steps" in capsys.readouterr().err
    assert not (other / "evaluation.json").exists()


def test_chat_answers_two_models_side_by_side(runs, load_script, monkeypatch, capsys):
    chat = load_script("chat")
    monkeypatch.setattr(sys, "stdin", io.StringIO("def f(x):\\\n\nimport os\n"))
    assert chat.main([*map(str, runs), "--greedy", "--max-new-tokens", "5"]) == 0
    out = capsys.readouterr().out
    assert out.count("mle, seed 1") == out.count("conditional, seed 1") == 2
    assert out.count("def f(x):") == out.count("import os") == 2
    assert out.count("[score") == 4


def test_rows_end_where_lines_of_json_do(tmp_path):
    """Samples hold whatever a model writes, U+2028 as it is among it."""
    file, rows = tmp_path / "samples.jsonl", [{"text": "one\u2028line"}, {"text": "an\x85other"}]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) + '{"text": "cut of', "utf-8")
    assert read_jsonl(file) == rows
    file.write_text("")
    assert read_jsonl(file) == []
