"""chat.py: what a line means, and which sampling is used."""

import io
from argparse import Namespace

import pytest

from apo.errors import EvaluationError
from apo.schema import EvaluationConfig, GenerationConfig, ScenarioConfig


@pytest.fixture(scope="module")
def chat(load_script):
    return load_script("chat")


def options(**changes):
    return Namespace(**{"scenario": None, "greedy": False, "max_new_tokens": None, "temperature": None, "prefix": None,
                        **changes})


@pytest.mark.parametrize("text, prompts", [
    ("def f():\n", ["def f():"]), ("a\n\nb", ["a", "", "b"]), ("a\\", ["a"]), ("", []),
    ("def f():\\\n    x = 1\\\n\n", ["def f():\n    x = 1\n"])])
def test_a_line_is_a_prompt_and_a_backslash_goes_on(chat, text, prompts):
    assert list(chat.typed_prompts(chat.reader(io.StringIO(text)))) == prompts


def test_the_runs_own_prompted_scenario_is_used(chat):
    scenarios = {"unconditional": ScenarioConfig(),
                 "functions": ScenarioConfig(prompts="functions", prefix="<|a|>", score_prompt=True,
                                             generation=GenerationConfig(temperature=0.7, top_p=0.9))}
    found = chat.sampling(EvaluationConfig(scenarios=scenarios), options(max_new_tokens=5))
    assert (found.prefix, found.generation.temperature, found.generation.top_p) == ("<|a|>", 0.7, 0.9)
    assert found.generation.max_new_tokens == 5 and not found.score_prompt
    assert scenarios["functions"].generation.max_new_tokens == 128, "the config itself is left alone"
    greedy = chat.sampling(EvaluationConfig(scenarios=scenarios), options(greedy=True, prefix=""))
    assert not greedy.generation.do_sample and greedy.prefix == ""


def test_a_model_without_scenarios_gets_the_defaults(chat):
    assert chat.sampling(EvaluationConfig(), options()) == ScenarioConfig()
    with pytest.raises(EvaluationError, match="this run has none"):
        chat.sampling(EvaluationConfig(), options(scenario="functions"))
