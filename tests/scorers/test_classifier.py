"""Any sequence classifier as a scorer: labels by name or index, activations, score or reward."""

import pytest
import torch
import transformers

from apo.errors import ConfigError, ScorerError
from apo.scorers import sequence
from apo.scorers.make import make_scorer

TEXTS = ["a b", "c c c c", "", "b" * 30]


@pytest.fixture(scope="module")
def model(tmp_path_factory, byte_tokenizer):
    return saved(tmp_path_factory.mktemp("classifier"), byte_tokenizer, ["fine", "toxic", "odd"])


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory, byte_tokenizer):
    return saved(tmp_path_factory.mktemp("reward"), byte_tokenizer, ["LABEL_0"])


def saved(folder, tokenizer, labels):
    """A decoder with a classification head, as reward models are: the last token that is no padding is read."""
    config = transformers.LlamaConfig(vocab_size=260, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                                      num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=16,
                                      id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = transformers.LlamaForSequenceClassification(config)
        for parameter in made.parameters():
            parameter.data = torch.randn_like(parameter)
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, made.eval()


def by_hand(model, tokenizer, text):
    ids = tokenizer(text)["input_ids"][:16] or [tokenizer.pad_token_id]
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("label", ["toxic", "1", 1])
@pytest.mark.parametrize("activation, function", [("softmax", lambda x: x.softmax(0)), ("sigmoid", torch.sigmoid),
                                                  ("none", lambda x: x)])
def test_numbers(model, byte_tokenizer, label, activation, function):
    folder, reference = model
    reference.config.pad_token_id = byte_tokenizer.pad_token_id
    scorer = make_scorer({"name": "classifier", "model": str(folder), "label": label, "activation": activation})
    expected = [function(by_hand(reference, byte_tokenizer, text))[1].item() for text in TEXTS]
    assert scorer.score(TEXTS) == pytest.approx(expected, abs=1e-5)
    assert scorer.score([]) == [] and len(scorer.score(["a"])) == 1
    batched = make_scorer({"name": "classifier", "model": str(folder), "label": label, "activation": activation,
                           "batch_size": 3})
    assert batched.score(TEXTS) == pytest.approx(expected, abs=1e-5)


def test_a_reward_model_is_higher_is_better(reward_model):
    options = {"name": "classifier", "model": str(reward_model[0]), "activation": "none"}
    score, reward = make_scorer(options), make_scorer({**options, "kind": "reward"})
    assert score.kind == "score" and reward.kind == "reward"
    assert reward.score(TEXTS) == score.score(TEXTS) == reward.reward(TEXTS) == [-n for n in score.reward(TEXTS)]
    assert score.fingerprint() != reward.fingerprint()


@pytest.mark.parametrize("options, message", [
    ({"label": "toxik"}, 'no label "toxik". Did you mean "toxic"'), ({"label": 3}, 'no label "3"'),
    ({}, "has 3 labels; name one: 0 fine, 1 toxic, 2 odd")])
def test_labels_that_are_not_there(model, options, message):
    with pytest.raises(ScorerError, match=message):
        make_scorer({"name": "classifier", "model": str(model[0]), **options}).score(TEXTS)


def test_what_cannot_mean_anything_is_refused(reward_model, tmp_path, tiny_llama, byte_tokenizer):
    with pytest.raises(ConfigError, match="needs scorer.model"):
        make_scorer({"name": "classifier"})
    with pytest.raises(ScorerError, match="its softmax is always 1"):
        make_scorer({"name": "classifier", "model": str(reward_model[0])}).score(TEXTS)
    tiny_llama().save_pretrained(tmp_path)
    byte_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ScorerError, match="is no trained classifier: it has no weights for score.weight"):
        make_scorer({"name": "classifier", "model": str(tmp_path), "label": 0}).score(TEXTS)


def test_the_fingerprint_is_of_what_lies_there(model, reward_model, tmp_path, monkeypatch):
    import shutil
    folder = shutil.copytree(model[0], tmp_path / "copy")
    one, copy = (make_scorer({"name": "classifier", "model": str(at), "label": "toxic"}) for at in (model[0], folder))
    before = one.fingerprint()
    assert before == copy.fingerprint()
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert copy.fingerprint() != before
    revision = "a" * 40
    pinned = make_scorer({"name": "classifier", "model": "some/model", "revision": revision})
    assert pinned.code()["model"] == f"some/model@{revision}"
    found = tmp_path / "snapshots" / "bbb" / "config.json"
    monkeypatch.setattr(sequence.hub, "hf_hub_download", lambda *a, **k: str(found), raising=False)
    assert make_scorer({"name": "classifier", "model": "some/model"}).code()["model"] == "some/model@bbb"


def test_offline_a_missing_model_is_a_line(monkeypatch):
    scorer = make_scorer({"name": "classifier", "model": "nobody/nothing", "label": "toxic"})
    for action in (scorer.fingerprint, lambda: scorer.score(TEXTS)):
        with pytest.raises(ScorerError, match="nobody/nothing is no local directory and not in the cache, and the run"):
            action()
    with pytest.raises(ScorerError, match="neither a directory nor a hub name|is no local directory"):
        make_scorer({"name": "classifier", "model": "../a b", "label": "toxic"}).fingerprint()
    assert sequence.answers() is False, "tests have no network"
