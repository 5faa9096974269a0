"""hh and stack_exchange at the papers' scale: names, numbers and steps as A-LoL and StackLLaMA had them, and what is
said where nothing can be fetched."""

import pytest

from apo import cli
from apo.budget import training_steps
from apo.config import load_config
from apo.data.sources.base import sources
from apo.dry_run import facts
from apo.errors import ConfigError, DataError, ScorerError
from apo.evaluation import as_trained, scorers_of
from apo.identity import leaves, to_dict, to_yaml
from apo.objectives.base import objectives
from apo.report.select import select
from apo.stages import start_config

ALOL = tuple(f"a_lol_hh_{name}" for name in ("nll", "wbc", "r_gold", "r_lol", "a_lol", "a_lol_seq", "a_lol_ref_free",
                                             "a_lol_kl", "dpo", "pro"))
TEST = "a_lol_hh_test"
FILES = ("harmless_base", "helpful_base", "helpful_online", "helpful_rejection")
STOPS = ["###", "\nHuman:", "\n Human:"]
STAGES = {"stackllama_sft": "filtering", "stackllama_reward_model": "reward_model", "stackllama2_sft": "filtering",
          "stackllama2_dpo": "dpo"}
LATER = ("stackllama_reward_model", "stackllama2_dpo")
"""Stages whose model an earlier one leaves, somewhere."""
SMALLER, LARGER = "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5", "OpenAssistant/oasst-rm-2-pythia-6.9b-epoch-1"


def experiment(name: str):
    return load_config([f"experiment={name}", *(["model.name=merged"] if name in LATER else [])])


def values(config) -> dict:
    return dict(leaves(to_dict(config)))


def test_every_experiment_is_named_here():
    assert {name for name in cli.found("experiment") if not name.startswith("phf_")} == {*ALOL, TEST, *STAGES}


@pytest.mark.parametrize("name", ALOL)
def test_alol(name):
    config, method = experiment(name), name.removeprefix("a_lol_hh_")
    assert (config.task, config.method, config.objective["name"]) == ("hh", method, method)
    assert values(config) | {
        "data.path": "Anthropic/hh-rlhf", "data.block_size": 640 + 128, "training.effective_batch_size": 16,
        "training.max_steps": 9000, "training.learning_rate": 2e-4, "training.lr_scheduler_type": "constant",
        "training.max_grad_norm": 0.3, "training.adam_epsilon": 1e-6, "training.optim": "paged_adamw_32bit",
        "training.weight_decay": 0.0, "model.name": "timdettmers/qlora-hh-rlhf-7b", "model.quantization": "nf4",
        "model.double_quantization": False, "model.lora.r": 64, "init_from.method": None,
        "evaluation.every_n_steps": 900, "evaluation.scenarios.replies.num_samples": 280,
        "evaluation.scenarios.replies.generation.do_sample": False,
        "evaluation.scenarios.replies.generation.max_new_tokens": 128,
        "evaluation.scenarios.replies.generation.stop_strings": STOPS,
        "data.chat_template": "configs/chat/qlora_hh.jinja"} == values(config)
    judges = {"evaluation.scorer": config.evaluation.scorer, **config.evaluation.heldout_scorers}
    assert {key: (judge["model"], judge["template"], judge["sigmoid"]) for key, judge in judges.items()} == {
        "evaluation.scorer": (SMALLER, "openassistant", True), "reward_6_9b": (LARGER, "openassistant", True)}
    assert config.scorer.get("model") == (None if method == "dpo" else SMALLER)


@pytest.mark.parametrize("method", ["wbc", "r_gold", "r_lol", "a_lol", "a_lol_seq", "a_lol_ref_free", "a_lol_kl"])
def test_the_released_settings_of_a_lol(method):
    """The reference is numbers in a cache and no second model."""
    options = experiment(f"a_lol_hh_{method}").objective
    objective = objectives.get(method)(**{key: value for key, value in options.items() if key != "name"})
    assert (objective.preset, objective.sampling, objective.weight_exponent, objective.rewards_as) == (
        "published", "good_priority", 1.0, "sigmoid")
    needs = objective.needs
    assert not needs.reference_model
    assert needs.reference_tokens == (method in ("r_lol", "a_lol", "a_lol_seq", "a_lol_kl"))
    if method in ("r_lol", "a_lol", "a_lol_seq"):
        assert (objective.clip, objective.clip_style) == (0.9, "clamp")
    if method.startswith("a_lol"):
        value = needs.prompt_value
        assert (value.prompts, value.generations, value.temperature, value.epochs, value.learning_rate,
                value.selection, objective.steps) == (280, 1, 0.0, 10, 1e-5, "training", "shrunk")
    if method == "a_lol_kl":
        assert (objective.beta, objective.kl) == (0.2, "published")


def test_every_method_starts_from_the_published_adapter_in_its_own_form():
    config = load_config(["task=hh", "method=kto", "scale=paper", "model=qlora_hh"])
    assert (config.init_from.method, config.data.chat_template) == (None, "configs/chat/qlora_hh.jinja")


