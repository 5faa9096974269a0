"""README and the pages in docs/ tell the truth about the code."""

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OFFLINE_RL = ("nll", "wbc", "r_gold", "r_lol", "a_lol", "a_lol_seq", "a_lol_ref_free", "a_lol_kl", "reward_threshold")
OWN_PREFERENCES = ("best_of_n", "online_dpo", "external_reward_dpo", "self_rewarding", "spin")
POLICY_GRADIENTS = ("ppo", "rloo", "grpo", "reinforce")
METHODS = ("mle", "filtering", "conditional", "unlikelihood", "awr", "rwr", "dpo", "simpo", "orpo", "kto", "pro",
           "reward_model", *OFFLINE_RL, *OWN_PREFERENCES, *POLICY_GRADIENTS)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "LOG.md", *sorted(ROOT.glob("docs/**/*.md"))]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8"))
    dead = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not dead


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_name_what_exists(page):
    text = page.read_text(encoding="utf-8")
    scripts = set(re.findall(r"python ((?:scripts/|benchmarks/)?\w+\.py)", text))
    assert not [script for script in scripts if not (ROOT / script).exists()]
    assert set(re.findall(r"^    make ([a-z-]+)", text, re.MULTILINE)) <= TARGETS
    assert set(re.findall(r"`make ([a-z-]+)`", text)) <= TARGETS
    named = re.findall(r"`((?:apo|tests|docs|scripts|configs)/[\w./-]+)`", text)
    if page.name != "adding-a-method.md":  # which names files that the reader is to make
        assert not [path for path in named if not (ROOT / path).exists()]


def train_commands() -> list[tuple[str, str]]:
    """(page, command) of every `python train.py` line with a task or an experiment, continued lines joined, comments
    cut."""
    found = []
    for page in pages():
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        commands = re.findall(r"^    (python train\.py .*--(?:task|experiment|pipeline) .*)$", text, re.MULTILINE)
        found += [(page.name, command.partition(" #")[0].strip()) for command in commands]
    return found


@pytest.mark.parametrize("page, command", train_commands())
def test_commands_compose(page, command):
    """Every command line of the pages is a valid config, whatever the pages promise of it."""
    if "plugins=" in command:
        pytest.skip("run whole by the test of the toy")
    if "mine.yaml" in command:
        pytest.skip("composed by the test of the page's file")
    from apo.cli import parse_arguments
    from apo.config import make_plan
    from apo.pipeline import make_pipelines
    request = parse_arguments(shlex.split(command)[2:])
    assert make_pipelines(request) if request.pipeline else make_plan(request).configs


def test_experiments_are_among_the_commands_checked():
    assert [command for _, command in train_commands() if "--experiment " in command]


def test_the_page_of_pipelines_lists_them_and_its_file_is_one(tmp_path, monkeypatch):
    from apo.cli import found, parse_arguments
    from apo.pipeline import make_pipelines
    text = (ROOT / "docs/pipelines.md").read_text(encoding="utf-8")
    assert table_keys(text, "What there is") == set(found("pipeline"))
    shown = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(shown)
    [command] = [command for page, command in train_commands() if page == "pipelines.md" and "mine.yaml" in command]
    made = make_pipelines(parse_arguments(shlex.split(command)[2:]))
    assert [pipeline.seed for pipeline in made] == [1, 2, 3]
    assert [stage.needs for stage in made[0].stages] == [
        {}, {"weights": "sft"}, {"weights": "sft", "scorer.model": "judge"}, {"weights": "policy"}]


def test_what_is_listed_is_what_the_pages_say():
    """--list, the nodes of the config, the sources and what may be overridden, in the words of the code."""
    from apo.cli import LISTED, MANY, NODES
    from apo.report.select import FOR_A_RUN, FOR_AN_ATTACK
    config, data = ((ROOT / f"docs/{page}.md").read_text(encoding="utf-8") for page in ("config", "data"))
    listed = [*LISTED.values(), *MANY.values()]
    assert re.search(r"train\.py --list +# (.*)", readme())[1] == ", ".join(listed)
    assert all(name in re.search(r"`--list` gives ([^;]*);", config)[1] for name in listed)
    assert re.search(r"The nodes are\s+`([a-z_ ]+)`", config)[1].split() == list(NODES)
    for part in ("Files", "How a config is composed"):
        assert "experiment" in config.split(f"\n## {part}\n")[1].split("\n## ")[0], part
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "apo/data/sources").glob("*.py"))
    sources = re.findall(r'^@sources\.register\("(\w+)"\)', code, re.MULTILINE)
    assert sources and not [name for name in sources if f"`data.source={name}" not in data]
    for script, taken in (("evaluate.py", FOR_A_RUN), ("scripts/red_team.py", FOR_AN_ATTACK)):
        about = (ROOT / script).read_text(encoding="utf-8").split('"""')[1]
        assert [node for node in NODES if f"{node}.*" in about] == [node for node in NODES if node in taken], script


