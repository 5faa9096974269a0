"""What a run on advantages says of its weights, against numbers worked out by hand."""

import json

import numpy as np
import pytest

from apo.advantages import BINS, POINTS, Advantages
from apo.objectives.base import Draw

REWARDS = np.array([1.0, 0.9, 0.5, 0.2, 0.6, 0.0])
VALUES = np.array([0.75, 1.0, 0.0, 0.25, 0.1, 0.25])
GOOD = np.array([True, True, True, True, False, False])
"""A: 0.25, -0.1, 0.5, -0.05 of the good; 0.5, -0.25 of the bad."""
FIT = {"explained": 0.25, "epochs": 3}


def advantages(rewards=REWARDS, values=VALUES, good=GOOD, kept=None, loss_weights=None) -> Advantages:
    kept = (rewards > values) & good if kept is None else kept
    return Advantages(rewards, values, good, Draw(kept, None, loss_weights), FIT, 10 + np.arange(len(rewards)))


def test_dropped_is_of_the_good_alone():
    assert advantages().dropped == 0.5
    everything = advantages(kept=np.ones(6, bool))
    assert everything.dropped == 0
    # A bad completion that is served does not make up for a good one that is not.
    assert advantages(kept=np.array([True, True, True, False, True, True])).dropped == 0.25


def test_effective_share():
    by_advantage = (REWARDS - VALUES).clip(min=0)
    # 0.25 and 0.5: 0.75^2 / (2 * (0.0625 + 0.25)) = 0.5625 / 0.625.
    assert advantages(loss_weights=by_advantage).effective_share == pytest.approx(0.9)
    # Of all that is served, those without a positive advantage count as nothing: 1.25^2 / (6 * 0.5625).
    everything = advantages(kept=np.ones(6, bool), loss_weights=by_advantage)
    assert everything.effective_share == pytest.approx(1.5625 / 3.375) and everything.dropped == 0.5
    assert advantages(kept=GOOD).effective_share == pytest.approx(1)
    assert advantages(loss_weights=np.zeros(6)).effective_share == 0
    # Drawn by it and weighed by it: 0.0625 and 0.25, 0.3125^2 / (2 * (0.0625^2 + 0.25^2)).
    twice = advantages()
    twice.draw = Draw(twice.draw.kept_P, by_advantage, by_advantage)
    assert twice.effective_share == pytest.approx(0.3125 ** 2 / (2 * (0.0625 ** 2 + 0.25 ** 2)))


def test_same_as_threshold():
    # Above 0 are the first and the third, the highest two rewards are the first and the second.
    assert advantages().same_as_threshold == 0.5
    assert advantages(values=np.full(6, 0.4)).same_as_threshold == 1
    # The bad one with the second highest reward has no part in it.
    assert advantages(values=np.array([2, 2, 0, 0, 0, 0])).same_as_threshold == 0
    assert np.isnan(advantages(values=REWARDS + 1).same_as_threshold)


def test_percentiles_and_shares():
    found = advantages().summary()
    assert found["percentiles"]["V"]["good"] == {"0": 0.0, "10": pytest.approx(0.075), "25": 0.1875, "50": 0.5,
                                                 "75": 0.8125, "90": pytest.approx(0.925), "100": 1.0}
    assert found["percentiles"]["R"]["bad"]["50"] == pytest.approx(0.3)
    assert found["percentiles"]["A"]["good"]["50"] == pytest.approx(0.1)
    assert found["percentiles"]["A"]["bad"]["25"] == pytest.approx(-0.0625)
    assert found["advantage_above_0"] == {"good": 0.5, "bad": 0.5}
    assert (found["completions"], found["good"], found["kept"]) == (6, 4, 2)
    alone = advantages(good=np.ones(6, bool)).summary()
    assert set(alone["percentiles"]["A"]) == set(alone["advantage_above_0"]) == {"good"}


def test_extremes_begin_with_the_most_extreme_and_are_good():
    found = advantages().extremes(lambda document: (f"prompt {document}", f"completion {document}"))
    assert [each["completion"][-2:] for each in found["top"]] == ["12", "10", "13", "11"]
    assert [each["completion"][-2:] for each in found["bottom"]] == ["11", "13", "10", "12"]
    assert found["top"][0] == {"A": 0.5, "R": 0.5, "V": 0.0, "prompt": "prompt 12", "completion": "completion 12"}


def test_no_bin_holds_both_sides_of_0():
    found = advantages().histogram()
    edges = np.array(found["edges"])
    # 0.75 in 40 bins of 0.01875: 14 of them reach down to -0.25, 27 up to 0.5.
    assert (len(edges), int((edges == 0).sum()), int((edges < 0).sum())) == (14 + 27 + 1, 1, 14)
    below = edges[1:] <= 0
    assert (np.array(found["good"])[below].sum(), np.array(found["bad"])[below].sum()) == (2, 1)
    assert (sum(found["good"]), sum(found["bad"])) == (4, 2)


@pytest.mark.parametrize("values", [REWARDS, REWARDS - 0.1, REWARDS + 0.1, REWARDS - np.linspace(-0.3, 0.7, 6) / 3])
def test_every_completion_is_in_a_bin(values):
    found = advantages(values=values).histogram()
    assert (sum(found["good"]), sum(found["bad"])) == (4, 2)
    assert len(found["good"]) == len(found["bad"]) == len(found["edges"]) - 1 <= BINS + 2


def test_few_points_are_all_there_by_rank_of_a():
    found = advantages().points()
    assert found == {"R": [0.9, 0.2, 1.0, 0.5], "V": [1.0, 0.25, 0.75, 0.0], "kept": [False, False, True, True]}


def test_many_points_are_evenly_chosen_without_chance():
    count = 2 * POINTS
    values = np.resize([0.0, 1.0], count)       # a stride of two through the data would meet only one of them
    rewards = np.linspace(0, 1, count)
    many = advantages(rewards, values, np.ones(count, bool))
    found = many.points()
    assert [len(each) for each in found.values()] == [POINTS] * 3 and found == many.points()
    assert np.mean(found["V"]) == pytest.approx(0.5, abs=0.001)
    found_advantages = np.array(found["R"]) - found["V"]
    assert (found_advantages[0], found_advantages[-1]) == pytest.approx(
        (many.advantages_P.min(), many.advantages_P.max()), abs=1e-4)
    assert np.percentile(found_advantages, 30) == pytest.approx(np.percentile(many.advantages_P, 30), abs=0.002)
    assert len(json.dumps(found)) < 60_000
