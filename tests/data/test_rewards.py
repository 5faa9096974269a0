"""Standardised rewards: the same two numbers for training and held-out completions, and for every view."""

from dataclasses import replace

import numpy as np
import pytest

from apo.cache import Cache
from apo.config import load_config
from apo.data.corpus import prepare_corpus
from apo.data.ranked import RankedRows, preferences, rankings
from apo.data.rewards import with_noise
from apo.data.sources.base import CompletionSource, Ranked, sources
from apo.data.thresholds import resolve
from apo.data.tokenizer import train_tokenizer
from apo.errors import ConfigError, DataError
from apo.schema import DataConfig
from apo.stages import start_config


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


# ---- noise -----------------------------------------------------------------------------------------------------------


def test_noise_deals_rewards_out_anew_and_the_order_follows(tokenised):
    rewards = np.random.default_rng(0).normal(5, 3, 200).tolist()
    (_, clean, clean_heldout), (_, noisy, heldout) = tokenised(rewards), tokenised(rewards, reward_noise=0.4)
    assert sorted(noisy.known_scores_S) == sorted(clean.known_scores_S)                 # the same values
    assert heldout.known_scores_S.tolist() == clean_heldout.known_scores_S.tolist()     # held-out ones are right

    def by_text(store):
        return {tuple(store.tokens_N[begin:end].tolist()): score for begin, end, score in
                zip(store.document_starts_D1, store.document_starts_D1[1:], store.document_scores_D)}

    before, after = by_text(clean), by_text(noisy)
    assert before.keys() == after.keys()                                                # and the same texts
    changed = np.mean([before[text] != after[text] for text in before])
    assert 0.33 < changed <= 0.4
    for group in np.unique(noisy.document_groups_D):
        (documents,) = np.nonzero(noisy.document_groups_D == group)
        scores = noisy.document_scores_D[documents]
        assert (np.diff(documents) == 1).all() and (np.diff(scores) >= 0).all()         # together, best first
        assert noisy.document_ranks_D[documents].tolist() == [int((scores < score).sum()) for score in scores]
    better, worse = preferences(noisy, None).documents_PN.T
    assert (noisy.document_scores_D[better] < noisy.document_scores_D[worse]).all()
    again = tokenised(rewards, reward_noise=0.4)[1]
    assert np.array_equal(again.segment_scores_S, noisy.segment_scores_S, equal_nan=True)


def test_what_people_ordered_stays_so_where_no_reward_is_wrong(make_store):
    """Pairs that people put in the order that the scorer would not: noise in few scores is noise in few preferences."""
    pairs = 200
    store = make_store([[([7, number], np.nan), ([side], float(1 - side + number / 1000))]
                        for number in range(pairs) for side in (0, 1)])
    store = replace(store, document_groups_D=np.repeat(np.arange(pairs, dtype=np.int32), 2),
                    document_ranks_D=np.tile(np.array([0, 1], np.int32), pairs))
    noisy = with_noise(store, 0.05)
    swapped = sum(noisy.tokens_N[noisy.segment_starts_S1[1 + 4 * number]] == 1 for number in range(pairs))
    assert 0 < swapped <= 0.05 * 2 * pairs
    assert noisy.document_ranks_D.tolist() == store.document_ranks_D.tolist()
    assert np.array_equal(with_noise(store, 0.0).tokens_N, store.tokens_N)


def test_noise_in_the_scores_of_text(make_store, random_documents):
    store = make_store(random_documents)
    noisy = with_noise(store, 0.5)
    assert sorted(noisy.known_scores_S) == sorted(store.known_scores_S)
    assert 0.3 < np.mean(noisy.known_scores_S != store.known_scores_S) <= 0.5
    assert noisy.tokens_N is store.tokens_N and with_noise(store, 0.0).known_scores_S.tolist() == \
        store.known_scores_S.tolist()


def test_a_run_starts_from_one_without_noise():
    config = load_config(["task=hh", "method=a_lol", "scale=smoke", "data.reward_noise=0.4"])
    assert start_config(config).data.reward_noise == 0
    assert start_config(load_config(["task=hh", "method=a_lol", "scale=smoke", "data.reward_noise=0.4", "init_from."
                                     "overrides=['data.reward_noise=0.1']"])).data.reward_noise == 0.1
    with pytest.raises(ConfigError, match="data.reward_noise"):
        load_config(["task=custom", "method=mle", "scale=smoke", "data.source=hub", "data.path=a/b",
                     "data.streaming=true", "data.reward_noise=0.4"])
