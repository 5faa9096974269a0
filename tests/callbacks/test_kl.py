"""KL against references: identities, known values, and that nothing but the two distributions changes it."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from apo.cache import Cache
from apo.callbacks.base import Context
from apo.callbacks.kl import KL, slug
from apo.data.records import Standing
from apo.data.sources.base import Document, Generated
from apo.data.tokenizer import add_control_tokens
from apo.errors import ConfigError, EvaluationError, ModelError
from apo.launch import main
from apo.models.policy import Policy
from apo.references import Layout, Row, Text, log_probs
from apo.schema import Config

END = 256
DATA = {"a": 0.5, "b": 0.3, "\n": 0.1, END: 0.1}
MODEL = {"a": 0.2, "b": 0.4, "\n": 0.2, END: 0.2}
PER_TOKEN = math.fsum(p * math.log(p / MODEL[token]) for token, p in DATA.items())
"""KL between the two, nats."""


@pytest.fixture
def unigram(tiny_llama, byte_tokenizer):
    """`unigram({"a": 0.5, END: 0.5})`: a Llama whose next token has this distribution whatever came before.  Its hidden
    state is all ones, so the head's rows are the log-probabilities; tokens not named have 1e-9 between them."""

    def build(probabilities, tokenizer=byte_tokenizer, vocab_size=257):
        model = tiny_llama(tie_word_embeddings=False, vocab_size=vocab_size)
        table = torch.full((vocab_size,), 1e-12)
        for token, probability in probabilities.items():
            (token_id,) = [token] if token == END else tokenizer(token)["input_ids"]
            table[token_id] = probability
        with torch.no_grad():
            model.model.embed_tokens.weight.fill_(1)
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            model.lm_head.weight.copy_((table.log() / 32)[:, None].expand(-1, 32))
        return model
    return build


@pytest.fixture
def saved(tmp_path, byte_tokenizer):
    """`saved("name", model)`: the directory of a model with its tokenizer."""

    def save(name, model, tokenizer=byte_tokenizer):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)
    return save


class Letters:
    """Documents of independent characters, of which each may be the last: 0.1 at every place."""

    def sample(self, count, seed):
        rng, made = np.random.default_rng(seed), []
        for _ in range(count):
            drawn = list(rng.choice(list("ab\n"), p=[5 / 9, 3 / 9, 1 / 9], size=rng.geometric(DATA[END]) - 1))
            log_prob = math.fsum(math.log(DATA[token]) for token in [*drawn, END])
            made.append(Generated(Document("made", ["".join(drawn)]), log_prob))
        return made

    def entropy(self):
        return -math.fsum(p * math.log(p) for p in DATA.values()) / DATA[END]


@pytest.fixture
def measure(tmp_path, byte_tokenizer):
    """`measure(model, edit, **options)` -> the metrics of a KL callback."""

    def run(model, edit=lambda config: None, tokenizer=byte_tokenizer, generator=None, **options):
        config = Config()
        edit(config)
        source = SimpleNamespace(name="letters", generator=generator, fingerprint=lambda: "letters")
        context = Context(config, tokenizer, SimpleNamespace(source=source), None, Cache(tmp_path / "cache"))
        return KL(**options).bind(context).measure(Policy(model), 0, 0, lambda: None).metrics
    return run


def near(found, name, expected, errors=4):
    assert abs(found[name] - expected) < errors * found[f"{name}/se"], (found[name], expected, found[f"{name}/se"])
    assert found[f"{name}/se"] < 0.15 * expected


def test_a_model_against_itself_is_zero_for_every_text(tiny_llama, saved, measure):
    model = tiny_llama(seed=3, vocab_size=257)
    found = measure(model, reference=saved("itself", model), num_samples=64, max_tokens=24)
    assert abs(found["kl/itself/token_logp_mc"]) < 1e-5 and found["kl/itself/token_logp_mc/se"] < 1e-5
    assert found["KL/KL(itself, model)"] == found["kl/itself/token_logp_mc"]
    assert (found["kl/itself/count"], found["kl/itself/left_out"]) == (64, 0)


