"""Detoxify without its weights: tiny checkpoints in its format, held against the library's own class; every trap."""

import copy
import dataclasses
import hashlib
import socket
import time
from types import SimpleNamespace

import pytest
import torch
import transformers

from apo.errors import ConfigError, ScorerError
from apo.scorers import detoxify, sequence
from apo.scorers.make import make_scorer

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] you are an idiot the kettle is old . , ! a b c ##s".split()
CLASSES = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]
TEXTS = ["you are an idiot", "the kettle is old .", "", "a b c ! " * 4, "you idiot !", "unknown words"]
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder with a tokenizer that knows no longest length, a config, and a checkpoint's content."""
    base = tmp_path_factory.mktemp("base")
    (base / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=24, num_labels=6, **SHAPE)
    config.save_pretrained(base)
    return base, content_of(base, config, transformers.BertForSequenceClassification, "BertTokenizer", CLASSES)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """As `unbiased`: 16 outputs, 7 of which have names, positions counted from 2 on, old keys beside the weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    base = tmp_path_factory.mktemp("roberta")
    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "<mask>"]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made = transformers.RobertaTokenizer(tokenizer_object=tokenizer, vocab=tokenizer.get_vocab(), merges=[])
    made.save_pretrained(base)
    config = transformers.RobertaConfig(vocab_size=len(words), max_position_embeddings=26, num_labels=16, **SHAPE)
    config.save_pretrained(base)
    classes = "toxicity severe_toxicity obscene identity_attack insult threat sexual_explicit".split()
    content = content_of(base, config, transformers.RobertaForSequenceClassification, "RobertaTokenizer", classes)
    content["state_dict"] |= {"roberta.embeddings.position_ids": torch.arange(26)[None],
                              "roberta.pooler.dense.weight": torch.zeros(16, 16),
                              "roberta.pooler.dense.bias": torch.zeros(16)}
    return base, content


def content_of(base, config, model_class, tokenizer_name, classes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config)
        for parameter in model.parameters():            # far from 0.5, so that a wrong number is seen
            parameter.data = torch.randn_like(parameter)
    return {"config": {"arch": {"args": {"num_classes": config.num_labels, "model_type": str(base),
                                         "model_name": model_class.__name__, "tokenizer_name": tokenizer_name}},
                       "dataset": {"args": {"classes": classes}}},
            "state_dict": model.state_dict()}


@pytest.fixture
def made(tmp_path):
    """`made(content, **options)`: a scorer of a checkpoint with that content."""
    def make(content, name="tiny.ckpt", **options):
        path = tmp_path / name
        torch.save(content, path)
        return make_scorer({"name": "detoxify", "checkpoint": str(path), "sha256": sha256(path), **options})
    return make


def changed(content, state=None, classes=None, **arch):
    """A checkpoint's content with some of it replaced."""
    arguments = {**content["config"]["arch"]["args"], **arch}
    return {"config": {"arch": {"args": arguments},
                       "dataset": {"args": {"classes": classes or content["config"]["dataset"]["args"]["classes"]}}},
            "state_dict": content["state_dict"] if state is None else state}


# ---- the same numbers ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("label", ["toxicity", "insult", "identity_attack"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_numbers_are_those_of_the_librarys_own_class(kind, label, made, request):
    from detoxify import Detoxify
    _, content = request.getfixturevalue(kind)
    scorer = made(content, label=label)
    texts = [text[:20] for text in TEXTS]               # the library's class does not cut
    whole = Detoxify(checkpoint=scorer.checkpoint).predict(texts)
    alone = [Detoxify(checkpoint=scorer.checkpoint).predict(text) for text in texts]
    scores = scorer.score(texts)
    assert scores == [each[label] for each in alone]
    assert scores == pytest.approx(whole[label], abs=1e-6)
    assert max(scores) - min(scores) > 0.005


def test_variants_and_addresses_are_the_librarys():
    from detoxify.detoxify import DOWNLOAD_URL, MODEL_URLS
    assert {name: detoxify.DOWNLOADS + path for name, path in detoxify.RELEASED.items()} == MODEL_URLS
    assert detoxify.DOWNLOADS == DOWNLOAD_URL


def test_batches_change_the_last_digits_at_most_and_never_the_order(bert, made):
    texts = TEXTS * 3
    one, many = made(bert[1]).score(texts), made(bert[1], batch_size=4).score(texts)
    assert one == pytest.approx(many, abs=1e-6)
    assert one[:len(TEXTS)] == one[len(TEXTS):2 * len(TEXTS)] == made(bert[1]).score(TEXTS)


# ---- the traps -------------------------------------------------------------------------------------------------------

