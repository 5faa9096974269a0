"""Weights, draws and the best of a pool, against numbers worked out by hand."""

import math
from collections import Counter

import numpy as np
import pytest

from apo.red_team.pool import Known, Pool


def pool(temperature: float = 0.1, **scores: float) -> Pool:
    made = Pool(["seed"], 0.001, temperature)
    for text, score in scores.items():
        made.add(text, score, 4)
    return made


def test_weights_are_exponential_in_the_mean_score():
    by_hand = [math.exp(0.001 / 0.1), math.exp(0.2 / 0.1), math.exp(0.5 / 0.1)]
    assert pool(a=0.2, b=0.5).weights() == pytest.approx([each / sum(by_hand) for each in by_hand])


def test_a_draw_has_these_weights_first_and_is_without_replacement():
    made = pool(a=0.1, b=0.2, c=-0.3)
    draws = [made.draw(2, np.random.default_rng(n)) for n in range(4000)]
    assert all(len(set(draw)) == 2 for draw in draws)
    weights = dict(zip(made.prompts, made.weights()))
    first, pairs = Counter(draw[0] for draw in draws), Counter(map(tuple, draws))
    for text, weight in weights.items():
        assert first[text] / 4000 == pytest.approx(weight, abs=4 * math.sqrt(weight / 4000))
    second = weights["b"] * weights["a"] / (1 - weights["b"])
    assert pairs["b", "a"] / 4000 == pytest.approx(second, abs=4 * math.sqrt(second / 4000))


def test_large_scores_do_not_overflow_and_a_small_pool_gives_what_it_has():
    made = pool(a=1e6, b=-1e6)
    assert made.weights()[1] == 1
    assert made.draw(9, np.random.default_rng(0))[0] == "a"
    assert sorted(made.draw(9, np.random.default_rng(0))) == ["a", "b", "seed"]


def test_a_second_measurement_joins_the_first_and_replaces_what_was_given():
    made = pool(a=0.5)
    made.add("a", 0.1, 12)
    assert made.prompts["a"] == Known(pytest.approx((0.5 * 4 + 0.1 * 12) / 16), 16)
    made.add("seed", 0.3, 4)
    assert made.prompts["seed"] == Known(pytest.approx(0.3), 4)


def test_the_best_are_measured_ones():
    made = Pool(["never tried"], 9.0, 0.1)
    for text, score in (("a", 0.1), ("b", 0.4), ("c", 0.4)):
        made.add(text, score, 2)
    assert [text for text, _ in made.best(2)] == ["b", "c"]
    assert [text for text, _ in made.best(10)] == ["b", "c", "a"]
