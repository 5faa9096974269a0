"""A merged model is the adapter on its base, in one piece."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from apo.models.load import load_policy
from apo.models.policy import Policy
from apo.models.save import save_policy, save_reward_model
from apo.schema import LoraConfig, ModelConfig
from tests.models.adapting import make_batch, train


@pytest.fixture(scope="module")
def merge(load_script):
    return load_script("merge_adapter")


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def base(request, tmp_path_factory, tiny_llama, byte_tokenizer):
    folder = tmp_path_factory.mktemp("base")
    model = tiny_llama(hidden_size=64, intermediate_size=128, tie_word_embeddings=request.param)
    train(Policy(model), 60, 1e-2).model.save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("quantization, tolerance", [("none", 1e-5), ("nf4", 0.05), ("8bit", 0.05)])
def test_merged_and_adapted_agree(base, byte_tokenizer, merge, tmp_path, quantization, tolerance):
    config = ModelConfig(name=str(base), lora=LoraConfig(r=8, dropout=0.0), quantization=quantization)
    policy = load_policy(config, byte_tokenizer, 257, seed=1, new_ids=[260, 261], value_head=True)
    ids = make_batch(9, 262).input_ids_BT
    before = policy.model(input_ids=ids).logits
    train(policy, 30, 1e-2, high=262)
    final = tmp_path / "run" / "final"
    final.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("")
    save_policy(policy, final)
    assert merge.main([str(tmp_path / "run"), str(tmp_path / "merged")]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        ours, merged = policy.model(input_ids=ids).logits, model(input_ids=ids).logits
    assert (ours - before).abs().max() > 0.5
    assert (ours - merged).abs().max() <= tolerance
    assert getattr(model.config, "quantization_config", None) is None and model.dtype == torch.float32
    assert len(AutoTokenizer.from_pretrained(tmp_path / "merged")) == len(byte_tokenizer)
    heads = [load_file(folder / "value_head.safetensors") for folder in (final, tmp_path / "merged")]
    assert torch.equal(heads[0]["linear.weight"], heads[1]["linear.weight"])


def test_an_adapter_whose_base_has_moved_is_merged_with_what_is_named(base, byte_tokenizer, merge, tmp_path, capsys):
    import shutil
    shutil.copytree(base, tmp_path / "own")
    policy = train(load_policy(ModelConfig(name=str(tmp_path / "own"), lora=LoraConfig(r=4, dropout=0.0)),
                               byte_tokenizer, 257, seed=1), 5)
    (tmp_path / "adapter").mkdir()
    save_policy(policy, tmp_path / "adapter")
    shutil.move(tmp_path / "own", tmp_path / "moved")
    words = [str(tmp_path / "adapter"), str(tmp_path / "merged")]
    assert merge.main(words) == 2 and "merge_adapter.py: --base" in capsys.readouterr().err
    assert merge.main([*words, "--base", str(tmp_path / "moved")]) == 0
    ids = make_batch(9).input_ids_BT
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(input_ids=ids).logits
        torch.testing.assert_close(merged, policy.model(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_merged_is_told(base, merge, tmp_path, capsys):
    assert merge.main([str(base), str(tmp_path / "merged")]) == 2
    assert "holds no adapter" in capsys.readouterr().err
    assert merge.main([str(base), str(base)]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize("quantization, tolerance", [("none", 1e-5), ("nf4", 0.05)])
def test_a_reward_model_is_saved_in_one_piece(base, byte_tokenizer, tmp_path, quantization, tolerance):
    from transformers import AutoModelForSequenceClassification
    config = ModelConfig(name=str(base), lora=LoraConfig(r=8, dropout=0.0), quantization=quantization)
    policy = train(load_policy(config, byte_tokenizer, 257, seed=1, value_head=True), 10, 1e-2)
    save_reward_model(policy, tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids = make_batch(9).input_ids_BT
    with torch.no_grad():
        ours = policy.value_head(policy.body(input_ids=ids).last_hidden_state)[:, -1]
        theirs = model(input_ids=ids).logits[:, 0]
    assert (ours - theirs).abs().max() < tolerance and ours.abs().max() > 0.1


def test_the_type_of_the_weights_is_chosen(base, byte_tokenizer, merge, tmp_path):
    config = ModelConfig(name=str(base), lora=LoraConfig(r=4))
    (tmp_path / "adapter").mkdir()
    save_policy(load_policy(config, byte_tokenizer, 257, seed=1), tmp_path / "adapter")
    assert merge.main([str(tmp_path / "adapter"), str(tmp_path / "merged"), "--dtype", "bfloat16"]) == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype == torch.bfloat16
