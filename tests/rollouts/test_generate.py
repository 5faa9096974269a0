"""The engines give the model's own text, whatever the batch, and leave nothing behind."""

import numpy as np
import pytest
import torch

from apo.errors import EvaluationError
from apo.rollouts import generate as module
from apo.rollouts.fast_llama import LlamaDecoder
from apo.rollouts.generate import batches, choose_engine, generate
from apo.schema import GenerationConfig

END = 256
GREEDY = GenerationConfig(do_sample=False, max_new_tokens=24)
SAMPLED = GenerationConfig(temperature=0.9, top_p=0.9, max_new_tokens=40)
RAGGED = [[END], [END, 72, 101], [END, 1, 2, 3, 4, 5, 6, 7], [END], [END, 9, 9], [END, 30, 31, 32, 33]]


def lively(model):
    """A fresh model repeats its last token and is unsure of everything; larger weights make every layer matter and the
    distribution as peaked as a trained model's."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
        model.get_output_embeddings().weight.mul_(3)
    return model


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel
    return lively(fresh(GPT2LMHeadModel, GPT2Config(vocab_size=260, n_positions=256, n_embd=32, n_layer=2, n_head=2,
                                                tie_word_embeddings=False)))


def gpt_neox():
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    return lively(fresh(GPTNeoXForCausalLM, GPTNeoXConfig(
        vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=256)))


def qwen2():
    from transformers import Qwen2Config, Qwen2ForCausalLM
    model = fresh(Qwen2ForCausalLM, Qwen2Config(
        vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for layer in model.model.layers:
            layer.self_attn.q_proj.bias.data.normal_()
            layer.self_attn.v_proj.bias.data.normal_()
    return lively(model)


def mistral():
    from transformers import MistralConfig, MistralForCausalLM
    return lively(fresh(MistralForCausalLM, MistralConfig(
        vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=256, sliding_window=None)))


def fresh(cls, config):
    config.eos_token_id = config.bos_token_id = config.pad_token_id = END
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cls(config).eval()


@pytest.fixture
def llama(tiny_llama):
    return lively(tiny_llama(num_attention_heads=4, tie_word_embeddings=False))


@pytest.fixture
def grouped(tiny_llama):
    return lively(tiny_llama(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False))


MODELS = {"gpt2": gpt2, "gpt_neox": gpt_neox, "qwen2": qwen2, "mistral": mistral}
ALL = ["llama", "grouped", *MODELS]


@pytest.fixture
def model(request):
    return MODELS[request.param]() if request.param in MODELS else request.getfixturevalue(request.param)


def uses_fast_path(model) -> bool:
    with torch.no_grad():
        engine, _ = choose_engine(model, torch.float32, GREEDY)
    return isinstance(engine, module.SamplingLoop) and isinstance(engine.decoder, LlamaDecoder)


def ids(model, prompts, config, tokenizer, **options) -> list[list[int]]:
    options = {"seed": 0, "batch_size": 4, "precision": "fp32", **options}
    return [text.ids for text in generate(model, prompts, config, tokenizer=tokenizer, **options)]


def by_transformers(model, prompt: list[int], tokenizer, **options) -> list[int]:
    """One prompt alone, so without padding."""
    inputs = torch.tensor([prompt])
    output = model.generate(input_ids=inputs, attention_mask=torch.ones_like(inputs), do_sample=False,
                            pad_token_id=END, eos_token_id=END, tokenizer=tokenizer, **options)
    return output[0, len(prompt):].tolist()


@pytest.mark.parametrize("model", ALL, indirect=True)
def test_greedy_text_is_that_of_generate(model, byte_tokenizer):
    expected = [by_transformers(model, prompt, byte_tokenizer, max_new_tokens=24) for prompt in RAGGED]
    assert ids(model, RAGGED, GREEDY, byte_tokenizer) == expected
    assert ids(model, RAGGED, GREEDY, byte_tokenizer, batch_size=1) == expected


def test_which_models_take_the_fast_path(llama, grouped):
    assert all(uses_fast_path(model) for model in (llama, grouped, qwen2(), mistral()))
    assert not any(uses_fast_path(model) for model in (gpt2(), gpt_neox()))


def test_a_family_member_with_other_arithmetic_is_found_out(llama, byte_tokenizer):
    """The class is the family's, but something in it was changed: the comparison of logits refuses it."""
    llama.model.layers[0].mlp.register_forward_hook(lambda module, inputs, output: output * 1.5)
    assert not uses_fast_path(llama)
    expected = [by_transformers(llama, prompt, byte_tokenizer, max_new_tokens=24) for prompt in RAGGED]
    assert ids(llama, RAGGED, GREEDY, byte_tokenizer) == expected