def test_nothing_gives_nothing_and_one_text_a_list(bert, made):
    scorer = made(bert[1])
    assert scorer.score([]) == []
    assert [type(score) for score in scorer.score(["you"])] == [float]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_long_text_is_cut_although_the_tokenizer_knows_no_limit(kind, made, request):
    from detoxify import Detoxify
    base, content = request.getfixturevalue(kind)
    scorer, long = made(content), "you are an idiot " * 50
    with pytest.raises((RuntimeError, IndexError)):
        Detoxify(checkpoint=scorer.checkpoint).predict(long)
    assert scorer.score([long]) == scorer.score([long + "the kettle"])
    assert made(content, max_length=8).score([long]) != scorer.score([long])
    assert sequence.positions(scorer._loaded()[0]) == 24, "24 positions, or 26 of which two are not used"


def test_keys_that_do_not_match_are_refused_and_not_replaced_by_random_weights(bert, made):
    _, content = bert
    prefixed = changed(content, {"model." + key: value for key, value in content["state_dict"].items()})
    with pytest.raises(ScorerError, match=r"tiny.ckpt: its weights do not fit .*41 are missing .*random weights"):
        made(prefixed).score(TEXTS)
    lacking = {key: value for key, value in content["state_dict"].items() if key != "classifier.bias"}
    with pytest.raises(ScorerError, match=r"1 are missing \(classifier.bias\)"):
        made(changed(content, lacking)).score(TEXTS)
    deeper = content["state_dict"] | {"bert.encoder.layer.2.output.dense.bias": torch.zeros(16)}
    with pytest.raises(ScorerError, match="1 are unknown"):
        made(changed(content, deeper)).score(TEXTS)


def test_a_wrong_number_of_classes_is_refused(bert, made):
    with pytest.raises(ScorerError, match=r"2 are of another shape \(classifier.bias\)"):
        made(changed(bert[1], num_classes=7)).score(TEXTS)
    with pytest.raises(ScorerError, match="names 7 labels and has 6"):
        made(changed(bert[1], classes=[*CLASSES, "rude"])).score(TEXTS)


def test_a_label_that_is_not_there_is_answered_with_the_nearest(bert, made):
    with pytest.raises(ScorerError, match=r'no label "toxcity". Did you mean "toxicity"\? There are: toxicity, sev'):
        made(bert[1], label="toxcity").score(TEXTS)


@pytest.mark.parametrize("content, message", [
    ({"state_dict": {}}, "KeyError: 'config'"), ([1, 2], "TypeError"),
    ({"config": {"arch": {"args": {"model_name": "pipeline", "tokenizer_name": "BertTokenizer", "model_type": "x",
                                   "num_classes": 1}}, "dataset": {"args": {"classes": ["toxic"]}}},
      "state_dict": {}}, 'ValueError: transformers has no class "pipeline"')])
def test_what_is_not_in_its_format_is_refused(content, message, made):
    with pytest.raises(ScorerError, match=rf"tiny.ckpt is no checkpoint in Detoxify's format \({message}"):
        made(content).score(TEXTS)


def test_a_checkpoint_is_read_only_with_the_sha256_asked_for(bert, made, tmp_path, monkeypatch):
    scorer = made(bert[1])
    path = tmp_path / "tiny.ckpt"
    true = sha256(path)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("read before its sha256 was checked"))
    with pytest.raises(ScorerError, match=rf"tiny.ckpt is not the checkpoint asked for: its sha256 is {true}, not 000"):
        make_scorer({"name": "detoxify", "checkpoint": str(path), "sha256": "0" * 64}).score(TEXTS)
    with pytest.raises(ScorerError, match="there is no file"):
        make_scorer({"name": "detoxify", "checkpoint": str(path) + "x", "sha256": true}).score(TEXTS)
    with pytest.raises(ConfigError, match="sha256sum .*tiny.ckpt prints it"):
        make_scorer({"name": "detoxify", "checkpoint": str(path)})
    with pytest.raises(ConfigError, match="expected 64 hexadecimal digits"):
        make_scorer({"name": "detoxify", "checkpoint": str(path), "sha256": "abc"})
    monkeypatch.undo()
    assert len(scorer.score(TEXTS)) == len(TEXTS)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a checkpoint ran code",))


def test_a_checkpoint_with_code_in_it_is_not_run_even_with_the_right_sha256(bert, made):
    scorer = made({**bert[1], "extra": Trap()})
    with pytest.raises(ScorerError, match="tiny.ckpt cannot be read as weights and plain values"):
        scorer.score(TEXTS)


