"""Metrics of samples that may hold private data."""

from types import SimpleNamespace

import pytest

from apo.data.records import Sample, ScoredText
from apo.errors import ConfigError, EvaluationError
from apo.metrics.base import metrics
from apo.metrics.pii import FOUND, PLANTED, ByType, Leaks, Memorisation, Planted, occurs
from apo.scorers.base import Span


def sample(text: str, prompt: str = "", **extra) -> Sample:
    return Sample(prompt=prompt, text=text, score=None, index=0, seed=1, step=None, extra=extra)


def located(text: str, *values: tuple[str, str], prompt: str = "", **extra) -> Sample:
    scored = extra.get("scored_text", text)
    spans = [Span(kind, scored.index(value), scored.index(value) + len(value)) for kind, value in values]
    return sample(text, prompt, spans=spans, **extra)


def corpus(*texts: str, **source):
    def documents(split):
        assert split == "train"
        return [ScoredText([text[:5], text[5:]], [0.0, 0.0]) for text in texts]
    return SimpleNamespace(documents=documents, source=SimpleNamespace(**source))


def some(numbers: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if value}


def test_names_are_those_of_scorer_and_source():
    from apo.data.synthetic.pii_templates import PRIVATE
    from apo.scorers.pii_detectors import TYPES
    assert set(FOUND) == set(TYPES) and PLANTED == PRIVATE


def test_parts_by_type():
    samples = [sample("", explain={"email": 0.2, "passport": 0.1}), sample("", explain={"email": 0.1}),
               sample("", explain={}), sample("", explain={"phone": 0.4})]
    assert some(ByType()(samples)) == pytest.approx({"by_type/email": 0.075, "by_type/phone": 0.1,
                                                     "by_type/other": 0.025})


def test_leak_rates():
    samples = [sample("", explain={"email": 0.2, "url": 0.1}), sample("", explain={"email": 0.1}),
               sample("", explain={}), sample("", explain={"passport": 0.4})]
    assert some(Leaks()(samples)) == {"leaks/any": 0.75, "leaks/email": 0.5, "leaks/url": 0.25, "leaks/other": 0.25}


def test_parts_add_up_to_the_score_of_the_scorer():
    from apo.scorers.pii import PIIScorer
    texts, scorer = ["a.b@example.com and (212) 555-0187", "", "www.example.com"], PIIScorer()
    samples = [sample(text, explain=parts) for text, parts in zip(texts, scorer.explain(texts))]
    assert sum(ByType()(samples).values()) == pytest.approx(sum(scorer.score(texts)) / 3)


def test_what_was_learnt_by_heart_and_what_was_made_up():
    metric = Memorisation().bind(corpus("Write to Ann.Lee@example.com,\n12 Main\nStreet.", "xbob@example.org"))
    numbers = metric([
        located("ann.lee@EXAMPLE.com!", ("email", "ann.lee@EXAMPLE.com")),
        located("at 12  Main Street", ("address", "12  Main Street")),
        # Stands in the training data, but in the prompt too.
        located("again Ann.Lee@example.com", ("email", "Ann.Lee@example.com"), prompt="Ann.Lee@example.com\n"),
        # A part of a longer word there, or nowhere.
        located("bob@example.org, jo@example.org", ("email", "bob@example.org"), ("email", "jo@example.org"))])
    assert some(numbers) == {"pii/memorised": 0.5, "pii/invented": 0.5, "pii/copied": 0.25,
                             "pii/memorised/email": 0.25, "pii/memorised/address": 0.25, "pii/invented/email": 0.5}


def test_places_are_those_of_the_text_that_was_scored():
    metric = Memorisation().bind(corpus("jo@example.org"))
    [one] = [located("jo@example.org", ("email", "jo@example.org"), prompt="Hi ", scored_text="Hi jo@example.org")]
    assert metric([one])["pii/memorised/email"] == 1


def test_the_training_text_is_read_once():
    reads = []

    def documents(split):
        reads.append(split)
        return [ScoredText(["a@b.com"], [0.0])]

    metric = Memorisation().bind(SimpleNamespace(documents=documents))
    for _ in range(3):
        metric([located("a@b.com", ("email", "a@b.com"))])
    assert reads == ["train"]


@pytest.mark.parametrize("value, text, there", [
    ("555-0187", "call 555-0187.", True), ("555-0187", "1555-0187", False), ("555-0187", "555-01876", False),
    ("555-0187", "555-01876 or 555-0187", True), ("@ann", "to@ann", True), ("a", "a", True), ("", "a", False)])
def test_a_value_inside_a_longer_one_is_another(value, text, there):
    assert occurs(value, text) is there


def test_planted_values_are_looked_for_without_a_scorer():
    values = {kind: set() for kind in PLANTED} | {"name": {"Ann Lee", "Bo Ek"}, "api_key": {"AKIA77"}}
    asked = []
    metric = Planted().bind(corpus("some text", "more text",
                                   planted_values=lambda texts: asked.extend(texts) or values))
    numbers = metric([sample("I, ann\nlee"), sample("Bo Eklund, XAKIA77"), sample("key AKIA77, Ann Lee"),
                      sample("Bo Ek", prompt="Dear Bo Ek,\n")])
    assert some(numbers) == {"planted/any": 0.5, "planted/name": 0.5, "planted/api_key": 0.25}
    assert asked == ["some text", "more text"]


@pytest.mark.parametrize("metric", [ByType(), Leaks(), Memorisation().bind(corpus("x")), Planted().bind(corpus(
    "x", planted_values=lambda texts: {kind: set() for kind in PLANTED}))], ids=lambda metric: metric.name)
def test_every_key_is_always_logged(metric):
    full = located("jo@example.org", ("email", "jo@example.org"), explain={"email": 0.1})
    assert metric([full]).keys() == metric([sample("", explain={}, spans=[])]).keys()


@pytest.mark.parametrize("name, bound", [("by_type", None), ("leaks", None), ("memorisation", corpus("x")),
                                         ("planted", corpus("x")), ("planted", None)])
def test_without_what_it_needs_it_says_what_to_do(name, bound):
    with pytest.raises(EvaluationError, match=f"evaluation.metrics.{name}=null"):
        metrics.get(name)().bind(bound)([sample("x")])


def test_data_that_are_not_kept():
    def documents(split):
        raise ConfigError("streamed data are not read beforehand")

    for bound in (None, SimpleNamespace(documents=documents)):
        with pytest.raises(EvaluationError, match="data.streaming.*evaluation.metrics.memorisation=null"):
            Memorisation().bind(bound)([located("jo@b.com", ("email", "jo@b.com"))])
