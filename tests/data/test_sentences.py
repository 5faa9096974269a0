"""Sentences: whatever the text, joined they are the text again; and they are sentences."""

import random

import pytest

from apo.data.prepare import prepare
from apo.data.sentences import SHOWN, sentences
from apo.data.sources.base import cut, segmentation, sources
from apo.schema import DataConfig

AWKWARD = [". ", "! ", "?", "\n", "\n\n", "\r\n", " ", "\t", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029",
           "\u00a0", "\u3000", "。", "！", "؟", "…", '"', "'", "`", "“", "”", "«", "»", "(", ")", "[", "]",
           "Mr.", "Dr. ", "e.g.", "a", "B", "3.5", "\U0001f600", "e\u0301", "\u200d", "\u202e", "\ufeff", "\0",
           "http://x.y/z.", "a@b.c", "No. 5", "No.", "[1]", "U.S.", "\ud7ff", "ﬁ", "İ", "க்", "..", "...", ".",
           "\r", "(.", ".)", "\u200b", "p. 7", "Fig. ", "et al. ", "¿", "—", "①"]


def awkward_text(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return "".join(chr(rng.choice([rng.randrange(0xd800), rng.randrange(0xe000, 0x110000)]))
                       + rng.choice(["", ". ", "No. ", '"']) for _ in range(rng.randrange(40)))
    return "".join(rng.choice(AWKWARD) for _ in range(rng.randrange(30)))


@pytest.mark.parametrize("seed", range(5))
def test_joined_they_are_the_text(seed):
    rng = random.Random(seed)
    for _ in range(2000):
        text = awkward_text(rng)
        pieces = sentences(text)
        assert "".join(pieces) == text, ascii(text)
        assert len(pieces) < 2 or not any(not piece or piece.isspace() for piece in pieces), ascii(text)


def test_every_character_alone_and_before_an_abbreviation():
    """White space beyond ASCII here made the library panic."""
    codes = [*range(0x3100), *range(0x3100, 0xd800, 23), *range(0xe000, 0x110000, 997)]
    for code in codes:
        for text in (chr(code), f"B {chr(code)}. No. 5"):
            assert "".join(sentences(text)) == text


@pytest.mark.parametrize("text, expected", [
    ("Dr. Smith met J. R. Jones at 5 p.m. on Jan. 5. It cost $3.50! Really.",
     ["Dr. Smith met J. R. Jones at 5 p.m. on Jan. 5. ", "It cost $3.50! ", "Really."]),
    ("One.  Two.\n\nThree", ["One.  ", "Two.\n\n", "Three"]),
    ('He left. "Why?" he asked. She knew.', ["He left. ", '"Why?" ', "he asked. ", "She knew."]),
    ("`What is that? There are reasons. Look.`", ["`What is that? ", "There are reasons. ", "Look.`"]),
    ('A 5" screen. We saw ten. A 6" one.', ['A 5" screen. ', "We saw ten. ", 'A 6" one.']),
    ("", []), (" \n ", [" \n "]), ("\n\nOne. Two", ["\n\nOne. ", "Two"]), ("no end", ["no end"]),
])
def test_what_a_sentence_is(text, expected):
    assert sentences(text) == expected


@pytest.mark.parametrize("unit", ['" . ', "“a. ", "(a. ", "Mr. ", "Hi. ", "a", ".", '"'])
def test_long_texts_take_time_in_proportion(unit):
    """Not measured by a clock: what was quadratic took minutes at this length."""
    assert "".join(sentences(unit * 100_000)) == unit * 100_000


def test_a_text_that_the_library_cannot_take_is_left_whole(monkeypatch):
    class PanicException(BaseException):
        pass

    def fails(error):
        def segment(language, text):
            raise error
        return segment
    monkeypatch.setattr("sentencex.segment", fails(PanicException("inside")))
    assert sentences("One. Two.") == ["One. Two."]
    monkeypatch.setattr("sentencex.segment", lambda language, text: ["One."])
    assert sentences("One. Two.") == ["One. Two."]
    monkeypatch.setattr("sentencex.segment", fails(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        sentences("One. Two.")


def test_what_is_shown_has_as_many_characters():
    assert all(len(shown) == 1 for shown in SHOWN.values())


@pytest.mark.parametrize("segment_by", ["document", "line", "sentence"])
def test_every_way_of_cutting_keeps_the_text(segment_by):
    rng = random.Random(7)
    for _ in range(300):
        text = awkward_text(rng)
        assert "".join(cut(text, segment_by)) == text
    assert segmentation(segment_by).split()[0] == segment_by


def test_sentences_in_training(rows_file, cache_dir):
    """`data.segment_by=sentence` on text without segments; text that comes in segments keeps them."""
    path = rows_file("a.jsonl", [{"text": "One. Two!"}, {"text": ["A. B. ", "C."]}, {"text": "x"}])
    source = sources.get("file")(DataConfig(path=path, segment_by="sentence"))
    assert [document.texts for document in source.documents()][:2] == [["One. ", "Two!"], ["A. B. ", "C."]]

    class Scorer:
        kind, parallel = "score", False

        def score(self, texts):
            return [float(len(text)) for text in texts]

        score_segments = score

        def fingerprint(self):
            return "length"

    from apo.cache import Cache
    corpus = prepare(DataConfig(path=path, segment_by="sentence", eval_fraction=0), Scorer(), Cache(cache_dir))
    first = next(corpus.documents("train"))
    assert (first.texts, first.scores) == (["One. ", "Two!"], [5.0, 4.0])


def test_another_release_of_the_library_is_another_corpus(rows_file, cache_dir, monkeypatch):
    from apo.cache import Cache
    rows = [{"texts": [f"a{i}"], "scores": [0]} for i in range(9)]
    data = DataConfig(path=rows_file("a.jsonl", rows), segment_by="sentence")
    before = prepare(data, None, Cache(cache_dir)).fingerprint
    monkeypatch.setattr("apo.data.sources.base.version", lambda: "sentencex 9")
    assert prepare(data, None, Cache(cache_dir)).fingerprint != before
    assert segmentation("document") == "document"
