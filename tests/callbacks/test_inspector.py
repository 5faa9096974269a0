"""The scores in the training rows against fresh ones: right, wrong, and none of training's business."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from apo.callbacks.base import Context
from apo.callbacks.inspector import Inspector
from apo.data.records import ScoredText
from apo.data.sampling import PackedRows
from apo.data.sources.base import Document
from apo.data.store import TokenStore, write_store
from apo.data.streaming import StreamedRows
from apo.data.thresholds import ControlTokens, View
from apo.errors import ConfigError
from apo.launch import main
from apo.schema import Config
from apo.scorers.base import Scorer
from apo.scorers.make import make_scorer

LINES = ["import os\n", "x=1\n", "def f( a ):\n", "    return a\n", "y = 2 \n", "\n", "z = [1,2]\n"]


@dataclass
class Letters(Scorer):
    """Share of the letter a; a reward, so stored with the other sign."""

    kind = "reward"

    def score(self, texts):
        return [text.count("a") / len(text) for text in texts]


SCORERS = {"pep8": lambda: make_scorer({"name": "pep8"}), "letters": Letters}
LETTERS = ["Write to ann@example.org soon.", "Nothing here.", "Or to bob@example.org, and call."]


def programs(scorer, count=30):
    """Documents of a few lines each, annotated."""
    rng, sign = np.random.default_rng(0), -1 if scorer.kind == "reward" else 1
    for _ in range(count):
        texts = [str(line) for line in rng.choice(LINES, rng.integers(1, 6))]
        yield ScoredText(texts, [sign * number for number in scorer.score_segments(texts)])


@pytest.fixture
def packed(tmp_path, byte_tokenizer):
    def build(documents, view=None, **options):
        write_store(tmp_path, documents, byte_tokenizer)
        return PackedRows(TokenStore.open(tmp_path), view or View(256), **{
            "block_size": 200, "effective_batch_size": 8, "seed": 1, **options})
    return build


def inspect(rows, scorer, tokenizer, **options):
    config = Config()
    config.scorer = {"name": "mine"}
    inspector = Inspector(**{"num_rows": 8, "examples": 1000, **options})
    return inspector.bind(Context(config, tokenizer, None, scorer, None, rows)).measure(None, 3, 9, lambda: None)


@pytest.mark.parametrize("view", [View(256), View(256, control=ControlTokens(0.0, 0.3, 300, 301))])
@pytest.mark.parametrize("name", SCORERS)
def test_what_was_annotated_right_is_right(packed, byte_tokenizer, capsys, name, view):
    scorer = SCORERS[name]()
    rows = packed(programs(scorer), view)
    found = inspect(rows, scorer, byte_tokenizer)
    assert found.metrics["inspector/mismatches"] == 0 and found.metrics["inspector/score_difference"] < 1e-6
    assert found.metrics["inspector/segments"] > 20 and "warning" not in capsys.readouterr().err
    shown = found.samples["inspector"]
    assert {row["text"] for row in shown} <= set(LINES) and any(row["stored_score"] for row in shown)


@pytest.mark.parametrize("name", SCORERS)
def test_scores_that_are_not_the_texts_are_told(packed, byte_tokenizer, capsys, name):
    scorer = SCORERS[name]()

    def corrupted():
        for number, document in enumerate(programs(scorer)):
            if number % 2:
                document.scores[0] += 0.25
            yield document
    found = inspect(packed(corrupted()), scorer, byte_tokenizer)
    assert 0.05 < found.metrics["inspector/mismatches"] < 0.5
    first = found.samples["inspector"][0]
    assert first["stored_score"] - first["score"] == pytest.approx(0.25)
    assert "have another score than mine gives them now" in capsys.readouterr().err


def test_what_does_not_lie_in_the_row_is_left_out_and_counted(packed, byte_tokenizer):
    """One document of ten lines of ten tokens, rows of 35: with its end-of-text token 101 tokens in all."""
    texts = ["a = bbbbb\n"] * 10
    counts = []
    for scorer in (Letters(), make_scorer({"name": "pep8"})):
        sign = -1 if scorer.kind == "reward" else 1
        rows = packed([ScoredText(texts, [sign * number for number in scorer.score_segments(texts)])], block_size=35,
                      effective_batch_size=3)
        counts.append(inspect(rows, scorer, byte_tokenizer, num_rows=3).metrics)
    assert counts[0]["inspector/segments"] >= 6 and counts[0]["inspector/left_out"] >= 4
    assert counts[0]["inspector/mismatches"] == 0
    assert counts[1] == pytest.approx(counts[0], abs=1e-6), "pep8 judges lines in their file: the corpus has it"
    peek = rows.peek(3)
    peek.store = None
    found = inspect(SimpleNamespace(peek=lambda count: peek, view=rows.view), scorer, byte_tokenizer).metrics
    assert found["inspector/segments"] == 0, "no file is whole in a row, and no corpus is there"
    assert found["inspector/left_out"] == sum(counts[0][f"inspector/{name}"] for name in ("segments", "left_out"))
    assert "inspector/mismatches" not in found


def test_a_line_is_judged_in_its_file(packed, byte_tokenizer):
    """Alone, a line would be indented without cause; a file too long for that is left out."""
    scorer = make_scorer({"name": "pep8"})
    texts = ["def f(a):\n", *["    a += 1\n"] * 20, "    return a\n"]
    scores = scorer.score_segments(texts)
    assert scorer.score_segments(texts[5:6]) != scores[5:6]
    rows = packed([ScoredText(texts, scores)] * 3, block_size=64)
    found = inspect(rows, scorer, byte_tokenizer).metrics
    assert found["inspector/segments"] > 10 and found["inspector/mismatches"] == 0


def test_a_document_too_long_to_be_scored_is_left_out(packed, byte_tokenizer, monkeypatch):
    scorer = make_scorer({"name": "pep8"})
    rows = packed(programs(scorer))
    monkeypatch.setattr("apo.callbacks.inspector.MOST_TOKENS", 10)
    few, all_of_them = inspect(rows, scorer, byte_tokenizer).metrics, inspect(rows, Letters(), byte_tokenizer).metrics
    assert few["inspector/segments"] < all_of_them["inspector/segments"]


def test_text_that_does_not_come_back_is_left_out(packed, byte_tokenizer):
    rows = packed([ScoredText(["na\n", "b\n"], [-1 / 3, 0.0])] * 4, block_size=6, effective_batch_size=4)
    peek = rows.peek(4)
    broken = byte_tokenizer("\u00e9", add_special_tokens=False)["input_ids"][:1]
    peek.ids_RB[peek.ids_RB == byte_tokenizer("n")["input_ids"][0]] = broken[0]
    spoilt = SimpleNamespace(peek=lambda count: peek, view=rows.view)
    whole, fewer = (inspect(each, Letters(), byte_tokenizer, num_rows=4).metrics for each in (rows, spoilt))
    assert fewer["inspector/segments"] < whole["inspector/segments"]
    assert fewer["inspector/left_out"] > whole["inspector/left_out"]


@pytest.mark.parametrize("as_released", [False, True])
def test_private_data_in_one_piece_too(packed, byte_tokenizer, as_released):
    """PHF's script divides twice, which `score` of a text does not."""
    scorer = make_scorer({"name": "pii", "as_released": as_released})
    documents = [ScoredText([text], scorer.score_segments([text])) for text in 8 * LETTERS]
    found = inspect(packed(documents), scorer, byte_tokenizer).metrics
    assert found["inspector/segments"] > 10 and found["inspector/mismatches"] == 0


