"""Draws have exactly the distribution they are said to have."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from apo.rollouts.sampling import (
    ATTEMPTS,
    Sampler,
    in_nucleus,
    inverse_cdf,
    sample_nucleus,
    sample_sorted_nucleus,
    uniforms,
)
from apo.schema import GenerationConfig

DRAWS = 40_000


def some_logits(size: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, size).astype(np.float32))


def theirs(logits_V: torch.Tensor, config: GenerationConfig) -> np.ndarray:
    """The distribution by transformers' own warpers, in its order."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
    scores = TemperatureLogitsWarper(config.temperature)(None, logits_V[None])
    if config.top_k:
        scores = TopKLogitsWarper(config.top_k)(None, scores)
    if config.top_p < 1:
        scores = TopPLogitsWarper(config.top_p)(None, scores)
    return scores.softmax(-1)[0].double().numpy()


def assert_distributed(tokens: torch.Tensor, probs_V: np.ndarray) -> None:
    counts = np.bincount(tokens.numpy(), minlength=len(probs_V))
    assert counts[probs_V == 0].sum() == 0
    rare = (probs_V > 0) & (probs_V * len(tokens) < 10)
    common = probs_V * len(tokens) >= 10
    observed, expected = counts[common], probs_V[common] * len(tokens)
    if rare.any():
        observed, expected = np.append(observed, counts[rare].sum()), np.append(expected, probs_V[rare].sum()
                                                                               * len(tokens))
    if len(observed) > 1:
        assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"top_p": 0.9, "temperature": 0.7}, {"top_p": 0.3},
                                     {"top_p": 1e-6}, {"top_k": 5}, {"top_k": 7, "top_p": 0.8}, {"top_k": 1},
                                     {"top_k": 1000, "top_p": 0.95}])
def test_same_distribution_as_transformers(options):
    config, logits_V = GenerationConfig(**options), some_logits()
    sampler = Sampler(config, [], [], torch.device("cpu"))
    draws = uniforms(3, [0], DRAWS)[0]
    tokens = sampler(logits_V.expand(DRAWS, -1), draws, 0, None)
    assert_distributed(tokens, theirs(logits_V, config))


@pytest.mark.parametrize("top_p", [0.2, 0.9])
def test_rejection_and_sorting_agree(top_p):
    probs_V = some_logits(seed=5).softmax(-1)
    kept = in_nucleus(probs_V.expand(40, -1), torch.arange(40), top_p)
    expected = torch.where(kept, probs_V, 0).double().numpy()
    expected /= expected.sum()
    draws = uniforms(9, [1], DRAWS)[0]
    assert_distributed(sample_nucleus(probs_V.expand(DRAWS, -1), top_p, draws), expected)
    assert_distributed(sample_sorted_nucleus(probs_V.expand(DRAWS, -1), top_p, draws[:, 0]), expected)


def test_ties_stand_or_fall_together():
    probs_BV = torch.tensor([[0.4, 0.2, 0.2, 0.2]])
    assert in_nucleus(probs_BV.expand(4, -1), torch.arange(4), 0.5).tolist() == [True] * 4
    assert in_nucleus(probs_BV.expand(4, -1), torch.arange(4), 0.4).tolist() == [True, False, False, False]
    tokens = sample_sorted_nucleus(probs_BV.expand(200, -1), 0.5, torch.linspace(0, 1, 200))
    assert set(tokens.tolist()) == {0, 1, 2, 3}


def test_the_ends_of_the_distribution_are_never_stepped_over():
    weights = torch.tensor([[0.0, 0.3, 0.7, 0.0]])
    largest = float(np.nextafter(np.float32(1), np.float32(0)))
    assert inverse_cdf(weights, torch.tensor([0.0])).tolist() == [1]
    assert inverse_cdf(weights, torch.tensor([largest])).tolist() == [2]
    assert inverse_cdf(weights, torch.tensor([1.0])).tolist() == [2]


def test_uniforms_depend_on_seed_and_row_alone():
    some = uniforms(7, [5, 2], 4)
    assert some.shape == (2, 4, ATTEMPTS + 1)
    assert torch.equal(some[1], uniforms(7, [0, 1, 2], 4)[2])
    assert torch.equal(some, uniforms(7, [5, 2], 9)[:, :4])
    assert not torch.equal(some[0], some[1])
    assert not torch.equal(some, uniforms(8, [5, 2], 4))


def test_processors_are_those_of_transformers():
    from transformers import RepetitionPenaltyLogitsProcessor
    logits_BV = torch.stack([some_logits(seed=1), some_logits(seed=2)])
    seen_ids = torch.tensor([[3, 3, 5], [0, 7, 7]])
    seen_BV = torch.zeros(2, 40, dtype=torch.bool).scatter_(1, seen_ids, True)
    sampler = Sampler(GenerationConfig(repetition_penalty=1.3, min_new_tokens=2), [0], [9], torch.device("cpu"))
    expected = RepetitionPenaltyLogitsProcessor(1.3)(seen_ids, logits_BV.clone())
    expected[:, 9] = -torch.inf
    assert torch.equal(sampler.processed(logits_BV, 2, seen_BV), expected)
    expected[:, 0] = -torch.inf
    assert torch.equal(sampler.processed(logits_BV, 1, seen_BV), expected)
