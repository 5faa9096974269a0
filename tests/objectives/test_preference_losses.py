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


def finite_in_float32(loss, *numbers) -> bool:
    """Whether a loss of these numbers, and its gradient in each, are finite."""
    tensors = [torch.tensor([number], dtype=torch.float32, requires_grad=True) for number in numbers]
    found = loss(*tensors)
    found.sum().backward()
    return all(tensor.isfinite().all() for tensor in (found, *(tensor.grad for tensor in tensors)))


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("a, b", [(1e4, -1e4), (-1e4, 1e4), (-1e4, -1e4), (-400.0, 0.0), (0.0, 0.0)])
def test_extremes_give_numbers(name, a, b):
    smoothing = EPSILON if name in ours.SMOOTHING else 0.0
    assert finite_in_float32(lambda a, b: ours.dpo_losses(name, a, b, torch.ones(1), torch.ones(1), beta=BETA,
                                                          label_smoothing=smoothing), a, b)


@pytest.mark.parametrize("chosen, rejected", [(1e4, -1e4), (-1e4, 1e4)])
def test_extremes_of_kto_and_rewards_give_numbers(chosen, rejected):
    for desirable in (True, False):
        assert finite_in_float32(lambda w, desirable=desirable: ours.kto_losses(w, torch.tensor([desirable]), 0.0,
                                                                                beta=BETA), chosen)
    assert finite_in_float32(lambda won, lost: ours.bradley_terry_losses(won, lost, centre=0.01), chosen, rejected)


@pytest.mark.parametrize("chosen, rejected", [(0.0, -1e4), (-1e4, 0.0), (-1e-9, -1e-9), (-1e4, -1e4)])
def test_extremes_without_a_reference_give_numbers(chosen, rejected):
    """Means of log-probabilities are never above 0, where a completion is certain."""
    assert finite_in_float32(lambda won, lost: ours.orpo_losses(won, lost, beta=BETA), chosen, rejected)
    assert finite_in_float32(lambda won, lost: ours.simpo_losses(won, lost, beta=2.0, gamma=0.5), chosen, rejected)


def test_a_closed_gate_leaves_discopop_the_logistic_loss():
    """A lead of 0.3 * -400 = -120: log(1 + e^120) = 120, and e^(20 * -120 + 120) of the exponential loss."""
    assert losses("discopop", -400.0, 0.0).item() == pytest.approx(120.0)


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


def test_kto_is_its_formula():
    rng = np.random.default_rng(3)
    ratios, desirable, baseline = rng.normal(0, 6, 40), rng.random(40) < 0.5, 0.7
    lead = BETA * (ratios - baseline)
    expected = np.where(desirable, 1.5 / (1 + np.exp(lead)), 0.25 / (1 + np.exp(-lead)))
    found = ours.kto_losses(torch.tensor(ratios), torch.tensor(desirable), baseline, beta=BETA, desirable_weight=1.5,
                            undesirable_weight=0.25)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_kto_keeps_its_digits_far_above_the_baseline():
    """1 - sigmoid(40) = e^-40, which is not 0."""
    found = ours.kto_losses(torch.tensor([80.0]), torch.tensor([True]), 0.0, beta=0.5)
    assert found.item() == pytest.approx(math.exp(-40), rel=1e-5, abs=0)


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


def test_simpo_is_its_formula():
    rng = np.random.default_rng(4)
    chosen, rejected = -rng.exponential(1, 40), -rng.exponential(1, 40)
    powers = (np.exp(chosen) / np.exp(rejected)) ** 2.5     # of the ratio of geometric means
    found = ours.simpo_losses(torch.tensor(chosen), torch.tensor(rejected), beta=2.5, gamma=0.8)
    np.testing.assert_allclose(found.numpy(), -np.log(powers / (powers + np.exp(0.8))), rtol=1e-9)


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


def test_pro_of_two_is_a_logistic_loss():
    """softplus(g (s_2 - s_1)), g the distance of the rewards."""
    rng = np.random.default_rng(5)
    s_RN, r_RN = -rng.exponential(1, (30, 2)), -np.sort(rng.normal(0, 2, (30, 2)), axis=1)      # best first
    found = ours.pro_losses(torch.tensor(s_RN), torch.tensor(r_RN), torch.ones(30, 2).bool())
    expected = np.log1p(np.exp((r_RN[:, 0] - r_RN[:, 1]) * (s_RN[:, 1] - s_RN[:, 0])))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_what_stands_in_the_place_of_an_absent_completion_does_not_matter():
    s_BN = torch.tensor([[-1.0, -2.0, math.nan]], requires_grad=True)
    r_BN = torch.tensor([[1.0, 0.0, math.nan]], requires_grad=True)
    loss = ours.pro_losses(s_BN, r_BN, torch.tensor([[True, True, False]])).sum()
    loss.backward()
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1)))
    assert s_BN.grad.tolist()[0] == pytest.approx([-0.2689414214, 0.2689414214, 0.0])
    assert r_BN.grad.isfinite().all()


def test_pro_of_one_completion_is_nothing():
    s_BN = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    loss = ours.pro_losses(s_BN, torch.zeros(1, 2), torch.tensor([[True, False]]))
    loss.sum().backward()
    assert loss.item() == 0 and s_BN.grad.tolist() == [[0.0, 0.0]]


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
    with pytest.raises(ValueError, match="not sorted"):
        ours.pro_losses(torch.zeros(1, 2), torch.tensor([[0.0, math.nan]]), torch.ones(1, 2).bool())


def test_pro_refuses_a_numerator_it_does_not_know():
    with pytest.raises(ValueError, match="max-gap"):
        ours.pro_losses(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2).bool(), numerator="max-gap")


def test_bradley_terry_by_hand():
    found = ours.bradley_terry_losses(torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([0.5]), centre=0.01)
    assert found.item() == pytest.approx(math.log1p(math.exp(-0.5)) + 0.09)


def test_bradley_terry_is_its_formula():
    rng = np.random.default_rng(6)
    chosen, rejected, margins = rng.normal(0, 3, (3, 40))
    found = ours.bradley_terry_losses(*(torch.tensor(x) for x in (chosen, rejected, margins)), centre=0.02)
    wins = np.exp(chosen) / (np.exp(chosen) + np.exp(rejected + margins))
    np.testing.assert_allclose(found.numpy(), -np.log(wins) + 0.02 * np.square(chosen + rejected), rtol=1e-9)
    found = ours.bradley_terry_losses(torch.tensor(chosen), torch.tensor(rejected))
    np.testing.assert_allclose(found.numpy(), np.log(1 + np.exp(rejected) / np.exp(chosen)), rtol=1e-9)


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


def test_trl_computes_the_same_kto():
    kto = TRL["kto"]
    ratios = torch.tensor([TRL["log_probs"][side][i]["completion"] - TRL["reference"][side][i]
                           for i, side in enumerate(kto["sides"])])
    assert kto["baseline"] > 0      # not clipped, so that it is tested
    found = ours.kto_losses(ratios, torch.tensor([side == "chosen" for side in kto["sides"]]), kto["baseline"],
                            beta=TRL["beta"], desirable_weight=kto["desirable_weight"],
                            undesirable_weight=kto["undesirable_weight"])
    assert found.mean().item() == pytest.approx(TRL["losses"]["kto"], rel=1e-5)
