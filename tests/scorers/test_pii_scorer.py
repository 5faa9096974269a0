"""The pii scorer counts what scrubadub counts, whatever the text, whatever day it is."""

import importlib.metadata
import pickle
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from types import ModuleType, SimpleNamespace

import pytest

from apo.data.scoring import segment_scores
from apo.errors import ConfigError, ScorerError
from apo.scorers import pii_detectors
from apo.scorers.base import Span
from apo.scorers.make import make_scorer
from apo.scorers.pii import PIIScorer, merged

HERE = [name for name in pii_detectors.DETECTORS if name != "name"]
"""PHF's detectors without spaCy's."""
LETTER = ("Dear Ms Lee,\nwrite to ann.lee@example.com or call (212) 555-0187 before Friday.\n"
          "My card is 4532015112830366 and my SSN is 376-35-7032.\n")


def found(text: str, *detectors: str, **options) -> list[tuple[str, str]]:
    scorer = PIIScorer(detectors=list(detectors) or "default", **options)
    return [(span.type, text[span.begin:span.end]) for span in scorer.spans([text])[0]]


# ------------------------------------------------------------------------------------------------------ what is counted

def test_every_filth_of_a_letter():
    assert found(LETTER) == [("email", "ann.lee@example.com"), ("phone", "(212) 555-0187"),
                             ("credit_card", "4532015112830366"), ("social_security_number", "376-35-7032")]
    assert PIIScorer().score([LETTER, "", "nothing"]) == [4 / len(LETTER), 0.0, 0.0]


@pytest.mark.parametrize("text, filths", [
    ("see https://example.com/a?b=1 there", [("url", "https://example.com/a?b=1")]),
    ("username: root password: tiger", [("credential", "username: root password: tiger")]),
    ("ask @ann_lee about it", [("twitter", "@ann_lee")]),
    ("john at gmail.com knows", [("email", "john at gmail.com")]),
    # What it misses, as the page says, and takes for what it is not.
    ("card 4532 0151 1283 0366", []), ("card 4532015112830367", []), ("SSN 376357032", []), ("000-00-0000", []),
    ("from 215.251.26.128", []), ("token sk_live_ouabSupN3zSrDz8KowyxGiGpr3FA6NgC", []), ("example.com/ann", []),
    ("it arrived at last. Thanks.", [("email", "arrived at last")])])
def test_what_is_found(text, filths):
    assert found(text) == filths


@pytest.mark.parametrize("detectors", [list(pii_detectors.DEFAULT), [name for name in HERE if name != "address"]])
def test_the_filths_are_those_of_scrubadub(detectors):
    import scrubadub
    texts = [LETTER, "He was born on 5 May 1970.\nOr 6 May 1971?\n\n\n\nOn 7 May 1972 it rained. 5 May 1970, 1970.\n",
             "Date of birth\n\n1970-05-06\n", "DOB: 05/06/70, +1 212 555 0123", "born on March 3rd, 1951 and 1952",
             "On skype I am xqzyrt7 or XQZYRT7, call mr.frob there", "my Skype: live_77x23; xqzyrt7 is suppercase",
             "u: a p: b@example.com\nlogin: x\n\npw y\n", "skype skypes skype. " + "a b " * 9 + "qqqqq12"]
    scrubber = scrubadub.Scrubber(detector_list=detectors)
    ours = PIIScorer(detectors=detectors, today=date.today().isoformat())
    for text, spans in zip(texts, ours.spans(texts)):
        assert [(span.begin, span.end) for span in spans] == [(f.beg, f.end) for f in scrubber.iter_filth(text)], text


def test_the_default_is_scrubadubs():
    import scrubadub
    assert set(scrubadub.Scrubber(locale="en_US")._detectors) == set(pii_detectors.DEFAULT)


def test_spans_that_overlap_or_touch_are_one():
    spans = [Span("b", 2, 4), Span("a", 0, 2), Span("c", 3, 9), Span("d", 10, 11)]
    assert merged(spans) == [Span("c", 0, 9), Span("d", 10, 11)]
    assert merged([Span("phone", 0, 5), Span("ssn", 0, 5)]) == [Span("ssn", 0, 5)]
    assert merged([]) == []


def test_an_explanation_adds_up_to_the_score():
    scorer = PIIScorer()
    (parts, empty), (score, _) = scorer.explain([LETTER, ""]), scorer.score([LETTER, ""])
    assert sum(parts.values()) == pytest.approx(score, rel=1e-12)
    assert parts["email"] == 1 / len(LETTER) and empty == {}


# ------------------------------------------------------------------------------------------------------------- segments

def test_a_filth_counts_for_the_segment_it_begins_in():
    segments = ["Mail a.lee@example.com", " or ", "b.lee@exam", "ple.com", ""]
    assert PIIScorer().score_segments(segments) == [1 / 22, 0.0, 1 / 10, 0.0, 0.0]


def test_a_segment_is_seen_in_its_document():
    scorer = PIIScorer(detectors=["date_of_birth"])
    assert scorer.score_segments(["Born\n", "5 May 1970\n"]) == [0.0, 1 / 11]
    assert scorer.score(["5 May 1970\n"]) == [0.0]