def test_models_by_name_on_every_test_file():
    [run] = select(["abaheti95/dpo_qlora_hh"], ["model.base=huggyllama/llama-7b", "experiment=a_lol_hh_test"], "hh")
    config = run.config
    assert (run.model, config.model.base) == ("abaheti95/dpo_qlora_hh", "huggyllama/llama-7b")
    assert config.scorer == {} and config.evaluation.scorer["model"] == SMALLER
    assert config.evaluation.heldout_scorers["reward_6_9b"]["model"] == LARGER
    assert config.evaluation.metrics["distinct_n"] == {"ns": [1, 2, 3]} and config.evaluation.metrics["length"] == {}
    assert tuple(config.evaluation.scenarios) == FILES
    for name, scenario in config.evaluation.scenarios.items():
        assert (scenario.prompts, scenario.num_samples) == (f"hh/hh_test/{name}.json", None)
        assert as_trained(scenario, config).chat_template == "configs/chat/qlora_hh.jinja"
        assert (scenario.generation.do_sample, scenario.generation.max_new_tokens) == (False, 128)
        assert scenario.generation.stop_strings == STOPS


def test_a_run_takes_the_scenarios_of_an_experiment_and_nothing_else(tmp_path):
    folder = tmp_path / "hh" / "dpo" / "a-s1"
    (folder / "final").mkdir(parents=True)
    (folder / "final/config.json").write_text("{}")
    (folder / "manifest.json").write_text("{}")
    before = load_config(["task=hh", "method=dpo", "scale=smoke"])
    (folder / "config.yaml").write_text(to_yaml(before))
    (folder / "status.json").write_text('{"state": "done", "step": 1, "max_steps": 1}')
    [run] = select([str(folder)], ["experiment=a_lol_hh_test", "evaluation.batch_size=4"])
    assert tuple(run.config.evaluation.scenarios) == FILES and run.config.evaluation.batch_size == 4
    assert (run.config.data, run.config.scorer, run.config.training) == (before.data, before.scorer, before.training)


@pytest.mark.parametrize("name", STAGES)
def test_stackllama(name):
    config = experiment(name)
    assert (config.task, config.method, config.init_from.method, config.scorer) == (
        "stack_exchange", STAGES[name], None, {})
    folder, block, steps, rows, rate, decay, r, alpha, bits = {
        "stackllama_sft": ("finetune", 1024, 5000, 128, 1e-5, 0.05, 16, 32, "8bit"),
        "stackllama_reward_model": ("reward", 512, None, 32, 2e-5, 0.001, 8, 32, "none"),
        "stackllama2_sft": ("finetune", 1024, 500, 8, 1e-4, 0.05, 8, 16, "nf4"),
        "stackllama2_dpo": ("rl", 1024, 1000, 16, 5e-4, 0.0, 8, 16, "nf4")}[name]
    assert values(config) | {
        "data.path": f"lvwerra/stack-exchange-paired/data/{folder}", "data.block_size": block,
        "training.max_steps": steps, "training.effective_batch_size": rows, "training.learning_rate": rate,
        "training.weight_decay": decay, "model.lora.r": r, "model.lora.alpha": alpha, "model.quantization": bits,
        "training.optim": "paged_adamw_32bit" if name.startswith("stackllama2") else "adamw_torch_fused",
        "training.num_train_epochs": None if steps else 1} == values(config)
    if steps:
        assert training_steps(config, None) == steps
        assert (config.training.lr_scheduler_type, config.training.warmup_steps) == ("cosine", 100)
    if config.method == "filtering":        # the better answer of a pair scores 0, the worse one 1
        assert (config.data.filter_threshold, config.data.loss_on) == (0.0, "all")


def test_without_a_model_of_an_earlier_stage_dpo_trains_one_first():
    config = load_config(["task=stack_exchange", "method=dpo", "scale=paper"])
    start = start_config(config)
    assert (start.method, start.training.max_steps, start.training.effective_batch_size) == ("filtering", 500, 8)
    assert (start.data.path, start.data.loss_on, start.data.filter_threshold) == (config.data.path, "all", 0.0)
    assert config.objective["beta"] == 0.1


@pytest.mark.parametrize("name", LATER)
def test_a_later_stage_asks_for_its_model(name):
    with pytest.raises(ConfigError, match="model.name: must be given"):
        load_config([f"experiment={name}"])


@pytest.mark.parametrize("name", [*ALOL, *STAGES])
def test_a_dry_run_says_what_it_cannot_know(name):
    config = experiment(name)
    said = facts(config)
    assert said["documents"] == said["bytes of files"] == "unknown without the network"
    assert said["parameters"] == f"unknown: the config of {config.model.name} is not in the local cache"


@pytest.mark.parametrize("name", [*ALOL, *STAGES])
def test_a_run_says_what_it_cannot_reach(name):
    """Judges come first, then the data; both in one line."""
    config = experiment(name)
    if config.task == "hh":
        with pytest.raises(ScorerError, match=f"^scorer reward_model: {SMALLER} is no local directory and not in the "
                                              "cache, and the run is offline$"):
            [scorer.fingerprint() for scorer in scorers_of(config).values()]
    with pytest.raises(DataError, match=rf"^{config.data.path}: .*OfflineMode.*download the dataset first") as caught:
        next(sources.get(config.data.source)(config.data).limited())
    assert "\n" not in str(caught.value)
