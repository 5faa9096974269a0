"""A-LoL and its kin: against numbers worked out by hand, a formula written a second time in numpy, and each other."""

import math

import numpy as np
import pytest
import torch

from apo.data.completions import laid_out
from apo.errors import ConfigError
from apo.metrics.running import Running
from apo.models.policy import TokenStats
from apo.objectives import offline_weights
from apo.objectives.base import Known, objectives

FAMILY = ["nll", "wbc", "r_gold", "r_lol", "a_lol", "a_lol_seq", "a_lol_ref_free", "a_lol_kl"]
WITH_VALUE = ["a_lol", "a_lol_seq", "a_lol_ref_free", "a_lol_kl"]
ONCE = {"weight_exponent": 1.0}
"""The paper's weight, for those that have one."""


def made(name, **options):
    exponent = {} if name in ("nll", "reward_threshold") else ONCE
    return objectives.get(name)(**exponent | options)


class Fixed:
    """A policy that says what it is told to, in training and, where that is another thing, without dropout."""

    def __init__(self, logps_RT, still_RT=None, kl_RT=None):
        self.logps_RT, self.kl_RT = logps_RT, kl_RT
        self.still_RT = logps_RT if still_RT is None else still_RT
        self.drops_out, self.evaluated = still_RT is not None, False

    def as_evaluated(self):
        policy = self

        class Inside:
            def __enter__(self):
                policy.evaluated = True

            def __exit__(self, *_):
                policy.evaluated = False

        return Inside()

    def completion_tokens(self, batch, want=(), other=None):
        return TokenStats(self.still_RT if self.evaluated else self.logps_RT, batch.branch_RT > 0, kl_BT=self.kl_RT)


def batch_of(lengths, rewards, values, ref_logps_RT=None, prompts=(3, 1)):
    """Rows of prompts and completions of those lengths."""
    rows = [(list(range(1, 1 + prompt)), [[7] * length]) for prompt, length in zip(prompts, lengths)]
    batch = laid_out(rows, torch.tensor(rewards)[:, None], torch.zeros(len(rewards), 1),
                     torch.ones(len(rewards), 1).bool())
    batch.values_R = None if values is None else torch.tensor(values)
    if ref_logps_RT is not None:
        batch.ref_logps_RT = at_completions(batch, ref_logps_RT)
    return batch


def at_completions(batch, rows):
    """[R, T] with those numbers on the completion tokens, and 0 elsewhere."""
    placed_RT = torch.zeros(batch.input_ids_RT.shape)
    for row, numbers in enumerate(rows):
        placed_RT[row, batch.branch_RT[row] == 1] = torch.tensor(numbers, dtype=torch.float32)
    return placed_RT


@pytest.fixture
def batch():
    """Log-ratios: 0.5 and -0.1 in the first row, -2 in the second."""
    return batch_of((2, 1), [0.8, 0.3], [0.5, 0.6], [[-1.5, -0.4], [-1.0]])


@pytest.fixture
def policy(batch):
    return Fixed(at_completions(batch, [[-1.0, -0.5], [-3.0]]).requires_grad_())


def gradient(objective, policy, batch):
    loss = objective.compute_loss(policy, batch)
    (gradient_RT,) = torch.autograd.grad(loss.total, policy.logps_RT)
    return gradient_RT


@pytest.mark.parametrize("name, expected", [
    ("nll", 1.5 + 3.0),
    ("wbc", 0.8 * 1.5 + 0.3 * 3.0),
    ("r_gold", 0.8 * (math.exp(-1.0) * 1.0 + math.exp(-0.5) * 0.5) + 0.3 * 0.1 * 3.0),     # e^-3 lies below the floor
    ("r_lol", 0.8 * math.exp(0.4) * 1.5 + 0.3 * math.exp(-2.0) * 3.0),
    ("a_lol", 0.3 * math.exp(0.4) * 1.5),                                                   # the second has A = 0
    ("a_lol_seq", 0.3 * (math.exp(0.5) * 1.0 + math.exp(-0.1) * 0.5)),
    ("a_lol_ref_free", 0.3 * 1.5),
])
def test_by_hand(name, expected, policy, batch):
    assert made(name).compute_loss(policy, batch).total.item() == pytest.approx(expected)


