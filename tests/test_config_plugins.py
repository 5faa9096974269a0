"""Packages named by `plugins`: their classes are found, their configs join ours, and only the user can name them."""

import sys

import pytest

from apo import cli
from apo.config import load_config
from apo.errors import ConfigError

PEP8 = ("task=pep8", "method=mle")


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides)
    return caught.value.problems


OBJECTIVE = '''
from dataclasses import dataclass
from apo.objectives.base import Objective, objectives

@objectives.register("{name}")
@dataclass
class Toy(Objective):
    strength: float = 1.0

    def __post_init__(self):
        if self.strength < 0:
            raise ValueError("strength must not be negative")
'''


def package(tmp_path, monkeypatch, name: str, configs: dict[str, str], code: str = "") -> None:
    """A package in the working directory, as a user's own is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(code)
    for file, text in configs.items():
        (tmp_path / name / "configs" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "configs" / file).write_text(text + "\n")


def test_a_plugin_brings_a_method_and_a_task(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, "toys_a", {
        "method/toy_a.yaml": "# @package _global_\n# A toy method.\nobjective: {name: toy_a, strength: 2}",
        "task/toy_task.yaml": "# @package _global_\n# A toy task.\ndata: {source: stdlib}\nscorer: {name: pep8}",
        "task_method/toy_task_toy_a.yaml": "# @package _global_\n# Together.\nobjective: {strength: 3}",
    }, OBJECTIVE.format(name="toy_a"))
    config = load_config(["--plugins", "toys_a", "task=toy_task", "method=toy-a"])
    assert config.objective == {"name": "toy_a", "strength": 3.0} and config.plugins == ["toys_a"]
    assert "toy_a  " in cli.help_text(["toys_a"]) and "A toy task." in cli.help_text(["toys_a"])
    assert "method=toy_a\tA toy method." in cli.list_lines(["toys_a"])
    assert "strength must not be negative" in problems("plugins=[toys_a]", "task=pep8", "method=toy_a",
                                                       "objective.strength=-1")[0]
    file = tmp_path / "mine.yml"
    file.write_text("plugins: [toys_a]\nmethod: toy_a\n")
    assert load_config(["task=pep8", f"method={file}"]).objective["name"] == "toy_a"


def test_plugins_are_not_taken_from_groups(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, "toys_b", {
        "task/sly.yaml": "# @package _global_\n# Sly.\nplugins: [this_would_run]\ndata: {source: stdlib}"})
    [problem] = problems("--plugins=toys_b", "task=sly", "method=mle")
    assert "this_would_run" in problem and "command line" in problem


def test_a_plugin_that_breaks_is_one_line(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, "toys_c", {}, "1 / 0")
    [problem] = problems("--plugins=toys_c", *PEP8)
    assert problem == 'plugins: importing "toys_c" failed: ZeroDivisionError: division by zero'


def test_a_misspelt_key_of_a_group_names_its_file(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, "typo_plugin", {"task/typo_task.yaml": "# @package _global_\ndata: {sorce: stdlib}"})
    [problem] = problems("plugins=[typo_plugin]", "task=typo_task", "method=mle", "data.path=x")
    assert 'data.sorce: no such option. Did you mean "data.source"?' in problem and "typo_task.yaml" in problem
