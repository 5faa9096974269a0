"""vLLM as the sampler of rounds, against a stand-in: what it is asked, and what becomes of its answers.

Nothing here has seen the real library (`tests/rollouts/vllm_stand_in.py` says what the stand-in is).
"""

import json
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from apo.config import config_hash, load_config
from apo.errors import ConfigError, EvaluationError, ModelError
from apo.evaluation import Template
from apo.experience.make import check_sampler, sampler_of
from apo.experience.prompts import Prompt
from apo.experience.writing import Writer
from apo.models.load import load_policy, load_tokenizer
from apo.models.policy import Policy
from apo.rollouts import vllm_engine
from apo.rollouts.generate import Continuation, Request, generate
from apo.rollouts.vllm_engine import VllmSampler, check_model, check_vllm
from apo.schema import EvaluationConfig, GenerationConfig, LoraConfig, ModelConfig, RolloutConfig, ScenarioConfig
from apo.seeds import stream_seed
from tests.rollouts.vllm_stand_in import SamplingParams, stand_in

END = 256
PROMPTS = [[END, 72, 101], [END], [END, 72, 101], [END, 3, 4, 5]]
SAMPLED = GenerationConfig(max_new_tokens=12)


class Progress:
    done = 0

    def advance(self, rows):
        self.done += rows


@pytest.fixture
def vllm(monkeypatch):
    """What the stand-in shares."""
    module, shared = stand_in()
    monkeypatch.setitem(sys.modules, "vllm", module)
    known = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.28.0" if name == "vllm" else known(name))
    return shared