def test_released_weights_are_known_by_the_digits_in_their_name(bert, tmp_path, monkeypatch):
    """In torch's cache, another file under the right name is refused, and the right one is used."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    torch.save(bert[1], folder / "toxic_original-c1212f89.ckpt")
    with pytest.raises(ScorerError, match=r"not c1212f89....  If you know where it comes from"):
        make_scorer({"name": "detoxify"}).score(TEXTS)
    digits = sha256(folder / "toxic_original-c1212f89.ckpt")[:8]
    monkeypatch.setitem(detoxify.RELEASED, "original", f"v9/toxic_original-{digits}.ckpt")
    (folder / "toxic_original-c1212f89.ckpt").rename(folder / f"toxic_original-{digits}.ckpt")
    assert len(make_scorer({"name": "detoxify"}).score(TEXTS)) == len(TEXTS)


def test_offline_it_says_in_a_line_what_is_missing_and_waits_for_nothing(bert, made, tmp_path, monkeypatch):
    """The library tries for twenty seconds."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    started = time.monotonic()
    with pytest.raises(ScorerError, match="weights of original are not here and the run is offline: download ht") as e:
        make_scorer({"name": "detoxify"}).score(TEXTS)
    assert "\n" not in str(e.value)
    with pytest.raises(ScorerError, match="bert-base-uncased is no local directory and not in the cache, and the run"):
        made(changed(bert[1], model_type="bert-base-uncased")).score(TEXTS)
    assert time.monotonic() - started < 10


def test_without_a_network_it_asks_once(bert, made, tmp_path, monkeypatch):
    """Not told to be offline: one failing request, no retries, then a line."""
    asked = []

    def head(url, timeout):
        asked.append(timeout)
        raise socket.gaierror("no such host")
    fake = SimpleNamespace(constants=SimpleNamespace(HF_HUB_OFFLINE=False, ENDPOINT="https://hub"),
                           utils=SimpleNamespace(get_session=lambda: SimpleNamespace(head=head)))
    monkeypatch.setattr(sequence, "hub", fake)
    with pytest.raises(ScorerError, match="bert-base-uncased .* and the hub does not answer"):
        made(changed(bert[1], model_type="bert-base-uncased")).score(TEXTS)
    assert asked == [sequence.PATIENCE_S]
    monkeypatch.setattr(detoxify, "hub", fake)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def fail(*arguments, **options):
        raise OSError("Name or service not known")
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(ScorerError, match=r"cannot be downloaded \(Name or service not known\): download https"):
        make_scorer({"name": "detoxify"}).score(TEXTS)


def test_a_local_folder_stands_in_for_the_hub_alone(bert, made):
    """`huggingface_config_path`: the library still asks the hub for the config."""
    base, content = bert
    elsewhere = changed(content, model_type="bert-base-uncased")
    scores = made(elsewhere, huggingface_config_path=str(base)).score(TEXTS)
    assert scores == made(content).score(TEXTS)
    with pytest.raises(ScorerError, match="has no config.json"):
        made(elsewhere, huggingface_config_path=str(base.parent)).score(TEXTS)


# ---- options, identity -----------------------------------------------------------------------------------------------

def test_an_unknown_variant_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match='no variant "unbaised". Did you mean "unbiased"'):
        make_scorer({"name": "detoxify", "variant": "unbaised"})


def test_the_fingerprint_is_of_the_weights_and_not_of_where_they_lie(bert, made, monkeypatch):
    base, content = bert
    one, moved = made(content), made(content, name="copy.ckpt")
    monkeypatch.setattr(detoxify, "read_checkpoint", lambda *a: pytest.fail("a fingerprint loads nothing"))
    moved.sha256 = one.sha256                           # torch.save writes the file's name into it
    assert one.fingerprint() == moved.fingerprint()
    prints = [one, made(content, label="insult"), make_scorer({"name": "detoxify"}),
              make_scorer({"name": "detoxify", "variant": "unbiased"}),
              make_scorer({"name": "detoxify", "huggingface_config_path": str(base)}),
              make_scorer({"name": "detoxify", "sha256": "1" * 64})]
    assert len({scorer.fingerprint() for scorer in prints}) == len(prints)
    assert one.code()["weights"] == one.sha256 and one.code()["transformers"] == transformers.__version__


def test_a_copy_takes_the_options_along_and_not_the_weights(bert, made):
    scorer = made(bert[1])
    before = scorer.score(TEXTS)
    assert set(scorer.__getstate__()) == {field.name for field in dataclasses.fields(scorer)}
    assert copy.deepcopy(scorer).score(TEXTS) == before


def test_loading_leaves_the_global_random_state_and_the_librarys_talk_alone(bert, made, capfd):
    state, level = torch.random.get_rng_state(), transformers.utils.logging.get_verbosity()
    made(bert[1]).score(TEXTS)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert transformers.utils.logging.get_verbosity() == level
    assert capfd.readouterr().err == ""
