"""Reward models: the last attended token, transformers' format, and OpenAssistant's."""

import json

import pytest
import torch
import transformers
from safetensors.torch import save_file

from apo.errors import ModelError
from apo.models.files import snapshot
from apo.models.reward_model import HEAD, RewardModel, load_reward_model
from apo.scorers.sequence import padded

ROWS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
PAD = 258
"""In no text."""


def causal(architecture, **options):
    shapes = {"gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2}}
    if architecture in ("llama", "qwen2", "granite"):
        options["num_key_value_heads"] = 2
    plain = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.AutoConfig.for_model(architecture, vocab_size=260, bos_token_id=256, eos_token_id=256,
                                               pad_token_id=PAD, **shapes.get(architecture, plain), **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def rewards(model, rows, pad_id=PAD, left=False, more=0):
    batch = padded(rows, pad_id, "cpu")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    ids = torch.nn.functional.pad(ids, (0, more), value=pad_id)
    mask = torch.nn.functional.pad(mask, (0, more))
    if left:
        turned = [torch.roll(x, int((1 - m).sum())) for x, m in zip(ids, mask)]
        ids, mask = torch.stack(turned), mask.flip(1)
    with torch.no_grad():
        return model(ids, mask)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "qwen2"])
@pytest.mark.parametrize("bias", [False, True])
def test_transformers_loads_it_and_says_the_same(architecture, bias, tmp_path):
    model = RewardModel.from_causal(causal(architecture), seed=3, bias=bias).eval()
    if bias:
        torch.nn.init.constant_(model.score.bias, 0.5)
    model.save(tmp_path)
    ours = rewards(model, ROWS)
    assert ours.dtype == torch.float32 and ours.shape == (3,) and len(set(ours.tolist())) == 3
    theirs, told = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"] and set(told["unexpected_keys"]) == ({"score.bias"} if bias else set())
    assert theirs.config.num_labels == 1
    with torch.no_grad():
        expected = theirs(**padded(ROWS, PAD, "cpu")).logits[:, 0]
    torch.testing.assert_close(ours, expected + 0.5 * bias, rtol=1e-5, atol=1e-5)
    loaded = load_reward_model(tmp_path)
    assert not loaded.training
    torch.testing.assert_close(rewards(loaded, ROWS), ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom", "opt"])
def test_neither_the_batch_nor_the_padding_matters(architecture):
    options = {"bloom": {"n_layer": 2, "n_head": 2}, "opt": {"word_embed_proj_dim": 32, "ffn_dim": 64}}
    model = RewardModel.from_causal(causal(architecture, **options.get(architecture, {})), seed=0).eval()
    alone = torch.cat([rewards(model, [row]) for row in ROWS])
    for left in (False, True):
        for more in (0, 4):
            torch.testing.assert_close(rewards(model, ROWS, left=left, more=more), alone, rtol=1e-5, atol=1e-5)


def test_an_end_of_text_that_was_written_is_read(tmp_path, tiny_llama):
    """The padding token is the end-of-text token: transformers reads the token before it."""
    model, eos = RewardModel.from_causal(tiny_llama(), seed=0).eval(), 256
    ended = [[*row, eos] for row in ROWS]
    ours = rewards(model, ended, pad_id=eos)
    torch.testing.assert_close(ours, torch.cat([rewards(model, [row]) for row in ended]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rewards(model, ended, pad_id=eos, left=True), ours, rtol=1e-5, atol=1e-5)
    model.save(tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        without = theirs(**padded(ended, eos, "cpu")).logits[:, 0]
    torch.testing.assert_close(without, rewards(model, ROWS), rtol=1e-5, atol=1e-5)
    assert (ours - without).abs().min() > 1e-3


def test_the_head_is_drawn_from_its_seed_alone():
    model = causal("gpt2")
    one, two, other = (RewardModel.from_causal(model, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.score.weight, two.score.weight) and not torch.equal(one.score.weight, other.score.weight)
    wide = torch.cat([RewardModel.from_causal(model, seed=seed).score.weight for seed in range(300)])
    assert wide.std().item() == pytest.approx(33 ** -0.5, rel=0.03)
    assert one.score.bias is None and RewardModel.from_causal(model, 1, bias=True).score.bias.item() == 0


@pytest.mark.parametrize("architecture, pooling", [("granite", "last"), ("gpt2", "mean")])
def test_what_transformers_has_no_class_for_is_kept_too(architecture, pooling, tmp_path):
    made = RewardModel.from_causal(causal(architecture), seed=0, bias=True)
    model = RewardModel(made.body, made.score, pooling).eval()
    model.save(tmp_path)
    assert (tmp_path / HEAD).is_file()
    loaded = load_reward_model(tmp_path)
    assert loaded.pooling == pooling
    torch.testing.assert_close(rewards(loaded, ROWS), rewards(model, ROWS), rtol=0, atol=1e-6)


def test_gradients_reach_body_and_head_in_fp32_rewards():
    model = RewardModel.from_causal(causal("llama"), seed=0)
    batch = padded(ROWS, PAD, "cpu")
    with torch.autocast("cpu", torch.bfloat16):
        made = model(batch["input_ids"], batch["attention_mask"])
    assert made.dtype == torch.float32
    made.sum().backward()
    assert model.score.weight.grad.any() and model.body.layers[0].mlp.up_proj.weight.grad.any()


def test_what_is_no_reward_model_is_a_line(tmp_path, tiny_llama):
    with pytest.raises(ModelError, match="no config.json that can be read"):
        load_reward_model(tmp_path)
    tiny_llama().save_pretrained(tmp_path / "causal")
    with pytest.raises(ModelError, match="is no trained reward model: it has no weights for score.weight"):
        load_reward_model(tmp_path / "causal")
    transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**{**tiny_llama().config.to_dict(),
                                                "id2label": {0: "a", 1: "b"}})).save_pretrained(tmp_path / "two")
    with pytest.raises(ModelError, match="gives 2 numbers for a text"):
        load_reward_model(tmp_path / "two")
    with pytest.raises(ModelError, match="nobody/nothing cannot be loaded"):
        load_reward_model("nobody/nothing")
    with pytest.raises(ModelError, match="pooling is one of last, mean"):
        RewardModel(torch.nn.Identity(), torch.nn.Linear(2, 1), "first")


# ------------------------------------------------------------------------------------------------------- OpenAssistant

def write_open_assistant(folder, how, pooling="last", spoil=()):
    """As such a model lies on the hub: a config of an older transformers, and buffers among the weights."""
    body = causal("gpt_neox", max_position_embeddings=64, rotary_pct=0.5, rotary_emb_base=500).gpt_neox
    assert body.config.rope_parameters["partial_rotary_factor"] == 0.5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        head = torch.nn.Linear(32, 1)
    config = {"architectures": ["GPTNeoXRewardModel"], "model_type": "gpt_neox_reward_model", "pooling": pooling,
              "vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
              "num_attention_heads": 2, "max_position_embeddings": 64, "rotary_pct": 0.5, "rotary_emb_base": 500,
              "hidden_act": "gelu", "layer_norm_eps": 1e-5, "use_parallel_residual": True, "bos_token_id": 256,
              "eos_token_id": 256, "tie_word_embeddings": False, "torch_dtype": "float32", "use_cache": True,
              "initializer_range": 0.02, "transformers_version": "4.28.0"}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    state = {f"gpt_neox.{key}": value.clone() for key, value in body.state_dict().items()}
    state |= {f"out_proj.{key}": value.detach().clone() for key, value in head.state_dict().items()}
    state |= {"gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
              "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
              "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(4)}
    state = {key: value for key, value in state.items() if key not in spoil}
    if how == "safetensors":
        save_file(state, folder / "model.safetensors")
    elif how == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        shards = {f"model-0000{i + 1}-of-00002.safetensors": dict(list(state.items())[i::2]) for i in range(2)}
        for name, part in shards.items():
            save_file(part, folder / name)
        index = {"metadata": {}, "weight_map": {key: name for name, part in shards.items() for key in part}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return body.eval(), head


@pytest.mark.parametrize("how", ["safetensors", "bin", "sharded"])
@pytest.mark.parametrize("pooling", ["last", "mean", None])
def test_open_assistant(how, pooling, tmp_path):
    body, head = write_open_assistant(tmp_path, how, pooling)
    model = load_reward_model(tmp_path)
    with torch.no_grad():
        hidden = [body(input_ids=torch.tensor([row])).last_hidden_state[0] for row in ROWS]
        pooled = [states.sum(0) / len(states) if pooling == "mean" else states[-1] for states in hidden]
        by_hand = torch.stack([(head.weight[0] * vector).sum() + head.bias[0] for vector in pooled])
    assert not model.training
    for left in (False, True):
        torch.testing.assert_close(rewards(model, ROWS, left=left), by_hand, rtol=1e-5, atol=1e-5)
    model.save(tmp_path / "ours")
    torch.testing.assert_close(rewards(load_reward_model(tmp_path / "ours"), ROWS), by_hand, rtol=1e-5, atol=1e-5)


def test_open_assistant_with_wrong_files(tmp_path):
    write_open_assistant(tmp_path / "a", "bin", spoil=["gpt_neox.final_layer_norm.weight"])
    with pytest.raises(ModelError, match="1 are missing .final_layer_norm.weight"):
        load_reward_model(tmp_path / "a")
    write_open_assistant(tmp_path / "b", "bin", spoil=["out_proj.weight"])
    with pytest.raises(ModelError, match="no weights of a head"):
        load_reward_model(tmp_path / "b")
    write_open_assistant(tmp_path / "c", "sharded")
    (tmp_path / "c/model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="lacks model-00002-of-00002.safetensors"):
        load_reward_model(tmp_path / "c")
    (tmp_path / "c/model.safetensors.index.json").unlink()
    with pytest.raises(ModelError, match="has no weights: neither"):
        load_reward_model(tmp_path / "c")


def test_a_cached_folder_with_the_config_alone_does_not_count(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(name, allow_patterns, **where):
        asked.append(allow_patterns[-1])
        return str(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(FileNotFoundError):
        snapshot("some/model", local_files_only=True)
    write_open_assistant(tmp_path, "bin")
    assert snapshot("some/model") == tmp_path
    assert asked == ["*.safetensors", "pytorch_model*.bin"] * 2
    write_open_assistant(tmp_path, "safetensors")
    assert snapshot("some/model") == tmp_path and asked[4:] == ["*.safetensors"]
