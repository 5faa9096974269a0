"""Policy gradients: against episodes worked out by hand, formulas written a second time in numpy, and expectations
taken over a whole vocabulary."""

import math

import numpy as np
import pytest
import torch

from apo.objectives import policy_gradient as pg

NAN = math.nan


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def mask_of(*rows):
    return torch.tensor(rows, dtype=torch.bool)


@pytest.fixture
def episodes():
    """Three tokens behind one column of padding and before two; two tokens from the first column on; and one that was
    cut at the longest length, so that no padding comes after its last token."""
    mask_CT = mask_of([0, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1])
    generator = torch.Generator().manual_seed(0)
    kl_CT, values_CT = torch.randn(2, 3, 6, generator=generator)
    return mask_CT, kl_CT, values_CT, torch.tensor([2.0, -1.0, 0.5])


# ---- rewards, advantages, returns ------------------------------------------------------------------------------------


def test_the_score_is_at_the_last_token_and_never_on_padding():
    mask_CT = mask_of([0, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1])
    kl_CT = tensor([9, 1, -2, 9], [1, 2, 9, 9], [1, 1, 1, 1], [9, 9, 9, 3])
    rewards_CT = pg.token_rewards(torch.tensor([5.0, 6.0, 7.0, 8.0]), kl_CT, mask_CT, 0.5)
    expected = tensor([0, -0.5, 1 + 5, 0], [-0.5, -1 + 6, 0, 0], [-0.5, -0.5, -0.5, -0.5 + 7], [0, 0, 0, -1.5 + 8])
    assert torch.equal(rewards_CT, expected)


def test_a_completion_without_tokens_has_no_rewards():
    assert not pg.token_rewards(torch.tensor([5.0]), tensor([1, 1]), mask_of([0, 0]), 0.5).any()