def test_kl_by_hand(policy, batch):
    published = made("a_lol_kl", preset="published", rewards_as="raw", beta=0.5).compute_loss(policy, batch)
    assert published.total.item() == pytest.approx(0.3 * 1.5 + 0.5 * (0.4 - 2.0))
    k3 = made("a_lol_kl", beta=0.5).compute_loss(policy, batch)
    terms = [math.exp(-log_ratio) - 1 + log_ratio for log_ratio in (0.5, -0.1, -2.0)]
    assert k3.total.item() == pytest.approx(0.3 * 1.5 + 0.5 * sum(terms))
    policy.kl_RT = at_completions(batch, [[0.1, 0.2], [0.4]])
    full = made("a_lol_kl", beta=0.5, kl="full").compute_loss(policy, batch)
    assert full.total.item() == pytest.approx(0.3 * 1.5 + 0.5 * 0.7)


def test_saturating_ratios():
    """Log-ratios of 5 and -5, and of 200, which no float32 holds: the clip holds them all, and without one they are
    large and finite."""
    batch = batch_of((1, 1), [1.0, 1.0], [0.0, 0.0], [[-6.0], [-1.0]])
    policy = Fixed(at_completions(batch, [[-1.0], [-6.0]]).requires_grad_())
    for name in ("a_lol", "a_lol_seq", "r_lol"):
        assert made(name).compute_loss(policy, batch).total.item() == pytest.approx(1.9 * 1.0 + 0.1 * 6.0)
        assert made(name, clip=0.2).compute_loss(policy, batch).total.item() == pytest.approx(1.2 * 1.0 + 0.8 * 6.0)
        assert made(name, clip=0).compute_loss(policy, batch).total.item() == pytest.approx(7.0)
    far = batch_of((1, 1), [1.0, 1.0], [0.0, 0.0], [[-201.0], [-1.0]])
    assert math.isfinite(made("a_lol", clip=None).compute_loss(policy, far).total.item())
    assert made("a_lol").compute_loss(policy, far).total.item() == pytest.approx(1.9 * 1.0 + 0.1 * 6.0)


@pytest.mark.parametrize("advantage, log_ratio, expected", [
    (1.0, 1.0, 0.0), (1.0, -1.0, math.exp(-1.0)), (1.0, 0.1, math.exp(0.1)),
    (-1.0, 1.0, math.e), (-1.0, -1.0, 0.0), (-1.0, -0.1, math.exp(-0.1))])
def test_clipped_as_ppo_does_it(advantage, log_ratio, expected):
    """The weight is the gradient's of -min(r A, clip(r) A), r = pi / ref, divided by -A."""
    weight = offline_weights.ratio_weights(torch.tensor(log_ratio), torch.tensor(advantage), 0.2, "ppo")
    assert weight.item() == pytest.approx(expected)
    logp = torch.tensor(log_ratio, requires_grad=True)
    ratio = logp.exp()
    (-torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)).backward()
    assert logp.grad.item() == pytest.approx(-advantage * expected)


def test_unclipped_the_gradient_is_that_of_the_ratio_times_the_advantage():
    batch = batch_of((2, 1), [0.9, 0.7], [0.5, 0.6], [[-1.5, -0.4], [-1.0]])
    policy = Fixed(at_completions(batch, [[-1.0, -0.5], [-1.3]]).requires_grad_())
    found_RT = gradient(made("a_lol", clip=None), policy, batch)
    ratios_R = ((policy.logps_RT - batch.ref_logps_RT) * (batch.branch_RT > 0)).sum(1).exp()
    advantages_R = batch.rewards_RN[:, 0] - batch.values_R
    (expected_RT,) = torch.autograd.grad(-(advantages_R * ratios_R).sum(), policy.logps_RT)
    torch.testing.assert_close(found_RT, expected_RT, atol=1e-6, rtol=1e-6)


# ---- a second formula ------------------------------------------------------------------------------------------------


