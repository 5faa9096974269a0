"""`python train.py` from argv to exit code, with a stand-in for the experiment: what is printed, run, reported."""

import os
import re
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from apo import cli, launch
from apo.cli import parse_arguments, quoted
from apo.config import load_config, parser, run_directory
from apo.errors import Interrupted, RunError

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ("--task", "pep8", "--scale", "smoke")


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    """A stand-in for apo.experiment that notes what it is asked for; `fails[(method, seed)]` is raised."""
    stand_in = types.ModuleType("apo.experiment")
    stand_in.trained, stand_in.shown, stand_in.rows, stand_in.fails = [], [], [], {}

    def train(config):
        stand_in.trained.append(config)
        if (config.method, config.seed) in stand_in.fails:
            raise stand_in.fails[config.method, config.seed]
        return f"{config.method} {config.seed}"
    stand_in.train, stand_in.dry_run, stand_in.summary = train, stand_in.shown.append, stand_in.rows.extend
    monkeypatch.setitem(sys.modules, "apo.experiment", stand_in)
    monkeypatch.setattr(launch, "set_environment", lambda offline: None)
    monkeypatch.chdir(tmp_path)
    return stand_in


def process(*words: str, code: str | None = None) -> subprocess.CompletedProcess:
    start = ["-c", code] if code else ["train.py"]
    return subprocess.run([sys.executable, *start, *words], cwd=ROOT, capture_output=True, text=True, timeout=120)


# ------------------------------------------------------------------------------------------------------------ grammar

@pytest.mark.parametrize("words, texts", [
    (["--task", "pep8", "--method=mle", "--seed", "1,2"], ["task=pep8", "method=mle", "seed=1,2"]),
    (["--override", "a.b=c", "d.e=f", "--override=g=h"], ["a.b=c", "d.e=f", "g=h"]),
    (["--output-dir", "a b", "--cache_dir=x,y", "--offline", "--force", "--debug"],
     ["output_dir='a b'", "cache_dir='x,y'", "offline=true", "force=true", "debug=true"]),
    (["--tags", "a, b"], ["tags=['a','b']"]),
    (["+a=1", "++b=2", "~c"], ["+a=1", "++b=2", "~c"]),
])
def test_flags_become_overrides(words, texts):
    request = parse_arguments(words)
    assert [argument.text for argument in request.arguments] == texts and not request.problems


def test_flags_of_ours_and_of_hydra():
    request = parse_arguments(["-m", "--cfg", "job", "--resolve", "-h", "--list", "--dry-run", "--info", "x=1",
                               "--sweep", "--plugins", "a,b", "plugins=[c]"])
    assert request.native == ["-m", "--cfg", "job", "--resolve", "--info"]
    assert request.modes == {"help", "list", "dry_run", "sweep"} and request.plugins == ["a", "b", "c"]
    assert request.multirun and request.only_shows and not request.problems


def test_an_unknown_flag_takes_its_value_with_it():
    assert parse_arguments(["--outptu-dir", "x", "task=pep8"]).problems == [
        'unknown flag "--outptu-dir". Did you mean "--output-dir"? (--help lists them; options are written key=value)']


@pytest.mark.parametrize("text", ["a", "it's", "back\\slash", "end\\", "q\\'x", "a,b", "<|aligned|>", "", "C:\\dir\\",
                                  "\\\\'", "[1", "x=y"])
def test_quoted_text_is_itself_again(text):
    assert parser().parse_override("k=" + quoted(text)).value() == text


# ------------------------------------------------------------------------------------------------------ real processes

def test_help_is_fast_and_loads_nothing():
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = process("--help")
        seconds.append(time.perf_counter() - started)
    assert done.returncode == 0 and min(seconds) < 1
    for name in ("pep8", "custom", "mle", "unlikelihood", "smoke", "paper", "--dry-run", "evaluation"):
        assert re.search(rf"^  {name}\b", done.stdout, re.M), name
    loaded = process(code="import sys; sys.argv = ['train.py', '--help']; from apo.launch import main; main();"
                          "print(set(sys.modules) & {'hydra', 'omegaconf', 'pydantic', 'yaml', 'torch', 'numpy'})")
    assert loaded.stdout.strip().endswith("set()"), loaded.stdout[-200:] + loaded.stderr


def test_list_is_for_machines():
    lines = process("--list").stdout.splitlines()
    assert all(re.fullmatch(r"(task|method|scale|pipeline|experiment|model)=[\w/]+\t\S.*", line) for line in lines)
    assert len(lines) == sum(len(cli.found(group)) for group in (*cli.LISTED, *cli.MANY))


def test_a_reader_that_has_had_enough_is_no_error():
    command = f"{sys.executable} train.py --list | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=cli.CONFIGS.parent, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


def test_a_pipe_that_breaks_elsewhere_is_one(monkeypatch, capfd):
    def broken(request):
        raise BrokenPipeError("of a worker")
    monkeypatch.setattr(launch, "answer", broken)
    with pytest.raises(BrokenPipeError, match="of a worker"):
        launch.main(["--list"])


def test_mistakes_are_fast_and_many_at_once(tmp_path):
    file = tmp_path / "m.yml"
    file.write_text("method: awr\nobjective: {bta: 0.1}\n")
    started = time.perf_counter()
    done = process("--task", "pep8", "--method", str(file), "training.learnig_rate=1", "+data.block_sise=1")
    assert time.perf_counter() - started < 3
    assert done.returncode == 2 and not done.stdout and "Traceback" not in done.stderr
    for word in ("3 problems", "training.learning_rate", "data.block_size", 'Did you mean "beta"?'):
        assert word in done.stderr
    assert "Traceback" in process("--task", "pep8", "--method", "mlee", "--debug").stderr


