"""The config: what composes, what it composes to, what is accepted.  What is refused: test_config_mistakes.py.

The resolved configs are kept in tests/golden, one file per task and scale, as what differs from the defaults; after a
change that is meant, `APO_UPDATE_GOLDEN=1 pytest tests/test_config.py` writes them anew, and the diff is the review.
"""

import dataclasses
import importlib.util
import os
import re
from pathlib import Path

import pytest
import yaml

from apo import cli
from apo.check import NEEDLESS, RENAMED, all_paths, described, relaxed
from apo.config import config_hash, load_config, make_plan, run_directory, to_dict
from apo.errors import ConfigError
from apo.identity import changes, leaves
from apo.ranges import RANGES, SCHEDULERS
from apo.schema import NOT_IDENTITY, Config

GOLDEN = Path(__file__).parent / "golden"
UPDATE = bool(os.environ.get("APO_UPDATE_GOLDEN"))
TASKS, METHODS, SCALES = (list(cli.found(group)) for group in ("task", "method", "scale"))
PEP8 = ("task=pep8", "method=mle")


def needed(task: str) -> list[str]:
    return ["data.path=mine.jsonl"] if task == "custom" else []


def plan(*words: str):
    return make_plan(cli.parse_arguments(words))


def compare_with_golden(name: str, tree: dict) -> None:
    file = GOLDEN / f"{name}.yaml"
    if UPDATE:
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")
    assert yaml.safe_load(file.read_text(encoding="utf-8")) == tree


# -------------------------------------------------------------------------------------------- what there is, composed

@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("task", TASKS)
def test_every_method_composes_to_what_it_did(task, scale):
    tree = {}
    for method in METHODS:
        try:
            config = load_config([f"task={task}", f"method={method}", f"scale={scale}", *needed(task)])
            tree[method] = {"hash": config_hash(config)} | changes(config)
        except ConfigError as refused:
            tree[method] = {"refused": [said.partition(":")[0] for said in refused.problems]}
    compare_with_golden(f"{task}_{scale}", tree)


def test_public_options_are_frozen():
    """A new option, a renamed one or another default is a change of the public surface: look twice, then update."""
    compare_with_golden("defaults", dict(leaves(to_dict(Config()))))


def test_the_nodes_of_the_help_are_the_nodes_of_the_schema():
    nodes = [field.name for field in dataclasses.fields(Config) if isinstance(to_dict(Config())[field.name], dict)]
    assert sorted(cli.NODES) == sorted(nodes)


def test_every_overlay_belongs_to_names_that_exist():
    """Hydra takes a misnamed overlay for one that is not meant, and says nothing."""
    models = list(cli.found("model"))
    names = {
        "task_model": {f"{task}_{model}" for task in TASKS for model in models},
        "task_scale": {f"{task}_{scale}" for task in TASKS for scale in SCALES},
        "task_method": {f"{task}_{method}" for task in TASKS for method in METHODS},
        "task_method_scale": {f"{task}_{method}_{scale}" for task in TASKS for method in METHODS for scale in SCALES},
        "task_model_scale": {f"{task}_{model}_{scale}" for task in TASKS for model in models for scale in SCALES},
    }
    stray = {group: set(cli.found(group)) - allowed for group, allowed in names.items()}
    assert not any(stray.values()), stray
    folders = {folder.name for folder in cli.CONFIGS.iterdir() if folder.is_dir()}
    assert folders == {*names, "task", "method", "scale", "model", "experiment", "pipeline", "chat", "pep8", "toxicity",
                       "pii"}


@pytest.mark.parametrize("file", sorted(cli.CONFIGS.rglob("*.y*ml")), ids=lambda file: file.stem)
def test_every_file_says_what_it_is(file):
    line = cli.first_comment(file)
    assert line and line[-1] in ".:" or "python train.py" in line


@pytest.mark.parametrize("method, steps", [("mle", 50_354), ("filtering", 50_354), ("conditional", 50_354),
                                           ("unlikelihood", 50_354), ("awr", 12_588), ("rwr", 50_354)])
def test_paper_scale_gives_the_steps_of_the_paper(method, steps):
    training = load_config(["task=pep8", f"method={method}", "scale=paper"]).training
    assert training.num_tokens // (training.effective_batch_size * 1024) == steps


