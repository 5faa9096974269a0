"""`Policy.without_dropout`: what the policy says in training is what it says in evaluation, to the bit."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from apo.models.adapters import attach
from apo.models.policy import Policy, evaluating
from apo.models.reference import reference_of
from apo.schema import LoraConfig, ModelConfig
from tests.models.adapting import make_batch, train

IDS = {"vocab_size": 260, "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPES = {
    "llama": {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2, "attention_dropout": 0.2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "attn_pdrop": 0.2, "embd_pdrop": 0.2,
             "resid_pdrop": 0.2},
    "gpt_neox": {**SMALL, "intermediate_size": 64, "attention_dropout": 0.2, "hidden_dropout": 0.2},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2, "attention_dropout": 0.2, "hidden_dropout": 0.2},
    "falcon": {**SMALL, "attention_dropout": 0.2, "hidden_dropout": 0.2},
    "opt": {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.2, "attention_dropout": 0.2},
    "persimmon": {**SMALL, "intermediate_size": 64, "attention_dropout": 0.2, "hidden_dropout": 0.2},
    "phi": {**SMALL, "intermediate_size": 64, "attention_dropout": 0.2, "embd_pdrop": 0.2, "resid_pdrop": 0.2},
}


def build(architecture, **options):
    config = AutoConfig.for_model(architecture, **{**IDS, **SHAPES[architecture], **options})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config)


def says(policy):
    with torch.no_grad():
        return policy.token_stats(make_batch(), ("values",) if policy.value_head else ()).logps_BT


def in_evaluation(policy):
    with evaluating(policy):
        return says(policy)


@pytest.mark.parametrize("architecture", SHAPES)
def test_training_says_what_evaluation_says(architecture):
    policy = Policy(build(architecture), value_head=True).train()
    before = in_evaluation(policy)
    assert not torch.equal(says(policy), before) and not torch.equal(says(policy), says(policy))
    named = policy.model.config.to_dict()
    policy.without_dropout()
    policy.train()
    assert torch.equal(says(policy), before) and torch.equal(in_evaluation(policy), before)
    assert policy.model.config.to_dict() == named            # as it will be saved


@pytest.mark.parametrize("architecture, option", [("llama", "attention_dropout"), *[
    ("gpt2", option) for option in ("attn_pdrop", "embd_pdrop", "resid_pdrop")]])
def test_each_dropout_of_its_own(architecture, option):
    others = {name: 0.0 for name in SHAPES[architecture] if name.endswith(("pdrop", "dropout"))}
    policy = Policy(build(architecture, **others | {option: 0.5})).train()
    assert not torch.equal(says(policy), in_evaluation(policy))
    policy.without_dropout()
    assert torch.equal(says(policy), in_evaluation(policy))


@pytest.mark.parametrize("found", [False, True])
def test_the_dropout_of_an_adapter(found, tmp_path):
    """Also where a frozen copy of a trained one stands beside it."""
    build("llama").save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    model = attach(model, LoraConfig(r=4, dropout=0.2), ModelConfig(name=str(tmp_path)), seed=1)
    policy = train(Policy(model), 2)                         # an adapter is 0 before its first step
    if found:
        reference_of(policy, adapter_is_new=False)
    policy.train()
    assert not torch.equal(says(policy), in_evaluation(policy))
    policy.without_dropout()
    assert torch.equal(says(policy), in_evaluation(policy))