def in_numpy(name, logps, ref, mask, rewards, values, *, clip=0.9, beta=0.2, floor=0.1, kl="k3"):
    """One row after another, one token after another."""
    total = 0.0
    for row in range(len(rewards)):
        ours = [float(x) for x, m in zip(logps[row], mask[row]) if m]
        theirs = [float(x) for x, m in zip(ref[row], mask[row]) if m]
        advantage = max(float(rewards[row]) - float(values[row]), 0.0)
        sequence = min(max(math.exp(min(sum(ours) - sum(theirs), 50)), 1 - clip), 1 + clip)
        for own, other in zip(ours, theirs):
            token = min(max(math.exp(own - other), 1 - clip), 1 + clip)
            weight = {"nll": 1.0, "wbc": rewards[row], "r_gold": rewards[row] * max(math.exp(own), floor),
                      "r_lol": rewards[row] * sequence, "a_lol": advantage * sequence, "a_lol_seq": advantage * token,
                      "a_lol_ref_free": advantage, "a_lol_kl": advantage}[name]
            total += weight * -own
            if name == "a_lol_kl":
                total += beta * ((own - other) if kl == "published" else math.exp(other - own) - 1 - (other - own))
    return total


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("seed", range(3))
def test_against_numpy(name, seed):
    rng = np.random.default_rng(seed)
    lengths, prompts = rng.integers(1, 6, 7), rng.integers(1, 5, 7)
    rewards, values = rng.random(7), rng.random(7)
    ref = [(-rng.gamma(1.0, 1.5, length)).tolist() for length in lengths]
    batch = batch_of(lengths, rewards.tolist(), values.tolist(), ref, prompts)
    logps_RT = at_completions(batch, [(-rng.gamma(1.0, 1.5, length)).tolist() for length in lengths])
    mask = (batch.branch_RT > 0).numpy()
    expected = in_numpy(name, logps_RT.numpy(), batch.ref_logps_RT.numpy(), mask, rewards, values)
    assert made(name).compute_loss(Fixed(logps_RT), batch).total.item() == pytest.approx(expected, rel=1e-5)
    if name == "a_lol_kl":
        expected = in_numpy(name, logps_RT.numpy(), batch.ref_logps_RT.numpy(), mask, rewards, values, kl="published")
        found = made(name, kl="published").compute_loss(Fixed(logps_RT), batch).total.item()
        assert found == pytest.approx(expected, rel=1e-5)


# ---- identities ------------------------------------------------------------------------------------------------------


def test_reference_free_with_an_advantage_of_1_is_nll(policy, batch):
    batch.rewards_RN, batch.values_R = torch.ones(2, 1), torch.zeros(2)
    for name in ("a_lol_ref_free", "wbc"):
        torch.testing.assert_close(gradient(made(name), policy, batch), gradient(made("nll"), policy, batch))


@pytest.mark.parametrize("name", ["a_lol", "a_lol_seq", "r_lol"])
@pytest.mark.parametrize("options", [{}, {"clip": None}, {"clip": 0.2}, {"clip": 0.2, "clip_style": "ppo"}])
def test_equal_to_nll_where_the_policy_is_the_reference(name, options, policy, batch):
    batch.ref_logps_RT = policy.logps_RT.detach().clone()
    batch.rewards_RN, batch.values_R = torch.ones(2, 1), torch.zeros(2)
    loss, plain = made(name, **options).compute_loss(policy, batch), made("nll").compute_loss(policy, batch)
    torch.testing.assert_close(loss.total, plain.total)
    torch.testing.assert_close(gradient(made(name, **options), policy, batch), gradient(made("nll"), policy, batch))


def test_the_published_kl_is_beta_off_the_advantage(policy, batch):
    found_RT = gradient(made("a_lol_kl", kl="published", beta=0.2), policy, batch)
    advantages_R = (batch.rewards_RN[:, 0] - batch.values_R).clip(min=0)
    expected_RT = -(advantages_R - 0.2)[:, None] * (batch.branch_RT > 0)
    torch.testing.assert_close(found_RT, expected_RT, atol=1e-6, rtol=0)


