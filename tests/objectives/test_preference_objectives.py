"""Preference methods on a batch: what the classes make of log-probabilities, and that a step's factoring changes
nothing."""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid, softplus

from apo.data.completions import laid_out
from apo.errors import ConfigError
from apo.metrics.running import Running
from apo.models.policy import CompletionStats, Policy
from apo.objectives.base import objectives, tell_of_step

PAIRS = ["dpo", "simpo", "orpo", "reward_model"]


class Fixed:
    """A policy that says what it is told to."""

    def __init__(self, logps_RN, lengths_RN, prompt_logps_R=None, rewards_RN=None):
        def as_tensor(values):
            return None if values is None else torch.tensor(values, dtype=torch.float32)

        self.stats = CompletionStats(*map(as_tensor, (logps_RN, lengths_RN, prompt_logps_R)))
        self.rewards_RN = as_tensor(rewards_RN)

    def completion_stats(self, batch, prompts=False):
        return self.stats

    def completion_rewards(self, batch):
        return self.rewards_RN


@pytest.fixture
def batch():
    rows = [([1, 2, 3], [[4, 5, 6], [7, 8]]), ([9], [[10], [11, 12, 13, 14]])]
    ref_logps_RN = torch.tensor([[-6.0, -5.0], [-2.0, -9.0]])
    return laid_out(rows, torch.tensor([[2.0, 0.5], [1.0, 0.0]]), ref_logps_RN, torch.ones(2, 2).bool())


POLICY = Fixed([[-5.0, -7.0], [-3.0, -8.0]], [[3, 2], [1, 4]], [-4.0, 0.0])


def numbers(metrics):
    running = Running()
    running.add(metrics)
    return running.read()


def test_dpo_by_hand(batch):
    """Log-ratios: 1 and -2 in the first row, -1 and 1 in the second."""
    loss = objectives.get("dpo")(beta=0.5).compute_loss(POLICY, batch)
    assert loss.total.item() == pytest.approx(math.log1p(math.exp(-1.5)) + math.log1p(math.exp(1.0)))
    assert numbers(loss.metrics) == pytest.approx({
        "rewards/chosen": 0.0, "rewards/rejected": -0.25, "rewards/margins": 0.25, "rewards/accuracies": 0.5,
        "logps/chosen": -4.0, "logps/rejected": -7.5, "completions/mean_length": 2.5})


def test_dpo_without_a_reference_is_as_though_it_were_uniform(batch):
    dpo = objectives.get("dpo")(beta=0.5, reference_free=True)
    assert not dpo.needs.reference
    expected = softplus(torch.tensor([-0.5 * 2.0, -0.5 * 5.0])).sum()
    torch.testing.assert_close(dpo.compute_loss(POLICY, batch).total, expected)


def test_dpo_with_a_likelihood_term(batch):
    plain, mixed = (objectives.get("dpo")(nll_weight=weight).compute_loss(POLICY, batch) for weight in (0.0, 0.25))
    assert (mixed.total - plain.total).item() == pytest.approx(0.25 * (5 / 3 + 3))
    assert numbers(mixed.metrics)["nll_loss"] == pytest.approx((5 / 3 + 3) / 2)


def test_simpo_by_hand(batch):
    """Means: -5/3 and -7/2 in the first row, -3 and -2 in the second."""
    loss = objectives.get("simpo")(beta=2.0, gamma=0.5).compute_loss(POLICY, batch)
    expected = -logsigmoid(torch.tensor([2 * (3.5 - 5 / 3) - 0.5, 2 * (2.0 - 3.0) - 0.5])).sum()
    torch.testing.assert_close(loss.total, expected)


def test_kto_by_hand(batch):
    """Log-ratios of the rows' own completions: 1, desirable, and -1, undesirable; of the mismatched ones: -2 and 1."""
    batch.rewards_RN = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    kto = objectives.get("kto")(beta=0.5, desirable_weight=1.5, undesirable_weight=0.5)
    loss = kto.compute_loss(POLICY, batch)
    assert kto.over_step(POLICY, batch).tolist() == [-1.0, 2.0]         # its mean is below 0: the baseline is 0
    below = 1 / (1 + math.exp(0.5))
    assert loss.total.item() == pytest.approx((1.5 + 0.5) * below)
    assert numbers(loss.metrics) == pytest.approx({
        "kl": 0.0, "rewards/chosen": 0.5, "rewards/rejected": -0.5, "logps/chosen": -5.0, "logps/rejected": -3.0,
        "completions/mean_length": 2.0})
    batch.over_step = torch.tensor([3.0, 2.0])                          # the whole step has a mean of 1.5
    loss = kto.compute_loss(POLICY, batch)
    expected = 1.5 / (1 + math.exp(0.5 * (1 - 1.5))) + 0.5 / (1 + math.exp(0.5 * (1.5 + 1)))
    assert loss.total.item() == pytest.approx(expected)