def test_a_known_kl_between_models_is_found(unigram, saved, measure):
    """Wald: KL per token, times the mean number of tokens drawn, which end of text or `max_tokens` stop."""
    found = measure(unigram(MODEL), reference=saved("data", unigram(DATA)), num_samples=1500, max_tokens=10)
    tokens = math.fsum(0.9 ** n for n in range(10))
    near(found, "kl/data/token_logp_mc", tokens * PER_TOKEN)
    assert abs(found["kl/data/cut_at_max_tokens"] - 0.9 ** 10) < 0.06


def test_the_generator_of_a_corpus_gives_the_exact_kl(unigram, measure):
    found = measure(unigram(MODEL), generator=Letters(), num_samples=2000)
    for estimator in ("exact_logp_mc", "exact_entropy_mc"):
        near(found, f"kl/generator/{estimator}", PER_TOKEN / DATA[END])
    assert found["kl/generator/exact_logp_mc/se"] < found["kl/generator/exact_entropy_mc/se"]
    assert found["kl/generator/entropy"] == pytest.approx(Letters().entropy())
    right = measure(unigram(DATA), generator=Letters(), num_samples=200)
    assert abs(right["kl/generator/exact_logp_mc"]) < 1e-4
    assert not [key for key in found if key.startswith("KL/")], "PHF has no such quantity"


class Answers(Letters):
    """The same, each behind a prompt."""

    def sample(self, count, seed):
        made = super().sample(count, seed)
        for number, each in enumerate(made):
            each.document.texts = ["ab" * (number % 3), *each.document.texts]
            each.document.standing = Standing(number, 0)
        return made


def test_what_completions_are_drawn_behind_is_not_counted(unigram, measure):
    """A model that looks at nothing is as far from answers as from the same letters without a prompt."""
    plain, behind = (measure(unigram(MODEL), generator=each, num_samples=200) for each in (Letters(), Answers()))
    for key in plain:
        assert behind[key] == pytest.approx(plain[key], abs=1e-4)
    with pytest.raises(ConfigError, match="data.chat_template has trained it in another"):
        measure(unigram(MODEL), lambda config: setattr(config.data, "chat_template", "tokenizer"), generator=Answers())


def test_a_completion_is_laid_out_as_in_training(byte_tokenizer):
    """End of text, prompt, the method's prefix, completion, end of text."""
    row = layout(byte_tokenizer, prefix_id=300).row(Text(["ab", "ba"], 0.0, True, prompted=True), by_tokens=False)
    a, b = (byte_tokenizer(letter)["input_ids"][0] for letter in "ab")
    assert row == Row([END, a, b, 300, b, a, END], [False, False, False, False, True, True, True])
    alone = layout(byte_tokenizer).row(Text(["ab", ""], 0.0, True, prompted=True), by_tokens=False)
    assert alone == Row([END, a, b, END], [False, False, False, True])


def test_another_tokenizer_changes_the_estimators_name_and_not_the_kl(unigram, saved, measure, byte_tokenizer):
    """The same bytes under other ids."""
    from tokenizers import Tokenizer
    state = json.loads(byte_tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"] = {token: 255 - token_id for token, token_id in state["model"]["vocab"].items()}
    other = type(byte_tokenizer)(tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token="<|endoftext|>",
                                 bos_token="<|endoftext|>", pad_token="<|endoftext|>")
    assert other("a")["input_ids"] != byte_tokenizer("a")["input_ids"]
    directory = saved("other", unigram(DATA, other), other)
    found = measure(unigram(DATA), reference=directory, num_samples=100, max_tokens=10)
    assert abs(found["kl/other/canonical_logp_mc"]) < 1e-4 and "kl/other/token_logp_mc" not in found
    near(measure(unigram(MODEL), reference=directory, num_samples=1500, max_tokens=10), "kl/other/canonical_logp_mc",
         math.fsum(0.9 ** n for n in range(10)) * PER_TOKEN)


def test_batch_size_and_padding_side_change_nothing(tiny_llama, saved, measure, byte_tokenizer, tmp_path):
    reference, model, found = saved("reference", tiny_llama(1, vocab_size=257)), tiny_llama(2, vocab_size=257), []
    for batch_size, side in ((64, "right"), (3, "right"), (7, "left")):
        byte_tokenizer.padding_side = side

        def edit(config, batch_size=batch_size):
            config.evaluation.batch_size = batch_size
        found.append(measure(model, edit, reference=reference, num_samples=40, max_tokens=20))
    byte_tokenizer.padding_side = "right"
    assert found[0]["kl/reference/token_logp_mc"] > 0.001
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=1e-5)
    texts = set()
    for batch_size in (3, 40):
        cache = Cache(tmp_path / f"cache-{batch_size}")
        from apo.references import Draw, ModelReference, drawn
        progress = SimpleNamespace(advance=lambda n: None, check=lambda: None)
        draw = Draw(40, 20, 0, batch_size)
        texts.add(str([text.ids for text in drawn(ModelReference(reference, None, ""), draw, cache, "cpu",
                                                  progress).texts]))
    assert len(texts) == 1, "nor does the batch change what is drawn"


