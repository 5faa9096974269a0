"""Accuracy and calibration over pairs, by hand."""

import math

import pytest

from apo.metrics.preference import calibration_curve, pair_accuracy
from apo.metrics.statistics import wilson


def logit(p):
    return math.log(p / (1 - p))


def test_accuracy():
    found = pair_accuracy([1.0, 2.0, -0.5, 0.0])
    assert found.mean == (2 + 0.5) / 4 and found == wilson(2.5, 4)
    assert pair_accuracy([1, 3]).high == 1 and pair_accuracy([-1, -3]).low == 0
    assert pair_accuracy([0.0] * 8).mean == 0.5


def test_calibration():
    margins = [logit(0.72), -logit(0.74), logit(0.98), logit(0.96), -logit(0.97), 0.0]
    found = calibration_curve(margins, bins=5)
    assert [(round(b.low, 6), round(b.high, 6), b.count) for b in found.bins] == [(0.5, 0.6, 1), (0.7, 0.8, 2),
                                                                               (0.9, 1.0, 3)]
    assert [b.confidence for b in found.bins] == pytest.approx([0.5, 0.73, 0.97])
    assert [b.observed for b in found.bins] == [wilson(0.5, 1), wilson(1, 2), wilson(2, 3)]
    assert found.expected_error == pytest.approx((1 * 0 + 2 * 0.23 + 3 * (0.97 - 2 / 3)) / 6)


def test_a_reward_model_that_says_how_sure_it_is_has_no_error():
    margins = [logit(0.8)] * 8 + [-logit(0.8)] * 2
    found = calibration_curve(margins)
    assert found.expected_error == pytest.approx(0) and found.bins[0].observed.mean == 0.8
    assert calibration_curve([1e4, -math.inf]).bins[0].confidence == 1


@pytest.mark.parametrize("margins, message", [([], "no pairs"), ([1, math.nan], "not a number")])
def test_what_is_no_margin(margins, message):
    for function in (pair_accuracy, calibration_curve):
        with pytest.raises(ValueError, match=message):
            function(margins)


def test_pairs_of_one_prompt_are_worth_less_than_as_many_prompts():
    margins, prompts = [1, 1, -1, -1, 1, 1, -1, -1], [0, 0, 1, 1, 2, 2, 3, 3]
    together = pair_accuracy(margins, prompts)
    expected = wilson(0.5 * 24 / 7, 24 / 7)
    # Two pairs that always agree are worth one; seven degrees of freedom against three make it a little less.
    assert (together.low, together.high) == pytest.approx((expected.low, expected.high))
    assert pair_accuracy(margins) == wilson(4, 8)
    assert pair_accuracy([1, 1, 1, 1], [0, 0, 1, 1]) == wilson(2, 2) and pair_accuracy([1, -1], [5, 5]) == wilson(.5, 1)
    apart = calibration_curve(margins, bins=1).bins[0].observed
    assert calibration_curve(margins, prompts, bins=1).bins[0].observed == together != apart