def test_k3_has_no_gradient_at_the_reference_and_pulls_towards_it(policy, batch):
    batch.rewards_RN, batch.values_R = torch.zeros(2, 1), torch.ones(2)         # A = 0: the distance alone
    pull_RT = gradient(made("a_lol_kl", beta=1.0), policy, batch)
    above_RT = (policy.logps_RT > batch.ref_logps_RT)[batch.branch_RT > 0]
    assert ((pull_RT[batch.branch_RT > 0] > 0) == above_RT).all()               # descent goes against the gradient
    batch.ref_logps_RT = policy.logps_RT.detach().clone()
    assert gradient(made("a_lol_kl", beta=1.0), policy, batch).abs().max() == 0


def test_negative_advantages_count_for_nothing_or_push_down(policy, batch):
    clamped_RT = gradient(made("a_lol_ref_free"), policy, batch)
    assert (clamped_RT[1] == 0).all() and (clamped_RT[0] <= 0).all()
    pushed_RT = gradient(made("a_lol_ref_free", clamp=False), policy, batch)
    torch.testing.assert_close(pushed_RT[1][batch.branch_RT[1] > 0], torch.tensor([0.3]))


@pytest.mark.parametrize("sampling, exponent", [("good_priority", 0), ("all_priority", 0), ("good_random", 1),
                                                ("all_random", 1), ("none", 1)])
def test_what_is_drawn_by_a_number_is_not_weighed_by_it_again(sampling, exponent):
    for name in ("wbc", "a_lol"):
        assert objectives.get(name)(sampling=sampling).weight_exponent == exponent
        assert objectives.get(name)(sampling=sampling, preset="published").weight_exponent == 1
        assert objectives.get(name)(sampling=sampling, weight_exponent=0.5).weight_exponent == 0.5
    weights_P = objectives.get("a_lol")(sampling="none").draw(KNOWN).loss_weights_P
    assert weights_P.tolist() == pytest.approx([0.3, 0, 0, 0, 0.5])


def test_a_power_of_0_leaves_only_which_ones_count(policy, batch):
    loss = objectives.get("a_lol_ref_free")(weight_exponent=0.0).compute_loss(policy, batch)
    assert loss.total.item() == pytest.approx(1.5)


def test_a_mean_over_tokens(policy, batch):
    assert made("wbc", reduction="mean").compute_loss(policy, batch).total.item() == pytest.approx(
        0.8 * 1.5 / 2 + 0.3 * 3.0)


@pytest.mark.parametrize("name", FAMILY)
def test_cutting_a_step_changes_nothing(name, policy, batch):
    whole = made(name).compute_loss(policy, batch)
    parts = [made(name).compute_loss(Fixed(policy.logps_RT[row:row + 1, :batch[[row]].input_ids_RT.shape[1]]),
                                     batch[[row]]) for row in range(2)]
    torch.testing.assert_close(whole.total, sum(part.total for part in parts))
    apart, together = Running(), Running()
    for part in parts:
        apart.add(part.metrics)
    together.add(whole.metrics)
    apart, together = apart.read(), together.read()
    assert apart.pop("advantage_dist") == together.pop("advantage_dist")
    assert apart == pytest.approx(together)


# ---- dropout, and what is drawn --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a_lol", "a_lol_seq", "r_lol"])
def test_the_ratio_is_taken_without_dropout(name, batch):
    """So it is 1 where policy and reference are equal, whatever dropout does to the likelihood."""
    noisy_RT = at_completions(batch, [[-2.0, -0.9], [-1.4]]).requires_grad_()
    policy = Fixed(noisy_RT, still_RT=batch.ref_logps_RT)
    numbers = Running()
    numbers.add(made(name).compute_loss(policy, batch).metrics)
    assert numbers.read()["ratio_avg"] == 1.0
    numbers.add(made(name, ratio="train").compute_loss(policy, batch).metrics)
    assert numbers.read()["ratio_avg"] != pytest.approx(1.0)


KNOWN = Known(np.array([0.9, 0.5, 0.7, 0.1, 0.6]), np.array([0.6, 0.6, 0.8, 0.8, 0.1]),
              np.array([True, False, True, False, True]))


