"""Losses on pairs and rankings: numbers worked out by hand, formulas written again in numpy, identities, extremes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from apo.errors import ConfigError
from apo.objectives import preferences as ours
from apo.objectives.base import objectives

BETA, EPSILON = 0.3, 0.1


@pytest.fixture(scope="module")
def pairs():
    """Log-ratios and lengths of 50 pairs, float64."""
    rng = np.random.default_rng(0)
    return rng.normal(0, 6, 50), rng.normal(0, 6, 50), rng.integers(1, 40, 50), rng.integers(1, 40, 50)


def s(x):
    return 1 / (1 + np.exp(-x))


FORMULAS = {
    "sigmoid": lambda a, b, m, n, e: -(1 - e) * np.log(s(BETA * (a - b))) - e * np.log(1 - s(BETA * (a - b))),
    "sigmoid_norm": lambda a, b, m, n, e: -((1 - e) * np.log(s(BETA * (a / m - b / n)))
                                            + e * np.log(s(-BETA * (a / m - b / n)))),
    "hinge": lambda a, b, m, n, e: np.where(BETA * (a - b) < 1, 1 - BETA * (a - b), 0),
    "ipo": lambda a, b, m, n, e: ((a / m - b / n) - 0.5 / BETA) ** 2,
    "robust": lambda a, b, m, n, e: ((1 - e) * np.log1p(np.exp(-BETA * (a - b)))
                                     - e * np.log1p(np.exp(BETA * (a - b)))) / (1 - 2 * e),
    "exo_pair": lambda a, b, m, n, e: (s(BETA * (a - b)) * np.log(s(BETA * (a - b)) / (1 - e))
                                       + s(BETA * (b - a)) * np.log(s(BETA * (b - a)) / e)),
    "nca_pair": lambda a, b, m, n, e: (-np.log(s(BETA * a)) - np.log(1 - s(BETA * a)) / 2
                                       - np.log(1 - s(BETA * b)) / 2),
    "bco_pair": lambda a, b, m, n, e: -np.log(s(BETA * a)) - np.log(1 - s(BETA * b)),
    "sppo_hard": lambda a, b, m, n, e: (a - 0.5 / BETA) ** 2 + (b + 0.5 / BETA) ** 2,
    "apo_zero": lambda a, b, m, n, e: (1 - s(BETA * a)) + s(BETA * b),
    "apo_down": lambda a, b, m, n, e: s(BETA * a) + (1 - s(BETA * (a - b))),
    "discopop": lambda a, b, m, n, e: ((1 - s(BETA * (a - b) / 0.05)) * np.log1p(np.exp(-BETA * (a - b)))
                                       + s(BETA * (a - b) / 0.05) * np.exp(-BETA * (a - b))),
}


def losses(name, a, b, m=1.0, n=1.0, smoothing=0.0, beta=BETA):
    tensors = [torch.as_tensor(x, dtype=torch.float64) for x in (a, b, m, n)]
    return ours.dpo_losses(name, *tensors, beta=beta, label_smoothing=smoothing)


@pytest.mark.parametrize("name", FORMULAS)
def test_every_loss_is_its_formula(name, pairs):
    smoothing = EPSILON if name in ours.SMOOTHING else 0.0
    np.testing.assert_allclose(losses(name, *pairs, smoothing).numpy(), FORMULAS[name](*pairs, smoothing), rtol=1e-9)
    assert set(FORMULAS) == set(ours.DPO_LOSSES)


BY_HAND = {     # a = 2, b = -1, beta = 0.5, completions of 4 and 2 tokens: beta (a - b) = 1.5
    "sigmoid": 0.2014132780, "hinge": 0.0, "ipo": 0.0,          # 2/4 - -1/2 - 1/(2 * 0.5) = 0
    "sigmoid_norm": 0.4740769842,                               # log(1 + e^-0.5)
    "bco_pair": 0.3132616875 + 0.4740769842,                    # log(1 + e^-1) + log(1 + e^-0.5)
    "sppo_hard": 1.0,                                           # (2 - 1)^2 + (-1 + 1)^2
    "apo_zero": 0.2689414214 + 0.3775406688,                    # 1 - s(1) + s(-0.5)
    "apo_down": 0.7310585786 + 0.1824255238,                    # s(1) + 1 - s(1.5)
    "nca_pair": 0.3132616875 + 1.3132616875 / 2 + 0.4740769842 / 2,
    "discopop": 0.2231301601,                                   # the gate is open: e^-1.5
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    assert losses(name, 2.0, -1.0, 4.0, 2.0, beta=0.5).item() == pytest.approx(BY_HAND[name], abs=1e-9)


def test_an_identical_pair_costs_log_two():
    for a in (-3.0, 0.0, 5.0):
        assert losses("sigmoid", a, a).item() == pytest.approx(math.log(2))
        assert losses("sigmoid", a, a, smoothing=0.3).item() == pytest.approx(math.log(2))


def test_robust_without_wrong_labels_is_dpo(pairs):
    torch.testing.assert_close(losses("robust", *pairs), losses("sigmoid", *pairs))


def test_smoothing_has_its_least_loss_where_the_policy_is_as_sure_as_the_label():
    grid = np.linspace(-10, 10, 4001)
    best = grid[losses("sigmoid", grid, 0 * grid, smoothing=0.2, beta=1.0).argmin()]
    assert 1 / (1 + math.exp(-best)) == pytest.approx(0.8, abs=2e-3)


@pytest.mark.parametrize("name", [name for name in FORMULAS if name not in ("discopop", "sppo_hard", "ipo")])
@pytest.mark.parametrize("lead", [1e4, -1e4])
def test_extremes_give_numbers(name, lead):
    a = torch.tensor([lead], dtype=torch.float32, requires_grad=True)
    loss = ours.dpo_losses(name, a, -a.detach(), torch.ones(1), torch.ones(1), beta=0.3,
                           label_smoothing=EPSILON if name in ours.SMOOTHING else 0.0)
    loss.sum().backward()
    assert loss.isfinite().all() and a.grad.isfinite().all()


@pytest.mark.parametrize("options, said", [
    ({"loss_type": "hinge", "label_smoothing": 0.1}, "label_smoothing: hinge has none"),
    ({"loss_type": "robust", "label_smoothing": 0.5}, "from 0 to below 0.5"),
    ({"loss_type": "exo_pair"}, "exo_pair needs one above 0"),
])
def test_smoothing_that_means_nothing_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        objectives.get("dpo")(**options)


# ---- KTO, ORPO, SimPO ------------------------------------------------------------------------------------------------


def test_kto_by_hand():
    """beta 0.5, baseline 1: the desirable leads by 0.5 (3 - 1) = 1, the undesirable by 0.5 (1 - -2) = 1.5."""
    found = ours.kto_losses(torch.tensor([3.0, -2.0]), torch.tensor([True, False]), 1.0, beta=0.5,
                            desirable_weight=2.0, undesirable_weight=4.0)
    torch.testing.assert_close(found, torch.tensor([2 * 0.2689414214, 4 * 0.1824255238]))
    at_baseline = ours.kto_losses(torch.tensor([1.0]), torch.tensor([True]), 1.0, beta=0.5)
    assert at_baseline.item() == 0.5


def test_orpo_is_its_formula():
    rng = np.random.default_rng(1)
    chosen, rejected = -rng.exponential(1, 40), -rng.exponential(1, 40)

    def odds(x):
        return np.exp(x) / (1 - np.exp(x))

    found = ours.orpo_losses(torch.tensor(chosen), torch.tensor(rejected), beta=BETA)
    np.testing.assert_allclose(found.numpy(), BETA * np.log1p(odds(rejected) / odds(chosen)), rtol=1e-9)
    same = ours.orpo_losses(torch.tensor([-0.7]), torch.tensor([-0.7]), beta=1.0)
    assert same.item() == pytest.approx(math.log(2))


def test_log_of_one_minus_p_is_exact_near_one_and_has_a_gradient():
    x = torch.tensor([-1e-6, -0.1, -0.6931, -0.6932, -5.0, -50.0], dtype=torch.float64, requires_grad=True)
    found = ours.log1mexp(x)
    expected = [math.log1p(-math.exp(value)) if value < -0.7 else math.log(-math.expm1(value)) for value in x.tolist()]
    assert found.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-30)
    found.sum().backward()
    assert x.grad.isfinite().all()
    assert ours.log1mexp(torch.zeros(1)).isfinite().all()


def test_simpo_by_hand():
    found = ours.simpo_losses(torch.tensor([-1.0]), torch.tensor([-1.5]), beta=2.0, gamma=0.5)
    assert found.item() == pytest.approx(math.log1p(math.exp(-0.5)))


# ---- PRO, Bradley-Terry ----------------------------------------------------------------------------------------------


def by_the_book(s_N, r_N):
    """The release's form: exponentials, for rewards and log-probabilities of moderate size."""
    total = 0.0
    for k in range(len(s_N) - 1):
        gaps = [r_N[k] - r_N[i] for i in range(k + 1, len(s_N))]
        top = math.exp(s_N[k] * max(gaps))
        rest = sum(math.exp(s_N[i] * gap) for i, gap in zip(range(k + 1, len(s_N)), gaps))
        total -= math.log(top / (top + rest))
    return total