def test_documents_in_one_piece_are_judged_as_such(packed, byte_tokenizer):
    scorer = make_scorer({"name": "pep8"})
    texts = ["".join(LINES[:4]), "x = 1\n", "".join(LINES[1:6])]
    rows = packed([ScoredText([text], scorer.score([text])) for text in texts * 5])
    found = inspect(rows, scorer, byte_tokenizer).metrics
    assert found["inspector/segments"] > 5 and found["inspector/mismatches"] == 0


class Stream:
    """Documents with a cursor, from a list."""

    def __init__(self, documents):
        self.documents, self.place = documents, 0

    def __iter__(self):
        while self.place < len(self.documents):
            self.place += 1
            yield Document("row", *self.documents[self.place - 1])
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


def streamed(scorer, tokenizer):
    made = [(document.texts, None) for document in programs(scorer, 150)]
    source = SimpleNamespace(stream=lambda: Stream(made), data=SimpleNamespace(eval_fraction=0.0))
    return StreamedRows(SimpleNamespace(source=source, scorer=scorer), tokenizer, View(256, control=ControlTokens(
        0.0, 0.3, 300, 301)), block_size=100, effective_batch_size=4, seed=1, window=8)


def test_streamed_rows_too(byte_tokenizer):
    scorer = make_scorer({"name": "pep8"})
    rows = streamed(scorer, byte_tokenizer)
    for _ in range(5):
        found = inspect(rows, scorer, byte_tokenizer).metrics
        assert found["inspector/segments"] > 0 and found["inspector/mismatches"] == 0
        rows.next()