@pytest.fixture
def gpu(monkeypatch):
    """A machine that says it has one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture
def sampler(vllm, tmp_path):
    return VllmSampler(tmp_path / "rounds" / "vllm", 64, 0.25)


@pytest.fixture
def model(tiny_llama):
    return tiny_llama(initializer_range=0.3)


def ask(sampler, model, tokenizer, prompts=PROMPTS, generation=SAMPLED, seed=5, **options):
    return sampler(model, prompts, generation, tokenizer=tokenizer, seed=seed, **options)


# ------------------------------------------------------------------------------------------------------ what is asked

def test_every_completion_is_a_request_with_a_seed_of_its_own(sampler, model, byte_tokenizer, vllm):
    progress = Progress()
    found = ask(sampler, model, byte_tokenizer, batch_size=8, progress=progress)
    assert progress.done == len(found) == len(PROMPTS)
    assert all(isinstance(each, Continuation) and 0 < len(each.ids) <= 12 for each in found)
    [requests] = vllm.seen.requests
    assert [prompt for prompt, _ in requests] == PROMPTS
    assert [params.seed for _, params in requests] == [stream_seed(5, "completion", row) for row in range(4)]
    assert found[0].ids != found[2].ids         # the same prompt
    [made] = vllm.seen.made
    assert made == {"dtype": made["dtype"], "seed": 0, "gpu_memory_utilization": 0.25, "max_model_len": 64,
                    "max_num_seqs": 8, "enable_sleep_mode": True, "enable_prefix_caching": True,
                    "generation_config": "vllm"}
    assert made["dtype"] in ("float32", "bfloat16")


def test_numbers_take_the_place_of_rows(sampler, model, byte_tokenizer, vllm):
    rows = ask(sampler, model, byte_tokenizer)
    part = ask(sampler, model, byte_tokenizer, PROMPTS[2:], numbers=[2, 3])
    assert part == rows[2:]
    assert ask(sampler, model, byte_tokenizer, seed=6) != rows


def test_options_of_sampling_have_vllms_names(sampler, model, byte_tokenizer, vllm):
    generation = GenerationConfig(temperature=0.7, top_k=9, top_p=0.8, repetition_penalty=1.2, min_new_tokens=3,
                                  max_new_tokens=20, stop_strings=["\n\n"])
    ask(sampler, model, byte_tokenizer, generation=generation, banned_token_ids=[7, 8])
    never = float("-inf")
    assert vllm.seen.requests[0][1][1] == SamplingParams(
        seed=stream_seed(5, "completion", 1), temperature=0.7, top_k=9, top_p=0.8, repetition_penalty=1.2,
        min_tokens=3, max_tokens=20, stop=["\n\n"], stop_token_ids=[END], ignore_eos=True,
        logit_bias={7: never, 8: never})
    ask(sampler, model, byte_tokenizer, generation=GenerationConfig(do_sample=False, max_new_tokens=4))
    greedy = vllm.seen.requests[1][0][1]
    assert (greedy.temperature, greedy.stop, greedy.detokenize, greedy.logit_bias) == (0.0, None, False, None)


def test_greedy_text_is_that_of_our_own_sampler(sampler, model, byte_tokenizer):
    """The weights have come through the files, and what comes back is read as ours."""
    greedy = GenerationConfig(do_sample=False, max_new_tokens=10)
    assert ask(sampler, model, byte_tokenizer, generation=greedy) == generate(
        model, PROMPTS, greedy, tokenizer=byte_tokenizer, seed=0, precision="fp32")


# ------------------------------------------------------------------------------------------------- from round to round

def test_the_engine_is_started_once_and_reads_the_weights_of_each_round(sampler, model, byte_tokenizer, vllm):
    greedy = GenerationConfig(do_sample=False, max_new_tokens=10)
    first = ask(sampler, model, byte_tokenizer, generation=greedy)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(-3)
    second = ask(sampler, model, byte_tokenizer, generation=greedy)
    assert first != second == generate(model, PROMPTS, greedy, tokenizer=byte_tokenizer, seed=0, precision="fp32")
    assert len(vllm.seen.made) == 1
    assert vllm.seen.calls == ["read weights-0", "sleep", "wake weights", "read weights-1", "wake kv_cache", "forget",
                               "sleep"]


def test_nothing_is_left_on_disk_and_the_model_is_as_it_was(sampler, model, byte_tokenizer):
    (sampler.folder / "weights-7").mkdir(parents=True)          # of a run that was killed
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.train()
    ask(sampler, model, byte_tokenizer)
    assert not sampler.folder.exists() and model.training
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_it_sleeps_although_a_round_failed(sampler, model, byte_tokenizer, vllm):
    vllm.spoil = lambda output: SimpleNamespace(outputs=[SimpleNamespace(token_ids=[], finish_reason="abort")])
    with pytest.raises(ModelError, match=r"broke off a completion after 0 tokens \(abort\)"):
        ask(sampler, model, byte_tokenizer)
    assert vllm.seen.calls[-1] == "sleep"


def test_an_adapter_is_merged_into_what_is_written(sampler, byte_tokenizer, model, tmp_path):
    model.save_pretrained(tmp_path / "base")
    byte_tokenizer.save_pretrained(tmp_path / "base")
    config = ModelConfig(name=str(tmp_path / "base"), lora=LoraConfig(r=4))
    policy = load_policy(config, load_tokenizer(config), 257, 1)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(2))
    greedy = GenerationConfig(do_sample=False, max_new_tokens=10)
    mine = generate(policy.model, PROMPTS, greedy, tokenizer=byte_tokenizer, seed=0, precision="fp32")
    assert ask(sampler, policy.model, byte_tokenizer, generation=greedy) == mine
    assert mine != generate(model, PROMPTS, greedy, tokenizer=byte_tokenizer, seed=0, precision="fp32")


# -------------------------------------------------------------------------------------------------- what comes of text

def spoken(text, tokenizer, reason):
    ids = tokenizer(text)["input_ids"]
    return lambda output: SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, finish_reason=reason)])


@pytest.mark.parametrize("text, reason, expected", [
    ("one.two", "stop", ("one.", True)), ("one", "length", ("one", False)), ("one.", "stop", ("one.", True)),
    ("one", "stop", ("one", True)),         # of a stop that only vLLM has seen
])
def test_stop_strings_are_found_by_our_own_test(sampler, model, byte_tokenizer, vllm, text, reason, expected):
    vllm.spoil = spoken(text, byte_tokenizer, reason)
    generation = GenerationConfig(max_new_tokens=9, stop_strings=["."])
    for found in ask(sampler, model, byte_tokenizer, generation=generation, batch_size=3):
        assert (byte_tokenizer.decode(found.ids), found.finished) == expected


def test_a_text_ends_with_its_end_of_text(sampler, model, byte_tokenizer):
    found = ask(sampler, model, byte_tokenizer, PROMPTS * 40, GenerationConfig(max_new_tokens=30))
    assert {each.finished for each in found} == {True, False}
    assert all((each.ids[-1] == END) == each.finished and END not in each.ids[:-1] for each in found)
    shy = ask(sampler, model, byte_tokenizer, PROMPTS * 40, GenerationConfig(min_new_tokens=30, max_new_tokens=30))
    assert {len(each.ids) for each in shy} == {30}


def test_banned_tokens_are_not_written(sampler, model, byte_tokenizer, vllm):
    free = ask(sampler, model, byte_tokenizer)
    banned = sorted({token for each in free for token in each.ids})[:5]
    found = ask(sampler, model, byte_tokenizer, banned_token_ids=banned)
    assert not set(banned) & {token for each in found for token in each.ids}
    vllm.spoil = lambda output: SimpleNamespace(outputs=[SimpleNamespace(token_ids=banned, finish_reason="length")])
    with pytest.raises(ModelError, match="which it was told not to"):
        ask(sampler, model, byte_tokenizer, banned_token_ids=banned)


# ------------------------------------------------------------------------------------------------------------- refused

def test_it_says_what_is_missing(monkeypatch, vllm, gpu):
    check_vllm()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="needs a CUDA device, and there is none"):
        check_vllm()
    monkeypatch.setattr(metadata, "version", lambda name: "0.11.2")
    with pytest.raises(ModelError, match="vllm 0.11.2 is too old .* install 0.18 or later"):
        check_vllm()

    def absent(name):
        raise metadata.PackageNotFoundError(name)
    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(ModelError, match=r"pip install -e '.\[vllm\]'"):
        check_vllm()


@pytest.mark.parametrize("change, said", [
    ({"is_quantized": True}, "those under this adapter are rounded"),
    ({"peft_config": {"default": SimpleNamespace(peft_type=SimpleNamespace(value="PREFIX_TUNING"))},
      "get_base_model": lambda: SimpleNamespace()}, "an adapter of the kind PREFIX_TUNING cannot be merged"),
    ({}, "vllm has no Mine"),
])
def test_models_that_it_cannot_be_given(change, said):
    model = type("Mine", (), {name: staticmethod(value) if callable(value) else value
                              for name, value in change.items()})()
    with pytest.raises(ModelError, match=said):
        check_model(model, {"LlamaForCausalLM"})


def test_what_it_cannot_do_and_what_goes_wrong(sampler, model, byte_tokenizer, vllm):
    with pytest.raises(EvaluationError, match="num_beams=2: vllm samples"):
        ask(sampler, model, byte_tokenizer, generation=GenerationConfig(num_beams=2))
    with pytest.raises(EvaluationError, match="the model's context is 256"):
        ask(sampler, model, byte_tokenizer, generation=GenerationConfig(max_new_tokens=300))
    vllm.start = ValueError("Free memory on device is less than desired GPU memory utilization\nmore")
    with pytest.raises(ModelError, match=r"did not start \(Free memory .* utilization\).*gpu_memory_utilization=0.25"):
        ask(sampler, model, byte_tokenizer)
    assert not sampler.folder.exists()
    vllm.start = None
    ask(sampler, model, byte_tokenizer)
    vllm.forgets = False
    with pytest.raises(ModelError, match="did not forget"):
        ask(sampler, model, byte_tokenizer)


def test_too_few_answers_are_refused(byte_tokenizer):
    request = Request(SAMPLED, byte_tokenizer, 1, [], [END])
    with pytest.raises(ModelError, match="asked for 2 completions and gave 0"):
        vllm_engine.read([], [[1], [2]], request, 8)


PPO = ("task=hh", "method=ppo", "scale=smoke")


def test_the_config_knows_beforehand_what_it_can():
    for given, said in (("model.quantization=nf4 model.lora.r=4 model.name=gpt2", "model.quantization=nf4 are rounded"),
                        ("model.trust_remote_code=true", "no model whose code comes with it")):
        with pytest.raises(ConfigError, match=said):
            load_config([*PPO, "rollout.backend=vllm", *given.split()])
    with pytest.raises(ConfigError, match="vllm samples at 0.01 to 2 and not at 3"):
        load_config(["task=hh", "method=best_of_n", "rollout.backend=vllm", "rollout.temperature=3"])
    with pytest.raises(ConfigError, match="rollout.backend: expected"):
        load_config([*PPO, "rollout.backend=sglang"])


# -------------------------------------------------------------------------------------------------------- where it is

def test_who_writes_is_part_of_a_run_and_how_much_memory_it_has_is_not():
    base = config_hash(load_config(PPO))
    assert base == config_hash(load_config([*PPO, "rollout.backend=hf"]))
    with_vllm = config_hash(load_config([*PPO, "rollout.backend=vllm"]))
    assert base != with_vllm == config_hash(load_config([*PPO, "rollout.backend=vllm",
                                                         "rollout.gpu_memory_utilization=0.5"]))


def test_rounds_have_the_sampler_that_the_config_names(tmp_path, vllm, gpu, monkeypatch):
    config = load_config(PPO)
    check_sampler(config)
    assert sampler_of(config, tmp_path) is generate
    config = load_config([*PPO, "rollout.backend=vllm", "rollout.gpu_memory_utilization=0.5"])
    check_sampler(config)
    made = sampler_of(config, tmp_path)
    assert (made.folder, made.longest, made.memory) == (tmp_path / "vllm", config.data.block_size, 0.5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="CUDA"):
        check_sampler(config)


def test_a_run_is_written_by_it(vllm, tmp_path, monkeypatch):
    """The policy that it starts from comes first, and the rounds' log-probabilities are the trainer's."""
    from apo import experiment
    monkeypatch.setattr("apo.experience.make.check_sampler", lambda config: None)       # there is no GPU
    config = load_config([*PPO, "rollout.backend=vllm", "training.max_steps=2", "training.precision=fp32",
                          "evaluation.num_bootstrap=10", f"output_dir={tmp_path / 'outputs'}"])
    outcome = experiment.train(config)
    rows = [json.loads(line) for line in (outcome.path / "metrics.jsonl").read_text().splitlines()]
    assert outcome.state == "done" and [row["val/ratio"] for row in rows if "val/ratio" in row] == [1.0, 1.0]
    assert vllm.seen.calls.count("sleep") == 2 and not (outcome.path / "rounds" / "vllm").exists()
    assert len(vllm.seen.requests[0]) == len((outcome.path / "rounds/round-000000.jsonl").read_text().splitlines())


def test_a_writer_writes_with_it(sampler, model, byte_tokenizer, vllm):
    options = RolloutConfig(max_new_tokens=12, lengths=[2, 5])
    template = Template.of(ScenarioConfig(), EvaluationConfig(), byte_tokenizer)
    writer = Writer(options, byte_tokenizer, template, [], [], 8, 3, sampler)
    prompts, policy = [Prompt(ids, "", []) for ids in PROMPTS], Policy(model, value_head=True)
    rounds = [writer.write(policy, prompts, number, Progress()) for number in (0, 1, 0)]
    assert rounds[0] == rounds[2] != rounds[1]
    assert {len(each.ids) for each in rounds[0] + rounds[1]} <= {1, 2, 3, 4, 5}
    assert [params.seed for _, params in vllm.seen.requests[1]] == [
        stream_seed(stream_seed(3, "rollout", 1), "completion", row) for row in range(4)]