def test_past_the_growth_of_the_cache(llama, byte_tokenizer):
    config = GenerationConfig(do_sample=False, max_new_tokens=120)
    assert ids(llama, [[END, 65]], config, byte_tokenizer) == [
        by_transformers(llama, [END, 65], byte_tokenizer, max_new_tokens=120)]


@pytest.mark.parametrize("options", [{"repetition_penalty": 1.7}, {"min_new_tokens": 20}])
@pytest.mark.parametrize("model", ["llama", "gpt2"], indirect=True)
def test_greedy_with_processors(model, options, byte_tokenizer):
    config = GenerationConfig(do_sample=False, max_new_tokens=24, **options)
    expected = [by_transformers(model, prompt, byte_tokenizer, max_new_tokens=24, **options) for prompt in RAGGED]
    assert ids(model, RAGGED, config, byte_tokenizer) == expected


def test_new_weights_are_used(llama, byte_tokenizer):
    before = ids(llama, RAGGED, GREEDY, byte_tokenizer)
    with torch.no_grad():
        llama.model.layers[0].self_attn.v_proj.weight.neg_()
    assert ids(llama, RAGGED, GREEDY, byte_tokenizer) != before


@pytest.mark.parametrize("model", ["llama", "gpt2"], indirect=True)
def test_a_row_does_not_depend_on_its_neighbours(model, byte_tokenizer):
    prompts = RAGGED * 3
    whole = ids(model, prompts, SAMPLED, byte_tokenizer, seed=4, batch_size=32)
    for batch_size in (1, 5):
        assert ids(model, prompts, SAMPLED, byte_tokenizer, seed=4, batch_size=batch_size) == whole
    assert ids(model, prompts[:7], SAMPLED, byte_tokenizer, seed=4) == whole[:7]
    assert ids(model, prompts, SAMPLED, byte_tokenizer, seed=5) != whole
    assert len({tuple(text) for text in (whole[0], whole[3], whole[6])}) == 3   # equal prompts, different rows


@pytest.mark.parametrize("model", ["llama", "gpt2"], indirect=True)
def test_sampled_frequencies(model, byte_tokenizer):
    """Of the second token, against the exact distribution and against generate's."""
    from scipy.stats import chi2_contingency, chisquare
    config = GenerationConfig(temperature=0.7, top_p=0.9, max_new_tokens=2, min_new_tokens=2)
    n = 4000
    mine = [text[1] for text in ids(model, [[END, 65, 66]] * n, config, byte_tokenizer, batch_size=500)]
    exact = second_token(model, [END, 65, 66], config)
    common = exact * n >= 10
    counts = np.bincount(mine, minlength=260)
    assert counts[exact == 0].sum() == 0
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(exact[common], exact[~common].sum()) * n
    assert chisquare(observed[expected > 0], expected[expected > 0] * n / expected.sum()).pvalue > 1e-3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prompts = torch.tensor([[END, 65, 66]] * n)
        output = model.generate(input_ids=prompts, attention_mask=torch.ones_like(prompts), do_sample=True, top_k=0,
                                temperature=0.7, top_p=0.9, min_new_tokens=2, max_new_tokens=2, pad_token_id=END)
    theirs = np.bincount(output[:, 4].numpy(), minlength=260)
    table = np.stack([observed, np.append(theirs[common], theirs[~common].sum())])
    assert chi2_contingency(table[:, table.sum(0) > 0]).pvalue > 1e-3


@torch.no_grad()
def second_token(model, prompt: list[int], config: GenerationConfig) -> np.ndarray:
    """Exact distribution of the second new token: the first summed out."""
    first = nucleus(model(torch.tensor([prompt])).logits[0, -1], config)
    after = model(torch.tensor([prompt + [token] for token in range(260)])).logits[:, -1]
    return sum(first[token] * nucleus(after[token], config) for token in range(260) if first[token] > 0)


def nucleus(logits_V: torch.Tensor, config: GenerationConfig) -> np.ndarray:
    logits = logits_V.double().numpy() / config.temperature
    logits[END] = -np.inf
    probs = np.exp(logits - logits.max())
    probs /= probs.sum()
    order = np.argsort(-probs)
    kept = order[np.concatenate([[0], np.cumsum(probs[order])[:-1]]) < config.top_p]
    cut = np.zeros_like(probs)
    cut[kept] = probs[kept]
    return cut / cut.sum()


