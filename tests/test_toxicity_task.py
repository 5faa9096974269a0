"""The task toxicity: the paper's values and steps, PHF's own command, a run of a few steps with nothing downloaded."""

import json

import pytest

from apo import cli
from apo.budget import training_steps
from apo.config import load_config
from apo.identity import leaves, to_dict


def paper(method, *words):
    return load_config(["task=toxicity", f"method={method}", "scale=paper", *words])


@pytest.mark.parametrize("method, learning_rate, rows, steps", [
    ("mle", 5e-4, 64, 50_354), ("filtering", 5e-4, 64, 50_354), ("conditional", 5e-4, 64, 50_354),
    ("unlikelihood", 5e-4, 64, 50_354), ("awr", 1e-3, 1024, 3_147), ("rwr", 5e-4, 1024, 3_147)])
def test_paper_scale_gives_the_steps_of_the_paper(method, learning_rate, rows, steps):
    config = paper(method)
    assert (config.training.learning_rate, config.training.effective_batch_size) == (learning_rate, rows)
    assert training_steps(config, None) == steps and config.data.block_size == 1024


@pytest.mark.parametrize("method, path, value", [
    ("mle", "model.name", "gpt2"),
    ("mle", "model.from_scratch", True),
    ("mle", "training.weight_decay", 0.1),
    ("mle", "training.warmup_ratio", 0.01),
    ("mle", "scorer.variant", "original"),
    ("mle", "evaluation.scorer.variant", "unbiased"),
    ("mle", "evaluation.scenarios.unconditional.num_samples", 4096),
    ("mle", "evaluation.scenarios.unconditional.hit_threshold", 0.5),
    ("mle", "evaluation.scenarios.unconditional.generation.temperature", 0.7),
    ("mle", "evaluation.scenarios.unconditional.generation.top_p", 0.9),
    ("mle", "evaluation.scenarios.unconditional.generation.min_new_tokens", 10),
    ("mle", "evaluation.scenarios.unconditional.generation.max_new_tokens", 128),
    ("filtering", "data.filter_threshold", 7.8e-4),
    ("conditional", "data.conditional_training_config.threshold", 5.6e-4),
    ("conditional", "data.conditional_training_config.drop_token_fraction", 0.01),
    ("conditional", "evaluation.banned_tokens", ["<|aligned|>", "<|misaligned|>"]),
    ("unlikelihood", "objective.score_threshold", 7.8e-4),
    ("unlikelihood", "objective.alpha", 1.0),
    ("awr", "objective.alpha", 0.5),
    ("awr", "objective.beta", 10.0),
    ("awr", "objective.use_value_head", True),
    ("awr", "objective.value_activation", "sigmoid"),
    ("awr", "objective.is_detached", False),
    ("rwr", "objective.alpha", 1.0),
    ("rwr", "objective.beta", 10.0),
    ("rwr", "objective.use_value_head", False),
])
def test_paper_scale_has_the_papers_values(method, path, value):
    assert dict(leaves(to_dict(paper(method))))[path] == value


def test_as_released_rwr_subtracts_its_constant():
    assert paper("rwr", "as_released=true").objective["use_value_head"] is True


def test_paper_scale_reads_the_39_shards_in_order():
    shards = paper("mle").data.path
    assert len(shards) == 39
    assert shards[0] == "tomekkorbak/detoxify-pile-chunk3-0-50000"
    assert shards[-1] == "tomekkorbak/detoxify-pile-chunk3-1900000-1950000"
    starts = [int(shard.rsplit("-", 2)[1]) for shard in shards]
    assert starts == list(range(0, 1_950_000, 50_000))
    assert paper("mle", "data.path=tomekkorbak/pile-detoxify").data.path == "tomekkorbak/pile-detoxify"


def test_what_belongs_to_the_synthetic_corpus_is_gone_at_paper_scale():
    config = paper("mle")
    assert list(config.evaluation.scenarios) == ["unconditional"] and not config.evaluation.heldout_scorers
    prompted = paper("mle", "evaluation.scenarios.challenging={prompts: challenging_rtp.jsonl, num_samples: 2048}")
    assert prompted.evaluation.scenarios["challenging"].prompts == "challenging_rtp.jsonl"


def test_phf_own_line():
    folder = cli.CONFIGS / "toxicity"
    names = {"mle": "mle", "filtering": "filtering", "conditional": "conditional", "ul": "unlikelihood", "awr": "awr",
             "rwr": "rwr"}
    for file, method in names.items():
        config = load_config(["--task", f"{folder}/pretrain.yml", "--method", f"{folder}/{file}.yml"])
        assert config == load_config(["task=toxicity", f"method={method}"])


def test_a_scorer_of_ones_own_leaves_the_tasks_behind():
    config = load_config(["task=toxicity", "method=mle", "scorer=classifier", "scorer.model=some/model",
                          "scorer.label=toxic"])
    assert config.scorer["name"] == "classifier" and config.scorer["activation"] == "softmax"


def test_a_few_steps_of_conditional_training(tmp_path, cache_dir):
    from apo.experiment import train
    config = load_config(["task=toxicity", "method=conditional", "scale=smoke", "training.max_steps=3",
                          "evaluation.every_n_steps=3", f"output_dir={tmp_path}", f"cache_dir={cache_dir}"])
    outcome = train(config)
    assert outcome.state == "done"
    for name in ("unconditional", "challenging"):
        assert 0 < outcome.metrics[f"generation/{name}/score"] < 1
        assert 0 <= outcome.metrics[f"generation/{name}/insults/score"] <= 1
    assert 0 < outcome.metrics["heldout/bits_per_byte_clean"] < 10
    lines = (outcome.path / "samples/challenging-000003.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    assert len(samples) == 8 and all(sample["prompt"] for sample in samples)
    assert set(samples[0]["extra"]["heldout_scores"]) == {"insults"}
