"""Adapters: what is found, what is trained, what is on disk, and what the policy was before."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from apo.config import load_config
from apo.errors import ConfigError, ModelError
from apo.models.adapters import find_adapter, linear_layers, target_modules
from apo.models.load import load_adapted, load_policy, load_tokenizer, load_trained
from apo.models.policy import Policy
from apo.models.reference import reference_of
from apo.models.save import restore_policy, save_policy
from apo.report.runs import kind_of
from apo.rollouts.generate import generate
from apo.schema import GenerationConfig, LoraConfig, ModelConfig
from tests.models.adapting import make_batch, train

QUANTISED = ("8bit", "nf4", "fp4")
IDS = {"vocab_size": 260, "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256}
SHAPES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "gpt_neox": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "gemma2": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
               "intermediate_size": 64, "head_dim": 16, "final_logit_softcapping": 3.0},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
}


@pytest.fixture(scope="module")
def make_base(tmp_path_factory, tiny_llama, byte_tokenizer):
    """`make_base(tie_word_embeddings=...)`: a folder of a tiny Llama that has been trained for some steps."""

    def build(**options):
        folder = tmp_path_factory.mktemp("base")
        model = tiny_llama(**{"hidden_size": 64, "intermediate_size": 128, **options})
        train(Policy(model), 20, 1e-2)
        model.save_pretrained(folder)
        byte_tokenizer.save_pretrained(folder)
        return folder
    return build


@pytest.fixture(scope="module")
def base(make_base):
    return make_base()


def load(name, tokenizer, new_ids=(), r=4, value_head=False, **options) -> Policy:
    config = ModelConfig(name=str(name), lora=LoraConfig(r=r, dropout=0.0), **options)
    return load_policy(config, tokenizer, 257, seed=1, new_ids=list(new_ids), value_head=value_head, block_size=32)


@torch.no_grad()
def logits(policy, high=256):
    return policy.model(input_ids=make_batch(9, high).input_ids_BT).logits.float()


# ---- what is adapted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture, expected", [
    ("gpt2", ["c_attn", "c_fc", "c_proj"]),
    ("gpt_neox", ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"]),
    ("gemma2", ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]),
    ("bloom", ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"])])
def test_the_linear_layers_of_any_architecture_are_found_and_trained(tmp_path, byte_tokenizer, architecture, expected):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **IDS, **SHAPES[architecture]))
    assert target_modules(model) == expected
    model.save_pretrained(tmp_path)
    policy = load(tmp_path, byte_tokenizer, new_ids=[260, 261])
    before = logits(policy)
    train(policy, high=262)
    assert not torch.equal(before, logits(policy))
    batch = make_batch(high=262)
    expected = policy.model(input_ids=batch.input_ids_BT).logits.float()[:, :-1].log_softmax(-1)
    expected = expected.gather(-1, batch.input_ids_BT[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(policy.token_stats(batch).logps_BT[:, 1:], expected, rtol=1e-4, atol=1e-4)


def test_a_head_with_the_name_of_a_layer_is_left_alone(tiny_llama):
    model = tiny_llama(tie_word_embeddings=False)
    model.model.layers[0].lm_head = torch.nn.Linear(4, 4)
    names = target_modules(model)
    assert names == sorted(linear_layers(model)) and "lm_head" not in names


def test_layers_that_do_not_exist_are_refused(base, byte_tokenizer):
    config = ModelConfig(name=str(base), lora=LoraConfig(r=4, target_modules=["q_proj", "k_prj", "wte"]))
    with pytest.raises(ModelError, match='no linear layer "k_prj" in the body. Did you mean "k_proj"?') as problem:
        load_policy(config, byte_tokenizer, 257, seed=1)
    assert '"wte"' in str(problem.value)
    config.lora.target_modules = ["q_proj", "layers.1.mlp.up_proj"]
    adapted = load_policy(config, byte_tokenizer, 257, seed=1).model
    names = {name.partition(".lora_A")[0].rpartition("base_model.model.")[2] for name, p in adapted.named_parameters()
             if ".lora_A" in name}
    assert names == {"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj",
                     "model.layers.1.mlp.up_proj"}


# ---- what is trained -------------------------------------------------------------------------------------------------


def test_adapters_are_a_stream_of_their_own(base, byte_tokenizer):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = load(base, byte_tokenizer)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    two = load(base, byte_tokenizer)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))


@pytest.mark.parametrize("tie", [True, False])
def test_only_adapter_new_rows_and_value_head_are_trained(make_base, byte_tokenizer, tie):
    policy = load(make_base(tie_word_embeddings=tie), byte_tokenizer, new_ids=[260, 261], value_head=True)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    train(policy, high=262)
    changed = {name for name, p in policy.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name, p in policy.named_parameters() if p.requires_grad}
    others = {name for name in changed if "lora_" not in name}
    rows = {name for name in others if ".token_adapter" in name}
    layers = {name.partition(".token_adapter")[0].rpartition(".")[2] for name in rows}
    assert layers == ({"embed_tokens"} if tie else {"embed_tokens", "lm_head"})
    assert others - rows == {"value_head.linear.weight"}


def test_a_fresh_model_takes_no_adapter(byte_tokenizer):
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    with pytest.raises(ModelError, match="kept nowhere"):
        load_policy(ModelConfig(config=shape, lora=LoraConfig(r=4)), byte_tokenizer, 257, seed=1)
    with pytest.raises(ConfigError, match="model.lora.r: an adapter needs a model"):
        load_config(["task=pep8", "method=mle", "model.lora.r=4"])
    with pytest.raises(ConfigError, match="rounded weights cannot be trained"):
        load_config(["task=pep8", "method=mle", "model=hub", "model.name=gpt2", "model.quantization=nf4"])


@pytest.mark.parametrize("words, quantization", [("model=lora", "none"), ("model=qlora", "nf4"),
                                                 ("model=hub model.lora.r=16", "none"),
                                                 ("model=phf/pep8/mle model.lora.r=16", "none")])
def test_any_model_takes_an_adapter(words, quantization):
    named = [] if "phf" in words else ["model.name=gpt2"]
    model = load_config(["task=pep8", "method=mle", *words.split(), *named]).model
    assert (model.lora, model.quantization) == (LoraConfig(16, 32, 0.05), quantization)


@pytest.mark.parametrize("quantization", QUANTISED)
def test_a_quantised_base_trains_and_samples(base, byte_tokenizer, quantization):
    policy = load(base, byte_tokenizer, new_ids=[260], quantization=quantization)
    kinds = {type(module).__name__ for module in policy.model.modules()}
    assert policy.num_parameters == load(base, byte_tokenizer, new_ids=[260]).num_parameters
    assert kinds & {"Linear4bit", "Linear8bitLt"}
    before = logits(policy)
    train(policy, high=261)
    assert not torch.equal(before, logits(policy))
    short = GenerationConfig(max_new_tokens=4)
    texts = generate(policy.model, [[256], [1, 2]], short, tokenizer=byte_tokenizer, seed=1)
    assert all(text.ids for text in texts)


@pytest.mark.parametrize("quantization", QUANTISED)
def test_gradients_pass_through_a_quantised_base(base, byte_tokenizer, tmp_path, quantization):
    """After an evaluation too, for which bitsandbytes has a layout without a backward pass.  Against the same base with
    its weights as numbers."""
    policy = train(load(base, byte_tokenizer, quantization=quantization), 3)
    save_policy(policy, tmp_path)
    adapter = find_adapter(str(tmp_path))
    numbers = Policy(load_adapted(adapter, adapter.base_config(), dequantise=True))
    logits(policy)
    gradients = []
    for each in (policy, numbers):
        each.train().token_stats(make_batch()).logps_BT.sum().backward()
        gradients.append({name: p.grad for name, p in each.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.cosine_similarity(gradient.flatten(), gradients[1][name].flatten(), 0) > 0.98, name


def test_samples_are_the_adapted_model_s(base, byte_tokenizer):
    """The fast path reads the base's weights; it must not be taken."""
    policy = load(base, byte_tokenizer)
    train(policy, 5, 3e-2)
    greedy = GenerationConfig(max_new_tokens=8, do_sample=False)
    ours = generate(policy.model, [[256, 7]], greedy, tokenizer=byte_tokenizer, seed=1, precision="fp32")[0].ids
    ids = torch.tensor([[256, 7]])
    for _ in range(8):
        ids = torch.cat([ids, policy.model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    assert ours == ids[0, 2:].tolist()[:len(ours)]


# ---- on disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", ["none", "nf4", "8bit"])
def test_saved_restored_and_loaded_to_the_bit(make_base, byte_tokenizer, tmp_path, quantization):
    base = make_base(tie_word_embeddings=quantization == "nf4")
    policy = train(load(base, byte_tokenizer, new_ids=[260, 261], value_head=True, quantization=quantization), high=262)
    save_policy(policy, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors",
                                                          "adapter_base.json", "value_head.safetensors"}
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert sum(weight.numel() for weight in load_file(tmp_path / "adapter_model.safetensors").values()) < 20_000
    restored = load(base, byte_tokenizer, new_ids=[260, 261], value_head=True, quantization=quantization)
    restore_policy(restored, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), restored.parameters()))
    loaded, tokenizer = load_trained(tmp_path)          # the adapter brings no tokenizer: its base's
    assert torch.equal(logits(loaded, 262), logits(policy, 262)) and len(tokenizer) == len(byte_tokenizer)
    assert kind_of(str(tmp_path)) == "model"


