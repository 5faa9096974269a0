"""Bandits whose optimum is known: of reward - beta KL(pi || ref) it is pi* = ref exp(r / beta) / Z.

Two prompts, six answers of one token, a table of logits.  Answers are drawn systematically, so that a round holds each
in proportion to its probability, up to one, and what is left of chance is which of them make a group.  Methods whose
gradient is another reach a fixed point of their own, which is worked out here and is not pi*.
"""

import numpy as np
import pytest
import torch
from torch import nn

from apo.data.experience import ExperienceBatch
from apo.models.policy import TokenStats
from apo.objectives.base import objectives
from apo.objectives.online import Round

BETA = 0.5
REWARDS_PV = torch.tensor([[1.0, 0.2, 0.0, 0.6, 0.9, 0.4], [0.0, 0.1, 1.0, 0.3, 0.2, 0.8]], dtype=torch.float64)
REF_PV = torch.tensor([[0.05, 0.3, 0.25, 0.2, 0.1, 0.1], [0.4, 0.25, 0.05, 0.15, 0.1, 0.05]], dtype=torch.float64)
NEAR = 0.01
"""Total variation that counts as reached."""
GROUP, DRAWS = 8, 1024


def tilted(beta=BETA):
    """pi*."""
    pi_PV = REF_PV * (REWARDS_PV / beta).exp()
    return pi_PV / pi_PV.sum(1, keepdim=True)


def without_correction(beta):
    """Where E[r grad log pi] = beta grad KL(ref || pi): pi = beta ref / (c - r), c by bisection."""
    found = []
    for reward_V, ref_V in zip(REWARDS_PV, REF_PV):
        low, high = reward_V.max(), reward_V.max() + beta
        for _ in range(100):
            c = (low + high) / 2
            low, high = (c, high) if (beta * ref_V / (c - reward_V)).sum() > 1 else (low, c)
        found.append(beta * ref_V / (c - reward_V))
    return torch.stack(found)


def distance(one_PV, other_PV):
    """Total variation, of the prompt where it is larger."""
    return float((one_PV - other_PV).abs().sum(1).max() / 2)


class Table(nn.Module):
    """A policy of one-token answers: the prompt is token 0 or 1, the answer 0 to 5."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.logits_PV = nn.Parameter(REF_PV.log().float())
        self.values_P = nn.Parameter(torch.zeros(2))

    def completion_tokens(self, batch, want=(), other=None, detach_values=False):
        prompts_R, answers_R = batch.input_ids_RT.unbind(1)
        logps_RV = self.logits_PV[prompts_R].log_softmax(1)
        before_R = torch.zeros(len(batch))

        def placed(x_R):
            return torch.stack([before_R, x_R], 1)

        return TokenStats(placed(logps_RV.gather(1, answers_R[:, None])[:, 0]), batch.branch_RT > 0,
                          placed(self.values_P[prompts_R]), placed(-(logps_RV.exp() * logps_RV).sum(1)))

    @property
    def probabilities_PV(self):
        return self.logits_PV.detach().double().softmax(1)


def sampled(policy, rng):
    """(prompt of each answer, answer), [C]: of each prompt DRAWS, those of a group side by side."""
    answers = []
    for pi_V in policy.probabilities_PV:
        places = (np.arange(DRAWS) + rng.random()) / DRAWS
        drawn = np.searchsorted(pi_V.cumsum(0).numpy(), places).clip(max=len(pi_V) - 1)
        answers.append(rng.permutation(drawn))
    return np.repeat([0, 1], DRAWS), np.concatenate(answers)


def round_of(policy, prompts_C, answers_C):
    with torch.no_grad():
        logps_C = policy.logits_PV.log_softmax(1)[prompts_C, answers_C]
        values_C = policy.values_P[prompts_C]
    everything = np.ones(len(answers_C), bool)
    return Round(np.arange(len(answers_C)) // GROUP, REWARDS_PV[prompts_C, answers_C].numpy(), everything, everything,
                 torch.ones(len(answers_C), 1).bool(), logps_C[:, None],
                 REF_PV.log().float()[prompts_C, answers_C][:, None], values_C[:, None])


def batch_of(round, lesson, prompts_C, answers_C):
    ids_RT = torch.from_numpy(np.stack([prompts_C, answers_C], 1))
    nothing_RN = torch.zeros(len(ids_RT), 1)
    batch = ExperienceBatch(ids_RT, torch.tensor([[0, 1]]).expand_as(ids_RT), nothing_RN, nothing_RN == 0, nothing_RN)
    there = {"old_logps": round.logps_CT, "old_values": round.values_CT, "ref_logps": round.ref_logps_CT}
    for name, x_CT in (there | lesson.tokens).items():
        setattr(batch, f"{name}_RT", nn.functional.pad(x_CT, (1, 0)))
    return batch


def trained(name, seed=0, rounds=120, epochs=1, minibatches=1, learning_rate=0.1, **options):
    """Adam, its learning rate falling to 0: the distribution that is left."""
    objective, policy, rng, state = objectives.get(name)(**options), Table(), np.random.default_rng(seed), {}
    optimiser = torch.optim.Adam(policy.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, rounds)
    for _ in range(rounds):
        drawn = sampled(policy, rng)
        round = round_of(policy, *drawn)
        lesson = objective.learn(round, state)
        state, batch = lesson.state, batch_of(round, lesson, *drawn)
        for _ in range(epochs):
            for part in torch.as_tensor(rng.permutation(len(batch))).chunk(minibatches):
                optimiser.zero_grad()
                (objective.compute_loss(policy, batch[part]).total / objective.count_items(batch[part])).backward()
                optimiser.step()
        schedule.step()
    return policy.probabilities_PV


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name, options", [
    ("ppo", {"epochs": 2, "minibatches": 2}), ("rloo", {}), ("reinforce", {}),
    ("grpo", {"scale": "none", "kl_in": "reward"}), ("grpo", {"scale": "group", "kl_in": "reward"}),
])
def test_the_optimum_is_reached(name, options, seed):
    assert distance(REF_PV, tilted()) > 0.25
    assert distance(trained(name, seed, beta=BETA, **options), tilted()) < NEAR


def test_the_distance_in_the_loss_of_grpo_has_a_higher_price():
    """The mean of a group holds the completion itself, which takes (G - 1) / G of the gradient of the reward, and none
    of that of the distance: beta is as though it were G / (G - 1) times as large."""
    own = tilted(BETA * GROUP / (GROUP - 1))
    assert distance(own, tilted()) > 4 * NEAR
    assert distance(trained("grpo", beta=BETA, scale="none"), own) < NEAR


def test_uncorrected_it_is_the_other_kl():
    own = without_correction(BETA * GROUP / (GROUP - 1))
    assert distance(own, tilted()) > 10 * NEAR
    assert distance(trained("grpo", beta=BETA, scale="none", kl_corrected=False), own) < NEAR


def test_over_the_deviation_of_the_group_the_distance_in_the_loss_is_hardly_felt():
    """Rewards that are divided by their deviation do not get small as there is less to gain."""
    assert distance(trained("grpo", beta=BETA), tilted()) > 0.5