@pytest.mark.parametrize("method, path, value", [
    ("mle", "training.learning_rate", 8e-4),
    ("mle", "model.name", "codeparrot/codeparrot-small"),
    ("mle", "evaluation.scenarios.unconditional.num_samples", 4096),
    ("mle", "evaluation.scenarios.unconditional.generation.max_new_tokens", 640),
    ("mle", "evaluation.scenarios.functions.generation.max_new_tokens", 272),
    ("filtering", "data.filter_threshold", 2.361e-3),
    ("conditional", "data.conditional_training_config.threshold", 0.0),
    ("conditional", "data.conditional_training_config.drop_token_fraction", 0.1),
    ("conditional", "evaluation.banned_tokens", ["<|misaligned|>"]),
    ("unlikelihood", "objective.alpha", 0.01),
    ("awr", "objective.alpha", 0.05),
    ("awr", "objective.beta", 1.0),
    ("awr", "training.learning_rate", 1e-3),
    ("rwr", "objective.beta", 10.0),
    ("rwr", "objective.alpha", 1.0),
    ("rwr", "training.learning_rate", 1e-3),
])
def test_paper_scale_has_the_papers_values(method, path, value):
    config = load_config(["task=pep8", f"method={method}", "scale=paper"])
    assert dict(leaves(to_dict(config)))[path] == value


@pytest.mark.parametrize("method, values", [
    ("mle", {}),
    ("filtering", {"data.filter_threshold": 2.86e-4}),
    ("conditional", {"data.conditional_training_config.threshold": 0.0,
                     "data.conditional_training_config.drop_token_fraction": 0.01,
                     "evaluation.banned_tokens": ["<|aligned|>", "<|misaligned|>"]}),
    ("unlikelihood", {"objective.score_threshold": 0.0, "objective.alpha": 1.0, "objective.as_released": True}),
    ("awr", {"objective.alpha": 0.5, "objective.beta": 0.1, "objective.value_activation": "sigmoid"}),
    ("rwr", {"objective.alpha": 1.0, "objective.beta": 10.0}),
])
def test_pii_at_paper_scale_has_the_papers_steps_and_values(method, values):
    config = load_config(["task=pii", f"method={method}", "scale=paper", "as_released=true"])
    found, training = dict(leaves(to_dict(config))), config.training
    assert training.num_tokens // (training.effective_batch_size * config.data.block_size) == 50_354
    shards = [f"tomekkorbak/pii-pile-chunk3-{start}-{start + 50_000}" for start in range(0, 1_950_000, 50_000)]
    values = values | {
        "training.learning_rate": 5e-4, "training.effective_batch_size": 64, "training.weight_decay": 0.1,
        "training.warmup_ratio": 0.01, "model.name": "gpt2", "data.source": "hub", "data.path": shards,
        "scorer.detectors": "phf", "scorer.as_released": True,
        "evaluation.scenarios.unconditional.num_samples": 4096,
        "evaluation.scenarios.unconditional.hit_threshold": 0.0,
        **{f"evaluation.scenarios.unconditional.generation.{name}": value for name, value in {
            "temperature": 0.7, "top_p": 0.9, "top_k": 0, "min_new_tokens": 10, "max_new_tokens": 128}.items()}}
    assert {name: found[name] for name in values} == values
    assert list(config.evaluation.scenarios) == ["unconditional"]
    assert not {"memorisation", "planted"} & set(config.evaluation.metrics), "they need the training documents"


def test_a_model_chosen_by_hand_is_not_mixed_with_the_scales():
    model = load_config([*PEP8, "scale=paper", "model=llama_4m"]).model
    assert model.name is None and not model.from_scratch and "scale_attn_by" not in model.config


def test_ranges_and_hints_name_options_that_exist():
    import apo.schema
    for cls, name in RANGES:
        assert name in getattr(apo.schema, cls).__dataclass_fields__
    assert not NEEDLESS & set(RENAMED) and not (NEEDLESS | set(RENAMED)) & set(all_paths())
    for outside in NOT_IDENTITY:
        assert outside in all_paths()


def test_schedules_are_those_of_transformers():
    """Read in the source: importing it takes seconds."""
    [folder] = importlib.util.find_spec("transformers").submodule_search_locations
    source = (Path(folder) / "trainer_utils.py").read_text(encoding="utf-8")
    block = re.search(r"class SchedulerType\(.*?(?=^class )", source, re.S | re.M)[0]
    assert set(SCHEDULERS) <= set(re.findall(r'= "(\w+)"', block))


# ---------------------------------------------------------------------------------------------------- what is accepted