def test_peft_loads_what_we_save(base, byte_tokenizer, tmp_path):
    from peft import AutoPeftModelForCausalLM
    policy = train(load(base, byte_tokenizer))
    save_policy(policy, tmp_path)
    theirs = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path)).eval()
    torch.testing.assert_close(theirs(input_ids=make_batch(9).input_ids_BT).logits, logits(policy))


def test_an_adapter_is_trained_on(base, byte_tokenizer, tmp_path):
    """With tokens it did not have, it goes on where it was; only their rows are new."""
    policy = train(load(base, byte_tokenizer, new_ids=[260]), high=261)
    save_policy(policy, tmp_path)
    byte_tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(ModelConfig(name=str(tmp_path))).eos_token_id == 256
    continued = load(tmp_path, byte_tokenizer, new_ids=[261, 262], r=None)
    assert not continued.adapter_is_new and policy.adapter_is_new
    torch.testing.assert_close(logits(continued, 261)[..., :261], logits(policy, 261))
    before = logits(continued, 263)
    assert not torch.equal(logits(train(continued, high=263), 263), before)
    (tmp_path / "second").mkdir()
    save_policy(continued, tmp_path / "second")
    assert torch.equal(logits(load_trained(tmp_path / "second")[0], 263), logits(continued, 263))