@pytest.mark.parametrize("sampling, kept, weights", [
    ("none", [0, 2, 4], None), ("good_random", [0, 4], None), ("good_priority", [0, 4], [0.3, 0.5]),
    ("all_random", [0, 4], None), ("all_priority", [0, 4], [0.3, 0.5])])
def test_what_is_drawn_by_advantage(sampling, kept, weights):
    draw = objectives.get("a_lol")(sampling=sampling).draw(KNOWN)
    assert np.flatnonzero(draw.kept_P).tolist() == kept
    assert weights is None if draw.weights_P is None else draw.weights_P[draw.kept_P].tolist() == pytest.approx(weights)


def test_what_is_drawn_by_reward():
    draw = objectives.get("wbc")(sampling="all_priority").draw(KNOWN)
    assert draw.kept_P.all() and draw.weights_P.tolist() == KNOWN.rewards_P.tolist()
    assert np.flatnonzero(objectives.get("wbc")().draw(KNOWN).kept_P).tolist() == [0, 2, 4]


def test_the_control_keeps_as_many_by_reward_alone():
    draw = objectives.get("reward_threshold")().draw(KNOWN)
    assert np.flatnonzero(draw.kept_P).tolist() == [0, 2] and draw.weights_P is None


def test_steps_shrink_by_the_share_that_is_kept():
    assert objectives.get("a_lol")().draw(KNOWN).steps == 1
    assert objectives.get("a_lol")(steps="shrunk").draw(KNOWN).steps == pytest.approx(2 / 3)
    assert objectives.get("a_lol")(preset="published").draw(KNOWN).steps == pytest.approx(2 / 3)


def test_nll_takes_the_best_of_each_prompt_or_all():
    assert objectives.get("nll")().draw(KNOWN).kept_P.tolist() == KNOWN.good_P.tolist()
    assert objectives.get("nll")(completions="all").draw(KNOWN).kept_P.all()


def test_unit_rewards():
    train = np.concatenate([np.linspace(2, 4, 101), [100.0]])
    low, high = np.quantile(train, [0.01, 0.99])
    assert offline_weights.unit_rewards(np.array([low, high, -5.0, 50.0]), train).tolist() == [0, 1, 0, 1]
    assert offline_weights.unit_rewards(np.array([3.0]), np.array([3.0, 3.0])).tolist() == [0.5]


@pytest.mark.parametrize("name, options, message", [
    ("a_lol", {"clip": 1.5}, "clip: epsilon lies from 0 to 1"), ("r_gold", {"floor": -0.1}, "floor: a probability"),
    ("a_lol_kl", {"beta": -1.0}, "beta: must not be below 0"), ("a_lol", {"value_epochs": -1}, "value_epochs"),
    ("reward_threshold", {"value_prompts": 0}, "value_prompts"), ("a_lol", {"value_dropout": 1.0}, "value_dropout"),
    ("a_lol", {"value_learning_rate": 0.0}, "value_learning_rate"),
    ("wbc", {"weight_exponent": -1.0}, "weight_exponent")])
def test_options_out_of_range(name, options, message):
    with pytest.raises(ConfigError, match=message):
        objectives.get(name)(**options)


def test_nothing_left_is_said():
    poor = Known(np.array([0.1, 0.2]), np.array([0.5, 0.5]), np.array([True, True]))
    for name in ("a_lol", "reward_threshold"):
        with pytest.raises(ConfigError, match="no completion|nothing is left"):
            objectives.get(name)().draw(poor)
    with pytest.raises(ConfigError, match="some are below 0"):
        objectives.get("wbc")(rewards_as="raw").draw(Known(np.array([-1.0, 1.0]), poor.values_P, poor.good_P))


@pytest.mark.parametrize("preset", ["corrected", "published"])
@pytest.mark.parametrize("name", WITH_VALUE + ["reward_threshold", "wbc", "r_gold", "r_lol"])
def test_a_preset_leaves_no_option_open(name, preset):
    objective = objectives.get(name)(preset=preset)
    open_options = [key for key, value in vars(objective).items() if value is None and key != "clip"]
    assert not open_options