def test_gae_by_hand():
    """Two tokens, rewards 1 and 2, values 0.5 and 0.25, gamma 0.5, lambda 0.5."""
    advantages_CT, returns_CT = pg.gae(tensor([0, 1, 2]), tensor([0, 0.5, 0.25]), mask_of([0, 1, 1]), 0.5, 0.5)
    second = 2 - 0.25
    first = 1 + 0.5 * 0.25 - 0.5 + 0.25 * second
    assert advantages_CT.tolist() == [[0, first, second]]
    assert returns_CT.tolist() == [[0, first + 0.5, second + 0.25]]


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.7, 0.0)])
def test_gae_is_the_sum_of_discounted_deltas(episodes, gamma, lam):
    mask_CT, kl_CT, values_CT, scores_C = episodes
    rewards_CT = pg.token_rewards(scores_C, kl_CT, mask_CT, 0.1)
    advantages_CT, returns_CT = pg.gae(rewards_CT, values_CT, mask_CT, gamma, lam)
    for row, mask in enumerate(mask_CT.numpy()):
        r, v = rewards_CT[row].numpy()[mask], values_CT[row].numpy()[mask]
        deltas = r + gamma * np.append(v[1:], 0) - v
        expected = [sum((gamma * lam) ** k * deltas[t + k] for k in range(len(r) - t)) for t in range(len(r))]
        np.testing.assert_allclose(advantages_CT[row].numpy()[mask], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(returns_CT[row].numpy()[mask], expected + v, rtol=1e-5, atol=1e-6)
        assert not advantages_CT[row].numpy()[~mask].any() and not returns_CT[row].numpy()[~mask].any()


def test_with_lambda_1_returns_are_what_came_whatever_the_values(episodes):
    mask_CT, kl_CT, values_CT, scores_C = episodes
    rewards_CT = pg.token_rewards(scores_C, kl_CT, mask_CT, 0.1)
    _, returns_CT = pg.gae(rewards_CT, values_CT, mask_CT, 0.9, 1.0)
    torch.testing.assert_close(returns_CT, pg.discounted_returns(rewards_CT, mask_CT, 0.9))


def test_discounted_returns_by_hand():
    assert pg.discounted_returns(tensor([0, 1, 2, 4]), mask_of([0, 1, 1, 1]), 0.5).tolist() == [[0, 3, 4, 4]]


def moved(x_CT, mask_CT, before, after):
    """The same completions with more padding, in which nothing is a number."""
    x_CT = torch.where(mask_CT, x_CT, NAN)
    return torch.nn.functional.pad(x_CT, (before, after), value=NAN), \
        torch.nn.functional.pad(mask_CT, (before, after), value=False)


@pytest.mark.parametrize("before, after", [(0, 3), (2, 0), (1, 4)])
def test_padding_changes_nothing(episodes, before, after):
    mask_CT, kl_CT, values_CT, scores_C = episodes
    logps_CT = values_CT - 3

    def everything(mask_CT, kl_CT, values_CT, logps_CT):
        rewards_CT = pg.token_rewards(scores_C, kl_CT, mask_CT, 0.1)
        advantages_CT, returns_CT = pg.gae(rewards_CT, values_CT, mask_CT, 0.9, 0.95)
        return [rewards_CT, advantages_CT, returns_CT, pg.whiten(advantages_CT, mask_CT),
                pg.whiten(values_CT, mask_CT, shift_mean=False), pg.discounted_returns(rewards_CT, mask_CT, 0.9),
                *(pg.token_kl(kind, logps_CT, values_CT, mask_CT, kl_CT) for kind in ("k1", "k3", "full")),
                pg.kl_losses(logps_CT, values_CT, mask_CT),
                pg.sequence_log_ratios(kl_CT, mask_CT, mean=True)[:, None].expand_as(mask_CT),
                pg.sequence_log_ratios(kl_CT, mask_CT, mean=False)[:, None].expand_as(mask_CT)]

    plain = everything(mask_CT, kl_CT, values_CT, logps_CT)
    padded_mask_CT = moved(kl_CT, mask_CT, before, after)[1]
    padded = everything(padded_mask_CT, *(moved(x, mask_CT, before, after)[0] for x in (kl_CT, values_CT, logps_CT)))
    for one, other in zip(plain, padded, strict=True):
        torch.testing.assert_close(other[padded_mask_CT], one[mask_CT], rtol=1e-6, atol=1e-6)
    for other in padded[:-2]:
        assert not other[~padded_mask_CT].any()


# ---- distance --------------------------------------------------------------------------------------------------------


def test_estimates_of_the_kl_by_hand():
    logps_CT, ref_logps_CT, mask_CT = tensor([-1, -2, 0]), tensor([-1.5, -1, 7]), mask_of([1, 1, 0])
    assert pg.token_kl("k1", logps_CT, ref_logps_CT, mask_CT).tolist() == [[0.5, -1.0, 0.0]]
    k3 = [math.exp(-0.5) - 1 + 0.5, math.exp(1.0) - 1 - 1.0, 0.0]
    assert pg.token_kl("k3", logps_CT, ref_logps_CT, mask_CT)[0].tolist() == pytest.approx(k3)
    assert pg.token_kl("full", None, None, mask_CT, tensor([0.1, 0.2, 9]))[0].tolist() == pytest.approx([0.1, 0.2, 0])
    with pytest.raises(ValueError, match="k2"):
        pg.token_kl("k2", logps_CT, ref_logps_CT, mask_CT)


@pytest.fixture
def distributions():
    """Log-probabilities over seven tokens, with gradient, and a reference's."""
    generator = torch.Generator().manual_seed(1)
    logits_V = torch.randn(7, generator=generator, dtype=torch.float64).requires_grad_()
    return logits_V, torch.randn(7, generator=generator, dtype=torch.float64).log_softmax(0)


def test_estimates_have_the_kl_as_their_mean(distributions):
    logps_V, ref_V = distributions[0].detach().log_softmax(0), distributions[1]
    exact = (logps_V.exp() * (logps_V - ref_V)).sum()
    for kind in ("k1", "k3"):
        each_V = pg.token_kl(kind, logps_V[None], ref_V[None], torch.ones(1, 7).bool())[0]
        torch.testing.assert_close((logps_V.exp() * each_V).sum(), exact)


@pytest.mark.parametrize("corrected", [True, False])
def test_of_which_kl_a_term_of_the_loss_has_the_gradient(distributions, corrected):
    """Over all tokens in proportion to the policy that wrote them, which is the policy itself."""
    logits_V, ref_V = distributions
    logps_V = logits_V.log_softmax(0)
    written_V = logps_V.detach()
    losses_V = pg.kl_losses(logps_V[None], ref_V[None], torch.ones(1, 7).bool(),
                            (logps_V - written_V)[None] if corrected else None)[0]
    (gradient_V,) = torch.autograd.grad((written_V.exp() * losses_V).sum(), logits_V, retain_graph=True)
    exact = (logps_V.exp() * (logps_V - ref_V)).sum() if corrected else (ref_V.exp() * (ref_V - logps_V)).sum()
    torch.testing.assert_close(gradient_V, torch.autograd.grad(exact, logits_V)[0])


def test_an_adaptive_coefficient_by_hand():
    step = pg.next_kl_coef
    assert step(0.2, 3.0, None, 10_000, 100) == 0.2
    assert step(0.2, 6.6, 6.0, 10_000, 100) == pytest.approx(0.2 * (1 + 0.1 * 0.01))
    assert step(0.2, 60.0, 6.0, 10_000, 100) == pytest.approx(0.2 * (1 + 0.2 * 0.01))
    assert step(0.2, -3.0, 6.0, 10_000, 100) == pytest.approx(0.2 * (1 - 0.2 * 0.01))
    assert step(0.2, 0.0, 6.0, 100, 1000) == pytest.approx(0.2 * 0.8)


# ---- statistics ------------------------------------------------------------------------------------------------------


def test_whitening(episodes):
    mask_CT, x_CT = episodes[0], episodes[1]
    chosen = x_CT.numpy()[mask_CT.numpy()]
    expected = (chosen - chosen.mean()) / np.sqrt(chosen.var(ddof=1) + 1e-8)
    np.testing.assert_allclose(pg.whiten(x_CT, mask_CT).numpy()[mask_CT.numpy()], expected, rtol=1e-5, atol=1e-6)
    kept = pg.whiten(x_CT, mask_CT, shift_mean=False).numpy()[mask_CT.numpy()]
    np.testing.assert_allclose(kept, expected + chosen.mean(), rtol=1e-5, atol=1e-6)
    assert pg.whiten(tensor([3, 4]), mask_of([1, 0])).tolist() == [[0, 0]]
    assert pg.whiten(tensor([3, 4]), mask_of([0, 0])).tolist() == [[0, 0]]


def test_moments_of_parts_are_those_of_the_whole():
    scores_C = torch.randn(50, generator=torch.Generator().manual_seed(2)).double() + 3
    scores_C[7] = NAN
    moments = (0, 0.0, 0.0)
    for part in (scores_C[:1], scores_C[1:20], scores_C[7:8], scores_C[20:]):
        moments = pg.with_scores(moments, part)
    known = scores_C[~scores_C.isnan()].numpy()
    assert moments[:2] == (49, pytest.approx(known.mean()))
    assert pg.deviation(moments) == pytest.approx(known.std(ddof=1))
    assert pg.deviation(pg.with_scores((0, 0.0, 0.0), torch.tensor([2.0, 2.0]))) == 1


def test_leave_one_out_by_hand():
    """Two groups, their completions mixed; one of three without a score; one alone."""
    rewards_C, groups_C = torch.tensor([1.0, 10.0, 2.0, NAN, 6.0, 3.0]), torch.tensor([4, 0, 4, 0, 4, 9])
    baselines_C = pg.leave_one_out(rewards_C, groups_C)
    assert baselines_C.tolist() == pytest.approx([4.0, NAN, 3.5, NAN, 1.5, NAN], nan_ok=True)
    assert pg.leave_one_out(torch.tensor([5.0, NAN, 7.0]), torch.zeros(3)).tolist() == \
        pytest.approx([7.0, NAN, 5.0], nan_ok=True)


def test_group_advantages_are_those_of_numpy():
    rewards = np.array([1.0, 2.0, 5.0, 3.0, 3.0, 3.0, 0.5, np.nan, 0.1])
    groups = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    divided = {"none": lambda part: 1, "group": lambda part: np.nanstd(part, ddof=1) + 1e-4,
               "batch": lambda part: np.nanstd(rewards, ddof=1) + 1e-4}
    for scale, by in divided.items():
        parts = (rewards[groups == group] for group in range(3))
        expected = np.concatenate([(part - np.nanmean(part)) / by(part) for part in parts])
        found = pg.group_advantages(torch.tensor(rewards), torch.tensor(groups), scale).numpy()
        np.testing.assert_allclose(found, np.nan_to_num(expected), atol=1e-12)
        assert found[7] == 0


# ---- losses ----------------------------------------------------------------------------------------------------------


def test_the_clipped_loss_and_where_it_has_a_gradient():
    """Ratios 2, 2, 0.5, 0.5 and 1.1 with advantages of both signs: the clip only stops what goes further."""
    ratios, advantages = [2.0, 2.0, 0.5, 0.5, 1.1], torch.tensor([3.0, -3.0, 3.0, -3.0, 3.0])
    log_ratios = torch.tensor(ratios).log().requires_grad_()
    losses, clipped = pg.clipped_policy_losses(log_ratios, advantages, 0.2, 0.3)
    assert losses.tolist() == pytest.approx([-3 * 1.3, 6.0, -1.5, 3 * 0.8, -3.3])
    assert clipped.tolist() == [True, False, False, True, False]
    losses.sum().backward()
    assert log_ratios.grad.tolist() == pytest.approx([0, 6.0, -1.5, 0, -3.3])
    assert pg.clipped_policy_losses(log_ratios, advantages, 0.2)[0][0].item() == pytest.approx(-3 * 1.2)
    assert pg.clipped_policy_losses(torch.tensor(200.0), torch.tensor(-1.0), 0.2)[0].isfinite()


def test_the_clipped_value_loss_by_hand():
    """A value that went 0.5 from 1, towards and away from what came; and one that is within the clip."""
    values = torch.tensor([1.5, 1.5, 1.1]).requires_grad_()
    losses, clipped = pg.clipped_value_losses(values, torch.ones(3), torch.tensor([3.0, 0.0, 3.0]), 0.2)
    assert losses.tolist() == pytest.approx([0.5 * 1.8 ** 2, 0.5 * 1.5 ** 2, 0.5 * 1.9 ** 2])
    assert clipped.tolist() == [True, False, False]
    losses.sum().backward()
    assert values.grad.tolist() == pytest.approx([0, 1.5, -1.9])
    plain, clipped = pg.clipped_value_losses(values, torch.ones(3), torch.tensor([3.0, 0.0, 3.0]), None)
    assert plain.tolist() == pytest.approx([0.5 * 1.5 ** 2, 0.5 * 1.5 ** 2, 0.5 * 1.9 ** 2]) and not clipped.any()


def test_ratios_of_whole_completions_by_hand():
    log_ratios_RT, mask_RT = tensor([9, 0.1, 0.5], [1, 9, 9], [9, 9, 9]), mask_of([0, 1, 1], [1, 0, 0], [0, 0, 0])
    assert pg.sequence_log_ratios(log_ratios_RT, mask_RT, mean=False).tolist() == pytest.approx([0.6, 1.0, 0.0])
    assert pg.sequence_log_ratios(log_ratios_RT, mask_RT, mean=True).tolist() == pytest.approx([0.3, 1.0, 0.0])
