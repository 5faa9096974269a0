"""The data card: exact quantiles, bars that add up, thresholds that mean what training means by them."""

import json

import numpy as np
import pytest

from apo.annotation.card import PERCENTS, Column, Statistics, as_text, histogram, quantiles, share_of_zero, thresholds
from apo.data.records import ScoredText
from apo.data.thresholds import resolve


def test_a_column_on_disk_is_sorted(tmp_path, monkeypatch):
    monkeypatch.setattr("apo.annotation.card.AT_ONCE", 10)
    rng = np.random.default_rng(0)
    column, numbers = Column(tmp_path / "x"), rng.normal(size=1003)
    for start in range(0, 1003, 17):
        column.add(numbers[start:start + 17].tolist())
    assert len(column.pending) < 10 + 17
    np.testing.assert_array_equal(column.sorted(), np.sort(numbers))
    assert len(Column(tmp_path / "y").sorted()) == 0


@pytest.mark.parametrize("size", [1, 2, 3, 99, 100, 101, 1000])
def test_quantiles_are_those_of_a_percentile_threshold(size):
    numbers = np.sort(np.random.default_rng(size).normal(size=size))
    for percent, value in quantiles(numbers).items():
        assert value == resolve({"percentile": float(percent)}, numbers, "x")
    assert set(quantiles(numbers)) == set(map(str, PERCENTS)) and quantiles(np.empty(0)) == {}


@pytest.mark.parametrize("numbers, first, last", [
    ([0, 0, 0.0005, 0.002, 0.9], ("0", 2), ("0.1 to 0.9", 1)), ([0.5, 0.5], ("0.5", 2), ("0.5", 2)),
    ([1e-12, 1e-11, 0.5], ("up to 1e-07", 2), ("0.1 to 0.5", 1)), ([-1, 0, 1], ("-1 to -0.8", 1), ("0.8 to 1", 1)),
    ([3, 30, 1000.0], ("1 to 10", 1), ("100 to 1000", 1)), ([0.0, 0.0], ("0", 2), ("0", 2))])
def test_bars(numbers, first, last):
    rows = histogram(np.sort(np.array(numbers, float)))
    assert (rows[0], rows[-1]) == (first, last) and sum(count for _, count in rows) == len(numbers)


def test_every_number_is_in_one_bar():
    rng = np.random.default_rng(1)
    for numbers in (rng.exponential(size=500) ** 4, rng.normal(size=500), rng.integers(0, 3, 500) / 10):
        assert sum(count for _, count in histogram(np.sort(numbers))) == 500


def test_zeros():
    assert share_of_zero(np.array([-1.0, 0, 0, 2])) == 0.5 and share_of_zero(np.empty(0)) is None


@pytest.fixture
def card(tmp_path):
    statistics = Statistics(tmp_path)
    for texts, scores in ([["ab", "c"], [0.0, 0.4]], [["def"], [0.0]], [["g", "h", "i"], [0.0, 0.3, 0.9]]):
        statistics.add(ScoredText(texts, scores))
    return statistics.card()


def test_what_a_card_says(card):
    assert card["counts"] == {"documents": 3, "segments": 6, "characters": 9, "rejected": 0}
    assert card["segment_scores"]["share_zero"] == 0.5 and card["document_characters"]["quantiles"]["50"] == 3
    assert card["document_segments"]["quantiles"] == {**dict.fromkeys(map(str, PERCENTS), 3.0), "0": 1, "1": 1, "5": 1,
                                                      "10": 1, "25": 1, "50": 2}
    assert card["thresholds"] == {"data.filter_threshold": 0.2, "data.conditional_training_config.threshold": 0.0,
                                  "objective.score_threshold": 0.0}
    assert json.loads(json.dumps(card)) == json.loads(json.dumps(card))


META = {"command": "python x", "shard": None, "segmentation": "line", "source": {"name": "file", "fingerprint": "f"},
        "scorer": {"name": "s", "options": {}, "fingerprint": "g"}}


def test_as_text(card):
    text = as_text(META, card)
    assert "3 documents, 6 segments, 9 characters; 0 rows of the input refused" in text
    assert "| `data.filter_threshold` | 0.2 |" in text and "50.00 % are 0." in text and "tell apart" not in text
    assert "of shard 2/3 of the input" in as_text({**META, "shard": "2/3"}, card)


def test_scores_that_are_all_the_same_are_pointed_out(tmp_path):
    statistics = Statistics(tmp_path)
    statistics.add(ScoredText(["a", "b"], [0.0, 0.0]))
    text = as_text(META, statistics.card())
    assert "Every document scores the same" in text and "Every segment scores the same" in text


def test_an_empty_shard_has_a_card(tmp_path):
    card = Statistics(tmp_path).card()
    assert set(card["thresholds"].values()) == {None} and "0 documents" in as_text(META, card)
    assert thresholds(card)["data.filter_threshold"] is None