@pytest.mark.parametrize("model", ["llama", "gpt2"], indirect=True)
def test_end_of_text_ends_a_row_and_only_that_row(model, byte_tokenizer):
    with torch.no_grad():
        head = model.get_output_embeddings()
        head.weight[END] = head.weight.std() * 2.0 * torch.randn(32, generator=torch.Generator().manual_seed(3))
    config = GenerationConfig(temperature=2.0, max_new_tokens=60)
    texts = generate(model, RAGGED * 8, config, tokenizer=byte_tokenizer, seed=1, batch_size=48, precision="fp32")
    ended = [text for text in texts if text.finished]
    assert 5 < len(ended) < 48
    assert all(text.ids[-1] == END and END not in text.ids[:-1] for text in ended)
    assert all(len(text.ids) == 60 and END not in text.ids for text in texts if not text.finished)
    alone = [generate(model, (RAGGED * 8)[:i + 1], config, tokenizer=byte_tokenizer, seed=1, batch_size=1,
                      precision="fp32")[i] for i in (0, 3, 7)]
    assert alone == [texts[i] for i in (0, 3, 7)]


@pytest.mark.parametrize("stop", ["a", "to", "\n\n", "é"])
@pytest.mark.parametrize("model", ["llama", "gpt2"], indirect=True)
def test_stop_strings_as_in_generate(model, stop, byte_tokenizer):
    """Forced text: every model would do, so the head is made to spell something with the stop string in it."""
    spelled = byte_tokenizer("xx to\n\né a", add_special_tokens=False)["input_ids"]
    model = Spelling(model, spelled)
    config = GenerationConfig(do_sample=False, max_new_tokens=len(spelled), stop_strings=[stop])
    text, = generate(model.inner, [[END]], config, tokenizer=byte_tokenizer, seed=0, precision="fp32")
    expected = by_transformers(model.inner, [END], byte_tokenizer, max_new_tokens=len(spelled), stop_strings=[stop])
    assert text.ids == expected == spelled[:len(expected)]
    assert text.finished
    assert byte_tokenizer.decode(text.ids).endswith(stop)


class Spelling:
    """Makes `inner` write `ids` greedily, through a hook on its head that counts calls."""

    def __init__(self, model, ids: list[int]):
        self.inner, self.ids = model, ids
        model.forward = self.wrapped(model.forward)

    def wrapped(self, forward):
        import functools

        @functools.wraps(forward)
        def spell(*args, **kwargs):
            output = forward(*args, **kwargs)
            past = kwargs.get("past_key_values") or output.get("past_key_values")
            if past is not None:
                place = past.get_seq_length() - 1
                output.logits = torch.zeros_like(output.logits)
                output.logits[:, -1, self.ids[min(place, len(self.ids) - 1)]] = 1.0
            else:
                output.logits = output.logits + 1
            return output
        return spell


def test_banned_tokens(llama, byte_tokenizer):
    free = ids(llama, RAGGED, GREEDY, byte_tokenizer)
    banned = sorted({token for text in free for token in text[:3]})
    texts = ids(llama, RAGGED, GREEDY, byte_tokenizer, banned_token_ids=banned)
    assert not {token for text in texts for token in text} & set(banned)


def test_beams_go_to_generate(llama, byte_tokenizer):
    config = GenerationConfig(do_sample=False, num_beams=3, max_new_tokens=12)
    expected = [by_transformers(llama, prompt, byte_tokenizer, max_new_tokens=12, num_beams=3) for prompt in RAGGED]
    assert ids(llama, RAGGED, config, byte_tokenizer, batch_size=1) == expected
    sampled = GenerationConfig(num_beams=2, max_new_tokens=6, top_p=0.9)
    assert ids(llama, RAGGED, sampled, byte_tokenizer) == ids(llama, RAGGED, sampled, byte_tokenizer)


def test_a_model_without_a_cache_goes_to_generate(byte_tokenizer):
    from transformers import MambaConfig, MambaForCausalLM
    model = fresh(MambaForCausalLM, MambaConfig(vocab_size=260, hidden_size=16, state_size=4, num_hidden_layers=1))
    config = GenerationConfig(do_sample=False, max_new_tokens=5)
    assert ids(model, [[END, 3]], config, byte_tokenizer) == [
        by_transformers(model, [END, 3], byte_tokenizer, max_new_tokens=5)]


