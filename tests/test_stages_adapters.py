"""Stages with adapters: one trains an adapter, the next goes on with it and is measured against where it began."""

import json

import pytest

import evaluate
from apo import experiment, stages
from apo.config import load_config
from apo.identity import run_directory


def preferences(folder, tail):
    rows = [{"prompt": f"Question: what is {i} plus {i % 7}?\n\nAnswer:", "chosen": f" The sum is {i + i % 7}.",
             "rejected": " No idea, ask somebody else."} for i in range(80)]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["task=custom", "scale=smoke", "data.source=completions", f"data.path={folder / 'mine.jsonl'}",
            f"output_dir={folder / 'outputs'}", f"cache_dir={folder / 'cache'}", "training.precision=fp32",
            "evaluation.num_bootstrap=10", *tail]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    config = load_config(preferences(folder, ["method=mle", "training.max_steps=3"]))
    return experiment.train(config).path / "final"


@pytest.mark.parametrize("model", ["lora", "qlora"])
def test_dpo_goes_on_with_the_adapter_of_its_start(base, tmp_path, model):
    config = load_config(preferences(tmp_path, ["method=dpo", f"model={model}", f"model.name={base}"]))
    start = run_directory(stages.start_config(config))
    outcome = experiment.train(config)
    assert outcome.state == "done"
    for folder in (start / "final", outcome.path / "final"):
        assert (folder / "adapter_model.safetensors").is_file() and not (folder / "model.safetensors").exists()
        settings = json.loads((folder / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == str(base)
    rows = [json.loads(line) for line in (outcome.path / "metrics.jsonl").read_text().splitlines()]
    first = next(row for row in rows if "rewards/chosen" in row)
    before = next(row for row in rows if "eval/rewards/margins" in row)
    assert before["step"] == 0 and before["eval/rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert first["step"] == 1 and first["rewards/chosen"] != rows[-1].get("rewards/chosen")
    for run in (start, outcome.path):       # a new adapter, and one that goes on
        moved = kl_of(run)
        assert moved[0] == pytest.approx(0, abs=1e-6) and moved[-1] > 1e-6
        again = ["--seed", "1", "--samples", "0", "scorer=lexicon", "scorer.words=[idea]"]
        assert evaluate.main([str(run), *again]) == 0
        measured = json.loads((run / "evaluation.json").read_text())["scenarios"]["unconditional"]["metrics"]["kl_full"]
        assert measured == pytest.approx(moved[-1], rel=1e-3)


def kl_of(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["generation/unconditional/kl_full"] for row in rows if "generation/unconditional/kl_full" in row]


def test_the_scale_of_an_adapter_is_part_of_what_a_policy_computes(base, byte_tokenizer, tmp_path):
    from apo.models.load import load_policy
    from apo.models.save import save_policy
    from apo.reference_logps import weights_digest
    from apo.schema import LoraConfig, ModelConfig

    def made(name, seed=1):
        return load_policy(ModelConfig(name=str(name), lora=LoraConfig(r=4)), byte_tokenizer, 257, seed=seed)
    assert weights_digest(made(base)) == weights_digest(made(base, seed=2))         # untrained: the base alone
    save_policy(made(base), tmp_path)
    before = weights_digest(made(tmp_path))
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 64}))
    assert weights_digest(made(tmp_path)) != before


def test_a_fresh_model_is_trained_whole_and_then_adapted(tmp_path):
    config = load_config(preferences(tmp_path, ["method=dpo", "model.lora.r=4", "model.quantization=nf4"]))
    start = stages.start_config(config)
    assert start.model.lora.r is None and start.model.quantization == "none"
    final = experiment.train(config).path / "final"
    settings = json.loads((final / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(run_directory(start) / "final")


def test_a_reward_model_trained_with_an_adapter_is_one_model(base, tmp_path):
    from transformers import AutoModelForSequenceClassification
    words = preferences(tmp_path, ["method=reward_model", "model=qlora", f"model.name={base}"])
    final = experiment.train(load_config(words)).path / "final"
    assert AutoModelForSequenceClassification.from_pretrained(final).config.num_labels == 1
    assert not (final / "adapter_config.json").exists()
