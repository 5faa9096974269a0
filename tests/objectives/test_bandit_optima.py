"""Bandits whose answer is known: two prompts, responses of one token out of four, a table of rewards.

E[r] - beta KL(pi || ref) is largest at pi ~ ref exp(r / beta).  A policy that is a table is trained on sampled rounds
by what each method says of them (`learn`, `compute_loss`), and has to get there.  Methods with another optimum have to
get to their own, which is computed without a sample; those without one run off.
"""

from dataclasses import dataclass, field
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from apo.data.experience import ExperienceBatch
from apo.models.policy import CompletionStats, TokenStats
from apo.objectives.base import objectives
from apo.objectives.online import Round

REWARDS_PA = torch.tensor([[1.0, 0.2, -0.5, 0.0], [-0.3, 0.6, 0.4, 0.5]])
REF_PA = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.4, 0.1]])
BETA = 0.5
OPTIMUM_PA = (REF_PA.log() + REWARDS_PA / BETA).softmax(1)
GROUPS, GROUP = 256, 4
"""Of a round: 1,024 samples, in groups of one prompt."""
SEEDS = range(5)
T_OF_FIVE = 2.776
"""Half a 95 % interval over five seeds, in standard errors."""
TOLERANCE = 0.005
"""Total variation.  The shares of the four tokens among a round's samples of a prompt are themselves off by 0.03."""


class Table(nn.Module):
    """What losses ask of a policy: log p from a table of logits, V from a table of prompts."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(REF_PA.log())
        self.values = nn.Parameter(torch.zeros(len(REF_PA)))

    def logps_PA(self):
        return self.logits.log_softmax(1)

    def completion_tokens(self, batch, want=(), other=None, detach_values=False):
        prompts_R, tokens_R1 = batch.input_ids_RT[:, 0], batch.input_ids_RT[:, 1:]
        logps_RA = self.logps_PA()[prompts_R]
        entropy_R = -(logps_RA.exp() * logps_RA).sum(1)
        return TokenStats(on_token(logps_RA.gather(1, tokens_R1)[:, 0]), batch.branch_RT > 0,
                          values_BT=on_token(self.values[prompts_R]), entropy_BT=on_token(entropy_R))

    def completion_stats(self, batch):
        prompts_R, tokens_RN = batch.input_ids_RT[:, 0], batch.input_ids_RT[:, 1:]
        return CompletionStats(self.logps_PA()[prompts_R].gather(1, tokens_RN), torch.ones(tokens_RN.shape))


def on_token(values_R):
    """[R, 2]: behind the prompt's one token."""
    return nn.functional.pad(values_R[:, None], (1, 0))