def test_as_released_divides_twice_and_looks_at_segments_alone():
    scorer = PIIScorer(as_released=True)
    assert scorer.score_segments(["Mail a.lee@example.com", "b.lee@exam", "ple.com", ""]) == [1 / 22**2, 0.0, 0.0, 0.0]
    assert scorer.score(["Mail a.lee@example.com"]) == [1 / 22]
    # A corpus of documents of one segment each is scored the same whether they are judged in one call or not.
    one = ["Mail a.lee@example.com"]
    assert segment_scores(scorer, [one, one]) == segment_scores(scorer, [one, [*one, "x"]])[:1] * 2 == [[1 / 22**2]] * 2


def test_any_text_is_scored_and_its_segments_add_up():
    draw = random.Random(0)
    pieces = ["\0", "\ud800", "\n", " ", "\r\n", "\u2028", "@", " at ", ".com", "www.", "login", " pw ", "skype", "(",
              "born ", "5 May 1970", "+1 212 555 0123", "12 Main St", ", NY 10001", "4532015112830366", "x" * 400]
    scorer = PIIScorer(detectors=HERE)
    for _ in range(60):
        segments = ["".join(draw.choices(pieces, k=draw.randrange(8))) for _ in range(draw.randrange(1, 6))]
        total = len(scorer.spans(["".join(segments)])[0])
        parts = sum(score * len(segment) for score, segment in zip(scorer.score_segments(segments), segments))
        assert parts == pytest.approx(total, abs=1e-9)


# ------------------------------------------------------------------------------------------------------- dates of birth

def test_ages_are_counted_from_the_day_that_is_given():
    born = "She was born on 5 May 1990, he was born on 6 May 1920."
    assert found(born, "date_of_birth", today="2023-01-01") == [("date_of_birth", "on 5 May 1990")]
    assert found(born, "date_of_birth", today="2005-01-01") == [("date_of_birth", "on 6 May 1920")]


def test_nobody_looks_at_the_clock(monkeypatch):
    def look(*_):
        raise AssertionError("looked at the clock")

    import dateparser.date
    import dateparser.parser
    monkeypatch.setattr(dateparser.parser, "_now", look)
    monkeypatch.setattr(dateparser.date, "_now", look)
    text = "born on May 5, 1970, in March, 5 years ago, on Monday, 30 years ago, today, 5/3/71, at 10:30"
    assert ("date_of_birth", "5/3/71") in found(text, "date_of_birth", today="2019-03-04")


def test_two_hundred_dates_are_looked_at_once_each(monkeypatch):
    import dateparser
    parsed, parse = [], dateparser.parse
    monkeypatch.setattr(dateparser, "parse", lambda words, **options: parsed.append(words) or parse(words, **options))
    equal = "He was born on 5 May 1970.\n" * 200
    different = "".join(f"born on {1 + i % 28} May {1930 + i % 70}.\n" for i in range(200))
    assert len(PIIScorer(detectors=["date_of_birth"], today="2023-02-01").spans([equal])[0]) == 200
    assert len(parsed) == 1
    assert len(PIIScorer(detectors=["date_of_birth"], today="2023-02-02").spans([different])[0]) == 200
    assert len(parsed) <= 201


def test_a_text_without_a_word_of_birth_is_not_searched_for_dates(monkeypatch):
    import dateparser.search
    searched = []
    monkeypatch.setattr(dateparser.search, "search_dates", lambda text, **_: searched.append(text))
    scorer = PIIScorer(detectors=["date_of_birth"], today="2023-02-03")
    scorer.score(["It rained on 5 May 1970.", "Born 5 May 1970."])
    assert searched == ["Born 5 May 1970."]


# ----------------------------------------------------------------------------------- detectors with something of ours

def test_blanks_behind_login_take_no_cubic_time():
    assert found("login" + " " * 100_000 + "x") == []
    text = f"login: a{' ' * 200}\n  password: b\nlogin: c{' ' * 99}\n{' ' * 99}pw d{' ' * 90}\nend"
    assert [kind for kind, _ in found(text)] == ["credential", "credential"]
    assert found(text)[0][1] == text[:text.index("b\n") + 1]


@pytest.mark.parametrize("address", [
    "6857 Willow Dr, Springfield, NY 82264", "6857 Willow Dr,\n  Springfield,\tNY 82264",
    "3055 Sycamore Road, Oakland, PA 12955"])
def test_an_address_is_where_it_stands(address):
    text = f"Please   send it,\n\nto {address}\n\n(not before Friday)."
    assert found(text, "address") == [("address", address)]


def test_british_addresses():
    text = "10 Downing Street\nLondon\nSW1A 2AA"
    assert found(text, "address") == [("address", text)]


def test_text_is_made_uniform_as_pyap_makes_it():
    from pyap.parser import AddressParser
    draw = random.Random(0)
    for _ in range(500):
        text = "".join(draw.choices("ab1 ,\n\r\t\u2013\u2028\x0b-", k=draw.randrange(12)))
        uniform = pii_detectors.uniform(text)
        assert uniform.text == AddressParser._normalize_string(text)
        for i, character in enumerate(uniform.text):
            if character.isalnum():
                span = uniform.span("x", i, i + 1)
                assert text[span.begin:span.end] == character