def test_an_adapter_of_the_hub(base, byte_tokenizer):
    """In the cache as the hub's own client lays it out; nothing is asked for over the network."""
    from huggingface_hub.constants import HF_HUB_CACHE
    cached, commit = Path(HF_HUB_CACHE) / "models--someone--adapter", "0" * 40
    snapshot = cached / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    policy = train(load(base, byte_tokenizer))
    save_policy(policy, snapshot)
    byte_tokenizer.save_pretrained(snapshot)
    loaded, tokenizer = load_trained("someone/adapter")
    assert torch.equal(logits(loaded), logits(policy)) and len(tokenizer) == len(byte_tokenizer)
    assert torch.equal(logits(load("someone/adapter", byte_tokenizer, r=None)), logits(policy))
    assert find_adapter("someone/other") is None


def test_an_adapter_without_its_base_says_so(make_base, byte_tokenizer, tmp_path):
    base = make_base()
    save_policy(load(base, byte_tokenizer), tmp_path)
    byte_tokenizer.save_pretrained(tmp_path)
    shutil.rmtree(base)
    with pytest.raises(ModelError, match="is an adapter on .* which is not there: name its new place as model.base"):
        load_trained(tmp_path)
    with pytest.raises(ModelError, match="is an adapter on .* which is not there: name its new place as model.base"):
        load(tmp_path, byte_tokenizer)