def test_pro_is_the_releases_loss():
    """The example of three: s = (-1, -1.5, -3), r = (3, 2.9, 0): the first term is 2.91."""
    s_N, r_N = [-1.0, -1.5, -3.0], [3.0, 2.9, 0.0]
    tensors = (*torch.tensor([[s_N], [r_N]], dtype=torch.float64), torch.ones(1, 3).bool())
    assert ours.pro_losses(*tensors).item() == pytest.approx(by_the_book(s_N, r_N))
    first = math.log(math.exp(-3) + math.exp(-0.15) + math.exp(-9)) + 3
    assert first == pytest.approx(2.91, abs=5e-3)
    second = math.log1p(math.exp((-3.0 + 1.5) * 2.9))
    assert ours.pro_losses(*tensors).item() == pytest.approx(first + second)
    plain = math.log(math.exp(-1) + math.exp(-0.15) + math.exp(-9)) + 1
    plain += math.log(math.exp(-1.5) + math.exp(-3 * 2.9)) + 1.5
    assert ours.pro_losses(*tensors, numerator="one").item() == pytest.approx(plain)


def test_pro_of_rows_with_fewer_completions_is_that_of_the_rest():
    rng = np.random.default_rng(2)
    s_RN, r_RN = -rng.exponential(1, (20, 4)), -np.sort(-rng.normal(0, 2, (20, 4)), axis=1)
    count_R = rng.integers(2, 5, 20)
    present_RN = np.arange(4) < count_R[:, None]
    found = ours.pro_losses(torch.tensor(np.where(present_RN, s_RN, 0)), torch.tensor(np.where(present_RN, r_RN, 0)),
                            torch.tensor(present_RN))
    expected = [by_the_book(s_N[:n], r_N[:n]) for s_N, r_N, n in zip(s_RN, r_RN, count_R)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_pro_learns_nothing_from_equal_rewards_and_stands_large_ones():
    s_BN = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    ours.pro_losses(s_BN, torch.tensor([[1.0, 1.0]]), torch.ones(1, 2).bool()).sum().backward()
    assert s_BN.grad.tolist() == [[0.0, 0.0]]
    large = ours.pro_losses(s_BN * 100, torch.tensor([[1e3, -1e3]]), torch.ones(1, 2).bool())
    assert large.isfinite().all()


def test_pro_refuses_rewards_that_are_not_sorted():
    with pytest.raises(ValueError, match="not sorted"):
        ours.pro_losses(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), torch.ones(1, 2).bool())