def test_prefixes_are_context_and_not_counted(unigram, measure, byte_tokenizer):
    """To a unigram model the prefix's own tokens would cost much and its context nothing."""
    from copy import deepcopy
    tokenizer = deepcopy(byte_tokenizer)
    add_control_tokens(tokenizer, ["<|aligned|>"])
    model, plain = unigram(MODEL, vocab_size=258), None
    for prefix in ("", "<|aligned|>"):
        def edit(config, prefix=prefix):
            config.evaluation.prefix, config.data.segment_by = prefix, "line"
        found = measure(model, edit, tokenizer, Letters(), num_samples=50)
        plain = plain or found
        assert found == pytest.approx(plain, abs=1e-9)


def layout(byte_tokenizer, **options):
    return Layout(**{"tokenizer": byte_tokenizer, "end_id": END, "prefix_id": None, "by_line": False, **options})


def test_a_text_is_laid_out_as_in_training(byte_tokenizer):
    a, b, newline = (byte_tokenizer(character)["input_ids"][0] for character in "ab\n")
    whole = Text(["a\nb"], -1.0, True, [a, newline, b])
    assert layout(byte_tokenizer).row(whole, False) == Row([END, a, newline, b, END], [False, True, True, True, True])
    assert layout(byte_tokenizer, prefix_id=300).row(whole, True) == Row(
        [END, 300, a, newline, b, END], [False, False, True, True, True, True])
    by_line = layout(byte_tokenizer, prefix_id=300, by_line=True)
    for by_tokens in (True, False):
        assert by_line.row(whole, by_tokens) == Row([END, 300, a, newline, 300, b, END],
                                                    [False, False, True, True, False, True, True])
    assert by_line.row(Text(["a\n"], -1.0, False), False).ids == [END, 300, a, newline], "a cut text has no end"
    assert layout(byte_tokenizer, prefix_id=300).row(Text(["a", "b"], -1.0, False), False).ids == [
        END, 300, a, 300, b], "a generator knows its segments"
    assert layout(byte_tokenizer, prefix_id=300).row(Text([""], -1.0, True, []), True) == Row(
        [END, 300, END], [False, False, True])
    assert layout(byte_tokenizer).row(Text(["<|endoftext|>"], -1.0, False), False).ids[1] != END, "text stays text"


def test_a_text_longer_than_the_context_is_read_in_pieces(unigram, tiny_llama):
    row = Row([END, *range(40, 100)], [False] * 2 + [True] * 59)
    (whole,), (pieces,) = (log_probs(Policy(unigram(MODEL)), [row], width, 4) for width in (256, 8))
    assert pieces == pytest.approx(whole, rel=1e-6), "to a unigram model all the same: each token counted once"
    policy = Policy(tiny_llama(5))
    by_hand = sum(log_probs(policy, [Row(row.ids[start:start + 8], row.counted[start:start + 8])], 8, 1)[0]
                  for start in range(0, 60, 7))
    assert log_probs(policy, [row], 8, 4)[0] == pytest.approx(by_hand, abs=1e-4)
    assert log_probs(policy, [row], 256, 4)[0] != pytest.approx(by_hand, abs=1e-2)


