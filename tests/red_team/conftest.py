"""Run directories of tiny models, small numbers."""

from copy import deepcopy
from pathlib import Path

import pytest

from apo.red_team.settings import Settings

SMALL = {"rounds": 3, "trials": 2, "responses": 4, "continuations": 3, "max_new_tokens": 6}


@pytest.fixture
def settings():
    """`settings(trials=1)`: small numbers."""
    return lambda **changes: Settings(**{**SMALL, **changes})


@pytest.fixture
def tiny_run(tmp_path, tiny_llama, byte_tokenizer, monkeypatch):
    """`tiny_run("mle", seed=0)`: a run directory with a tiny model, judged by the share of the letter e."""
    from apo.config import load_config
    from apo.data.tokenizer import add_control_tokens
    from apo.identity import to_yaml
    (tmp_path / "letter_e.py").write_text("def score(text):\n    return text.count('e') / max(len(text), 1)\n"
                                          "def cheer(text):\n    return float(len(text))\n")
    monkeypatch.syspath_prepend(tmp_path)

    def build(method: str = "mle", seed: int = 0, scorer: str = "letter_e:score", *overrides: str) -> Path:
        config = load_config(["task=pep8", f"method={method}", "scale=smoke", f"scorer={scorer}", *overrides])
        directory = tmp_path / "runs" / method / f"{seed}-s1"
        tokenizer = deepcopy(byte_tokenizer)
        add_control_tokens(tokenizer, ["<|aligned|>", "<|misaligned|>"])
        tiny_llama(seed).save_pretrained(directory / "final")
        tokenizer.save_pretrained(directory / "final")
        (directory / "config.yaml").write_text(to_yaml(config))
        (directory / "manifest.json").write_text("{}")
        return directory
    return build


@pytest.fixture
def target(tiny_run, settings):
    """`target(settings(), method="mle")` -> Target."""
    from apo.config import config_from_file
    from apo.red_team import chosen_scenario
    from apo.red_team.attack import Target
    from apo.report.runs import open_run

    def build(numbers: Settings | None = None, score_prompt: bool = False, **options) -> Target:
        run = open_run(tiny_run(**options), config_from_file)
        scenario = chosen_scenario(run, None, "prompts.jsonl")
        scenario.score_prompt = score_prompt
        return Target(run, run.method, scenario, numbers or settings())
    return build
