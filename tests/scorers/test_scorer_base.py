"""Scorers by name, and the check that stands between a scorer and everything that uses its numbers."""

from dataclasses import dataclass

import numpy as np
import pytest

from apo.errors import ConfigError, ScorerError
from apo.scorers.base import Scorer, checked, checked_segments
from apo.scorers.function import FunctionScorer
from apo.scorers.make import make_scorer, scorer_class
from apo.scorers.pep8 import PEP8Scorer


@dataclass
class Fixed(Scorer):
    """Returns whatever it was given."""

    name = "fixed"
    numbers: object = None

    def score(self, texts):
        return self.numbers


def test_names_become_classes():
    assert scorer_class("pep8") is scorer_class("PEP8") is PEP8Scorer
    assert issubclass(scorer_class("my.module:f"), FunctionScorer)
    assert scorer_class("my.module:f").name == "my.module:f"


def test_unknown_names_and_options_are_refused():
    with pytest.raises(ConfigError, match='unknown scorer "pep9".*Did you mean "pep8"'):
        make_scorer({"name": "pep9"})
    with pytest.raises(ConfigError, match='"max_line".*Did you mean "max_line_length"'):
        make_scorer({"name": "pep8", "max_line": 3})
    with pytest.raises(ConfigError, match="scorer.name is missing"):
        make_scorer({})
    with pytest.raises(ConfigError, match="module:function"):
        make_scorer({"name": "my module:f"})


def test_options_reach_the_scorer():
    assert make_scorer({"name": "pep8", "max_line_length": 100}).max_line_length == 100


def test_numbers_of_all_kinds_become_floats():
    torch = pytest.importorskip("torch")
    numbers = checked(Fixed([1, 0.5, True, np.float32(0.25), torch.tensor(2.0)]), ["a"] * 5)
    assert numbers == [1.0, 0.5, 1.0, 0.25, 2.0]
    assert {type(number) for number in numbers} == {float}
    assert checked(Fixed(np.array([1.0, 2.0])), ["a", "b"]) == [1.0, 2.0]


@pytest.mark.parametrize(("numbers", "message"), [
    ([1.0, float("nan")], r"returned nan for text 1 \('second'\); a score must be a finite number"),
    ([float("inf"), 1.0], r"returned inf for text 0"),
    ([1.0, None], r"returned None for text 1"),
    ([1.0, "0.5"], r"returned '0.5' for text 1"),
    ([1.0, [2.0, 3.0]], r"text 1"),
    ([1.0], r"returned 1 numbers for 2 texts"),
    (3.0, r"returned 3.0 for a list of 2 texts"),
    (None, r"returned None for a list"),
    ("ab", r"returned 'ab' for a list")])
def test_what_is_not_a_finite_number_per_text_is_refused(numbers, message):
    with pytest.raises(ScorerError, match=message):
        checked(Fixed(numbers), ["first", "second"])


def test_segments_are_checked_too():
    with pytest.raises(ScorerError, match=r"segment 1 \('second'\)"):
        checked_segments(Fixed([1.0, float("nan")]), ["first", "second"])


def test_reward_is_the_only_place_that_turns_the_sign():
    @dataclass
    class Rewarding(Fixed):
        kind = "reward"

    assert Fixed([1.0, -2.0]).reward(["a", "b"]) == [-1.0, 2.0]
    assert Rewarding([1.0, -2.0]).reward(["a", "b"]) == [1.0, -2.0]


def test_by_default_scores_have_no_parts():
    assert Fixed().explain(["a", "b"]) == [{}, {}]


def test_fingerprints_tell_options_apart():
    assert Fixed(1).fingerprint() == Fixed(1).fingerprint() != Fixed(2).fingerprint()
