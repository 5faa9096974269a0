"""Any method on any task, at smoke scale, in one process.

Every pair is trained by `make test-all`; by `make test` each method on one task, each task with one method, and a
seeded tenth of the rest.
"""

import json
import random
from itertools import product

import pytest

from apo import cli, experiment
from apo.config import load_config
from apo.identity import option_class

METHODS = list(cli.found("method"))
TASKS = [task for task in cli.found("task") if task != "custom"]    # whose data the user brings


def always() -> set[tuple[str, str]]:
    rng = random.Random(4)
    pairs = list(product(TASKS, METHODS))
    chosen = {(rng.choice(TASKS), method) for method in METHODS} | {(task, rng.choice(METHODS)) for task in TASKS}
    rest = [pair for pair in pairs if pair not in chosen]
    return chosen | set(rng.sample(rest, len(rest) // 10))


ALWAYS = always()
PAIRS = [pytest.param(*pair, marks=() if pair in ALWAYS else pytest.mark.slow, id="-".join(pair))
         for pair in product(TASKS, METHODS)]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matrix")
    return [f"output_dir={folder / 'outputs'}", f"cache_dir={folder / 'cache'}", "evaluation.num_bootstrap=10"]


@pytest.mark.parametrize("task, method", PAIRS)
def test_any_method_on_any_task(places, task, method):
    config = load_config([f"task={task}", f"method={method}", "scale=smoke", *places])
    outcome = experiment.train(config)
    rows = [json.loads(line) for line in (outcome.path / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert outcome.state == "done" and len(losses) > 2 and all(loss is not None for loss in losses)
    manifest = json.loads((outcome.path / "manifest.json").read_text())
    assert manifest["sizes"]["steps"] == config.training.max_steps and manifest["sizes"]["tokens_per_step"] > 0
    if option_class("objective", config.objective["name"]).writes_text:
        kind = option_class("scorer", config.scorer["name"]).kind
        assert any(f"generation/{config.evaluation.best}/{kind}" in row for row in rows[-3:])
