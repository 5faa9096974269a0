"""Every released setting of PHF: its steps, as tokens and batch give them, and what makes it the released one."""

import pytest

from apo import cli
from apo.budget import training_steps
from apo.config import load_config

METHODS = ("mle", "filtering", "conditional", "unlikelihood", "awr", "rwr")
PRETRAINING = {"toxicity": (50_354, 50_354, 50_354, 50_354, 3_147, 3_147), "pii": (50_354,) * 6,
               "pep8": (50_354, 50_354, 50_354, 50_354, 12_588, 50_354)}
FINETUNING = {"toxicity": (25_000, 25_000, 25_000, 25_000, 3_125, 3_125),
              "pii": (12_588, 12_588, 12_588, 12_588, 3_147, 3_147)}
"""Steps column of the paper's settings."""
EXPERIMENTS = {f"phf_{task}_{method}{ending}": (task, method, steps)
               for ending, table in (("", PRETRAINING), ("_finetune", FINETUNING))
               for task, row in table.items() for method, steps in zip(METHODS, row)}


def test_there_is_an_experiment_for_every_setting():
    found = {name for name in cli.found("experiment") if name.startswith("phf_")}
    assert found == set(EXPERIMENTS) and len(EXPERIMENTS) == 30


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_steps_follow_from_tokens_and_batch(name):
    task, method, steps = EXPERIMENTS[name]
    config = load_config([f"experiment={name}"])
    assert (config.task, config.method, config.scale, config.as_released) == (task, method, "paper", True)
    assert training_steps(config, None) == steps
    assert config.data.block_size == 1024 and config.training.num_tokens == 3.3e9


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.endswith("_finetune")])
def test_fine_tuning_starts_half_way(name):
    config = load_config([f"experiment={name}"])
    task = config.task
    start = load_config([f"task={task}", "method=mle", f"model=phf/{task}/mle"]).model
    assert config.model.name == start.name and len(config.model.revision) == 40 and not config.model.from_scratch
    half = {"toxicity": 25_354, "pii": 25_177}[task] * 64 * 1024
    assert config.training.tokens_already_seen == half


@pytest.mark.parametrize("task, method, path, released, described", [
    ("pep8", "unlikelihood", "as_released", True, False),
    ("pii", "unlikelihood", "as_released", True, False),
    ("pep8", "rwr", "use_value_head", True, False),
    ("pii", "rwr", "use_value_head", True, False),
    ("toxicity", "rwr", "use_value_head", True, False)])
def test_what_the_release_does_otherwise(task, method, path, released, described):
    assert load_config([f"experiment=phf_{task}_{method}"]).objective[path] is released
    assert load_config([f"task={task}", f"method={method}", "scale=paper"]).objective[path] is described


def test_released_scores_and_samples():
    assert load_config(["experiment=phf_pii_mle"]).scorer["as_released"]
    assert not load_config(["task=pii", "method=mle", "scale=paper"]).scorer["as_released"]
    toxicity = load_config(["experiment=phf_toxicity_mle"])
    assert (toxicity.scorer["variant"], toxicity.evaluation.scorer["variant"]) == ("original", "unbiased")
    samples = {name: load_config([f"experiment=phf_pep8_{name}"]).evaluation.scenarios["functions"].num_samples
               for name in ("mle", "conditional")}
    assert samples == {"mle": 4096, "conditional": 43_520}