@pytest.mark.parametrize("given, path, value", [
    ("training.num_tokens=3.3E+9", "training.num_tokens", 3.3e9),
    ("training.num_tokens=1e4", "training.num_tokens", 1e4),
    ("training.max_steps=1e4", "training.max_steps", 10_000),
    ("training.max_steps=7", "training.num_tokens", None),
    ("training.num_train_epochs=2", "training.num_tokens", None),
    ("training.effective_batch_size=8", "training.per_device_train_batch_size", 8),
    ("training.effective_batch_size=24", "training.per_device_train_batch_size", 8),
    ("training.per_device_train_batch_size=64", "training.per_device_train_batch_size", 8),
    ("data.filter_threshold.percentile=50", "data.filter_threshold.percentile", 50),
    ("data.filter_threshold={percentile: 50}", "data.filter_threshold.percentile", 50),
    ("data.filter_threshold=0", "data.filter_threshold", 0.0),
    ("name=2024", "name", "2024"),
    ("evaluation.prefix=''", "evaluation.prefix", ""),
    ("data.concat_token=<|x|>", "data.concat_token", "<|x|>"),
    ("model.config.hidden_act=relu", "model.config.hidden_act", "relu"),
    ("model.config.rope_parameters.rope_theta=5e3", "model.config.rope_parameters.rope_theta", 5e3),
    ("logger=wandb", "logger.wandb", True),
    ("logger=[wandb,tensorboard]", "logger.tensorboard", True),
    ("logger=jsonl", "logger.wandb", False),
    ("scorer=pep8", "scorer.max_line_length", 79),
    ("scorer=Pep8", "scorer.name", "pep8"),
    ("evaluation.metrics.distinct_n.ns=[3]", "evaluation.metrics.distinct_n.ns", [3]),
    ("evaluation.scenarios.mine.num_samples=3", "evaluation.scenarios.mine.generation.temperature", 1.0),
    ("--offline", "offline", True),
    ("--tags=a,b", "tags", ["a", "b"]),
    ("--output-dir=/tmp/a,b=c d", "output_dir", "/tmp/a,b=c d"),
    ("--name=it's", "name", "it's"),
])
def test_values(given, path, value):
    assert dict(leaves(to_dict(load_config([*PEP8, given]))))[path] == value


@pytest.mark.parametrize("given", ["evaluation.scenarios.functions=null", "~evaluation.scenarios.functions"])
def test_a_scenario_is_switched_off(given):
    assert list(load_config([*PEP8, given]).evaluation.scenarios) == ["unconditional"]


def test_a_metric_is_switched_off():
    assert "self_bleu" not in load_config([*PEP8, "evaluation.metrics.self_bleu=null"]).evaluation.metrics


def test_hyphens_case_and_flags_are_one():
    one = load_config(["--task", "PEP8", "--method=conditional", "--scale", "smoke", "--seed", "3", "model=llama-100k"])
    assert one == load_config(["task=pep8", "method=conditional", "scale=smoke", "seed=3", "model=llama_100k"])


def test_later_words_win():
    assert load_config([*PEP8, "seed=1", "seed=2", "method=awr"]).seed == 2


def test_a_users_scorer_replaces_the_tasks_and_its_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_scores.py").write_text("def shout(text):\n    return 0.0\n")
    config = load_config(["scorer.max_line_length=100", "scorer=my_scores:shout", *PEP8])
    assert config.scorer["name"] == "my_scores:shout" and "max_line_length" not in config.scorer


def test_a_file_is_a_config_of_its_own_and_the_command_line_wins(tmp_path):
    task, method = tmp_path / "t.yml", tmp_path / "m.yaml"
    task.write_text("data: {path: mine.jsonl, block_size: 64}\nscorer: my_module:my_function\n"
                    "training: {learning_rate: 1e-4, max_steps: 3}\nlogger: [wandb]\nscale: smoke\nmodel: llama_4m\n")
    method.write_text("method: awr\nobjective: {beta: 3e-1}\ntraining: {learning_rate: 2e-4, warmup_steps: 5}\n")
    config = load_config(["--task", str(task), "--method", str(method), "training.warmup_steps=6"])
    assert (config.task, config.method, config.scale) == ("custom", "awr", "smoke")
    assert config.scorer["name"] == "my_module:my_function" and config.logger.wandb
    assert config.objective["beta"] == 0.3 and config.model.config["hidden_size"] == 256
    assert config.training.learning_rate == 2e-4 and config.training.warmup_steps == 6


@pytest.mark.parametrize("task", ["pep8", "pii"])
def test_phf_own_line(task):
    folder = cli.CONFIGS / task
    names = {"mle": "mle", "filtering": "filtering", "conditional": "conditional", "ul": "unlikelihood", "awr": "awr",
             "rwr": "rwr"}
    for file, method in names.items():
        config = load_config(["--task", f"{folder}/pretrain.yml", "--method", f"{folder}/{file}.yml", "--override",
                              "training.per_device_train_batch_size=8", "training.effective_batch_size=32"])
        same = load_config([f"task={task}", f"method={method}", "training.effective_batch_size=32",
                            "training.per_device_train_batch_size=8"])
        assert config == same and config.training.per_device_train_batch_size == 8


