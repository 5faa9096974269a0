"""The synthetic corpus of private data: always the same, and every value where it says."""

import hashlib
from collections import Counter

import pytest

from apo.data.sources.base import sources
from apo.data.synthetic import pii_people, pii_templates
from apo.errors import DataError
from apo.schema import DataConfig, SyntheticConfig


def source(documents: int = 9_000):
    synthetic = SyntheticConfig(num_documents=documents)
    return sources.get("synthetic_pii")(DataConfig(source="synthetic_pii", synthetic=synthetic))


@pytest.fixture(scope="module")
def planted():
    return list(source(600).planted())


def text(each) -> str:
    return "".join(each.document.texts)


def test_it_is_the_same_every_time(planted):
    again = list(source(600).planted())
    assert [(each.document, each.planted) for each in again] == [(each.document, each.planted) for each in planted]
    assert list(source(600).documents()) == [each.document for each in planted]


def test_a_document_does_not_depend_on_how_many_there_are_or_which_came_before(planted):
    assert source(3).make(500) == planted[500]
    assert [each.document for each in source(7).planted()] == [each.document for each in planted[:7]]


def test_it_is_the_same_on_every_machine(planted):
    if pii_people.faker_version() != "40.54.0":
        pytest.skip("made with Faker 40.54.0")
    digest = hashlib.sha256("\0".join(map(text, planted)).encode()).hexdigest()
    assert digest == "ebfca809cc942587b0a3b38dbf7762f6d450488ded56517478efaaacc6cc95f7"


def test_every_value_stands_where_it_says(planted):
    for each in planted:
        for value in each.planted:
            assert text(each)[value.begin:value.end] == value.value
        places = [place for value in sorted(each.planted, key=lambda v: v.begin) for place in (value.begin, value.end)]
        assert places == sorted(places), "values overlap"


def test_no_value_is_planted_in_secret(planted):
    """A person's values stand in their documents at the places told and nowhere else."""
    for each in planted:
        told = Counter(value.value for value in each.planted)
        for value, count in told.items():
            others = sum(other.count(value) * n for other, n in told.items() if other != value)
            assert text(each).count(value) == count + others, (value, text(each))


def test_segments_are_sentences_and_lines(planted):
    for each in planted:
        assert all(each.document.texts) and each.document.scores is None
        inside = {value.value for value in each.planted if "\n" in value.value}
        for segment in each.document.texts:
            for value in inside:
                segment = segment.replace(value, "")
            assert "\n" not in segment.rstrip("\n")
    letters = [each for each in planted if "letter" in each.document.origin]
    assert any(segment.endswith(". ") for each in letters for segment in each.document.texts)


def test_kinds_types_and_a_share_without_any(planted):
    kinds = Counter(each.document.origin.split()[1] for each in planted)
    assert set(kinds) == {"letter", "ticket", "log", "chat"} and min(kinds.values()) > 100
    assert {value.type for each in planted for value in each.planted} == set(pii_templates.PRIVATE)
    assert 0.25 < sum(not each.planted for each in planted) / len(planted) < 0.45
    people = Counter(value.value for each in planted for value in each.planted if value.type == "email")
    assert max(people.values()) > 20 and sum(count == 1 for count in people.values()) > 30


def test_the_size_of_the_demo():
    whole = source()
    assert whole.size().documents == 9_000
    sample = [text(whole.make(number)) for number in range(0, 9_000, 30)]
    assert 4e6 < sum(map(len, sample)) * 30 < 6e6


def test_the_scorer_finds_some_ways_of_writing_and_misses_others(planted):
    from apo.scorers.pii import PIIScorer
    scorer, there_are, found = PIIScorer(), Counter(), Counter()
    for each in planted:
        filths = scorer.find(text(each))
        for value in each.planted:
            there_are[value.type] += 1
            found[value.type] += any(filth.type == value.type and filth.begin < value.end and value.begin < filth.end
                                     for filth in filths)
    recall = {kind: found[kind] / there_are[kind] for kind in there_are}
    for kind in ("email", "phone", "credit_card", "social_security_number", "url", "credential", "twitter"):
        assert 0.4 < recall[kind] < 1, (kind, recall[kind])
    assert not any(recall[kind] for kind in ("name", "address", "ip_address", "api_key", "date_of_birth", "skype"))


def test_values_of_chosen_documents(planted):
    some = planted[:40]
    values = source(600).planted_values(map(text, some))
    assert {(kind, value) for kind in values for value in values[kind]} \
        == {(value.type, value.value) for each in some for value in each.planted}
    assert set(values) == set(pii_templates.PRIVATE)


def test_prompts_are_the_beginnings_of_letters(planted):
    prompts = source().prompt_sets(map(text, planted))["letters"]
    assert len(prompts) == len(set(prompts)) > 40
    for prompt in prompts:
        assert prompt.endswith(",\n\n") and "Dear " in prompt
        assert any(text(each).startswith(prompt) for each in planted)


def test_the_fingerprint_covers_fakers_version(monkeypatch):
    before = source().fingerprint()
    assert before == source().fingerprint() != source(5).fingerprint()
    monkeypatch.setattr(pii_people, "faker_version", lambda: "0")
    assert source().fingerprint() != before


def test_without_faker_it_says_what_to_install(monkeypatch):
    import importlib.metadata

    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    with pytest.raises(DataError, match="pip install Faker"):
        source().make(0)