@dataclass
class Play:
    """One method from the reference on, with SGD whose rate falls to 0."""

    name: str
    options: dict
    seed: int
    rate: float = 1.0
    rounds: int = 80
    epochs: int = 2
    minibatches: int = 2
    table: Table = field(default_factory=Table)
    rewards_PA: torch.Tensor = field(default_factory=lambda: REWARDS_PA)

    def run(self):
        """The policy that comes of it, [P, A]."""
        self.random = torch.Generator().manual_seed(self.seed)
        objective = objectives.get(self.name)(**{"beta": BETA, **self.options})
        optimiser, state = torch.optim.SGD(self.table.parameters()), {}
        for number in range(self.rounds):
            for group in optimiser.param_groups:
                group["lr"] = self.rate * (1 - number / self.rounds)
            self.sample()
            lesson = objective.learn(self.round, state)
            state = lesson.state
            objective.take_up(state)
            for rows in self.minibatches_of(lesson):
                batch = self.batch(lesson, rows)
                optimiser.zero_grad()
                (objective.compute_loss(self.table, batch).total / objective.count_items(batch)).backward()
                optimiser.step()
        return self.table.logps_PA().exp().detach()

    @torch.no_grad()
    def sample(self):
        prompts_C = torch.arange(len(REF_PA)).repeat_interleave(GROUPS * GROUP // len(REF_PA))
        logps_CA, refs_CA = self.table.logps_PA()[prompts_C], REF_PA.log()[prompts_C]
        tokens_C1 = torch.multinomial(logps_CA.exp(), 1, generator=self.random)
        some = np.ones(len(prompts_C), bool)
        self.prompts_C, self.tokens_C = prompts_C, tokens_C1[:, 0]
        self.round = Round(
            np.arange(GROUPS).repeat(GROUP), self.rewards_PA[prompts_C, self.tokens_C].double().numpy(), some, some,
            torch.ones(tokens_C1.shape).bool(), logps_CA.gather(1, tokens_C1), refs_CA.gather(1, tokens_C1),
            self.table.values[prompts_C][:, None], (logps_CA.exp() * (logps_CA - refs_CA)).sum(1, keepdim=True),
            self.tokens_C.numpy())

    def minibatches_of(self, lesson):
        for _ in range(self.epochs):
            order = torch.randperm(len(lesson.rows_PN), generator=self.random)
            yield from torch.from_numpy(lesson.rows_PN)[order].chunk(self.minibatches)

    def batch(self, lesson, rows_RN):
        ids_RT = torch.cat([self.prompts_C[rows_RN[:, :1]], self.tokens_C[rows_RN]], 1)
        ref_C = torch.zeros(len(self.tokens_C)) if lesson.ref_logps_C is None else lesson.ref_logps_C
        batch = ExperienceBatch(
            ids_RT, torch.arange(ids_RT.shape[1]).expand_as(ids_RT),
            torch.from_numpy(self.round.scores_C).float()[rows_RN], torch.ones(rows_RN.shape).bool(), ref_C[rows_RN])
        if rows_RN.shape[1] == 1:
            known = {"old_logps": self.round.logps_CT, "ref_logps": self.round.ref_logps_CT,
                     "old_values": self.round.values_CT, **lesson.tokens}
            for name, values_CT in known.items():
                setattr(batch, f"{name}_RT", on_token(values_CT[rows_RN[:, 0], 0]))
        return batch


def apart(pi_PA, from_PA=OPTIMUM_PA):
    """Total variation, the larger of both prompts."""
    return 0.5 * (pi_PA - from_PA).abs().sum(1).max().item()


def of_seeds(name, options, **more):
    return [Play(name, options, seed, **more).run() for seed in SEEDS]


def interval(pis, from_PA=OPTIMUM_PA):
    """(lower, upper): a 95 % interval of the distance over seeds."""
    found = np.array([apart(pi_PA, from_PA) for pi_PA in pis])
    half = T_OF_FIVE * found.std(ddof=1) / np.sqrt(len(found))
    return found.mean() - half, found.mean() + half


def test_the_way_is_long_enough_to_tell():
    assert apart(REF_PA) > 0.3 and OPTIMUM_PA.min() > 0.05


@pytest.mark.parametrize("name, options", [
    ("ppo", {"whiten_advantages": False}), ("ppo", {}), ("rloo", {}), ("reinforce", {}),
    ("reinforce", {"baseline": "running"}), ("grpo", {"scale": "none", "kl_in": "reward"}),
    ("grpo", {"scale": "group", "kl_in": "reward"})])
def test_policy_gradients_with_the_distance_in_the_reward_reach_the_optimum(name, options):
    """Also where advantages are whitened or divided by a prompt's deviation: the optimum of each prompt is where they
    are all 0.  (A table shares nothing between prompts; in a model, dividing makes some count more than others.)"""
    assert interval(of_seeds(name, options))[1] < TOLERANCE


def test_online_dpo_with_bradley_terry_labels_reaches_it():
    assert interval(of_seeds("online_dpo", {"labels": "bradley_terry"}, rate=6.0))[1] < TOLERANCE


# ---- other optima ----------------------------------------------------------------------------------------------------

def forward_kl_optimum(beta):
    """Of E[r] - beta KL(ref || pi): pi = beta ref / (c - r), c such that it adds up to 1 (Grill et al. 2020)."""
    found = []
    for ref_A, rewards_A in zip(REF_PA.double(), REWARDS_PA.double()):
        low, high = rewards_A.max(), rewards_A.max() + beta
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if (beta * ref_A / (middle - rewards_A)).sum() > 1 else (low, middle)
        found.append(beta * ref_A / (high - rewards_A))
    return torch.stack(found)


def test_grpo_with_k3_in_the_loss_has_the_optimum_of_the_other_kl():
    """The gradient of k3 at samples of pi is that of KL(ref || pi).  And since a mean over four that holds the sample
    itself takes a quarter of its reward away, but nothing of the distance, beta counts for 4/3 of itself."""
    expected_PA = forward_kl_optimum(BETA * GROUP / (GROUP - 1))
    assert expected_PA.sum(1).tolist() == pytest.approx([1, 1]) and apart(expected_PA) > 0.07
    found = of_seeds("grpo", {"scale": "none", "kl_corrected": False})
    assert interval(found, expected_PA)[1] < 2 * TOLERANCE
    assert interval(found, forward_kl_optimum(BETA))[0] > 10 * TOLERANCE and interval(found)[0] > 0.07


def expected_pull_A(pi_A, rewards_A):
    """E over groups of four of A / deviation d log pi / d logits, all 256 groups one by one."""
    groups_G4 = torch.tensor(list(product(range(len(pi_A)), repeat=GROUP)))
    rewards_G4 = rewards_A[groups_G4]
    scaled_G4 = (rewards_G4 - rewards_G4.mean(1, keepdim=True)) / (rewards_G4.std(1, keepdim=True) + 1e-4)
    chances_G = pi_A[groups_G4].prod(1)
    pulls_GA = (scaled_G4[:, :, None] * (nn.functional.one_hot(groups_G4, len(pi_A)) - pi_A)).mean(1)
    return (chances_G[:, None] * pulls_GA).sum(0)


def scaled_optimum():
    found = []
    for ref_A, rewards_A in zip(REF_PA.double(), REWARDS_PA.double()):
        logits_A = ref_A.log()
        for _ in range(600):
            pi_A = logits_A.softmax(0)
            logits_A = logits_A + expected_pull_A(pi_A, rewards_A) + BETA * (ref_A - pi_A)
        assert (expected_pull_A(pi_A, rewards_A) + BETA * (ref_A - pi_A)).abs().max() < 1e-6
        found.append(pi_A)
    return torch.stack(found)


def test_grpo_as_published_has_an_optimum_of_its_own():
    """Divided by the deviation, rewards count for more where they differ little: nearly half of the probability stands
    elsewhere.  Where it does is computed by exact gradients."""
    expected_PA = scaled_optimum()
    assert apart(expected_PA) > 0.4
    found = of_seeds("grpo", {"kl_corrected": False})
    assert interval(found, expected_PA)[1] < 2 * TOLERANCE and interval(found)[0] > 0.4


BEST_PA = nn.functional.one_hot(REWARDS_PA.argmax(1), REWARDS_PA.shape[1])


def test_online_dpo_with_hard_labels_runs_off_to_the_best():
    early_PA, late_PA = (Play("online_dpo", {}, 0, rate=0.5, rounds=rounds).run() for rounds in (50, 250))
    assert apart(late_PA, BEST_PA) < 0.5 * apart(early_PA, BEST_PA) and apart(late_PA) > 0.4


def test_ppo_with_the_exact_kl_for_a_reward_is_not_held_back_at_all():
    """KL at a state is the same whatever token is written there: as a reward it says nothing of that token.  What it
    says of tokens before it, a response of one does not have."""
    assert apart(Play("ppo", {"kl": "full"}, 0).run(), BEST_PA) < TOLERANCE


def test_k3_as_a_reward_leads_away_from_the_reference():
    """Where rewards are equal, pi = ref is best.  k1 leads back to it.  With k3, whose mean is right but whose own
    gradient a reward leaves out, what is rarer than in the reference costs more, and so becomes rarer still."""
    tilted_PA = (REF_PA.log() + torch.tensor([0.5, -0.5, 0.5, -0.5])).softmax(1)
    found = {}
    for kl in ("k1", "k3"):
        play = Play("ppo", {"kl": kl, "whiten_advantages": False}, 0, rewards_PA=torch.zeros(REWARDS_PA.shape))
        with torch.no_grad():
            play.table.logits.copy_(tilted_PA.log())
        found[kl] = apart(play.run(), REF_PA) / apart(tilted_PA, REF_PA)
    assert found["k1"] < 0.1 and found["k3"] > 1.3
    assert apart(Play("ppo", {"kl": "k3"}, 0).run()) > 0.3
