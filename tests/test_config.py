"""The config: what composes, what it composes to, what is refused and how, and what names a run.

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
from apo.config import config_from_file, config_hash, load_config, make_plan, override, run_directory, to_dict, to_yaml
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


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides)
    return caught.value.problems


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
        config = load_config([f"task={task}", f"method={method}", f"scale={scale}", *needed(task)])
        tree[method] = {"hash": config_hash(config)} | changes(config)
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
    }
    stray = {group: set(cli.found(group)) - allowed for group, allowed in names.items()}
    assert not any(stray.values()), stray
    folders = {folder.name for folder in cli.CONFIGS.iterdir() if folder.is_dir()}
    assert folders == {*names, "task", "method", "scale", "model", "pep8"}


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


# --------------------------------------------------------------------------------------------------- what is refused

@pytest.mark.parametrize("spelling", ["training.learnig_rate=1", "+training.learnig_rate=1",
                                      "++training.learnig_rate=1"])
def test_a_misspelt_key_is_refused_in_every_spelling(spelling):
    [problem] = problems(*PEP8, spelling)
    assert 'Did you mean "training.learning_rate"?' in problem and "command line" in problem


def test_a_misspelt_key_in_a_file_names_the_file(tmp_path):
    file = tmp_path / "mine.yml"
    file.write_text("task: pep8\ntraining: {learnig_rate: 1.0e-3}\ndata: {block_size: big}\n")
    first, second = problems(f"task={file}", "method=mle")
    assert f'({file})' in first and 'Did you mean "training.learning_rate"?' in first
    assert f"data.block_size: expected a whole number, got 'big' ({file})" == second


def test_a_misspelt_key_of_a_group_names_its_file(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, "typo_plugin", {"task/typo_task.yaml": "# @package _global_\ndata: {sorce: stdlib}"})
    [problem] = problems("plugins=[typo_plugin]", "task=typo_task", "method=mle", "data.path=x")
    assert 'data.sorce: no such option. Did you mean "data.source"?' in problem and "typo_task.yaml" in problem


@pytest.mark.parametrize("given, said", [
    ("training.learning_rate=abc", "training.learning_rate: expected a number, got 'abc' (command line)"),
    ("training.learning_rate=true", "training.learning_rate: expected a number, got true (command line)"),
    ("training.learning_rate=nan", "training.learning_rate: expected a number, got nan (command line)"),
    ("training.learning_rate=0", "training.learning_rate: must be above 0, got 0 (command line)"),
    ("training.max_steps=1.5", "training.max_steps: expected a whole number or null, got 1.5 (command line)"),
    ("training.precision=fp8", "expected auto or fp32 or bf16 or fp16, got 'fp8'"),
    ("training.lr_scheduler_type=cosin", 'no schedule "cosin". Did you mean "cosine"?'),
    ("training.num_train_epochs=1 training.max_steps=5", "exactly one of num_tokens, max_steps, num_train_epochs"),
    ("training.num_tokens=null", "exactly one of num_tokens, max_steps, num_train_epochs sets the budget; none is set"),
    ("training.per_device_train_batch_size=3", "must divide training.effective_batch_size=16, got 3; 2 and 4 do"),
    ("training.tokens_already_seen=2e6", "must be less than training.num_tokens=1.5e+06"),
    ("training=5", "training: expected a mapping with effective_batch_size"),
    ("data.filter_threshold.percentile=101", "a percentile must be at least 0 and at most 100"),
    ("data.filter_threshold={}", "expected a number, {percentile: a number} or null, got {}"),
    ("data.eval_fraction=1", "must be at least 0 and below 1, got 1"),
    ("data.source=stdlb", 'no source "stdlb". Did you mean "stdlib"?'),
    ("data.source=file", "data.path: missing: your own text, data.path=mine.jsonl"),
    ("data.segment_by=sentence", "expected document or line, got 'sentence'"),
    ("model=hub", "model.name: missing: a name on the hub"),
    ("model=hubb", 'unknown model "hubb" (command line). Did you mean "hub"?'),
    ("model.from_scratch=true", "needs model.name"),
    ("model.vocab_size=100", "must be at least 257, got 100"),
    ("objective.name=awrr", 'unknown objective "awrr". Did you mean "awr"?'),
    ("objective.alpha=1", 'no option of objective "mle", which has none.'),
    ("scorer.max_line_lenght=1", 'Did you mean "max_line_length"?'),
    ("scorer=pep9", 'unknown scorer "pep9". Did you mean "pep8"?'),
    ("evaluation.metrics.lenght={}", 'unknown metric "lenght". Did you mean "length"?'),
    ("evaluation.metrics.self_bleu.m=4", 'no option of metric "self_bleu", which has n, references'),
    ("evaluation.scenarios.functions.num_sample=4", "evaluation.scenarios.functions.num_samples"),
    ("evaluation.scenarios.functions.num_samples=0", "must be at least 1, got 0"),
    ("evaluation.scenarios.functions.generation.top_p=1.5", "must be above 0 and at most 1, got 1.5"),
    ("evaluation.scenarios.functions.generation.min_new_tokens=999", "must be at most max_new_tokens=128, got 999"),
    ("evaluation.best=function", 'no scenario "function". Did you mean "functions"?'),
    ("evaluation.prefix=<|aligned|>", "data.conditional_training_config.threshold: missing"),
    ("logger=wandbb", 'unknown logger "wandbb" (command line). Did you mean "wandb"?'),
    ("logger=wandb,tensorboard", "logger=[wandb,tensorboard]"),
    ("tags=[1", "is neither a list, a mapping nor a quoted text"),
    ("seed=-1", "seed: must be at least 0"),
    ("seed=", "an empty sweep"),
    ("seed=range(3,3)", "an empty sweep"),
    ("method=glob(x*)", "an empty sweep"),
    ("seed=1,2", "make 2 configs, not one"),
    ("training.learning_rate=1e-3,1e-4", "add --sweep"),
    ("block_size=4", 'Did you mean "data.block_size"?'),
    ("sizes.num_samples=4", "evaluation.scenarios.NAME"),
    ("training.fp16=true", "here it is training.precision=fp16"),
    ("training.push_to_hub=true", "not needed here, leave it out"),
    ("~evaluation.scenarios.functios", 'nothing of that name to delete. Did you mean "functions"?'),
    ("data.path=${nothing.here}", "nothing.here"),
    ("foo", '"foo": options are written key=value'),
    ("--resume", 'unknown flag "--resume".'),
    ("--outputdir=x", 'Did you mean "--output-dir"?'),
    ("--task", "--task needs a value"),
    ("--plugins=no_such_package", 'plugins: there is no package "no_such_package"'),
])
def test_mistakes_are_told(given, said):
    assert any(said in problem for problem in problems(*PEP8, *given.split(" ")))


def test_all_mistakes_at_once():
    found = problems("task=pep8", "method=awr", "+training.learnig_rate=1", "objective.bta=2", "data.block_size=x",
                     "--frce", "scorer.select=3.5", "evaluation.best=nothing")
    assert len(found) == 6


def test_mistakes_are_told_where_the_task_is_wrong_too():
    found = problems("task=pepp8", "method=mle", "training.learnig_rate=1", "objective.beta=x", "data.block_size=x")
    assert len(found) == 3 and found[0].startswith('unknown task "pepp8" (command line). Did you mean "pep8"?')


def test_without_task_and_method_they_are_listed():
    first, second = problems()
    assert "custom" in first and "pep8" in first and "conditional" in second


def test_custom_with_nothing_else_says_what_it_needs():
    [problem] = problems("task=custom", "method=mle")
    assert "data.path" in problem and "scorer=" in problem


def test_conditional_training_needs_its_tokens():
    [problem] = problems("task=pep8", "method=conditional", "data.conditional_training_config.misaligned_prefix=''")
    assert "two different control tokens" in problem


def test_phf_nodes_are_named(tmp_path):
    file = tmp_path / "pretrain.yml"
    file.write_text("""
