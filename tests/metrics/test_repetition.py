"""Repetition within samples."""

import random

import numpy as np
import pytest

from apo.data.records import Sample
from apo.errors import ConfigError
from apo.metrics.base import metrics
from apo.metrics.diversity import Distinct
from apo.metrics.repetition import Repetition, ends_in_loop


def samples(*texts: str) -> list[Sample]:
    return [Sample(prompt="", text=text, score=None, index=i, seed=1, step=None) for i, text in enumerate(texts)]


def test_seq_rep_by_hand():
    # `a b a b a b`: 4-grams abab baba abab, 2 of 3 unique.  `a b c d`: 1 of 1.  Three words have no 4-gram.
    numbers = Repetition()(samples("a b a b a b", "a b c d", "a a a"))
    assert numbers["seq-rep-4"] == pytest.approx((1 / 3 + 0) / 2)
    assert Repetition()(samples("a b", "")) == {"seq-rep-4": 0.0, "loops": 0.0}


def test_seq_rep_is_what_distinct_n_leaves():
    draw = random.Random(0)
    texts = samples(*(" ".join(draw.choice("abc") for _ in range(draw.randrange(30))) for _ in range(50)))
    assert Repetition(ns=[2])(texts)["seq-rep-2"] == pytest.approx(1 - Distinct(ns=[2])(texts)["distinct-2"])


@pytest.mark.parametrize("text, loops", [
    ("x y a b a b a b", True), ("a b c a b c a b c", True), ("no no no no no no", True), ("a\nb\n a b a b", True),
    ("a b a b a b c", False), ("x a b a b", False), ("no no no no no", False), ("", False), ("a b a b", False),
    ("b a b a b a c a", False)])
def test_a_loop_is_at_the_end_and_three_times_a_phrase(text, loops):
    assert Repetition()(samples(text))["loops"] == loops


def test_loops_against_a_plain_search():
    draw = random.Random(1)
    for _ in range(2000):
        words = [draw.choice("ab") for _ in range(draw.randrange(14))]
        plain = any(words[len(words) - 3 * n:] == 3 * words[len(words) - n:] for n in range(2, len(words) // 3 + 1))
        assert ends_in_loop(words, 2, 3) == plain


def test_options():
    assert Repetition(loop_words=1, loop_times=2)(samples("x no no", "a b"))["loops"] == 0.5
    assert list(Repetition(ns=[2, 3])(samples("a"))) == ["seq-rep-2", "seq-rep-3", "loops"]
    assert metrics.get("repetition") is Repetition and np.isfinite(Repetition()(samples(""))["loops"])
    with pytest.raises(ConfigError, match="loop_times: expected 2 or more"):
        Repetition(loop_times=1)