def test_a_damaged_adapter_is_refused(base, byte_tokenizer, tmp_path):
    from safetensors.torch import save_file
    save_policy(load(base, byte_tokenizer), tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="does not fit its base"):
        load_trained(tmp_path)


def test_other_bits_than_it_was_trained_with_are_told(base, byte_tokenizer, tmp_path, capsys):
    save_policy(load(base, byte_tokenizer, quantization="nf4"), tmp_path)
    load(tmp_path, byte_tokenizer, r=8)
    said = " ".join(capsys.readouterr().err.split())
    assert "model.quantization=nf4" in said and "has rank 4 and keeps it" in said


# ---- the policy as it was --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["full", "new", "new with tokens", "continued", "quantised"])
def test_the_reference_is_the_policy_as_the_stage_began(base, byte_tokenizer, tmp_path, case):
    new_ids, high = ([260, 261], 262) if case == "new with tokens" else ([], 256)
    if case == "continued":
        save_policy(train(load(base, byte_tokenizer, new_ids=[260]), high=261), tmp_path)
        policy, high = load(tmp_path, byte_tokenizer), 261
    else:
        policy = load(base, byte_tokenizer, new_ids, r=None if case == "full" else 4,
                      quantization="nf4" if case == "quantised" else "none")
    policy.eval()
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    start = logits(policy, high)
    reference = reference_of(policy)
    assert {name for name, p in policy.named_parameters() if p.requires_grad} == trained
    batch = make_batch(4, high)
    now, then = policy.token_stats(batch, ("kl",), other=reference), reference.token_stats(batch)
    assert torch.equal(now.logps_BT, then.logps_BT) and not then.logps_BT.requires_grad and now.logps_BT.requires_grad
    assert now.kl_BT.abs().max() < 1e-6
    train(policy, 1, high=high)
    after = policy.token_stats(batch, ("kl",), other=reference)
    assert (after.logps_BT - then.logps_BT)[:, 1:].abs().max() > 1e-3 and after.kl_BT.max() > 1e-5
    assert torch.equal(reference.token_stats(batch).logps_BT, then.logps_BT)
    with reference.as_it_was() as was:
        assert torch.equal(logits(was, high), start)
    assert not torch.equal(logits(policy, high), start)


def test_the_copy_of_an_adapter_is_neither_trained_nor_saved(base, byte_tokenizer, tmp_path):
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    save_policy(train(load(base, byte_tokenizer)), tmp_path / "one")
    policy = load(tmp_path / "one", byte_tokenizer)
    reference_of(policy)
    save_policy(policy, tmp_path / "two")
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert not any(p.requires_grad for name, p in policy.named_parameters() if ".reference" in name)
    restore_policy(train(policy), tmp_path / "one")
    assert torch.equal(logits(policy), logits(load_trained(tmp_path / "one")[0]))


def test_an_adapter_is_put_on_the_base_that_is_named(tmp_path, make_base, byte_tokenizer):
    """Its own has moved; a model that is no adapter stands on none."""
    own, moved, folder = make_base(), tmp_path / "moved", tmp_path / "adapter"
    folder.mkdir()
    policy = train(load(own, byte_tokenizer))
    save_policy(policy, folder)
    byte_tokenizer.save_pretrained(folder)
    shutil.move(own, moved)
    with pytest.raises(ModelError, match="name its new place as model.base"):
        load_trained(folder)
    found, _ = load_trained(folder, base=str(moved))
    torch.testing.assert_close(logits(found), logits(policy), rtol=1e-5, atol=1e-5)
    going_on = load(folder, byte_tokenizer, base=str(moved))
    torch.testing.assert_close(logits(going_on.eval()), logits(policy), rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match="moved is no adapter, and so stands on no other model"):
        load_trained(moved, base=str(moved))
