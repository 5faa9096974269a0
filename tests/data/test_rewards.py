"""Standardised rewards: the same two numbers for training and held-out completions, and for every view."""

import numpy as np
import pytest

from apo.cache import Cache
from apo.config import load_config
from apo.data.corpus import prepare_corpus
from apo.data.ranked import RankedRows, preferences, rankings
from apo.data.sources.base import CompletionSource, Ranked, sources
from apo.data.thresholds import resolve
from apo.data.tokenizer import train_tokenizer
from apo.errors import ConfigError, DataError
from apo.schema import DataConfig


@pytest.fixture
def tokenised(tmp_path, monkeypatch):
    """`tokenised(rewards, **options)`: corpus, training and held-out store of as many prompts with two completions."""

    def make(rewards, **options):
        class Given(CompletionSource):
            name = "given"

            def rankings(self):
                return iter(Ranked(f"row {i}", f"What is {i}?", [" This.", " That."], [float(r), float(r) - 1])
                            for i, r in enumerate(rewards))

            def fingerprint(self):
                return repr(rewards)

        sources.get("file")
        monkeypatch.setitem(sources._classes, "given", Given)
        cache = Cache(tmp_path)
        corpus = prepare_corpus(DataConfig(source="given", eval_fraction=0.3, **options), None, cache)
        return (corpus, *corpus.tokenise(train_tokenizer(["What is This That"], 300), cache))
    return make


def test_training_completions_have_mean_0_and_deviation_1_and_held_out_ones_go_with_them(tokenised):
    rewards = np.random.default_rng(0).normal(5, 3, 40).tolist()
    plain, train, heldout = tokenised(rewards)
    scaled, train_scaled, heldout_scaled = tokenised(rewards, standardise_rewards=True)
    known = train_scaled.known_scores_S
    assert known.mean() == pytest.approx(0) and known.std() == pytest.approx(1)
    assert np.isnan(train_scaled.segment_scores_S[::2]).all()           # prompts have none, as before
    mean, std = -train.known_scores_S.mean(), train.known_scores_S.std()
    assert scaled.describe() == plain.describe() | {"reward_mean": pytest.approx(mean),
                                                    "reward_std": pytest.approx(std)}
    assert -heldout_scaled.known_scores_S == pytest.approx((-heldout.known_scores_S - mean) / std)
    assert scaled.folder == plain.folder and scaled.fingerprint == plain.fingerprint


def test_every_view_sees_the_same_rewards_in_the_same_order(tokenised):
    rewards = np.random.default_rng(0).normal(5, 3, 40).tolist()
    _, train, _ = tokenised(rewards)
    corpus, scaled, _ = tokenised(rewards, standardise_rewards=True)
    for view in (lambda store: preferences(store, None), lambda store: rankings(store, 2)):
        assert (view(train).documents_PN == view(scaled).documents_PN).all()
        rows, plain = (RankedRows(store, view(store), max_length=64, end_id=0, effective_batch_size=8, seed=1)
                       for store in (scaled, train))
        ours, before = (each.rows(np.arange(8)).rewards_RN.numpy() for each in (rows, plain))
        assert ours == pytest.approx((before - corpus.reward_scale.mean) / corpus.reward_scale.std, abs=1e-5)
    cut, before = (resolve({"percentile": 30}, store.known_scores_S, "x") for store in (scaled, train))
    assert ((scaled.known_scores_S <= cut) == (train.known_scores_S <= before)).all()


def test_equal_rewards_have_no_deviation(tmp_path, monkeypatch):
    class Equal(CompletionSource):
        name = "equal"

        def rankings(self):
            return iter(Ranked(f"row {i}", f"What is {i}?", [" This.", " That."], [2.0, 2.0]) for i in range(9))

        def fingerprint(self):
            return "equal"

    sources.get("file")
    monkeypatch.setitem(sources._classes, "equal", Equal)
    corpus = prepare_corpus(DataConfig(source="equal", standardise_rewards=True), None, Cache(tmp_path))
    with pytest.raises(DataError, match="all 1. training completions have the reward 2; there is nothing to scale"):
        corpus.tokenise(train_tokenizer(["What is This That"], 300), Cache(tmp_path))


def test_where_it_would_do_nothing_it_is_refused():
    told = "data.standardise_rewards: awr trains on the scores of synthetic_toxicity, which are of texts without"
    with pytest.raises(ConfigError, match=told):
        load_config(["task=toxicity", "method=awr", "scale=smoke", "data.standardise_rewards=true"])
    for words in (["task=hh", "method=awr"], ["task=toxicity", "method=dpo"]):
        assert load_config([*words, "scale=smoke", "data.standardise_rewards=true"]).data.standardise_rewards