def score_commands() -> list[str]:
    """Every `python scripts/score_dataset.py` line of the pages."""
    return [command.partition(" #")[0].strip() for page in pages() for command in
            re.findall(r"^ {4,}(python scripts/score_dataset\.py .*)$", page.read_text("utf-8"), re.MULTILINE)]


@pytest.mark.parametrize("command", dict.fromkeys(score_commands()))
def test_annotation_commands_are_understood(command):
    from apo.annotation.request import read
    assert read(shlex.split(command)[2:]).output


def test_the_shards_of_the_page_merge_to_the_whole(tmp_path, monkeypatch):
    """The commands of docs/annotation.md on source code, as they stand there."""
    from apo.annotation.annotate import run
    from apo.annotation.request import read
    (tmp_path / "src").mkdir()
    for number in range(5):
        (tmp_path / "src" / f"{number}.py").write_text(f"x={number}\ny = 2\n")
    monkeypatch.chdir(tmp_path)
    for command in [command for command in score_commands() if "input=src " in command or "merge=" in command]:
        run(read(shlex.split(command)[2:]))
    run(read(["task=pep8", "input=src", "output=one.parquet"]))
    assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()


def test_the_table_of_tasks_and_methods_is_what_there_is():
    from apo.config import load_config
    from apo.identity import view_of
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in readme().splitlines() if line[:1] == "|"]
    tasks = [match[1] for row in cells if (match := re.fullmatch(r"`(\w+)`", row[0]))]
    methods = {match[1]: row[1:] for row in cells if (match := re.match(r"\[(\w+)\]", row[0]))}
    assert set(tasks) == {path.stem for path in (ROOT / "configs/task").glob("*.yaml")}
    assert list(methods) == list(METHODS)
    assert set(methods) == {path.stem for path in (ROOT / "configs/method").glob("*.yaml")}
    views = {"scored_text": "scored text", "preference": "preferences", "ranking": "rankings", "label": "labels",
             "completion": "completions", "rollout": "its own samples"}
    for method, (what, view) in methods.items():
        said = (ROOT / f"configs/method/{method}.yaml").read_text().splitlines()[1]
        assert what == said.lstrip("# ").rstrip(".")
        assert view == views[view_of(load_config(["task=hh", f"method={method}", "scale=smoke"]))]