@pytest.mark.parametrize("kind", ["packed", "streamed"])
def test_a_look_moves_nothing(packed, byte_tokenizer, kind):
    def fresh():
        return packed(programs(Letters()), block_size=64) if kind == "packed" else streamed(Letters(), byte_tokenizer)
    plain, watched = fresh(), fresh()
    for _ in range(7):
        peek = watched.peek(4)
        assert watched.state_dict() == plain.state_dict()
        assert (watched.documents_seen, watched.epoch) == (plain.documents_seen, plain.epoch) or kind == "streamed"
        one, other = plain.next(), watched.next()
        assert one.input_ids_BT.equal(other.input_ids_BT) and one.scores_BT.equal(other.scores_BT)
        assert np.array_equal(peek.ids_RB, one.input_ids_BT[:4]) and np.array_equal(peek.scores_RB, one.scores_BT[:4])
        assert ((peek.ids_RB == 256) == peek.begins_RB).all()
        assert (watched.documents_seen, watched.epoch) == (plain.documents_seen, plain.epoch)


def test_without_a_scorer_there_is_nothing_to_compare(byte_tokenizer):
    with pytest.raises(ConfigError, match="name what made them with scorer="):
        inspect(None, None, byte_tokenizer)


def test_training_is_the_same_with_and_without(tmp_path, capsys):
    words = ["--task", "pep8", "--method", "conditional", "--scale", "smoke", "--output-dir", str(tmp_path / "out"),
             "training.max_steps=2", "evaluation.every_n_steps=1", "evaluation.heldout_tokens=500",
             "evaluation.scenarios.functions=null", "evaluation.scenarios.unconditional.num_samples=2",
             "evaluation.scenarios.unconditional.generation.min_new_tokens=0",
             "evaluation.scenarios.unconditional.generation.max_new_tokens=8"]
    assert main(words) == 0 and main([*words, "callbacks.inspector.num_rows=3"]) == 0
    assert "another score" not in capsys.readouterr().err
    runs = sorted((tmp_path / "out/pep8/conditional").iterdir(), key=lambda run: "inspector" in (
        run / "metrics.jsonl").read_text())
    assert len(runs) == 2
    weights = [(run / "final/model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    plain, watched = ([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs)
    looks = [row for row in watched if "inspector/segments" in row]
    assert [row["step"] for row in looks] == [0, 1, 2]
    assert sum(row["inspector/segments"] for row in looks) > 0
    assert all(row.get("inspector/mismatches", 0) == 0 for row in looks)
    assert [row for row in watched if row not in looks] == plain
    assert (runs[1] / "samples/inspector-000000.jsonl").exists()