def test_bradley_terry_by_hand():
    found = ours.bradley_terry_losses(torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([0.5]), centre=0.01)
    assert found.item() == pytest.approx(math.log1p(math.exp(-0.5)) + 0.09)


# ---- TRL's own numbers -----------------------------------------------------------------------------------------------


TRL = json.loads((Path(__file__).parent.parent / "fixtures/trl_losses.json").read_text())


def of_trl(key):
    """[pairs] of a recorded number, chosen and rejected."""
    return [torch.tensor([row[key] for row in TRL["log_probs"][side]]) for side in ("chosen", "rejected")]


@pytest.mark.parametrize("name", ours.DPO_LOSSES)
def test_trl_computes_the_same(name):
    ratios = [logps - torch.tensor(TRL["reference"][side])
              for logps, side in zip(of_trl("completion"), ("chosen", "rejected"))]
    found = ours.dpo_losses(name, *ratios, *of_trl("length"), beta=TRL["beta"], label_smoothing=TRL["smoothing"][name])
    assert found.mean().item() == pytest.approx(TRL["losses"][name], rel=1e-5)


def test_trl_computes_the_same_simpo_and_orpo():
    means = [logps / lengths for logps, lengths in zip(of_trl("completion"), of_trl("length"))]
    simpo = ours.simpo_losses(*means, beta=TRL["beta"], gamma=TRL["gamma"])
    assert simpo.mean().item() == pytest.approx(TRL["losses"]["simpo"], rel=1e-5)
    odds = ours.orpo_losses(*means, beta=TRL["beta"]).mean()
    chosen = TRL["log_probs"]["chosen"]
    tokens = sum(row["length"] + row["prompt_length"] for row in chosen)        # TRL: one mean over the batch's tokens
    nll = -sum(row["completion"] + row["prompt"] for row in chosen) / tokens
    assert nll + odds.item() == pytest.approx(TRL["losses"]["orpo"], rel=1e-5)