def test_checking_loads_nothing_heavy():
    done = process(code="import sys; from apo.config import load_config; load_config(['task=pep8', 'method=awr']);"
                        "print(set(sys.modules) & {'torch', 'transformers', 'datasets', 'wandb', 'pandas', 'scipy'})")
    assert done.stdout.strip() == "set()", done.stderr


def test_hydra_shows_the_config():
    done = process("task=pep8", "method=awr", "--cfg", "job", "--resolve", "objective.beta=0.25")
    assert done.returncode == 0 and "beta: 0.25" in done.stdout and "method: awr" in done.stdout


# -------------------------------------------------------------------------------------------------------------- running

def test_one_run(experiment, tmp_path):
    assert launch.main([*SMOKE, "--method", "awr", "objective.beta=0.3"]) == 0
    [config] = experiment.trained
    assert config == load_config(["task=pep8", "method=awr", "scale=smoke", "objective.beta=0.3"])
    assert not experiment.rows and not list(tmp_path.iterdir())


def test_a_multirun_goes_on_and_ends_in_a_summary(experiment, tmp_path, capsys):
    experiment.fails = {("mle", 2): RunError("disk is full"), ("awr", 1): ZeroDivisionError("a bug")}
    assert launch.main([*SMOKE, "--method=mle,awr", "--seed=1,2"]) == 2
    assert [(config.method, config.seed) for config in experiment.trained] == [
        ("mle", 1), ("mle", 2), ("awr", 1), ("awr", 2)]
    assert [str(result) for _, result in experiment.rows] == ["mle 1", "disk is full", "a bug", "awr 2"]
    assert all(error.__traceback__ is None for _, error in experiment.rows if isinstance(error, Exception))
    error = capsys.readouterr().err
    assert error.count("Traceback") == 1 and "disk is full\n" in error
    assert not list(tmp_path.iterdir())


def test_the_configs_hydra_composes_are_those_that_were_checked(experiment):
    words = ["--task=pep8", "--method=conditional,unlikelihood", "--scale=smoke", "scorer=pep8", "training.max_steps=2",
             "training.effective_batch_size=12", "data.concat_token=<|x|>", "~evaluation.scenarios.functions",
             "objective.alpha=.1,.3", "--sweep", "logger=[wandb]", "name=it's, [fine]", "data.path=['a b',c]"]
    assert launch.main(words) == 0
    assert [config for config, _ in experiment.rows] == experiment.trained and len(experiment.trained) == 3


def test_an_interrupted_run_ends_the_sweep(experiment):
    experiment.fails = {("mle", 1): Interrupted("stopped by SIGTERM", 15)}
    assert launch.main([*SMOKE, "--method=mle", "--seed=1,2"]) == 143
    assert len(experiment.trained) == 1
    assert [str(result) for _, result in experiment.rows] == [
        "stopped by SIGTERM", "not started: an earlier run was interrupted"]


@pytest.mark.parametrize("error, code", [(RunError("no"), 2), (Interrupted("no", 2), 130), (ValueError("no"), 1)])
def test_exit_codes(experiment, error, code, capsys):
    experiment.fails = {("mle", 1): error}
    assert launch.main([*SMOKE, "--method=mle"]) == code
    assert ("Traceback" in capsys.readouterr().err) == (code == 1)


def test_debug_shows_the_traceback_of_a_users_mistake(experiment, capsys):
    experiment.fails = {("mle", 1): RunError("no")}
    assert launch.main([*SMOKE, "--method=mle", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_dry_run_shows_every_job_and_runs_none(experiment):
    assert launch.main([*SMOKE, "--method=mle,awr", "--dry-run"]) == 0
    assert [config.method for config in experiment.shown] == ["mle", "awr"] and not experiment.trained


def test_what_ran_elsewhere_speaks_through_its_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "finished", {})
    config = load_config(["task=pep8", "method=mle", "scale=smoke"])
    assert "never started" in str(launch.result_of(config))
    run_directory(config).mkdir(parents=True)
    status = run_directory(config) / "status.json"
    status.write_text('{"state": "failed", "message": "disk is full"}')
    assert str(launch.result_of(config)) == "failed: disk is full"
    status.write_text('{"state": "done"}')
    assert launch.result_of(config) is None


def test_a_launcher_in_other_processes(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="hydra-joblib-launcher is not installed")
    stub = tmp_path / "apo_stub.py"
    stub.write_text("import sys, types\nstub = types.ModuleType('apo.experiment')\n"
                    "stub.train = lambda config: None\nstub.summary = lambda rows: print(len(rows), 'rows')\n"
                    "sys.modules['apo.experiment'] = stub\n")
    done = subprocess.run([sys.executable, "-c", "import apo_stub; from apo.launch import main; main()", *SMOKE,
                           "--method=mle", "--seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert "2 rows" in done.stdout, done.stderr


def test_environment_is_quiet_and_offline_when_asked(monkeypatch):
    for name in (*launch.QUIET, *launch.OFFLINE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    launch.set_environment(offline=False)
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1" and "HF_HUB_OFFLINE" not in os.environ
    assert os.environ["DO_NOT_TRACK"] == "0", "a user's own word stands"
    launch.set_environment(offline=True)
    assert [os.environ[name] for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")] == ["1"] * 3
    for name in (*launch.QUIET, *launch.OFFLINE):
        monkeypatch.delenv(name, raising=False)
