"""hh, stack_exchange and your own data at the papers' scale: names, numbers and steps as A-LoL, StackLLaMA, SPIN and
Self-Rewarding had them, and what is said where nothing can be fetched."""

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
SPIN = {f"spin_iter{number}": (rate, beta) for number, (rate, beta) in enumerate(
    [(5e-7, 0.1), (5e-7, 0.1), (1e-7, 0.1), (1e-7, 5.0)])}
SELF_REWARDING = {"self_rewarding_m1": "mle", "self_rewarding_m2": "self_rewarding",
                  "self_rewarding_m3": "self_rewarding"}
OWN_SAMPLES = ("stackllama_ppo", "a_lol_hh_ppo", *SPIN, *SELF_REWARDING)
LATER = ("stackllama_reward_model", "stackllama2_dpo", "stackllama_ppo", *list(SPIN)[1:], *SELF_REWARDING)
"""Stages whose model an earlier one leaves, somewhere, and one whose model is named nowhere."""
YOURS = (*SPIN, *SELF_REWARDING)
"""On data that are no file of anybody's."""
SMALLER, LARGER = "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5", "OpenAssistant/oasst-rm-2-pythia-6.9b-epoch-1"


def experiment(name: str):
    return load_config([f"experiment={name}", *(f"{option}=merged" for option in asked_for(name))])


def asked_for(name: str) -> set[str]:
    """Options that an experiment leaves to the user."""
    return ({"model.name"} if name in LATER else set()) | ({"data.path"} if name in YOURS else set()) | (
        {"scorer.model"} if name == "stackllama_ppo" else set())


def values(config) -> dict:
    return dict(leaves(to_dict(config)))


def test_every_experiment_is_named_here():
    assert {name for name in cli.found("experiment") if not name.startswith("phf_")} == {
        *ALOL, TEST, *STAGES, *OWN_SAMPLES, "spin_language"}       # the last is no paper's: docs/methods/spin.md


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


@pytest.mark.parametrize("name", dict.fromkeys([*LATER, *YOURS]))
def test_a_later_stage_asks_for_its_model_and_your_data_for_their_file(name):
    with pytest.raises(ConfigError) as caught:
        load_config([f"experiment={name}"])
    missing = {problem.partition(": ")[0] for problem in caught.value.problems if ": must be given" in problem}
    assert missing == asked_for(name)


def test_ppo_of_stackllama():
    """8 GPUs of 8 prompts each, minibatches of 1 accumulated 8 times: a step is all of a round."""
    config = experiment("stackllama_ppo")
    assert (config.task, config.method, config.objective["name"]) == ("stack_exchange", "ppo", "ppo")
    assert values(config) | {
        "data.path": "lvwerra/stack-exchange-paired/data/rl", "data.max_documents": 2 * 100_000,
        "data.block_size": 511 + 127, "model.name": "merged", "model.quantization": "8bit", "model.lora.r": 16,
        "model.lora.alpha": 32, "model.lora.dropout": 0.05, "model.lora.target_modules": ["q_proj", "v_proj"],
        "init_from.method": None, "scorer.name": "reward_model", "scorer.model": "merged", "scorer.sigmoid": False,
        "rollout.prompts": 8 * 8, "rollout.generations": 1, "rollout.epochs": 4, "rollout.lengths": [32, 127],
        "rollout.max_new_tokens": 127, "rollout.min_new_tokens": 0, "rollout.temperature": 1.0, "rollout.top_p": 1.0,
        "rollout.top_k": 0, "rollout.stop_strings": [], "objective.beta": 0.2, "objective.kl": "k1",
        "objective.kl_target": 6.0, "objective.kl_horizon": 10_000, "objective.gamma": 1.0, "objective.lam": 0.95,
        "objective.clip": 0.2, "objective.value_clip": 0.2, "objective.value_coef": 0.1, "objective.entropy_coef": 0.0,
        "objective.whiten_advantages": True, "objective.whiten_rewards": False, "objective.score_baseline": 0.0,
        "objective.score_scale": "none", "objective.score_clip": None, "objective.target_kl": 0.1,
        "objective.ratio_limit": None, "training.effective_batch_size": 1 * 8 * 8,
        "training.max_steps": 20_000 // 8 * 4, "training.learning_rate": 1.4e-5, "training.weight_decay": 0.0,
        "training.lr_scheduler_type": "constant", "training.warmup_steps": 0, "training.max_grad_norm": 1e6,
        "training.save_steps": 100 * 4, "training.optim": "adamw_torch_fused"} == values(config)