def test_the_policy_is_left_as_it_was(tiny_llama, measure):
    model = tiny_llama(vocab_size=257).train()
    measure(model, generator=Letters(), num_samples=4)
    assert model.training and all(module.training for module in model.modules())


def served(request):
    """A server's completions: a unigram model's, seeded by the request, its end of text told by a token."""
    rng, choices = np.random.default_rng(request["seed"]), []
    for _ in range(request["n"]):
        drawn = [list(DATA)[i] for i in rng.choice(4, p=list(DATA.values()), size=request["max_tokens"])]
        ended = END in drawn
        drawn = drawn[:drawn.index(END) + 1] if ended else drawn
        tokens = ["<|endoftext|>" if token == END else token for token in drawn]
        choices.append({"text": "".join(tokens).removesuffix("<|endoftext|>"),
                        "finish_reason": "stop" if ended else "length",
                        "logprobs": {"tokens": tokens, "token_logprobs": [math.log(DATA[token]) for token in drawn]}})
    return choices


def test_a_server_with_log_probabilities(unigram, measure, completions_server):
    server = completions_server(served, ["drop", (429, {"Retry-After": "3"}, b"")])
    options = {"references": {"far": {"url": server.url, "model": "m"}}, "num_samples": 600, "max_tokens": 10}
    right = measure(unigram(DATA), **options)
    assert abs(right["kl/far/canonical_logp_mc"]) < 1e-4 and server.pauses == [1, 3]
    asked = len(server.requests)
    found = measure(unigram(MODEL), **options)
    near(found, "kl/far/canonical_logp_mc", math.fsum(0.9 ** n for n in range(10)) * PER_TOKEN)
    assert len(server.requests) == asked, "drawn once"
    assert {request["prompt"] for request in server.requests} == {"<|endoftext|>"}
    assert all(request["temperature"] == request["top_p"] == 1 for request in server.requests)
    measure(unigram(MODEL), **options | {"seed": 1})
    assert len(server.requests) > asked, "other texts for another seed"


def test_offline_no_far_server_is_asked(unigram, measure):
    with pytest.raises(EvaluationError, match="offline=true, and the texts of https://far.example/v1/completions"):
        measure(unigram(DATA), lambda config: setattr(config, "offline", True),
                references={"far": {"url": "https://far.example/v1", "model": "m"}})


def test_broken_characters_are_left_out_and_counted(unigram, measure, completions_server):
    def answer(request):
        return [{**choice, "text": "\ufffd"} if number % 4 == 0 else choice for number, choice in enumerate(
            served(request))]
    server = completions_server(answer)
    found = measure(unigram(DATA), references={"far": {"url": server.url, "model": "m"}}, num_samples=40)
    assert (found["kl/far/count"], found["kl/far/left_out"]) == (30, 10)
    server = completions_server(lambda request: [{**choice, "text": "\ud83d"} for choice in served(request)])
    with pytest.raises(EvaluationError, match="8 of 8 texts of far hold broken characters"):
        measure(unigram(DATA), references={"far": {"url": server.url, "model": "m"}}, num_samples=8)


def test_no_generator_is_said_before_anything_is_trained(unigram, measure):
    with pytest.raises(ConfigError, match="callbacks.kl.reference: nothing knows the distribution of .*; set it to a"):
        measure(unigram(DATA))


@pytest.mark.parametrize("options, option", [
    ({"reference": "nothing"}, "callbacks.kl.reference=nothing: "),
    ({"references": {"x": {"model": "./nothing"}}}, "callbacks.kl.references.x.model=./nothing: ")])
def test_a_reference_that_is_not_there_is_said_when_it_is_bound(tmp_path, byte_tokenizer, options, option):
    context = Context(Config(), byte_tokenizer, SimpleNamespace(source=SimpleNamespace(generator=None)), None,
                      Cache(tmp_path / "cache"))
    with pytest.raises(ConfigError) as told:
        KL(**options).bind(context)
    [problem] = told.value.problems
    assert problem.startswith(option) and "set it to a run directory, a model directory or a hub name" in problem


