"""Intervals and tests against scipy's, and that they cover what they promise."""

import math

import numpy as np
import pytest
from scipy import stats

from apo.metrics import statistics
from apo.metrics.statistics import Interval


def skewed(n: int, seed: int = 0) -> np.ndarray:
    """Like scores: most are zero, a few are large."""
    random = np.random.default_rng(seed)
    return random.exponential(size=n) * (random.random(n) < 0.4)


@pytest.mark.parametrize("n", [12, 40, 500])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_bca_is_scipys_from_the_same_draws(n, confidence):
    values = skewed(n)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=3000, method="BCa", confidence_level=confidence,
                             rng=np.random.default_rng(7)).confidence_interval
    ours = statistics.bootstrap_mean(values, confidence=confidence, num_bootstrap=3000, seed=7)
    assert (ours.mean, ours.low, ours.high) == pytest.approx((values.mean(), theirs.low, theirs.high), rel=1e-12)


def test_bootstrap_is_seeded_and_its_batches_do_not_show(monkeypatch):
    values = skewed(50)
    before = statistics.bootstrap_mean(values, seed=1)
    assert before == statistics.bootstrap_mean(values, seed=1) != statistics.bootstrap_mean(values, seed=2)
    monkeypatch.setattr(statistics, "DRAWS_AT_ONCE", 50 * 7)
    assert statistics.bootstrap_mean(values, seed=1) == before


def test_bootstrap_covers():
    """Samples of one run: 95 % of intervals hold the true mean (0.4), within the simulation's error."""
    hits = 0
    for trial in range(400):
        interval = statistics.bootstrap_mean(skewed(120, seed=trial), num_bootstrap=600, seed=trial)
        hits += interval.low <= 0.4 <= interval.high
    assert 0.91 <= hits / 400 <= 0.98


def test_nothing_to_estimate_a_spread_from():
    whole_line = Interval(0.5, -math.inf, math.inf)
    assert statistics.bootstrap_mean([0.5]) == statistics.t_interval([0.5]) == whole_line
    assert statistics.bootstrap_seeds([[0.4, 0.6]]) == whole_line
    assert statistics.paired_t([1.0], [0.5]) == statistics.paired_bootstrap([1.0], [0.5]) == (whole_line, 1.0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3])
def test_values_all_alike_have_an_interval_without_width(value):
    for interval in (statistics.bootstrap_mean([value] * 30), statistics.t_interval([value] * 2)):
        assert (interval.mean, interval.low, interval.high) == pytest.approx((value,) * 3)
    assert statistics.paired_t([value] * 3, [value] * 3)[1] == 1.0
    assert statistics.paired_bootstrap([value] * 3, [value] * 3)[1] == 1.0
    assert statistics.paired_t([1.5] * 3, [1.0] * 3)[1] == 0.0


def test_t_is_scipys():
    values = np.array([0.011, 0.013, 0.0118, 0.0101])
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    ours = statistics.t_interval(values, 0.9)
    assert (ours.mean, ours.low, ours.high) == pytest.approx((values.mean(), theirs.low, theirs.high), rel=1e-12)


def test_paired_t_is_scipys():
    a, b = [0.011, 0.013, 0.0118], [0.018, 0.0171, 0.0192]
    theirs = stats.ttest_rel(a, b)
    interval, p = statistics.paired_t(a, b)
    assert p == pytest.approx(theirs.pvalue, rel=1e-12)
    bounds = theirs.confidence_interval()
    assert (interval.low, interval.high) == pytest.approx((bounds.low, bounds.high), rel=1e-12)


def test_over_seeds_t_covers_and_the_bootstrap_does_not():
    """Why claims across seeds use t: three seeds, normal scores, 95 % asked."""
    random = np.random.default_rng(0)
    t_hits = bootstrap_hits = 0
    for trial in range(300):
        values = random.normal(size=3)
        t, boot = statistics.t_interval(values), statistics.bootstrap_seeds(values[:, None], num_bootstrap=300,
                                                                            seed=trial)
        t_hits += t.low <= 0 <= t.high
        bootstrap_hits += boot.low <= 0 <= boot.high
    assert 0.91 <= t_hits / 300 <= 0.98
    assert 0.68 <= bootstrap_hits / 300 <= 0.85


