"""StreamedRows: the same layout as packed rows, mixed by windows, and exact when killed anywhere."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from apo.cache import Cache
from apo.data.corpus import text_hash
from apo.data.prepare import prepare
from apo.data.streaming import StreamedRows
from apo.data.thresholds import ControlTokens, View
from apo.errors import ConfigError, DataError
from apo.schema import DataConfig

EOS, GOOD, BAD = 256, 257, 258
BLOCK = 16
VIEWS = {"mle": View(EOS), "conditional": View(EOS, control=ControlTokens(0.5, 0.2, GOOD, BAD)),
         "both": View(EOS, 0.8, ControlTokens(0.5, 0.2, GOOD, BAD))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    texts = [[f"{i}.{j} " + "ab" * int(rng.integers(0, 6)) for j in range(rng.integers(1, 6))] for i in range(300)]
    rows = [{"texts": segments, "scores": rng.choice([0.0, 0.5, 2.0], len(segments)).tolist()} for segments in texts]
    folder = tmp_path_factory.mktemp("set")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[:200]), folder / "train-00000-of-00002.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[200:]), folder / "train-00001-of-00002.parquet")
    return folder, rows


@pytest.fixture
def corpus(folder, cache_root):
    return prepare(options(folder[0]), None, Cache(cache_root))


@pytest.fixture
def cache_root(tmp_path):
    return tmp_path / "cache"


def options(path, **more):
    return DataConfig(source="hub", path=str(path), streaming=True, eval_fraction=0.1, **more)


@pytest.fixture
def make(corpus, byte_tokenizer):
    def make(view=VIEWS["mle"], window=20, rows=4, **more):
        return StreamedRows(corpus, byte_tokenizer, view, block_size=BLOCK, effective_batch_size=rows, seed=1,
                            window=window, **more)
    return make


def test_an_epoch_serves_every_training_token_once(make, folder, byte_tokenizer):
    training = [row for row in folder[1] if text_hash("".join(row["texts"])) >= 0.1 * 2**64]
    text = "".join("<|endoftext|>" + "".join(row["texts"]) for row in training)
    tokens = byte_tokenizer(text)["input_ids"]
    source = make(rows=1, window=5)
    windows = [torch.stack([source.next().input_ids_BT[0] for _ in range(5)]) for _ in range(len(tokens) // BLOCK // 5)]
    for number, window in enumerate(windows):
        expected = torch.tensor(tokens[number * 5 * BLOCK:(number + 1) * 5 * BLOCK]).reshape(5, BLOCK)
        assert sorted(window.tolist()) == sorted(expected.tolist())
    assert any(not torch.equal(window, torch.tensor(tokens[i * 80:(i + 1) * 80]).reshape(5, BLOCK))
               for i, window in enumerate(windows))


@pytest.mark.parametrize("name", VIEWS)
def test_killed_anywhere_it_goes_on_with_the_same_rows(make, name):
    whole, expected, states, seen = make(VIEWS[name]), [], [], []
    for _ in range(220):
        states.append(json.dumps(whole.state_dict()))
        seen.append((whole.documents_seen, whole.epoch))
        expected.append(whole.next())
    assert whole.epoch >= 1
    for killed_at in (0, 1, 4, 5, 6, 17, 60, 99, 100, 180, 200):
        resumed = make(VIEWS[name])
        resumed.load_state_dict(json.loads(states[killed_at]))
        assert resumed.documents_seen == seen[killed_at][0]
        for batch in expected[killed_at:killed_at + 20]:
            again = resumed.next()
            assert torch.equal(again.input_ids_BT, batch.input_ids_BT)
            assert torch.equal(again.scores_BT, batch.scores_BT)
        assert len(json.dumps(resumed.state_dict())) < 5000


def test_processes_share_a_step(make):
    whole, parts = make(VIEWS["both"]), [make(VIEWS["both"], rank=rank, world_size=2) for rank in range(2)]
    for _ in range(12):
        assert torch.equal(whole.next().input_ids_BT, torch.cat([part.next().input_ids_BT for part in parts]))


def test_filter_and_control_tokens(make, folder):
    source = make(VIEWS["both"], rows=40, window=40)
    batch = source.next()
    ids, scores = batch.input_ids_BT, batch.scores_BT
    assert (scores[ids == GOOD] <= 0.5).all() and (scores[ids == BAD] > 0.5).all()
    assert (ids == GOOD).sum() > 10 and (ids == BAD).sum() > 3
    assert source.describe()["filter_threshold"] == 0.8
    assert 0 < source.documents_seen < 300


def test_a_filter_that_nothing_passes(make):
    with pytest.raises(DataError, match="no training document passes data.filter_threshold=-1"):
        make(View(EOS, -1.0)).next()


def test_heldout_documents_are_scored_beforehand_and_never_trained_on(corpus, folder, byte_tokenizer, cache_root):
    train, heldout = corpus.tokenise(byte_tokenizer, Cache(cache_root))
    expected = ["".join(row["texts"]) for row in folder[1] if text_hash("".join(row["texts"])) < 0.1 * 2**64]
    assert train is None and heldout.num_documents == len(expected) > 10
    assert [document.text for document in corpus.documents("heldout")] == expected
    with pytest.raises(ConfigError, match="model.tokenizer"):
        corpus.texts("train")


def test_what_does_not_go_with_streaming(folder, cache_root):
    with pytest.raises(ConfigError, match="max_documents"):
        prepare(options(folder[0], max_documents=5), None, Cache(cache_root))
    with pytest.raises(ConfigError, match="data.streaming needs data.source=hub"):
        file = DataConfig(path=str(folder[0] / "train-00000-of-00002.parquet"), streaming=True)
        StreamedRows(prepare(file, None, Cache(cache_root)), None, View(EOS), block_size=8, effective_batch_size=1,
                     seed=1)


def test_a_later_stage_begins_behind_the_documents_an_earlier_one_has_seen(make):
    """Whatever its filter and control tokens, since the earlier stage had none; and it resumes exactly."""
    plain = make(VIEWS["mle"], rows=1, window=5)
    lengths = [len(plain.reader._read()[0]) for _ in range(2) if plain.reader._turn() is None]
    everything = make(VIEWS["both"], rows=1, window=5)
    everything.reader._read(), everything.reader._turn(), everything.reader._read(), everything.reader._turn()
    expected = everything.reader._read()
    for tokens in (lengths[0] + 1, sum(lengths)):
        later = make(VIEWS["both"], rows=1, window=5)
        later.skip(tokens)
        state = json.loads(json.dumps(later.state_dict()))
        found = later.reader._read()
        assert all(np.array_equal(a, b) for a, b in zip(found, expected))
        again = make(VIEWS["both"], rows=1, window=5)
        again.load_state_dict(state)
        assert torch.equal(again.next().input_ids_BT, make_skipped(make, tokens).next().input_ids_BT)


def make_skipped(make, tokens):
    source = make(VIEWS["both"], rows=1, window=5)
    source.skip(tokens)
    return source
