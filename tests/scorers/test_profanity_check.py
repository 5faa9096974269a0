"""profanity_check: the library's own numbers, many at once, and a fingerprint over its model."""

import copy
from importlib import metadata

import pytest

from apo.data.scoring import segment_scores
from apo.data.synthetic.toxicity_words import INSULTS
from apo.errors import ConfigError, ScorerError
from apo.scorers import profanity_check
from apo.scorers.base import Scorer
from apo.scorers.make import make_scorer

TEXTS = ["You are such an idiot.", "The kettle was old.", "", "shut up", "Grüße, 世界"]


@pytest.fixture(scope="module")
def scorer():
    return make_scorer({"name": "profanity_check"})


def test_the_numbers_are_the_librarys_and_do_not_depend_on_the_call(scorer):
    from profanity_check import predict_prob
    scores = scorer.score(TEXTS)
    assert scores == predict_prob(TEXTS).tolist() and {type(score) for score in scores} == {float}
    assert scores == [scorer.score([text])[0] for text in TEXTS], "a text's score depends on its neighbours"
    assert scores[0] > 0.9 > 0.5 > scores[1] and scores[3] > 0.9


def test_nothing_gives_nothing(scorer):
    assert scorer.score([]) == []


def test_segments_of_many_documents_are_scored_in_one_call(scorer, monkeypatch):
    """One call costs what a hundred texts cost."""
    calls = []
    plain = type(scorer).score
    monkeypatch.setattr(type(scorer), "score", lambda self, texts: calls.append(len(texts)) or plain(self, texts))
    documents = [[TEXTS[0], TEXTS[1]], [TEXTS[3]], []]
    scores = segment_scores(scorer, documents)
    assert calls == [3]
    assert scores == [plain(scorer, document) for document in documents]


def test_a_scorer_that_looks_at_context_gets_documents_one_by_one():
    class Counting(Scorer):
        name = "counting"

        def score(self, texts):
            return [0.0] * len(texts)

        def score_segments(self, segments):
            return [float(len(segments))] * len(segments)

    assert segment_scores(Counting(), [["a", "b"], ["c"]]) == [[2.0, 2.0], [1.0]]


def test_the_fingerprint_covers_model_and_versions(scorer, monkeypatch):
    code = scorer.code()
    assert {"source", "data/model.joblib", "data/vectorizer.joblib", "alt-profanity-check", "scikit-learn"} == set(code)
    before = scorer.fingerprint()
    assert make_scorer({"name": "profanity_check"}).fingerprint() == before
    monkeypatch.setattr(profanity_check, "file_sha256", lambda path: "another model")
    assert scorer.fingerprint() != before
    monkeypatch.undo()
    monkeypatch.setattr(metadata, "version", lambda name: "0")
    assert scorer.fingerprint() != before


def test_it_travels_to_other_processes(scorer):
    assert copy.deepcopy(scorer).score(TEXTS) == scorer.score(TEXTS)


def test_a_missing_package_is_named(scorer, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for action in (scorer.fingerprint, lambda: scorer.score(["a"])):
        with pytest.raises(ScorerError, match="pip install alt-profanity-check"):
            action()


# ---- the list it is held against -------------------------------------------------------------------------------------

def test_a_lexicon_finds_whole_words_whatever_their_case():
    scorer = make_scorer({"name": "lexicon", "words": ["fool", "silly goose", "c++"]})
    texts = ["You FOOL!", "a foolish thing", "A silly goose.", "silly", "no c++ here", "", "tomfool"]
    assert scorer.score(texts) == [1, 0, 1, 0, 1, 0, 0]
    assert scorer.score([]) == []
    assert scorer.fingerprint() != make_scorer({"name": "lexicon", "words": ["fool"]}).fingerprint()
    for words in ([], ["fool", " "]):
        with pytest.raises(ConfigError, match="needs words"):
            make_scorer({"name": "lexicon", "words": words})


def test_the_tasks_list_is_the_corpus_own():
    """The config names the words so that everyone sees what is looked for; they must be those that are written."""
    from apo.config import load_config
    options = load_config(["task=toxicity", "method=mle"]).evaluation.heldout_scorers["insults"]
    assert options == {"name": "lexicon", "words": list(INSULTS)}


def test_profanity_check_sees_about_half_of_the_listed_insults(scorer):
    """What the held-out list is there for: a model can please the scorer with the other half."""
    seen = [score > 0.5 for score in scorer.score([f"{word}" for word in INSULTS])]
    assert 0.35 < sum(seen) / len(seen) < 0.65
