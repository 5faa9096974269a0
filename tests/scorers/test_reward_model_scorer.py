"""Reward models as scorers: what is read of a text, templates, and what is refused."""

import math

import pytest
import torch

from apo.errors import ConfigError, ScorerError
from apo.models.reward_model import RewardModel
from apo.scorers.make import make_scorer
from apo.scorers.reward_model import open_assistant

TEXTS = ["a b", "c c c c", "", "b" * 20 + "tail"]
TALK = "\n\nHuman: Hi there\n\nAssistant: Hello. \n\nHuman: Bye\n\nAssistant: So long"


@pytest.fixture(scope="module")
def run(tmp_path_factory, byte_tokenizer, tiny_llama):
    """A run's directory, and its model."""
    folder = tmp_path_factory.mktemp("run")
    model = RewardModel.from_causal(tiny_llama(max_position_embeddings=16), seed=0).eval()
    model.save(folder / "final")
    byte_tokenizer.save_pretrained(folder / "final")
    return folder, model


def by_hand(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), torch.ones(1, len(ids))).item()


def test_rewards_of_the_end_of_a_text(run, byte_tokenizer):
    folder, model = run
    ids = [byte_tokenizer(text)["input_ids"][-16:] or [256] for text in TEXTS]
    expected = [by_hand(model, row) for row in ids]
    for place in (folder, folder / "final"):
        scorer = make_scorer({"name": "reward_model", "model": str(place)})
        assert scorer.kind == "reward" and not scorer.parallel and scorer.score([]) == []
        assert scorer.score(TEXTS) == scorer.reward(TEXTS) == pytest.approx(expected, abs=1e-5)
    batched = make_scorer({"name": "reward_model", "model": str(folder), "batch_size": 3, "sigmoid": True})
    assert batched.score(TEXTS) == pytest.approx([1 / (1 + math.exp(-x)) for x in expected], abs=1e-5)
    short = make_scorer({"name": "reward_model", "model": str(folder), "max_length": 4})
    assert short.score(TEXTS[-1:]) == pytest.approx([by_hand(model, byte_tokenizer("tail")["input_ids"])], abs=1e-5)


def test_the_template_of_open_assistant():
    assert open_assistant(TALK, "<e>") == ("<|prompter|>Hi there<e><|assistant|>Hello.<e><|prompter|>Bye<e>"
                                           "<|assistant|>So long<e>")
    assert open_assistant("Human: a\n\nAssistant:", "<e>") == "<|prompter|>a<e><|assistant|><e>"
    assert open_assistant("\n\nHuman: is Human: here?", "<e>") == "<|prompter|>is Human: here?<e>"
    for text in ("", "Hello", "So. \n\nHuman: a"):
        with pytest.raises(ScorerError, match="transcripts that begin with"):
            open_assistant(text, "<e>")


@pytest.mark.parametrize("tokenizer_class", ["GPTNeoXTokenizer", None])
def test_open_assistants_models(tmp_path, byte_tokenizer, tokenizer_class):
    import copy
    import json
    import sys
    from pathlib import Path
    sys.path.insert(0, str(Path(__file__).parent.parent / "models"))
    try:
        from test_reward_model import write_open_assistant
    finally:
        sys.path.pop(0)
    body, head = write_open_assistant(tmp_path, "bin")
    tokenizer = copy.deepcopy(byte_tokenizer)
    options = {"name": "reward_model", "model": str(tmp_path), "template": "openassistant", "max_length": 24}
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ScorerError, match=r"has no token <\|prompter\|> and no <\|assistant\|>"):
        make_scorer(options).score([TALK])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|prompter|>", "<|assistant|>"]})
    tokenizer.save_pretrained(tmp_path)
    about = json.loads((tmp_path / "tokenizer_config.json").read_text())
    about.pop("tokenizer_class", None)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**about, **({"tokenizer_class": tokenizer_class} if tokenizer_class else {})}))
    prompter, assistant = tokenizer.convert_tokens_to_ids(["<|prompter|>", "<|assistant|>"])

    def said(text):
        return tokenizer(text)["input_ids"]
    ids = [prompter, *said("Hi there"), 256, assistant, *said("Hello."), 256, prompter, *said("Bye"), 256, assistant,
           *said("So long"), 256]
    with torch.no_grad():
        expected = head(body(input_ids=torch.tensor([ids[-24:]])).last_hidden_state[0, -1]).item()
    assert make_scorer(options).score([TALK]) == pytest.approx([expected], abs=1e-5)


def test_the_fingerprint_is_of_what_lies_there(run, tmp_path):
    import shutil
    folder = shutil.copytree(run[0], tmp_path / "copy")
    one, copy = (make_scorer({"name": "reward_model", "model": str(place)}) for place in (run[0], folder / "final"))
    before = copy.fingerprint()
    assert one.fingerprint() == before
    assert make_scorer({"name": "reward_model", "model": str(folder), "sigmoid": True}).fingerprint() != before
    for name in ("tokenizer_config.json", "config.json"):
        (folder / "final" / name).write_text((folder / "final" / name).read_text() + "\n")
        assert copy.fingerprint() != before
        before = copy.fingerprint()
    revision = "a" * 40
    pinned = make_scorer({"name": "reward_model", "model": "some/model", "revision": revision})
    assert pinned.code()["model"] == f"some/model@{revision}"


def test_what_cannot_be_scored_with_is_a_line(tmp_path, tiny_llama, byte_tokenizer):
    for action in (make_scorer({"name": "reward_model"}).fingerprint,
                   lambda: make_scorer({"name": "reward_model"}).score(TEXTS)):
        with pytest.raises(ConfigError, match="needs scorer.model"):
            action()
    missing = make_scorer({"name": "reward_model", "model": "nobody/nothing"})
    for action in (missing.fingerprint, lambda: missing.score(TEXTS)):
        with pytest.raises(ScorerError, match="nobody/nothing is no local directory and not in the cache, and the run"):
            action()
    tiny_llama().save_pretrained(tmp_path)
    with pytest.raises(ScorerError, match="scorer reward_model: .* is no trained reward model"):
        make_scorer({"name": "reward_model", "model": str(tmp_path)}).score(TEXTS)
