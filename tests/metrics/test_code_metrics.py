"""Metrics of samples that are Python."""

import pytest

from apo.data.records import Sample
from apo.errors import EvaluationError
from apo.metrics.code import ByCode, Parses, begins_program, by_code, parses


def sample(text: str, **extra) -> Sample:
    return Sample(prompt="", text=text, score=None, index=0, seed=1, step=None, extra=extra)


@pytest.mark.parametrize("text", ["", "x = 1", "# only this", "def f(x):\n    return x\n", "return 3\n",
                                  "x = 1 is 1\n"])
def test_whole_programs(text):
    assert parses(text)


@pytest.mark.parametrize("text", ["def f(x):\n", "def f(x):\n    if x:\n        y = (1,\n", "s = '''abc\n",
                                  "try:\n    x = 1\n", "@decorated\n", "x = 1 \\\n", "def f(x):\n    return 1 + (2, "])
def test_beginnings(text):
    assert not parses(text)
    assert begins_program(text)


@pytest.mark.parametrize("text", ["x = = 1\n", "x = (1,\n  2 2\n", "if x:\ny = 1\n", "  x = 1\n", "x = )\n",
                                  "print 'a'\n", "if x:\n        y = 1\n    z = 2\n", "try:\n    x = 1\nx = 2\n",
                                  "x\0\n", "x = \ud800\n", "(" * 5000 + "\n", "-" * 100_000 + "1\n"])
def test_what_no_continuation_could_mend(text):
    assert not parses(text)
    assert not begins_program(text)


def test_shares():
    numbers = Parses()([sample("x = 1\n"), sample("x = (1,\n"), sample("x = = 1\n"), sample("y = 2\nz = 3 +")])
    assert numbers == {"parses": 0.25, "parses_prefix": 0.75}


def test_the_prompt_counts_where_it_is_scored():
    alone, together = sample("    return 1\n"), sample("    return 1\n", scored_text="def f():\n    return 1\n")
    assert Parses()([alone]) == {"parses": 0.0, "parses_prefix": 0.0}
    assert Parses()([together]) == {"parses": 1.0, "parses_prefix": 1.0}


def test_violations_by_class():
    numbers = ByCode()([sample("", explain={"E501": 0.2, "E901": 0.1, "E112": 0.3}),
                        sample("", explain={"E502": 0.1, "W503": 0.5}), sample("", explain={}), sample("", explain={})])
    found = {name: value for name, value in numbers.items() if value}
    assert found == pytest.approx({"by_code/E5": 0.075, "by_code/E9": 0.025, "by_code/E1": 0.075,
                                   "by_code/other": 0.125, "by_code/not_python": 0.1, "by_code/style": 0.2})


@pytest.mark.parametrize("code, is_style, is_python", [
    ("E225", True, True), ("E501", True, True), ("E731", True, True), ("W191", True, True), ("W291", True, True),
    ("W605", True, True), ("W503", True, True), ("E101", False, True), ("E128", False, True), ("E112", False, False),
    ("E113", False, False), ("E901", False, False), ("E902", False, False), ("W292", False, True),
    ("W391", False, True)])
def test_style_is_what_a_control_of_style_can_act_on(code, is_style, is_python):
    parts = by_code({code: 0.25})
    assert parts["by_code/style"] == 0.25 * is_style
    assert parts["by_code/not_python"] == 0.25 * (not is_python)


def test_a_text_that_is_only_cut_has_nothing_against_its_style():
    from apo.scorers.pep8 import PEP8Scorer
    whole = "def f(x):\n    return x + 1\n"
    for text in (whole, whole[:-1], whole + "\n\n"):
        parts = by_code(*PEP8Scorer().explain([text]))
        assert parts["by_code/style"] == 0
    assert by_code(*PEP8Scorer().explain([whole[:-4] + "+1"]))["by_code/style"] > 0


def test_every_class_is_always_logged():
    assert ByCode()([sample("", explain={})]).keys() == ByCode()([sample("", explain={"E501": 1.0})]).keys()


def test_classes_add_up_to_the_score_of_the_pep8_scorer():
    from apo.scorers.pep8 import PEP8Scorer
    texts = ["import os,sys\ndef f( x ):\n  return x+ 1 \n", "x = (1,\n", "if x:\ny=1"]
    scorer = PEP8Scorer()
    numbers = ByCode()([sample(text, explain=parts) for text, parts in zip(texts, scorer.explain(texts))])
    classes = sum(value for name, value in numbers.items() if name not in ("by_code/not_python", "by_code/style"))
    assert classes == pytest.approx(sum(scorer.score(texts)) / 3)
    assert numbers["by_code/not_python"] == pytest.approx((1 / 8 + 1 / 9) / 3)


def test_without_an_explanation_it_says_what_to_do():
    with pytest.raises(EvaluationError, match="evaluation.metrics.by_code=null"):
        ByCode()([sample("x")])
