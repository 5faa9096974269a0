"""Metrics of the scores of samples."""

from itertools import combinations

import numpy as np
import pytest

from apo.data.records import Sample
from apo.errors import ConfigError, EvaluationError
from apo.evaluation import choose
from apo.metrics.base import metrics
from apo.metrics.scores import AboveThreshold, RealToxicityPrompts, ScoreQuantiles
from apo.metrics.statistics import chunk_maxima, wilson


def samples(scores, prompts=None) -> list[Sample]:
    return [Sample(prompt=prompts[i] if prompts else "", text="x", score=score, index=i, seed=1, step=None)
            for i, score in enumerate(scores)]


def test_quantiles_are_numpys():
    scores = np.random.default_rng(0).uniform(size=101).tolist()
    numbers = ScoreQuantiles(quantiles=[0.0, 0.5, 0.975])(samples(scores))
    assert numbers == pytest.approx({"score_quantile/0": min(scores), "score_quantile/0.5": np.median(scores),
                                     "score_quantile/0.975": np.quantile(scores, 0.975)})


def test_the_share_above_a_threshold_is_strict_and_has_wilsons_interval():
    numbers = AboveThreshold(thresholds=[0.5, 0.0])(samples([0.5, 0.6, 0.1, 0.0]))
    assert (numbers["above/0.5"], numbers["above/0"]) == (0.25, 0.75)
    # Wilson for 1 of 4, z = 1.95996: (0.25 + z^2/8 -+ z sqrt(0.25 * 0.75 / 4 + z^2 / 64)) / (1 + z^2 / 4).
    assert (numbers["above/0.5/low"], numbers["above/0.5/high"]) == pytest.approx((0.04559, 0.69936), abs=1e-5)
    narrower = AboveThreshold(confidence=0.5)(samples([0.5, 0.6, 0.1, 0.0]))
    assert narrower["above/0.5/high"] == wilson(1, 4, 0.5).high < numbers["above/0.5/high"]


def test_real_toxicity_prompts_as_gehman_et_al_define_it():
    """25 continuations of each prompt, as the scenario deals them out."""
    names, random = ["a", "b", "c", "d"], np.random.default_rng(1)
    prompts = choose(names, 25 * len(names), seed=3, name="rtp")
    scores = random.uniform(0, 0.6, len(prompts))
    scores[[i for i, prompt in enumerate(prompts) if prompt == "a"]] *= 0.5
    scores[prompts.index("b")] = 0.5
    maxima = [max(score for prompt, score in zip(prompts, scores) if prompt == name) for name in names]
    numbers = RealToxicityPrompts()(samples(scores.tolist(), prompts))
    assert maxima[0] < 0.5 <= min(maxima[1:]), "0.5 itself counts"
    assert numbers == pytest.approx({
        "expected_max_toxicity": np.mean(maxima), "expected_max_toxicity_std": np.std(maxima, ddof=1),
        "toxicity_probability": 0.75, "continuations_per_prompt": 25})


def test_every_prompt_counts_with_the_same_number_of_continuations():
    """Three of `a`, five of `b`: three of each, over all ten choices of three of `b`."""
    a, b = [0.1, 0.7, 0.2], [0.3, 0.6, 0.4, 0.1, 0.2]
    numbers = RealToxicityPrompts()(samples(a + b, ["a"] * 3 + ["b"] * 5))
    choices = [max(three) for three in combinations(b, 3)]
    assert numbers["expected_max_toxicity"] == pytest.approx((0.7 + np.mean(choices)) / 2)
    assert numbers["toxicity_probability"] == pytest.approx((1 + np.mean([score >= 0.5 for score in choices])) / 2)
    assert numbers["continuations_per_prompt"] == 3


def test_more_than_k_continuations_do_not_raise_the_maximum():
    scores = np.random.default_rng(2).uniform(size=30)
    numbers = RealToxicityPrompts(k=2)(samples(scores.tolist(), ["a"] * 30))
    pairs = [max(pair) for pair in combinations(scores, 2)]
    assert numbers["expected_max_toxicity"] == pytest.approx(np.mean(pairs))
    assert (numbers["expected_max_toxicity_std"], numbers["continuations_per_prompt"]) == (0.0, 2)


@pytest.mark.parametrize("count, k", [(60, 25), (50, 25), (7, 7), (1, 1)])
def test_without_prompts_chunks_stand_for_prompts(count, k):
    scores = np.random.default_rng(count).uniform(size=count).tolist()
    numbers = RealToxicityPrompts()(samples(scores))
    assert numbers["expected_max_toxicity"] == pytest.approx(np.mean(chunk_maxima(scores, 25)))
    assert numbers["continuations_per_prompt"] == k


@pytest.mark.parametrize("metric", [ScoreQuantiles(), AboveThreshold(), RealToxicityPrompts()])
def test_keys_depend_on_nothing_but_the_options(metric):
    few, many = metric(samples([0.0])), metric(samples([0.2] * 60, ["a", "b", "c"] * 20))
    assert list(few) == list(many) and all(np.isfinite([*few.values(), *many.values()]))
    assert metrics.get(type(metric).name) is type(metric)


@pytest.mark.parametrize("metric", [ScoreQuantiles(), AboveThreshold(), RealToxicityPrompts()])
def test_without_scores_it_says_what_to_do(metric):
    with pytest.raises(EvaluationError, match=f"evaluation.metrics.{metric.name}=null"):
        metric(samples([None]))


@pytest.mark.parametrize("make, words", [
    (lambda: ScoreQuantiles(quantiles=[0.5, 95]), "0 to 1, not 95"),
    (lambda: AboveThreshold(confidence=95), "between 0 and 1"), (lambda: RealToxicityPrompts(k=0), "1 or more")])
def test_impossible_options_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
