"""evaluate.py's command line: what it takes for what, what it refuses, and how fast."""

import json
import subprocess
import sys
import time

import pytest

import evaluate
from apo import report
from apo.errors import ConfigError, EvaluationError, RunError
from apo.report.runs import run_directories
from apo.report.select import FOR_A_RUN, refuse_others


def run_command(root, *words, **options):
    return subprocess.run([sys.executable, root / "evaluate.py", *words], capture_output=True, text=True, timeout=60,
                          **options)


def make_directory(path, **files):
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name.replace("__", ".")).write_text(content)
    return path


def test_help_is_quick_and_says_what_there_is(root):
    started = time.perf_counter()
    done = run_command(root, "--help")
    assert done.returncode == 0 and time.perf_counter() - started < 1
    assert "--baseline" in done.stdout and "--allow" in done.stdout


@pytest.mark.parametrize("words, message", [
    ([], "Name at least one run"),
    (["no/such/run"], "hub"),
    (["./nowhere"], '"./nowhere" is neither a run directory'),
    (["gpt2"], "say with --task"),
    (["--basline", "mle"], 'Did you mean "--baseline"'),
    (["--seed", "x"], "invalid int value")])
def test_mistakes_are_answered_with_a_line_and_exit_code_2(root, tmp_path, words, message):
    done = run_command(root, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_words_with_an_equals_sign_are_overrides_unless_they_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beta=1").mkdir()
    words = ["a/b", "beta=1", "evaluation.prefix=", "+evaluation.scenarios.x.prompts=null"]
    assert evaluate.split(words) == (words[:2], words[2:])


def test_folders_stand_for_the_runs_inside(tmp_path):
    for name in ("b-s1", "a-s1"):
        make_directory(tmp_path / "pep8" / "mle" / name, config__yaml="", manifest__json="{}")
    make_directory(tmp_path / "pep8" / "mle" / "a-s1" / "old-1", config__yaml="", manifest__json="{}")
    found = run_directories([str(tmp_path), str(tmp_path / "pep8/mle/a-s1/")])
    assert found == [("run", str(tmp_path / f"pep8/mle/{name}-s1")) for name in "ab"]


def test_final_stands_for_its_run(tmp_path):
    run = make_directory(tmp_path / "a-s1", config__yaml="", manifest__json="{}")
    make_directory(run / "final", config__json="{}")
    assert run_directories([str(run / "final"), str(run)]) == [("run", str(run))]


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match="holds no run"):
        run_directories([str(tmp_path)])


def test_how_a_run_was_trained_cannot_be_overridden():
    refuse_others(["evaluation.scenarios.functions.num_samples=8", "scorer.max_line_length=100", "offline=true"],
                  FOR_A_RUN)
    with pytest.raises(ConfigError) as caught:
        refuse_others(["training.learning_rate=1", "objective.beta=2", "evaluation.prefix="], FOR_A_RUN)
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError, match="--seed"):
        refuse_others(["seed=2"], FOR_A_RUN)


def test_an_unfinished_run_is_named_with_its_state(tmp_path):
    from apo.config import load_config, to_yaml
    run = make_directory(tmp_path / "a-s1", manifest__json="{}",
                         config__yaml=to_yaml(load_config(["task=pep8", "method=mle", "scale=smoke"])),
                         status__json=json.dumps({"state": "failed", "step": 3, "max_steps": 9, "message": "no room"}))
    with pytest.raises(RunError, match=r'"failed", step 3 of 9 \(no room\)'):
        report.compare([run])