def test_orpo_by_hand(batch):
    def log_odds(mean):
        return mean - math.log(1 - math.exp(mean))

    odds = sum(0.1 * math.log1p(math.exp(log_odds(rejected) - log_odds(chosen)))
               for chosen, rejected in ((-5 / 3, -7 / 2), (-3.0, -2.0)))
    with_prompts = objectives.get("orpo")(beta=0.1).compute_loss(POLICY, batch)
    assert with_prompts.total.item() == pytest.approx(odds + (5 + 4) / (3 + 2) + 3 / 1)
    without = objectives.get("orpo")(beta=0.1, prompt_in_nll=False).compute_loss(POLICY, batch)
    assert without.total.item() == pytest.approx(odds + 5 / 3 + 3)


def test_a_reward_model_by_hand(batch):
    policy = Fixed([[0, 0], [0, 0]], [[1, 1], [1, 1]], rewards_RN=[[2.0, 1.0], [0.0, 1.0]])
    loss = objectives.get("reward_model")(centre=0.1).compute_loss(policy, batch)
    assert loss.total.item() == pytest.approx(math.log1p(math.exp(-1)) + 0.1 * 9 + math.log1p(math.exp(1)) + 0.1 * 1)
    assert numbers(loss.metrics) == pytest.approx({"accuracy": 0.5, "margin": 0.0, "mean_reward": 1.0,
                                                   "min_reward": 0.0, "max_reward": 2.0})
    margin = objectives.get("reward_model")(centre=0, use_margin=True).compute_loss(policy, batch)
    assert margin.total.item() == pytest.approx(math.log1p(math.exp(0.5)) + math.log1p(math.exp(2)))


def test_pro_of_two_is_a_softplus_and_a_likelihood(batch):
    loss = objectives.get("pro")(sft_weight=0.05).compute_loss(POLICY, batch)
    ranking = softplus(torch.tensor([1.5 * (-3.5 + 5 / 3), 1.0 * (-2.0 + 3.0)])).sum()
    torch.testing.assert_close(loss.total, ranking + 0.05 * (5 + 3))
    mean = objectives.get("pro")(sft_weight=0.05, sft_term="mean").compute_loss(POLICY, batch)
    torch.testing.assert_close(mean.total, ranking + 0.05 * (5 / 3 + 3))


@pytest.mark.parametrize("name", [*PAIRS, "pro", "kto"])
def test_the_factoring_of_a_step_changes_nothing(name, batch, tiny_llama):
    policy = Policy(tiny_llama(), value_head=True).eval()
    torch.nn.init.normal_(policy.value_head.linear.weight)
    objective = objectives.get(name)()
    if name == "kto":       # mismatched log-ratios far above 0 in one row and below it in the other
        batch.ref_logps_RN = torch.tensor([[-20.0, -40.0], [-5.0, -20.0]])

    def gradient(parts):
        policy.zero_grad()
        if len(parts) > 1:
            tell_of_step(objective, policy, parts)
        losses = [objective.compute_loss(policy, part).total for part in parts]
        sum(losses).backward()
        return sum(losses).detach(), torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])

    (whole, of_whole), (split, of_parts) = gradient([batch]), gradient(batch.split(1))
    torch.testing.assert_close(whole, split, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(of_whole, of_parts, rtol=1e-4, atol=1e-5)
    assert objective.count_items(batch) == 2 == sum(objective.count_items(part) for part in batch.split(1))


@pytest.mark.parametrize("options, said", [({"loss_type": "sigmiod"}, 'no loss "sigmiod". Did you mean "sigmoid"'),
                                           ({"beta": 0.0}, "beta: must be above 0")])
def test_options_that_make_no_sense(options, said):
    with pytest.raises(ConfigError, match=said):
        objectives.get("dpo")(**options)