def test_the_scorer_of_the_readme_is_five_lines_and_works(tmp_path, monkeypatch):
    code = re.search(r"```python\n(# my_scorer.py\n.*?)```", readme(), re.DOTALL)[1]
    assert len(code.splitlines()) <= 5
    (tmp_path / "my_scorer.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    from apo.scorers.base import checked
    from apo.scorers.make import make_scorer
    scorer = make_scorer({"name": "my_scorer:score"})
    assert checked(scorer, ["good", "bad!"]) == [0.0, 0.25]


def test_the_picture_is_there():
    assert (ROOT / "docs/images/report.png").read_bytes()[:4] == b"\x89PNG"


def table_keys(text: str, heading: str) -> set[str]:
    """The words in backticks in the first column of the table under a heading."""
    section = text.split(f"## {heading}")[1].split("\n## ")[0]
    first = [line.strip("|").replace(r"\|", " ").split("|")[0] for line in section.splitlines() if line[:1] == "|"]
    return {word for cell in first for word in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize("method", ["unlikelihood", "awr", *POLICY_GRADIENTS])
def test_pages_list_the_options_of_the_class(method):
    from apo.objectives.base import objectives
    cls, text = objectives.get(method), (ROOT / f"docs/methods/{method}.md").read_text()
    assert table_keys(text, "Options") == {f"objective.{field.name}" for field in fields(cls)}
    for field in fields(cls):
        shown = re.search(rf"`objective.{field.name}` \| (\S+) \|", text)[1]
        assert shown == (field.default if isinstance(field.default, str) else json.dumps(field.default))


@pytest.mark.parametrize("method", ["unlikelihood", "awr"])
def test_pages_list_the_metrics_of_the_class(method):
    from apo.objectives.base import objectives
    cls, text = objectives.get(method), (ROOT / f"docs/methods/{method}.md").read_text()
    logged = set(re.findall(r'"(\w+)": running\.', inspect.getsource(inspect.getmodule(cls))))
    assert table_keys(text, "Logged") == logged


def options_of(method: str) -> set[str]:
    """Those of an objective that its page's tables name."""
    keys = table_keys((ROOT / f"docs/methods/{method}.md").read_text(), "Options")
    return {key for key in keys if key.startswith("objective.")}


@pytest.mark.parametrize("method", OFFLINE_RL)
def test_options_of_offline_rl_are_on_their_page_or_on_that_of_a_lol(method):
    from apo.objectives.base import objectives
    own = {f"objective.{field.name}" for field in fields(objectives.get(method))}
    assert options_of(method) <= own <= options_of(method) | options_of("a_lol")


def test_the_page_of_a_lol_has_the_defaults_presets_and_metrics_of_the_code():
    from apo.objectives import offline_rl
    text = (ROOT / "docs/methods/a_lol.md").read_text()
    for field in fields(offline_rl.ALoL):
        shown = re.search(rf"`objective.{field.name}` \| (\S+) \|", text)[1]
        assert shown == json.dumps(field.default), field.name
    presets = re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \|$", text.split("| option | `corrected` | `published` |")[1],
                         re.MULTILINE)
    shown = {name: (corrected, published) for name, corrected, published in presets}
    corrected, published = offline_rl.PRESETS["corrected"], offline_rl.PRESETS["published"]
    assert shown == {name: tuple(value if isinstance(value, str) else f"{value:g}" for value in
                                 (corrected[name], published[name])) for name in corrected}
    code = inspect.getsource(offline_rl)
    assert table_keys(text, "Logged") == set(re.findall(r'"([\w/]+)"(?:\]|:) =? ?running\.', code))
    numbers = re.findall(r"^(\d+)\. ", text.split("one by one:")[1], re.MULTILINE)
    assert numbers == [str(number) for number in range(1, 30)]


@pytest.mark.parametrize("method", OWN_PREFERENCES)
def test_pages_of_methods_on_own_pairs_list_the_options_of_the_class(method):
    from apo.objectives.base import objectives
    keys = table_keys((ROOT / f"docs/methods/{method}.md").read_text(), "Options")
    listed = {key.removeprefix("objective.") for key in keys if "=" not in key and "[" not in key}
    assert listed == {field.name for field in fields(objectives.get(method))}


def test_pages_of_methods_on_own_pairs_list_what_they_log():
    from apo.objectives import self_rewarding, spin
    from apo.objectives.pairs_from_round import RoundPairs
    logged = {method: table_keys((ROOT / f"docs/methods/{method}.md").read_text(), "Logged")
              for method in ("online_dpo", "self_rewarding", "spin")}
    assert logged["online_dpo"] - {"minimum_gap"} == set(RoundPairs().metrics())
    for method, module in (("self_rewarding", self_rewarding), ("spin", spin)):
        assert logged[method] == set(re.findall(r'"([a-z]+/\w+)": running', inspect.getsource(module)))


def test_the_pages_of_filtering_and_conditional_list_options_of_the_schema():
    from apo.schema import ConditionalConfig, Config
    text = "".join((ROOT / f"docs/methods/{method}.md").read_text() for method in ("filtering", "conditional"))
    options = re.findall(r"^\| `([\w.<>]+)`", text, re.MULTILINE)
    for option in options:
        node = Config()
        for key in option.split("."):
            node = {"scenarios": {"<name>": _scenario()}}.get(key) or (
                node[key] if isinstance(node, dict) else getattr(node, key))
    inner = {name.rsplit(".", 1)[1] for name in options if "conditional_training_config" in name}
    assert inner == {field.name for field in fields(ConditionalConfig)}


def _scenario():
    from apo.schema import ScenarioConfig
    return ScenarioConfig()


def test_every_method_has_a_page_with_the_same_parts():
    for method in METHODS:
        text = (ROOT / f"docs/methods/{method}.md").read_text()
        assert re.findall(r"^## (.*)", text, re.MULTILINE) == ["Options", "Logged", "Paper, release, ours"], method
        assert "**Source.**" in text and f"--method {method}" in text


# ------------------------------------------------------------------------------------------- the toy of adding-a-method

def toy_package(folder: Path) -> Path:
    """The files that docs/adding-a-method.md shows, written where it says; the last block is __init__.py."""
    text = (ROOT / "docs/adding-a-method.md").read_text(encoding="utf-8")
    shown = re.findall(r"^## \d\. .*?`([\w/.]+)`\n.*?```\w+\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    blocks = dict(shown)
    init = re.findall(r"```python\n(from bonus import objective.*?)```", text, re.DOTALL)[0]
    for name, content in {**blocks, "bonus/__init__.py": init}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def test_the_toy_of_the_page_passes_its_own_tests(tmp_path):
    folder = toy_package(tmp_path)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"], cwd=folder,
                          capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": f"{folder}:{os.environ['PYTHONPATH']}"})
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_toy_of_the_page_is_listed_and_trains(tmp_path):
    folder = toy_package(tmp_path)
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{os.environ['PYTHONPATH']}"}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "train.py", *arguments], cwd=ROOT, capture_output=True, text=True,
                              env=environment, timeout=300)

    listed = run("--list", "plugins=[bonus]")
    assert "clean_bonus" in listed.stdout, listed.stdout + listed.stderr
    done = run("--task", "pep8", "--method", "clean_bonus", "--scale", "smoke", "plugins=[bonus]",
               "training.num_tokens=null", "training.max_steps=2", f"output_dir={tmp_path / 'outputs'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "outputs/pep8/clean_bonus").glob("*/final/config.json"))
