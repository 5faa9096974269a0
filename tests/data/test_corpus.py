"""From files to a scored, split, tokenised corpus; and scoring in one process or several."""

import io
import multiprocessing
import os
import signal
import time
from contextlib import redirect_stderr

import numpy as np
import psutil
import pytest

from apo.cache import Cache
from apo.data import scoring
from apo.data.corpus import heldout_mask, text_hash
from apo.data.prepare import prepare
from apo.data.scoring import annotate
from apo.data.sources.base import Document
from apo.data.tokenizer import corpus_tokenizer
from apo.errors import ConfigError, DataError, ScorerError
from apo.schema import DataConfig


class Scorer:
    """Share of the letter x; counts its calls."""

    kind = "score"
    parallel = False

    def __init__(self, version="1"):
        self.version, self.calls = version, 0

    def score(self, texts):
        self.calls += 1
        return [text.count("x") / max(len(text), 1) for text in texts]

    def score_segments(self, segments):
        return self.score(segments)

    def fingerprint(self):
        return self.version


class Reward(Scorer):
    kind = "reward"


class Several(Scorer):
    parallel = True


class Broken(Scorer):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def score_segments(self, segments):
        return self.result

    score = score_segments


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def data(rows_file):
    rows = [{"text": f"line {i}\nx{'x' * (i % 3)} = {i}\n"} for i in range(60)]
    return DataConfig(path=rows_file("a.jsonl", rows), segment_by="line", eval_fraction=0.2)


def test_scores_are_made_once(data, cache):
    scorer = Scorer()
    first = prepare(data, scorer, cache)
    calls = scorer.calls
    again = prepare(data, scorer, cache)
    assert scorer.calls == calls > 0 and again.fingerprint == first.fingerprint
    assert prepare(data, Scorer("2"), cache).fingerprint != first.fingerprint
    document = next(again.documents("train"))
    assert document.scores == Scorer().score(document.texts) != [0.0, 0.0]


def test_the_split_covers_everything_once_whatever_the_seed(data, cache):
    corpus = prepare(data, Scorer(), cache)
    train, heldout = ([document.text for document in corpus.documents(split)] for split in ("train", "heldout"))
    assert len(train) + len(heldout) == 60 and not set(train) & set(heldout)
    assert 4 <= len(heldout) <= 24
    sizes = corpus.describe()
    assert (sizes["documents"], sizes["heldout_documents"], sizes["overlap"]) == (len(train), len(heldout), 0)
    assert sizes["segments"] == 120 and sizes["bytes"] == sum(len(text.encode()) for text in train + heldout)


def test_more_data_leaves_documents_on_their_side(data, cache, rows_file):
    before = {d.text for d in prepare(data, Scorer(), cache).documents("heldout")}
    rows = [{"text": f"new {i}\n"} for i in range(50)] + [{"text": f"line {i}\nx{'x' * (i % 3)} = {i}\n"}
                                                         for i in reversed(range(60))]
    more = DataConfig(path=rows_file("b.jsonl", rows), segment_by="line", eval_fraction=0.2)
    after = {d.text for d in prepare(more, Scorer(), cache).documents("heldout")}
    assert {text for text in after if text.startswith("line")} == before


def test_copies_of_training_text_are_left_out_of_heldout(rows_file, cache, capsys):
    texts = [f"document number {i}" for i in range(40)]
    rows = [{"text": text, "score": 0} for original in texts
            for text in (original, original + "\n", original.replace(" ", "\n "))]
    corpus = prepare(DataConfig(path=rows_file("a.jsonl", rows), eval_fraction=0.3), None, cache)
    train, heldout = ({" ".join(d.text.split()) for d in corpus.documents(split)} for split in ("train", "heldout"))
    assert not train & heldout and corpus.describe()["overlap"] > 0
    assert "are also training documents; left out" in capsys.readouterr().err


def test_both_sides_have_a_document():
    hashes = np.array([2**60, 2**62, 2**63], np.uint64)
    assert heldout_mask(hashes, 1e-9).tolist() == [True, False, False]
    assert heldout_mask(hashes, 0.999).tolist() == [True, True, False]
    assert heldout_mask(hashes, 0.25).tolist() == [True, False, False]
    assert heldout_mask(hashes, 0).tolist() == [False] * 3
    with pytest.raises(DataError, match="at least two different"):
        heldout_mask(hashes[:1], 0.5)
    assert text_hash("") == 0xe3b0c44298fc1c14


def test_tokens_give_the_text_back_and_carry_its_scores(data, cache):
    corpus = prepare(data, Scorer(), cache)
    tokenizer = corpus_tokenizer(corpus, 300, cache)
    stores = dict(zip(("train", "heldout"), corpus.tokenise(tokenizer, cache)))
    for split, store in stores.items():
        documents = list(corpus.documents(split))
        assert store.num_documents == len(documents)
        np.testing.assert_allclose(store.document_scores_D, [document.avg_score for document in documents])
        for number, document in enumerate(documents):
            begin, end = store.document_segments_D1[number:number + 2]
            starts = store.segment_starts_S1
            assert [tokenizer.decode(store.tokens_N[starts[s]:starts[s + 1]]) for s in range(begin, end)] \
                == document.texts
            assert store.segment_scores_S[begin:end].tolist() == document.scores
            assert store.segment_bytes_S[begin:end].tolist() == [len(text.encode()) for text in document.texts]
    assert stores["train"].tokens_N.dtype == np.uint16 and not stores["train"].tokens_N.flags.writeable