def test_names_need_spacy_and_its_model_and_the_message_says_how(monkeypatch):
    version = importlib.metadata.version
    for missing in ("spacy", "en_core_web_sm"):
        def only_it(name, missing=missing):
            if name == missing:
                raise importlib.metadata.PackageNotFoundError(name)
            return "1" if name in ("spacy", "en_core_web_sm") else version(name)

        monkeypatch.setattr(importlib.metadata, "version", only_it)
        scorer = PIIScorer(detectors="phf")
        for use in (scorer.fingerprint, lambda: PIIScorer(detectors=["name"]).score(["x"])):
            with pytest.raises(ScorerError, match=f"needs {missing}.*spacy download en_core_web_sm") as caught:
                use()
            assert "\n" not in str(caught.value)


def test_names_are_spacys_people_and_organisations(monkeypatch):
    """A stand-in: the model is not a package that a test could rely on."""
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version",
                        lambda name: "1" if name in ("spacy", "en_core_web_sm") else version(name))
    entities = [SimpleNamespace(label_=label, start_char=start, end_char=end)
                for label, start, end in (("PERSON", 0, 7), ("ORG", 11, 15), ("GPE", 19, 25))]
    spacy = ModuleType("spacy")
    spacy.load = lambda model: lambda text: SimpleNamespace(ents=entities) if model == "en_core_web_sm" else None
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    finder = pii_detectors.make("name", date(2023, 1, 1))
    assert list(finder("Ann Lee of Acme in London")) == [Span("name", 0, 7), Span("organization", 11, 15)]


# ------------------------------------------------------------------------------------------------------ what goes wrong

@pytest.mark.parametrize("as_released, kinds", [(False, ["email", "credit_card", "social_security_number"]),
                                                (True, [])])
def test_where_a_detector_fails_the_others_count_and_the_text_is_named(monkeypatch, capfd, as_released, kinds):
    import phonenumbers

    def fails(text, region):
        raise RecursionError("too deep")

    monkeypatch.setattr(phonenumbers, "PhoneNumberMatcher", fails)
    assert [kind for kind, _ in found(LETTER, as_released=as_released)] == kinds
    said = capfd.readouterr().err
    assert "phone failed on 'Dear Ms Lee" in said and "RecursionError" in said


@pytest.mark.parametrize("options, message", [
    ({"detectors": "defaults"}, 'no set "defaults". Did you mean "default"?'),
    ({"detectors": "email"}, r"or a list of detectors, such as \[email\]"),
    ({"detectors": ["emial", "phone"]}, 'no detector "emial". Did you mean "email"?'),
    ({"detectors": []}, "an empty list"), ({"today": "1.1.2023"}, "no date such as 2023-01-01")])
def test_options_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        make_scorer({"name": "pii", **options})


def test_what_is_not_installed_is_named(monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    with pytest.raises(ScorerError, match='"email" needs scrubadub, which is not installed: pip install "scrubadub'):
        PIIScorer(detectors=["email"]).fingerprint()


# ------------------------------------------------------------------------------------- processes, threads, fingerprints

def test_threads_and_copies_find_the_same():
    """scrubadub's own skype detector keeps what it looks for in itself."""
    texts = [f"my skype name is xqz{i:03d}yrt, and I was born on 5 May {1950 + i}" for i in range(12)]
    scorer = PIIScorer(detectors=["skype", "date_of_birth", "email"])
    alone = [scorer.find(text) for text in texts]
    assert all({span.type for span in spans} == {"skype", "date_of_birth"} for spans in alone)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(scorer.find, texts * 2)) == alone * 2
    copy = pickle.loads(pickle.dumps(scorer))  # noqa: S301 (our own bytes)
    assert scorer.parallel and copy.spans(texts) == alone


def test_the_fingerprint_covers_options_day_and_libraries(monkeypatch):
    default, address = PIIScorer().fingerprint(), PIIScorer(detectors=["address"]).fingerprint()
    assert default == PIIScorer().fingerprint()
    others = [{"today": "2024-01-01"}, {"as_released": True}, {"detectors": HERE}]
    assert len({default, address, *(PIIScorer(**options).fingerprint() for options in others)}) == 5
    version = importlib.metadata.version
    for library, changes in {"scrubadub": default, "phonenumbers": default, "pyap": address}.items():
        monkeypatch.setattr(importlib.metadata, "version",
                            lambda name, library=library: "0" if name == library else version(name))
        now = PIIScorer().fingerprint() if changes is default else PIIScorer(detectors=["address"]).fingerprint()
        assert now != changes, library
    assert PIIScorer().fingerprint() == default, "pyap has no part in it"


def test_nothing_heavy_is_loaded_to_check_the_options(root):
    import subprocess
    code = ("import sys; from apo.scorers.make import make_scorer; make_scorer({'name': 'pii', 'detectors': 'phf'})\n"
            "print([name for name in ('scrubadub', 'nltk', 'dateparser', 'pyap', 'spacy') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
