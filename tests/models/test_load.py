"""Fresh models of any architecture, and what a config may change."""

import pytest
from transformers import GPT2Config

from apo.config import load_config
from apo.dry_run import facts
from apo.errors import ModelError
from apo.models.load import load_policy
from apo.schema import ModelConfig


@pytest.mark.parametrize("architecture, options, context", [
    ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 2}, None),
    ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 2}, 1024),
    ("llama", {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}, 1024)])
def test_a_fresh_model_of_any_architecture(byte_tokenizer, architecture, options, context):
    """Bloom's positions have no end, and its config no option for one."""
    config = ModelConfig(architecture=architecture, config=options)
    model = load_policy(config, byte_tokenizer, 257, seed=1, block_size=64).model
    assert model.get_input_embeddings().weight.shape == (257, 32)
    assert getattr(model.config, "max_position_embeddings", None) == context
    assert model.config.eos_token_id == byte_tokenizer.eos_token_id


def test_an_option_that_an_architecture_has_not_is_refused(byte_tokenizer):
    config = ModelConfig(architecture="bloom", config={"hidden_size": 32, "max_position_embeddings": 64})
    with pytest.raises(ModelError, match="max_position_embeddings: BloomConfig has no such option"):
        load_policy(config, byte_tokenizer, 257, seed=1)


def test_a_dry_run_counts_the_weights_of_the_changed_config(tmp_path):
    GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=300).save_pretrained(tmp_path / "model")
    words = ["task=pep8", "method=mle", "model=hub", f"model.name={tmp_path / 'model'}"]
    two = facts(load_config(words))["parameters"]
    four = facts(load_config([*words, "model.config.n_layer=4"]))["parameters"]
    layer = 12 * 32 * 32 + 13 * 32
    assert int(four.replace(",", "")) - int(two.replace(",", "")) == 2 * layer