dataset:
  datasets: [tomekkorbak/detoxify-pile-chunk3-0-50000]
  is_split_by_sentences: true
tokenizer: {path_or_name: gpt2}
model:
  from_scratch: true
  path_or_name: gpt2
  gpt2_config_kwargs: {reorder_and_upcast_attn: true, scale_attn_by: true}
generation:
  scenario_configs:
    - {name: unconditional, num_samples: 2048, generate_kwargs: {do_sample: true, max_length: 128}}
kl_gpt3_callback: {num_samples: 4096}
training:
  num_tokens: 3.3E+9
  effective_batch_size: 64
  fp16: true
  output_dir: training_output
""")
    text = "\n".join(problems(f"task={file}", "method=mle"))
    for theirs, ours in {"dataset": "data", "datasets": "data.path", "tokenizer": "model.tokenizer",
                         "generation": "evaluation.scenarios", "kl_gpt3_callback": "evaluation",
                         "model.path_or_name": "model.name", "training.fp16": "training.precision=fp16",
                         "training.output_dir": "output_dir"}.items():
        assert re.search(rf"\b{re.escape(theirs)}: .*{re.escape(ours)}", text), theirs
    assert "num_tokens" not in text and "effective_batch_size" not in text


@pytest.mark.parametrize("text, said", [
    ("a: [1", "line 2: not YAML"), ("a: 1\na: 2\n", "duplicate"), ("- 1\n", "expected options"),
    ("defaults: [x]\n", "task:, method: and scale:"),
])
def test_files_that_are_no_configs(tmp_path, text, said):
    file = tmp_path / "mine.yml"
    file.write_text(text + "\n")
    assert any(said in problem and str(file) in problem for problem in problems(f"task={file}", "method=mle"))


def test_a_file_that_is_not_there_and_files_in_a_sweep():
    assert problems("task=nowhere/mine.yml", "method=mle")[0] == "nowhere/mine.yml: there is no such file"
    assert "one by one" in problems("task=a.yml,b.yml", "method=mle")[0]


def test_a_method_file_says_what_it_builds_on(tmp_path):
    file = tmp_path / "m.yml"
    file.write_text("objective: {alpha: 0.1}\n")
    assert "add a line `method: NAME`" in problems("task=pep8", f"method={file}")[0]


# ---------------------------------------------------------------------------------------------------- what is accepted

@pytest.mark.parametrize("given, path, value", [
    ("training.num_tokens=3.3E+9", "training.num_tokens", 3.3e9),
    ("training.num_tokens=1e4", "training.num_tokens", 1e4),
    ("training.max_steps=1e4", "training.max_steps", 10_000),
    ("training.max_steps=7", "training.num_tokens", None),
    ("training.num_train_epochs=2", "training.num_tokens", None),
    ("training.effective_batch_size=8", "training.per_device_train_batch_size", 8),
    ("training.effective_batch_size=24", "training.per_device_train_batch_size", 12),
    ("training.per_device_train_batch_size=64", "training.per_device_train_batch_size", 16),
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


def test_phf_own_line():
    folder = cli.CONFIGS / "pep8"
    names = {"mle": "mle", "filtering": "filtering", "conditional": "conditional", "ul": "unlikelihood", "awr": "awr",
             "rwr": "rwr"}
    for file, method in names.items():
        config = load_config(["--task", f"{folder}/pretrain.yml", "--method", f"{folder}/{file}.yml", "--override",
                              "training.per_device_train_batch_size=8", "training.effective_batch_size=32"])
        same = load_config(["task=pep8", f"method={method}", "training.effective_batch_size=32",
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


# -------------------------------------------------------------------------------------------------------- names of runs

def test_the_hash_does_not_depend_on_order_spelling_or_what_is_outside():
    base = [*PEP8, "method=awr"]
    hashes = {config_hash(load_config(words)) for words in (
        [*base, "objective.beta=0.3", "data.block_size=64"],
        ["data.block_size=64", "objective.beta=0.30", *base],
        [*base, "++objective.beta=3e-1", "+data.block_size=64.0"],
        [*base, "objective.beta=0.3", "data.block_size=64", "--offline", "--force", "name=x", "logger=wandb",
         "output_dir=elsewhere", "training.per_device_train_batch_size=4", "evaluation.batch_size=3", "seed=7"],
        [*base, "objective.beta=0.3", "data.block_size=64", "objective.is_detached=false", "training.adam_beta1=0.9"],
    )}
    assert len(hashes) == 1 and re.fullmatch("[0-9a-f]{8}", hashes.pop())


@pytest.mark.parametrize("change", ["objective.beta=0.4", "training.adam_beta1=0.8", "scorer.max_line_length=80",
                                    "evaluation.scenarios.other={}", "evaluation.metrics.length=null",
                                    "evaluation.metrics.distinct_n.ns=[1]", "model.config.num_hidden_layers=3"])
def test_the_hash_depends_on_what_makes_another_run(change):
    base = ["task=pep8", "method=awr"]
    assert config_hash(load_config(base)) != config_hash(load_config([*base, change]))


def test_a_new_option_with_a_default_renames_nothing(monkeypatch):
    from apo.objectives.weighted_regression import AWR
    config = load_config(["task=pep8", "method=awr"])
    before = config_hash(config)

    @dataclasses.dataclass
    class Newer(AWR):
        new_option: float = 3.0
    monkeypatch.setattr("apo.identity.option_class", lambda node, name: Newer if node == "objective" else
                        __import__("apo.scorers.base", fromlist=["x"]).scorer_class(name) if node == "scorer" else
                        __import__("apo.metrics.base", fromlist=["x"]).metrics.get(name))
    config.objective["new_option"] = 3.0
    assert config_hash(config) == before
    config.objective["new_option"] = 2.0
    assert config_hash(config) != before


def test_run_directory():
    config = load_config([*PEP8, "seed=5", "output_dir=somewhere"])
    assert str(run_directory(config)) == f"somewhere/pep8/mle/{config_hash(config)}-s5"


@pytest.mark.parametrize("words", [["task=pep8", "method=conditional"], ["task=pep8", "method=awr", "scale=paper"],
                                   [*PEP8, "name=1e-4", "group='yes'", "tags=[null_, '1']",
                                    "evaluation.scenarios.x.generation.stop_strings=['\\${', 'a\\nb']"]])
def test_a_config_survives_its_file(tmp_path, words):
    config = load_config(words)
    (tmp_path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    again = config_from_file(tmp_path / "config.yaml")
    assert again == config and config_hash(again) == config_hash(config)
    assert override(again, []) == config


def test_override_checks_like_the_command_line():
    config = load_config(PEP8)
    changed = override(config, ["+evaluation.scenarios.functions.num_samples=512",
                                "~evaluation.scenarios.unconditional", "evaluation.best=functions"])
    assert changed.evaluation.scenarios["functions"].num_samples == 512 and len(changed.evaluation.scenarios) == 1
    with pytest.raises(ConfigError) as caught:
        override(config, ["evaluation.scenarios.functions.num_sampels=1", "seed=1,2", "evaluation.batch_size=x"])
    assert len(caught.value.problems) >= 1
    with pytest.raises(ConfigError, match="Did you mean"):
        override(config, ["evaluation.batch_siz=x"])


def test_a_damaged_config_file(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(load_config(PEP8)).replace("block_size: 256", "block_size: wide"))
    with pytest.raises(ConfigError, match="data.block_size: expected a whole number, got 'wide' .*config.yaml"):
        config_from_file(tmp_path / "config.yaml")


# ------------------------------------------------------------------------------------------------------------ plug-ins

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
    import sys
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


# --------------------------------------------------------------------------------------------------------------- types

@pytest.mark.parametrize("hint, value, made", [(int, 3.0, 3), (int, 3.5, 3.5), (str, 3, "3"), (float, True, True),
                                               (str | list[str] | None, [1, "a"], ["1", "a"]), (int | float, 3.0, 3.0)])
def test_relaxed(hint, value, made):
    assert relaxed(hint, value) == made and type(relaxed(hint, value)) is type(made)


def test_described():
    assert described(str | list[str] | None) == "text, a list [text, ...] or null"