@pytest.mark.parametrize("name", ["scored.parquet", "summary.json"])
def test_damaged_scores_are_noticed(data, cache, name):
    path = prepare(data, Scorer(), cache).folder / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="damaged scored data.*delete this folder"):
        prepare(data, Scorer(), cache)


def test_scores_in_the_file_are_kept(rows_file, cache):
    rows = [{"texts": [f"a{i} ", "b"], "scores": [i, 0.25]} for i in range(30)]
    corpus = prepare(DataConfig(path=rows_file("a.jsonl", rows), eval_fraction=0), None, cache)
    assert [document.scores for document in corpus.documents("train")] == [[i, 0.25] for i in range(30)]
    assert list(corpus.documents("heldout")) == [] and corpus.prompts == {}


def test_a_reward_scorer_annotates_with_the_sign_turned(data, cache):
    score = [d.scores for d in prepare(data, Scorer("a"), cache).documents("train")]
    reward = [d.scores for d in prepare(data, Reward("b"), cache).documents("train")]
    assert reward == [[-number for number in numbers] for numbers in score]


def test_documents_without_text_are_left_out_and_counted(rows_file, cache):
    rows = [{"texts": [], "scores": []}, {"texts": [""], "scores": [1]}, *[{"texts": [str(i)], "scores": [1]}
                                                                          for i in range(9)]]
    corpus = prepare(DataConfig(path=rows_file("a.jsonl", rows)), None, cache)
    assert corpus.describe()["empty"] == 2
    with pytest.raises(DataError, match="no document has any text; there is nothing to train on"):
        prepare(DataConfig(path=rows_file("b.jsonl", rows[:2])), None, cache)


def test_max_documents_takes_the_first(data, cache):
    data.max_documents, data.eval_fraction = 5, 0
    assert [d.texts[0] for d in prepare(data, Scorer(), cache).documents("train")] == [f"line {i}\n" for i in range(5)]


def test_bad_data_leave_nothing_in_the_cache(rows_file, cache):
    path = rows_file("a.jsonl", [{"text": "a", "score": 0}, {"text": "b", "score": "x"}])
    with pytest.raises(DataError, match="row 2"):
        prepare(DataConfig(path=path), None, cache)
    assert [entry for entry in (cache.root / "scored").iterdir() if entry.suffix != ".lock"] == []


def test_text_without_scores_needs_a_scorer(data, cache):
    with pytest.raises(DataError, match="a.jsonl, row 1: no scores, and no scorer"):
        prepare(data, None, cache)


@pytest.mark.parametrize("result, message", [
    ([0.0], "gave 1 scores for 2 segments"), ([], "gave 0 scores for 2 segments"),
    ([0.0, float("nan")], "segment 2: the scorer gave nan"), ([0.0, "x"], "segment 2: the scorer gave 'x'"),
    ([True, 0.0], "segment 1: the scorer gave True")])
def test_a_scorer_that_gives_no_numbers_is_named_with_the_row(data, cache, result, message):
    with pytest.raises(ScorerError, match=f"a.jsonl, row 1.*{message}") as error:
        prepare(data, Broken(result), cache)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_the_fraction_is_one(data, cache, fraction):
    data.eval_fraction = fraction
    with pytest.raises(ConfigError, match="data.eval_fraction"):
        prepare(data, Scorer(), cache)


def documents(count):
    return (Document(str(i), [f"x{i}\n"] * (1 + i % 5), [9.0] * (1 + i % 5) if i % 7 == 0 else None)
            for i in range(count))


def test_several_processes_give_the_same_scores_in_order(monkeypatch):
    monkeypatch.setattr("apo.data.scoring.CHUNK", 300)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    alone = [(document.origin, document.scores) for document in annotate(documents(500), Scorer())]
    together = [(document.origin, document.scores) for document in annotate(documents(500), Several())]
    assert together == alone and len(alone) == 500


def in_a_worker():
    scoring.CHUNK, os.sched_getaffinity = 300, lambda pid: {0, 1}
    said = io.StringIO()
    with redirect_stderr(said):
        found = [document.origin for document in annotate(documents(500), Several())]
    return found, said.getvalue()


def test_in_a_worker_of_a_sweep_one_process_does_the_work():
    import joblib
    for found, said in joblib.Parallel(n_jobs=2)(joblib.delayed(in_a_worker)() for _ in range(2)):
        assert found == [str(i) for i in range(500)] and said == ""


class Slow(Several):
    def score(self, texts):
        time.sleep(0.5)
        return super().score(texts)


def score_slowly():
    scoring.CHUNK, os.sched_getaffinity = 300, lambda pid: {0, 1}
    list(annotate(documents(5000), Slow()))


def test_killed_while_scoring_it_leaves_no_process_behind():
    process = multiprocessing.get_context("fork").Process(target=score_slowly)
    process.start()
    parent = psutil.Process(process.pid)

    def workers():
        return [child for child in parent.children() if "spawn_main" in " ".join(child.cmdline())]

    try:
        wait_for(lambda: len(workers()) == 2 and all(worker.num_threads() > 1 for worker in workers()))
        left = workers()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    wait_for(lambda: not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in left))


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_where_no_process_can_be_started_one_does_the_work(monkeypatch, capsys):
    from concurrent.futures.process import BrokenProcessPool

    def broken(*args):
        raise BrokenProcessPool("x")
    monkeypatch.setattr("apo.data.scoring.CHUNK", 300)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor.submit", broken)
    assert [document.origin for document in annotate(documents(500), Several())] == [str(i) for i in range(500)]
    assert "scoring in one process" in capsys.readouterr().err