def test_a_reference_is_not_needed_once_its_texts_are_drawn(tiny_llama, saved, measure, monkeypatch):
    """As with a cache that was carried to a machine without the model."""
    model = tiny_llama(vocab_size=257)
    options = {"reference": saved("drawn", model), "num_samples": 4, "max_tokens": 4}
    found = measure(model, **options)

    def gone(*_):
        raise ModelError("gone")
    monkeypatch.setattr("apo.references.find_model", gone)
    assert measure(model, **options) == found
    with pytest.raises(ConfigError, match="callbacks.kl.reference=.*drawn: gone; set it to"):
        measure(model, **options | {"seed": 1})


@pytest.mark.parametrize("options, words", [
    ({"num_samples": 1}, "at least 2"), ({"reference": "http://localhost/v1"}, "name of its model"),
    ({"references": {"x": {"modle": "gpt2"}}}, 'Did you mean "model"'), ({"references": {"x": {}}}, "x.model: missing"),
    ({"references": {"x": "gpt2"}}, "expected a mapping"), ({"references": {"a b": {"model": "gpt2"}}}, "becomes part"),
    ({"references": {"generator": {"model": "gpt2"}}}, "no options"), ({"references": {"x": {"model": 3}}}, "got 3"),
    ({"reference": "gpt2", "references": {"gpt2": {"model": "gpt2"}}}, "already")])
def test_what_the_options_do_not_allow(options, words):
    with pytest.raises(ConfigError, match=words):
        KL(**options)


@pytest.mark.parametrize("name, word", [("gpt2", "gpt2"), ("org/some model", "some-model"),
                                        ("outputs/pep8/mle/12ab-s1/final/", "12ab-s1")])
def test_a_reference_has_a_short_name(name, word):
    assert slug(name) == word
    assert list(KL(reference=name).named()) == [word]


def test_a_reference_that_is_not_there_stops_a_run_before_it_samples(tmp_path, capsys):
    assert main(["--task", "pep8", "--method", "mle", "--scale", "smoke", "--output-dir", str(tmp_path / "out"),
                 "training.max_steps=1", "callbacks.kl.reference=nothing"]) == 2
    (run,) = (tmp_path / "out/pep8/mle").iterdir()
    assert "callbacks.kl.reference=nothing: nothing cannot be loaded" in capsys.readouterr().err
    assert not list(run.glob("samples/*")) and not list(run.glob("metrics.jsonl"))


def test_while_training_and_by_evaluate(tmp_path, monkeypatch, capsys, unigram, saved):
    reference = saved("data", unigram(DATA))
    words = ["--task", "pep8", "--method", "conditional", "--scale", "smoke", "--output-dir", str(tmp_path / "out"),
             "training.max_steps=1", "evaluation.scenarios.functions=null",
             "evaluation.scenarios.unconditional.num_samples=2", f"callbacks.kl.references.letters.model={reference}",
             "callbacks.kl.num_samples=8", "callbacks.kl.max_tokens=12"]
    assert main([*words, "callbacks.kl.references.letters.modle=x"]) == 2
    assert 'Did you mean "model"?' in capsys.readouterr().err
    assert main(words) == 0
    (run,) = (tmp_path / "out/pep8/conditional").iterdir()
    rows = [row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
            if "kl/letters/count" in row]
    assert [row["step"] for row in rows] == [0, 1]

    from apo.report.rescore import Rescorer
    from apo.report.select import select
    (again,) = select([str(run)])
    measured = Rescorer().evaluate(again)["measured"]
    assert measured == pytest.approx({key: rows[-1][key] for key in measured}, rel=1e-5)
    (shorter,) = select([str(run)], ["callbacks.kl.num_samples=4"])
    assert Rescorer().settings(again) != Rescorer().settings(shorter)
    before = Rescorer().settings(again)
    saved("data", unigram(MODEL))
    assert Rescorer().settings(again) != before, "another reference under the same name"