@pytest.mark.parametrize("config", [SAMPLED, GenerationConfig(num_beams=2, max_new_tokens=4)])
def test_global_state_is_left_alone(llama, config, byte_tokenizer):
    llama.train()
    llama.model.layers[1].eval()
    flags = [part.training for part in llama.modules()]
    torch.manual_seed(11)
    np.random.seed(11)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    generate(llama, RAGGED, config, tokenizer=byte_tokenizer, seed=3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert [part.training for part in llama.modules()] == flags
    assert torch.is_grad_enabled()
    llama(torch.tensor([[1, 2]]), labels=torch.tensor([[1, 2]])).loss.backward()


def test_dropout_is_off(tiny_llama, byte_tokenizer):
    model = lively(tiny_llama(attention_dropout=0.5, tie_word_embeddings=False)).train()
    assert ids(model, RAGGED, GREEDY, byte_tokenizer) == ids(model.eval(), RAGGED, GREEDY, byte_tokenizer)


def test_under_inference_mode(llama, byte_tokenizer):
    expected = ids(llama, RAGGED, SAMPLED, byte_tokenizer)
    with torch.inference_mode():
        assert ids(llama, RAGGED, SAMPLED, byte_tokenizer) == expected


@pytest.mark.parametrize("model", ["llama", "gpt2"], indirect=True)
def test_bf16_is_close(model, byte_tokenizer):
    """Same distribution up to rounding: most first tokens agree, since they are drawn with the same numbers."""
    config = GenerationConfig(max_new_tokens=1, temperature=0.8, top_p=0.95)
    a, b = (ids(model, [[END, 70, i % 50] for i in range(200)], config, byte_tokenizer, precision=precision)
            for precision in ("fp32", "bf16"))
    assert sum(x == y for x, y in zip(a, b)) > 180


def test_a_prompt_that_leaves_no_room(llama, byte_tokenizer):
    with pytest.raises(EvaluationError, match=r"prompt 1 has 250 tokens .* context is 256: lower max_new_tokens to 6"):
        generate(llama, [[END], [END] * 250], GREEDY, tokenizer=byte_tokenizer, seed=0)
    with pytest.raises(EvaluationError, match="prompt 0 has 256 tokens .* leave it out or shorten it"):
        generate(llama, [[END] * 256], GREEDY, tokenizer=byte_tokenizer, seed=0)
    with pytest.raises(EvaluationError, match="prompt 0 has no tokens"):
        generate(llama, [[]], GREEDY, tokenizer=byte_tokenizer, seed=0)


def test_no_prompts_no_texts(llama, byte_tokenizer):
    assert generate(llama, [], GREEDY, tokenizer=byte_tokenizer, seed=0) == []


def test_numbers_stand_for_rows(llama, byte_tokenizer):
    """What a row is drawn by may be told, and is then the same wherever the row stands."""
    plain = ids(llama, [[END]] * 6, SAMPLED, byte_tokenizer)
    assert ids(llama, [[END]] * 6, SAMPLED, byte_tokenizer, numbers=[5, 4, 3, 2, 1, 0]) == plain[::-1]
    large = 2**63 - 1
    apart = [ids(llama, [[END]], SAMPLED, byte_tokenizer, numbers=[number])[0] for number in (large, 3)]
    assert ids(llama, [[END]] * 2, SAMPLED, byte_tokenizer, numbers=[large, 3]) == apart
    assert apart[1] == plain[3] and len({tuple(text) for text in plain}) == 6


def test_batches_hold_every_row_once_and_like_lengths_together():
    found = list(batches(RAGGED, 4))
    assert sorted(row for rows in found for row in rows) == list(range(len(RAGGED)))
    assert [[len(RAGGED[row]) for row in rows] for rows in found] == [[1, 1, 3, 3], [5, 8]]


def test_each_distinct_prompt_is_read_once(llama, byte_tokenizer, monkeypatch):
    widths = []
    prefill = LlamaDecoder.prefill
    monkeypatch.setattr(LlamaDecoder, "prefill", lambda self, ids, padding:
                        widths.append(tuple(ids.shape)) or prefill(self, ids, padding))
    ids(llama, [[END]] * 6 + [[END, 4, 5]] * 2, GREEDY, byte_tokenizer, batch_size=8)
    assert widths[-1] == (2, 3)


def test_progress_counts_rows(llama, byte_tokenizer):
    class Counter:
        total = 0

        def advance(self, n: int) -> None:
            self.total += n

    counter = Counter()
    generate(llama, RAGGED, GREEDY, tokenizer=byte_tokenizer, seed=0, batch_size=4, progress=counter)
    assert counter.total == len(RAGGED)