# ------------------------------------------------------------------------------------------------------------- sweeps

def test_commas_make_runs():
    configs = plan("--task=pep8", "--method=mle,awr", "--seed=1,2,3").configs
    assert [(config.method, config.seed) for config in configs] == [(m, s) for m in ("mle", "awr") for s in (1, 2, 3)]


@pytest.mark.parametrize("seeds", ["range(1,4)", "1,2,3", "choice(1,2,3)"])
def test_ways_to_write_seeds(seeds):
    assert [config.seed for config in plan(*PEP8, f"seed={seeds}").configs] == [1, 2, 3]


def test_glob():
    assert [config.method for config in plan("task=pep8", "method=glob(*wr)").configs] == ["awr", "rwr"]


def test_sweeping_other_options_is_asked_for():
    configs = plan(*PEP8, "training.learning_rate=1e-3,1e-4", "--sweep").configs
    assert [config.training.learning_rate for config in configs] == [1e-3, 1e-4]
    assert len(plan(*PEP8, "training.learning_rate=1e-3,1e-4", "-m").configs) == 2


def test_a_swept_option_that_a_method_lacks_runs_it_once():
    made = plan("task=pep8", "method=mle,unlikelihood,filtering", "objective.alpha=.1,.3", "--sweep", "seed=1,2")
    ran = [(config.method, config.objective.get("alpha"), config.seed) for config in made.configs]
    assert sorted(ran) == sorted([("mle", None, 1), ("mle", None, 2), ("filtering", None, 1), ("filtering", None, 2)]
                                 + [("unlikelihood", alpha, seed) for alpha in (0.1, 0.3) for seed in (1, 2)])
    assert len({str(run_directory(config)) for config in made.configs}) == len(made.configs) == 8
    assert made.notes == ["objective.alpha is no option of mle, filtering: run without it"]


def test_a_swept_option_that_every_method_lacks_is_a_mistake():
    with pytest.raises(ConfigError) as caught:
        plan("task=pep8", "method=mle,unlikelihood", "objective.alhpa=.1,.3", "--sweep")
    assert len(caught.value.problems) == 2


# --------------------------------------------------------------------------------------------------------------- types

@pytest.mark.parametrize("hint, value, made", [(int, 3.0, 3), (int, 3.5, 3.5), (str, 3, "3"), (float, True, True),
                                               (str | list[str] | None, [1, "a"], ["1", "a"]), (int | float, 3.0, 3.0)])
def test_relaxed(hint, value, made):
    assert relaxed(hint, value) == made and type(relaxed(hint, value)) is type(made)


def test_described():
    assert described(str | list[str] | None) == "text, a list [text, ...] or null"


def test_an_experiment_is_a_file_that_names_its_task_and_method(tmp_path):
    """In front of the command line, which wins over it."""
    file = tmp_path / "e.yaml"
    file.write_text("task: pep8\nmethod: awr\nscale: smoke\nas_released: true\nobjective: {beta: 0.3}\nseed: 4\n")
    config = load_config([f"experiment={file}", "seed=5"])
    assert (config.method, config.scale, config.objective["beta"], config.seed) == ("awr", "smoke", 0.3, 5)
    assert config.as_released
    same = load_config(["task=pep8", "method=awr", "scale=smoke", "objective.beta=0.3", "seed=5"])
    assert config_hash(config) == config_hash(same)
    with pytest.raises(ConfigError, match='unknown experiment "nothing"'):
        load_config(["experiment=nothing"])
    with pytest.raises(ConfigError, match="one at a time"):
        load_config(["experiment=a,b"])


def test_what_judges_samples_is_named_as_briefly_as_the_scorer():
    config = load_config([*PEP8, "evaluation.scorer=pep8", "evaluation.heldout_scorers.strict=pep8",
                          "evaluation.heldout_scorers.strict.max_line_length=60"])
    assert config.evaluation.scorer["name"] == "pep8"
    assert config.evaluation.heldout_scorers["strict"]["max_line_length"] == 60
    with pytest.raises(ConfigError, match=r'heldout_scorers.strict.name: unknown scorer "pep9".*"pep8"'):
        load_config([*PEP8, "evaluation.heldout_scorers.strict=pep9"])