def test_paired_bootstrap_agrees_with_t_where_there_are_many_pairs():
    a, b = skewed(2000, 1), skewed(2000, 1) + np.random.default_rng(2).normal(0.02, 0.5, 2000)
    (interval, p), (by_t, p_by_t) = statistics.paired_bootstrap(a, b), statistics.paired_t(a, b)
    assert (interval.low, interval.high) == pytest.approx((by_t.low, by_t.high), abs=0.002)
    assert p == pytest.approx(p_by_t, abs=0.01)


def test_paired_bootstrap_p_is_uniform_without_a_difference_and_small_with_one():
    draws = [np.random.default_rng(i).normal(size=(2, 60)) for i in range(300)]
    ps = [statistics.paired_bootstrap(a, b, num_bootstrap=400, seed=i)[1] for i, (a, b) in enumerate(draws)]
    assert 0.02 <= np.mean(np.array(ps) < 0.05) <= 0.09
    assert statistics.paired_bootstrap(draws[0][0] + 5, draws[0][1])[1] == pytest.approx(1 / 10_001)


def test_pairing_narrows_the_interval():
    base = skewed(300)
    noise = np.random.default_rng(1).normal(0, 0.01, 300)
    paired, _ = statistics.paired_bootstrap(base + 0.02 + noise, base)
    alone = statistics.bootstrap_mean(base)
    assert paired.high - paired.low < 0.1 * (alone.high - alone.low)
    assert paired.low > 0


def test_two_levels_of_resampling_add_their_variances():
    random = np.random.default_rng(0)
    groups = [random.normal(mean, 1.0, 50) for mean in random.normal(0, 0.3, 40)]
    means = np.array([group.mean() for group in groups])
    expected = math.sqrt(means.var() / 40 + np.mean([group.var() for group in groups]) / 50 / 40)
    interval = statistics.bootstrap_seeds(groups, num_bootstrap=4000)
    assert interval.mean == pytest.approx(means.mean())
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (1, 10), (37, 64), (10, 10), (1, 1)])
def test_wilson_is_scipys(hits, total):
    theirs = stats.binomtest(hits, total).proportion_ci(0.9, method="wilson")
    ours = statistics.wilson(hits, total, 0.9)
    assert (ours.mean, ours.low, ours.high) == pytest.approx((hits / total, theirs.low, theirs.high), abs=1e-12)


def test_holm_by_hand():
    # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 -> raised to 0.06, 0.9.
    assert statistics.holm([0.02, 0.9, 0.01, 0.03]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert statistics.holm([0.5, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_chunk_maxima():
    values = list(range(60))
    assert statistics.chunk_maxima(values) == [24.0, 49.0]
    assert statistics.chunk_maxima([3.0, 1.0]) == [3.0]
    assert statistics.chunk_maxima(values, 20) == [19.0, 39.0, 59.0]


def test_a_share_of_hits_alike_within_groups_is_covered_as_often_as_it_says():
    """Groups of 1 to 10 hits with a rate of their own: about 95 of 100 intervals hold the rate, Wilson's on all hits
    about 70; and where nearly all hits are equal the bootstrap over groups holds it less often still."""
    random = np.random.default_rng(0)
    covered = {0.8: [0, 0], 0.97: [0, 0]}
    for rate, found in covered.items():
        for _ in range(300):
            sizes, rates = random.choice([1, 3, 6, 10], 30), random.beta(rate, 1 - rate, 30)
            groups = np.repeat(np.arange(30), sizes)
            hits = (random.random(len(groups)) < rates[groups]).astype(float)
            for n, interval in enumerate((statistics.clustered_share(hits, groups),
                                          statistics.wilson(hits.sum(), len(hits)))):
                found[n] += interval.low <= rate <= interval.high
    assert all(0.92 < ours / 300 < 0.99 and plain / 300 < 0.8 for ours, plain in covered.values()), covered
