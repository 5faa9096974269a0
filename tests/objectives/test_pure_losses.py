"""The losses against numbers worked out by hand and against numpy formulas, and the identities between methods.

A stub policy hands out given log-probabilities, so that a loss is tested without a model.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from apo.data.collate import Batch
from apo.metrics.running import Running
from apo.models.policy import Policy, TokenStats
from apo.objectives.base import objectives
from apo.objectives.unlikelihood import aligned_weight, unlikelihood_losses
from apo.objectives.weighted_regression import regression_weights


def stub(logps, values=None):
    """A policy whose token_stats are given: [B, T], column 0 without a prediction."""
    logps_BT = torch.tensor(logps, requires_grad=True)

    def token_stats(batch, want=(), **_):
        mask_BT = batch.loss_mask_BT.clone()
        mask_BT[:, 0] = False
        return TokenStats(logps_BT, mask_BT, values_BT=None if values is None else torch.tensor(values))
    return SimpleNamespace(token_stats=token_stats, logps_BT=logps_BT)


def batch(scores, mask=None):
    scores_BT = torch.tensor(scores)
    mask_BT = torch.ones_like(scores_BT, dtype=torch.bool) if mask is None else torch.tensor(mask)
    return Batch(torch.zeros_like(scores_BT, dtype=torch.long), scores_BT, mask_BT)


def numbers(loss) -> dict:
    running = Running()
    running.add(loss.metrics)
    return running.read()


LN2, LN4 = math.log(2), math.log(4)


def test_mle_by_hand():
    """Column 0 and the masked position do not count: ln 2 + ln 4 + ln 4."""
    policy = stub([[0.0, -LN2, -LN4], [0.0, -7.0, -LN4]])
    data = batch([[0.0] * 3] * 2, [[True, True, True], [True, False, True]])
    loss = objectives.get("mle")().compute_loss(policy, data)
    assert loss.total.item() == pytest.approx(LN2 + 2 * LN4, rel=1e-6)


def test_count_items_leaves_out_column_zero_and_masked():
    data = batch([[0.0] * 3] * 2, [[True, True, True], [True, False, True]])
    assert objectives.get("mle")().count_items(data) == 3


class TestUnlikelihood:
    def test_by_hand(self):
        """p = 1/2 aligned, p = 1/4 misaligned, alpha = 0.5: ln 2 + 0.5 * -ln(3/4)."""
        objective = objectives.get("unlikelihood")(score_threshold=0.1, alpha=0.5)
        loss = objective.compute_loss(stub([[0.0, -LN2, -LN4]]), batch([[0.0, 0.1, 0.2]]))
        assert loss.total.item() == pytest.approx(LN2 - 0.5 * math.log(0.75), rel=1e-6)
        logged = numbers(loss)
        assert logged["aligned_token_count"] == 0.5
        assert logged["avg_token_score"] == pytest.approx(0.15)
        assert logged["likelihood_loss"] == pytest.approx(LN2 / 2, rel=1e-6)
        assert logged["unlikelihood_loss"] == pytest.approx(-math.log(0.75) / 2, rel=1e-6)

    def test_against_numpy(self):
        rng = np.random.default_rng(0)
        logps, scores = -rng.exponential(2, (4, 9)), rng.random((4, 9))
        for threshold in (None, 0.0, 0.4):
            a = 1 - scores if threshold is None else (scores <= threshold).astype(float)
            expected = -(a * logps + 0.7 * (1 - a) * np.log(1 - np.exp(logps)))[:, 1:].sum()
            objective = objectives.get("unlikelihood")(score_threshold=threshold, alpha=0.7)
            loss = objective.compute_loss(stub(logps), batch(scores.tolist()))
            assert loss.total.item() == pytest.approx(expected, rel=1e-5), threshold

    def test_near_certainty_is_exact_and_floored(self):
        """1 - p where exp(log p) rounds to 1 in fp32; p = 1 gives the floor, with no gradient and no infinity."""
        logps = torch.tensor([[-1e-9, 0.0]], requires_grad=True)
        _, part = unlikelihood_losses(logps, torch.zeros(1, 2))
        assert part[0, 0].item() == pytest.approx(-math.log(1e-9), rel=1e-4)
        assert part[0, 1].item() == pytest.approx(-math.log(1e-20), rel=1e-4)
        part.sum().backward()
        assert logps.grad.isfinite().all() and logps.grad[0, 1] == 0

    def test_threshold_zero_means_zero_unless_as_released(self):
        data, policy = batch([[0.0, 0.0, 0.3]]), stub([[0.0, -LN2, -LN4]])
        ours = objectives.get("unlikelihood")(score_threshold=0.0).compute_loss(policy, data).total.item()
        released = objectives.get("unlikelihood")(score_threshold=0.0, as_released=True).compute_loss(policy, data)
        none = objectives.get("unlikelihood")(score_threshold=None).compute_loss(policy, data)
        assert ours == pytest.approx(LN2 - math.log(0.75), rel=1e-6)
        assert released.total.item() == none.total.item()
        assert none.total.item() == pytest.approx(LN2 + 0.7 * LN4 - 0.3 * math.log(0.75), rel=1e-5)

    def test_aligned_weight_includes_the_threshold(self):
        assert aligned_weight(torch.tensor([0.1, 0.2]), 0.1).tolist() == [1, 0]


class TestAWR:
    def test_by_hand(self):
        """V = -sigmoid(0) = -0.5, r = -0.25: w = exp(0.25 / 0.5); two tokens of ln 2 and ln 4; MSE = 0.0625 each."""
        objective = objectives.get("awr")(alpha=0.4, beta=0.5)
        loss = objective.compute_loss(stub([[0.0, -LN2, -LN4]], [[0.0, 0.0, 0.0]]), batch([[9.0, 0.25, 0.25]]))
        assert loss.total.item() == pytest.approx(0.4 * math.exp(0.5) * (LN2 + LN4) + 0.6 * 2 * 0.0625, rel=1e-6)
        logged = numbers(loss)
        assert logged["weight_avg"] == pytest.approx(math.exp(0.5), rel=1e-6)
        assert logged["value_avg"] == logged["value_min"] == logged["value_max"] == -0.5
        assert logged["advantage_avg"] == pytest.approx(0.25)
        assert logged["value_loss"] == pytest.approx(0.0625)
        assert sum(logged["weight_dist"]["counts"]) == 2

    def test_against_numpy(self):
        rng = np.random.default_rng(1)
        logps, scores, raw = -rng.exponential(2, (3, 8)), rng.random((3, 8)), rng.normal(size=(3, 8))
        values, reward, mask = -1 / (1 + np.exp(-raw)), -scores, np.s_[:, 1:]
        weights = np.minimum(np.exp((reward - values) / 0.2), 3.0)
        expected = 0.3 * (weights * -logps)[mask].sum() + 0.7 * ((reward - values) ** 2)[mask].sum()
        objective = objectives.get("awr")(alpha=0.3, beta=0.2, clip_weight_max=3.0)
        loss = objective.compute_loss(stub(logps, raw), batch(scores.tolist()))
        assert loss.total.item() == pytest.approx(expected, rel=1e-5)
        logged = numbers(loss)
        assert logged["weights_max"] == pytest.approx(3.0)
        assert logged["value_std"] == pytest.approx(values[mask].std(ddof=1), rel=1e-5)
        correlation = np.corrcoef(values[mask].ravel(), reward[mask].ravel())[0, 1]
        assert logged["value_reward_corr"] == pytest.approx(correlation, rel=1e-4)

    @pytest.mark.parametrize("options, weight", [
        ({"use_value_head": False}, math.exp(-0.25)),
        ({"fixed_value": 0.0}, math.exp(-0.25)),
        ({"fixed_value": -1.0}, math.exp(0.75)),
        ({"value_activation": "linear"}, math.exp(-0.25 - 2.0)),
        ({"value_activation": "linear", "clip_value": True}, math.exp(-0.25)),
        ({}, math.exp(-0.25 + 1 / (1 + math.exp(-2)))),
    ])
    def test_baselines(self, options, weight):
        loss = objectives.get("awr")(alpha=1.0, **options).compute_loss(stub([[0.0, -LN2]], [[2.0, 2.0]]),
                                                                       batch([[0.0, 0.25]]))
        assert loss.total.item() == pytest.approx(weight * LN2, rel=1e-6)

    def test_normalised_advantage(self):
        objective = objectives.get("awr")(alpha=1.0, use_value_head=False, normalize_advantage=True)
        scores = [[5.0, 0.1, 0.2, 0.6]]
        advantage = -np.array(scores[0][1:])
        z = (advantage - advantage.mean()) / advantage.std(ddof=1)
        loss = objective.compute_loss(stub([[0.0, -1.0, -1.0, -1.0]]), batch(scores))
        assert loss.total.item() == pytest.approx(np.exp(z).sum(), rel=1e-5)

    def test_weights_carry_no_gradient(self):
        assert not regression_weights(torch.ones(2, requires_grad=True), 1.0, 10.0).requires_grad


class TestPrompts:
    """Tokens that count and have no score (`data.loss_on=all`): [unscored, unscored, scored], after column 0."""

    LOGPS, VALUES = [[0.0, -LN2, -LN4, -LN2]], [[1.0, 2.0, -1.0, 0.5]]

    def loss(self, method, **options):
        data = batch([[0.0, 0.0, 0.0, 0.25]])
        data.scored_BT = torch.tensor([[False, False, False, True]])
        return objectives.get(method)(**options).compute_loss(stub(self.LOGPS, self.VALUES), data)

    def test_are_likelihood_to_mle(self):
        assert self.loss("mle").total.item() == pytest.approx(2 * LN2 + LN4, rel=1e-6)

    @pytest.mark.parametrize("threshold", [None, -1.0, 0.1])
    def test_are_aligned_to_unlikelihood_whatever_the_threshold(self, threshold):
        """The scored token is misaligned, by a quarter without a threshold."""
        wrong = 0.25 if threshold is None else 1.0
        loss = self.loss("unlikelihood", score_threshold=threshold, alpha=0.5)
        scored = (1 - wrong) * LN2 - 0.5 * wrong * math.log(0.5)
        assert loss.total.item() == pytest.approx(LN2 + LN4 + scored, rel=1e-6)
        assert numbers(loss)["avg_token_score"] == 0.25 and numbers(loss)["aligned_token_count"] == 1 - wrong

    def test_weigh_one_and_teach_no_value(self):
        loss = self.loss("awr", alpha=0.4, beta=0.5, value_activation="linear")
        weight = math.exp((-0.25 - 0.5) / 0.5)
        assert loss.total.item() == pytest.approx(0.4 * (LN2 + LN4 + weight * LN2) + 0.6 * 0.75 ** 2, rel=1e-6)
        logged = numbers(loss)
        assert logged["weight_avg"] == logged["weights_max"] == pytest.approx(weight, rel=1e-6)
        assert logged["value_avg"] == 0.5 and logged["lm_loss"] == pytest.approx((2 * LN2 + LN4) / 3, rel=1e-6)

    def test_weigh_one_without_a_value_too(self):
        loss = self.loss("awr", alpha=1.0, use_value_head=False)
        assert loss.total.item() == pytest.approx(LN2 + LN4 + math.exp(-0.25) * LN2, rel=1e-6)

    def test_are_no_part_of_the_advantages_that_are_normalised(self):
        data = batch([[0.0, 0.0, 0.2, 0.6]])
        data.scored_BT = torch.tensor([[False, False, True, True]])
        objective = objectives.get("awr")(alpha=1.0, use_value_head=False, normalize_advantage=True)
        z = 0.2 / np.std([0.2, 0.6], ddof=1)
        loss = objective.compute_loss(stub([[0.0, -1.0, -1.0, -1.0]]), data)
        assert loss.total.item() == pytest.approx(1 + math.exp(z) + math.exp(-z), rel=1e-5)


class TestIdentities:
    """Through the real policy: losses and gradients of a small model."""

    @pytest.fixture
    def run(self, tiny_llama):
        model = tiny_llama()

        def gradient(objective, scores_BT):
            policy = Policy(model, objective.needs.value_head)
            policy.zero_grad()
            ids = torch.randint(0, 260, (2, 16), generator=torch.Generator().manual_seed(0))
            data = Batch(ids, scores_BT, torch.ones_like(ids, dtype=torch.bool))
            loss = objective.compute_loss(policy, data).total / objective.count_items(data)
            loss.backward()
            return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])
        return gradient

    def test_unlikelihood_with_nothing_misaligned_is_mle(self, run):
        scores = torch.rand(2, 16)
        mle, mle_gradient = run(objectives.get("mle")(), scores)
        loss, gradient = run(objectives.get("unlikelihood")(score_threshold=1.0), scores)
        assert loss == mle and torch.equal(gradient, mle_gradient)

    def test_rwr_approaches_mle_as_one_over_beta(self, run):
        """Ten times the temperature, a tenth of the distance, in loss and gradient."""
        scores = torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
        mle, mle_gradient = run(objectives.get("mle")(), scores)
        distances = []
        for beta in (10.0, 100.0, 1000.0):
            loss, gradient = run(objectives.get("awr")(alpha=1.0, beta=beta, use_value_head=False), scores)
            distances.append((abs(loss - mle), (gradient - mle_gradient).norm().item()))
        for (loss_a, gradient_a), (loss_b, gradient_b) in zip(distances, distances[1:]):
            assert loss_a / loss_b == pytest.approx(10, rel=0.1)
            assert gradient_a / gradient_b == pytest.approx(10, rel=0.1)
