"""Grouping, pairing and intervals, against numbers worked out by hand or by scipy."""

import numpy as np
import pytest
from scipy import stats

from apo.errors import EvaluationError
from apo.report.comparison import build, group, labels, units


@pytest.fixture
def two_methods(make_run, make_evaluation):
    """mle and awr over `seeds`; awr scores lower by `gap`."""

    def make(seeds=(1, 2, 3), gap=0.008):
        pairs = [(make_run("mle", seed), make_evaluation(0.02, seed)) for seed in seeds]
        return pairs + [(make_run("awr", seed), make_evaluation(0.02 - gap, seed + 10)) for seed in seeds]
    return make


def means(pairs, method):
    return np.array([np.mean(evaluation["scenarios"]["functions"]["scores"])
                     for run, evaluation in pairs if run.method == method])


def test_across_seeds_students_t_over_paired_seeds(two_methods):
    pairs = two_methods()
    row = build(pairs).row("functions", "awr")
    gaps = means(pairs, "awr") - means(pairs, "mle")
    expected = stats.ttest_1samp(gaps, 0)
    low, high = expected.confidence_interval(0.95)
    assert row.difference.seeds == 3
    assert (row.difference.interval.low, row.difference.interval.high) == pytest.approx((low, high))
    assert row.difference.p == pytest.approx(expected.pvalue)
    assert row.score.mean == pytest.approx(means(pairs, "awr").mean())


def test_within_one_seed_a_paired_bootstrap(make_run, make_evaluation):
    base = make_evaluation(0.02, 1)
    shifted = make_evaluation(scores=[score - 0.005 for score in base["scenarios"]["functions"]["scores"]])
    comparison = build([(make_run("mle"), base), (make_run("awr"), shifted)])
    difference = comparison.row("functions", "awr").difference
    assert difference.seeds == 1
    assert (difference.interval.low, difference.interval.high) == pytest.approx((-0.005, -0.005))
    spread = comparison.row("functions", "mle").score
    assert spread.high - spread.low > 0.001, "unpaired, the same samples would leave the shift within the noise"


def test_p_values_are_corrected_for_the_number_of_methods(two_methods, make_run, make_evaluation):
    pairs = two_methods()
    alone = build(pairs).row("functions", "awr").difference.p
    third = [(make_run("rwr", seed), make_evaluation(0.02, seed + 20)) for seed in (1, 2, 3)]
    together = build(pairs + third)
    assert together.row("functions", "awr").difference.p == pytest.approx(2 * alone)


def test_the_baseline_is_mle_unless_named(two_methods):
    pairs = two_methods((1, 2))
    comparison = build(pairs[::-1])
    assert comparison.baseline == "mle" and [method.label for method in comparison.methods] == ["mle", "awr"]
    assert build(pairs, "awr").baseline == "awr"
    assert build(pairs, str(pairs[-1][0].directory)).baseline == "awr"
    with pytest.raises(EvaluationError, match='Did you mean "awr"'):
        build(pairs, "awrr")


def test_one_method_alone_has_no_baseline(make_run, make_evaluation):
    comparison = build([(make_run(), make_evaluation())])
    assert comparison.baseline is None and comparison.row("functions", "mle").difference is None


def test_seeds_without_a_partner_are_not_paired(make_run, make_evaluation):
    pairs = [(make_run("mle", 1), make_evaluation()), (make_run("awr", 2), make_evaluation(0.01))]
    with pytest.raises(EvaluationError, match="--allow seed"):
        build(pairs)
    assert build(pairs, allow=["seed"]).row("functions", "awr").difference is None


def test_runs_of_one_config_form_one_row_and_others_their_own(make_run, make_evaluation):
    def other(config):
        config.training.learning_rate, config.logger.tensorboard, config.logger.wandb = 1e-3, True, True
    runs = [make_run("awr", 2), make_run("awr", 1), make_run("awr", 1, edit=other)]
    methods = group([(run, make_evaluation()) for run in runs])
    assert [method.seeds for method in methods] == [[1, 2], [1]]
    assert [method.label for method in methods] == ["awr (learning_rate=0.0005)", "awr (learning_rate=0.001)"]


def test_configs_that_differ_in_much_have_their_hash_for_a_name(make_run, make_evaluation):
    def other(config):
        config.training.learning_rate, config.training.warmup_ratio, config.training.adam_beta2 = 1e-3, 0.5, 0.9
    runs = [make_run("awr", 1), make_run("awr", 1, edit=other)]
    assert [method.label for method in group([(run, make_evaluation()) for run in runs])] == [
        f"awr #{run.config_hash[:4]}" for run in runs]


def test_variants_are_rows_of_their_own():
    keys = [("conditional", "", "aaaa"), ("conditional", "prefix=bad banned=[good]", "aaaa"), ("mle", "", "cccc")]
    assert labels(keys) == ["conditional", "conditional (prefix=bad)", "mle"]
    keys.append(("conditional", "prefix=bad banned=[]", "aaaa"))
    assert labels(keys)[1::2] == ["conditional (prefix=bad banned=[good])", "conditional (prefix=bad banned=[])"]


def test_the_same_seed_twice_is_refused(make_run, make_evaluation):
    run = make_run()
    with pytest.raises(EvaluationError, match="seed 1 is there twice"):
        group([(run, make_evaluation()), (run, make_evaluation())])


def test_samples_of_one_prompt_stay_together():
    """Two prompts whose samples agree with each other: the prompts vary, so the units must."""
    scores, prompts = [0.0, 0.0, 1.0, 1.0], [0, 0, 1, 1]
    assert list(units(scores, prompts)) == [0.0, 1.0]


def test_units_keep_the_mean_over_samples_when_prompts_have_unequal_numbers():
    scores, prompts = np.array([0.1, 0.3, 0.9]), [0, 0, 1]
    found = units(scores, prompts)
    assert len(found) == 2 and found.mean() == pytest.approx(scores.mean())


@pytest.mark.parametrize("prompts", [[0, 0, 0], [0, 1, 2]])
def test_without_repeated_prompts_samples_are_the_units(prompts):
    assert list(units([0.1, 0.2, 0.3], prompts)) == [0.1, 0.2, 0.3]


def test_cluster_bootstrap_agrees_with_resampling_whole_prompts():
    """Standard error of the linearised units = that of an explicit bootstrap over prompts, with unequal counts."""
    random = np.random.default_rng(0)
    prompts = np.array([n % 60 for n in range(100)])
    scores = random.normal(0, 1, 60)[prompts] + random.normal(0, 0.3, 100)
    found = units(list(scores), list(prompts))
    members = [scores[prompts == prompt] for prompt in range(60)]
    draws = [np.concatenate([members[i] for i in random.integers(0, 60, 60)]).mean() for _ in range(4000)]
    assert found.std(ddof=1) / 60 ** 0.5 == pytest.approx(np.std(draws), rel=0.08)