def test_ppo_of_a_lol():
    """Minibatches of 4, accumulated 4 times: a step is all of a round."""
    config = experiment("a_lol_hh_ppo")
    assert (config.task, config.method, config.objective["name"]) == ("hh", "ppo", "ppo")
    assert values(config) | {
        "data.path": "Anthropic/hh-rlhf", "data.block_size": 640 + 128, "model.name": "timdettmers/qlora-hh-rlhf-7b",
        "data.chat_template": "configs/chat/qlora_hh.jinja", "init_from.method": None, "scorer.model": SMALLER,
        "scorer.template": "openassistant", "scorer.sigmoid": True, "rollout.prompts": 16, "rollout.generations": 1,
        "rollout.epochs": 4, "rollout.max_new_tokens": 128, "rollout.lengths": None, "rollout.stop_strings": None,
        "rollout.top_p": 1.0, "objective.beta": 0.2, "objective.kl": "k1", "objective.kl_target": 6.0,
        "objective.kl_horizon": 10_000, "objective.gamma": 1.0, "objective.lam": 0.95, "objective.clip": 0.2,
        "objective.value_clip": 0.2, "objective.value_coef": 0.1, "objective.score_scale": "std",
        "objective.target_kl": None, "objective.ratio_limit": 10.0, "training.effective_batch_size": 4 * 4,
        "training.max_steps": 6000 * 4, "training.learning_rate": 2e-5, "training.max_grad_norm": 1e6,
        "training.optim": "paged_adamw_32bit", "training.adam_epsilon": 1e-6, "training.weight_decay": 0.0,
        "training.lr_scheduler_type": "constant", "evaluation.every_n_steps": 100 * 4,
        "evaluation.scenarios.replies.generation.stop_strings": STOPS} == values(config)


@pytest.mark.parametrize("name", SPIN)
def test_spin(name):
    config, (rate, beta) = experiment(name), SPIN[name]
    assert (config.task, config.method, config.objective, config.scorer) == (
        "custom", "spin", {"name": "spin", "beta": beta}, {})
    assert values(config) | {
        "data.source": "completions", "data.block_size": 1024, "data.chat_template": "tokenizer",
        "init_from.method": None, "model.lora.r": None, "rollout.prompts": 50_000, "rollout.generations": 1,
        "rollout.epochs": 2, "rollout.max_new_tokens": 1024 - 512, "rollout.temperature": 1.0, "rollout.top_p": 1.0,
        "rollout.judge.kind": "none", "training.effective_batch_size": 8 * 8,
        "training.max_steps": 2 * round(50_000 / 64), "training.learning_rate": rate,
        "training.lr_scheduler_type": "linear", "training.warmup_ratio": 0.1, "training.weight_decay": 0.0,
        "training.optim": "rmsprop", "training.activation_checkpointing": True} == values(config)
    first = name == "spin_iter0"
    assert (config.model.name, config.model.revision) == (
        ("alignment-handbook/zephyr-7b-sft-full", "ac6e600eefcce74f5e8bae1035d4f66019e93190") if first else
        ("merged", None))


@pytest.mark.parametrize("name", SELF_REWARDING)
def test_self_rewarding(name):
    config, method = experiment(name), SELF_REWARDING[name]
    assert (config.task, config.method, config.objective["name"], config.scorer) == ("custom", method, method, {})
    assert values(config) | {
        "data.source": "completions", "data.block_size": 1024, "init_from.method": None, "model.lora.r": None,
        "model.dropout": 0.1, "training.effective_batch_size": 16, "training.lr_scheduler_type": "cosine",
        "training.warmup_ratio": 0.0, "training.weight_decay": 0.0, "evaluation.every_n_steps": 200,
        "evaluation.scenarios.replies.num_samples": 253} == values(config)
    if method == "mle":
        assert values(config) | {"training.num_train_epochs": 3, "training.learning_rate": 5.5e-6,
                                 "data.loss_on": "completion"} == values(config)
        return
    pairs = {"self_rewarding_m2": 3964, "self_rewarding_m3": 6942}[name]
    assert values(config) | {
        "objective.beta": 0.1, "objective.minimum_gap": 0.0, "objective.pairs": "best_and_worst",
        "training.learning_rate": 1e-6, "training.max_steps": -(-pairs // 16), "rollout.prompts": 2 * pairs,
        "rollout.generations": 4, "rollout.epochs": 1, "rollout.temperature": 0.7, "rollout.top_p": 0.9,
        "rollout.judge.kind": "policy", "rollout.judge.per_response": 3, "rollout.judge.temperature": 0.7,
        "rollout.judge.top_p": 0.9, "rollout.judge.low": 0.0, "rollout.judge.high": 5.0} == values(config)


@pytest.mark.parametrize("name", [*ALOL, *STAGES, "stackllama_ppo", "a_lol_hh_ppo"])
def test_a_dry_run_says_what_it_cannot_know(name):
    config = experiment(name)
    said = facts(config)
    assert said["documents"] == said["bytes of files"] == "unknown without the network"
    assert said["parameters"] == f"unknown: the config of {config.model.name} is not in the local cache"


@pytest.mark.parametrize("name", YOURS)
def test_a_dry_run_on_your_own_file(name, tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "Who?", "completion": "Me.", "label": true}\n')
    config = load_config([f"experiment={name}", f"data.path={tmp_path / 'mine.jsonl'}",
                          *(["model.name=merged"] if name in LATER else [])])
    said = facts(config)
    assert said["documents"] == "unknown before it is read"
    assert said["parameters"] == f"unknown: the config of {config.model.name} is not in the local cache"
    assert "starts from" not in said                # no stage before


@pytest.mark.parametrize("name", [*ALOL, *STAGES, "a_lol_hh_ppo"])
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
