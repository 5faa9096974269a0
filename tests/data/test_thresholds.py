"""Thresholds: numbers, percentiles, and the ones that leave nothing."""

import numpy as np
import pytest

from apo.data.thresholds import ControlTokens, View, make_view, resolve
from apo.errors import ConfigError, DataError
from apo.schema import ConditionalConfig, DataConfig

SCORES = np.array([3.0, 0.0, 1.0, 2.0])


@pytest.mark.parametrize("percentile, expected", [(0, 0), (25, 0), (26, 1), (50, 1), (75, 2), (99, 3), (100, 3)])
def test_a_percentile_is_the_smallest_score_that_so_many_do_not_exceed(percentile, expected):
    threshold = resolve({"percentile": percentile}, SCORES, "x")
    assert threshold == expected
    assert (SCORES <= threshold).mean() >= percentile / 100


def test_numbers_stay_and_null_stays():
    assert resolve(0, SCORES, "x") == 0.0 and resolve(None, SCORES, "x") is None and resolve(-1.5, None, "x") == -1.5


@pytest.mark.parametrize("wrong", [{"percentile": 101}, {"percentile": -1}, {"percentile": None}, {"quantile": 0.5},
                                   {"percentile": 5, "of": 1}, float("nan"), "high", True])
def test_anything_else_is_refused_by_name(wrong):
    with pytest.raises(ConfigError, match="data.filter_threshold"):
        resolve(wrong, SCORES, "data.filter_threshold")


def test_streamed_data_have_no_percentiles():
    with pytest.raises(ConfigError, match="streamed data have no percentiles"):
        resolve({"percentile": 50}, None, "x")


@pytest.fixture
def store(make_store):
    return make_store([[([5], 0.2), ([5], 0.4)], [([5], 1.0)], [([5], 3.0), ([5], 5.0)]])


def options(**conditional):
    return DataConfig(conditional_training_config=ConditionalConfig(**conditional))


def test_the_filter_looks_at_documents_and_control_tokens_at_segments(store):
    data = options(threshold={"percentile": 50}, drop_token_fraction=0.25)
    data.filter_threshold = {"percentile": 50}
    assert make_view(data, store, 9, [7, 8]) == View(9, 1.0, ControlTokens(1.0, 0.25, 7, 8))
    assert make_view(DataConfig(), store, 9, []) == View(9)


def test_a_filter_that_no_document_passes_says_what_would(store):
    with pytest.raises(DataError, match=r"data.filter_threshold=0.1: no training document passes.*between 0.3 and 4\. "
                                        r"Half of them pass at 1, which is \{percentile: 50\}"):
        make_view(DataConfig(filter_threshold=0.1), store, 9)


def test_a_threshold_that_aligns_nothing_says_what_would(store):
    with pytest.raises(DataError, match="threshold=0: no training segment is aligned.*between 0.2 and 5"):
        make_view(options(threshold=0), store, 9, [7, 8])


def test_a_drop_fraction_is_a_fraction(store):
    with pytest.raises(ConfigError, match="drop_token_fraction=1.5"):
        make_view(options(threshold=1, drop_token_fraction=1.5), store, 9, [7, 8])
