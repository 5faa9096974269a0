"""Methods that make preferences of their own samples: what they learn of a round, and what their losses are then."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from apo.data.completions import laid_out
from apo.errors import ConfigError
from apo.metrics.running import Running
from apo.models.policy import CompletionStats, Policy
from apo.objectives.base import NothingToDraw, objectives
from apo.objectives.online import Round

NAN = math.nan
PROMPTS = [[1, 2, 3], [9, 8]]
IDS = [[4, 5, 6], [7, 7], [10, 11, 12, 13], [4, 5, 6], [20], [21, 22, 23], [24, 25], [26]]
"""Of eight completions, four of each prompt; the first and the fourth are one text."""


def numbers(metrics):
    running = Running()
    running.add(metrics)
    return running.read()


def as_batch(rows_PN, rewards_C=None, ref_logps_C=None):
    """Rows of a lesson as the rows of a batch."""
    rows_PN = np.asarray(rows_PN)
    rewards_C = torch.zeros(8) if rewards_C is None else torch.as_tensor(rewards_C).float().nan_to_num()
    ref_logps_C = torch.zeros(8) if ref_logps_C is None else ref_logps_C
    rows = [(PROMPTS[row[0] // 4], [IDS[completion] for completion in row]) for row in rows_PN]
    places = torch.as_tensor(rows_PN)
    return laid_out(rows, rewards_C[places], ref_logps_C[places], torch.ones(places.shape).bool())


def make_round(scores, logps_CT, ref_logps_CT=None, sampled=(True,) * 8, finished=(True,) * 8):
    mask_CT = torch.tensor([[place < len(ids) for place in range(4)] for ids in IDS])
    texts_C = np.array([IDS.index(ids) for ids in IDS])
    return Round(np.repeat([0, 1], 4), np.array(scores, float), np.array(finished), np.array(sampled), mask_CT,
                 logps_CT * mask_CT, None if ref_logps_CT is None else ref_logps_CT * mask_CT, texts_C=texts_C)


def placed(stats_logps_RT, batch):
    """[C, T] from rows of one completion."""
    logps_CT = torch.zeros(len(batch), 4)
    for row, branch_T in enumerate(batch.branch_RT):
        logps_CT[row, :int((branch_T > 0).sum())] = stats_logps_RT[row][branch_T > 0]
    return logps_CT


def begun(policy, **more):
    """A round of a real policy: what it says of each completion."""
    batch = as_batch([[completion] for completion in range(8)])
    with torch.no_grad():
        return make_round(logps_CT=placed(policy.completion_tokens(batch).logps_BT, batch), **more)


@pytest.fixture
def policy(tiny_llama):
    return Policy(tiny_llama()).eval()


class Fixed:
    """A policy that says what it is told to."""

    def __init__(self, logps_RN, lengths_RN):
        self.stats = CompletionStats(torch.as_tensor(logps_RN), torch.as_tensor(lengths_RN))

    def completion_stats(self, batch):
        return self.stats


SCORES = [1.0, 4.0, 0.5, 1.0, 2.0, 2.0, NAN, 3.0]
LOGPS, REFS = (torch.arange(32.0).reshape(8, 4) * -scale for scale in (0.1, 0.25))


# ---- against which reference -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["online_dpo", "external_reward_dpo", "self_rewarding"])
def test_the_best_against_the_worst_and_the_reference_of_the_method(name):
    """First prompt: 4.0 against 0.5.  Second: 3.0 against the first of two 2.0."""
    objective = objectives.get(name)()
    round = make_round(SCORES, LOGPS, REFS if objective.needs.reference_model else None)
    lesson = objective.learn(round, {})
    assert lesson.rows_PN.tolist() == [[1, 2], [7, 4]] and lesson.state == {} and lesson.tokens == {}
    expected = round.ref_logps_CT if name == "online_dpo" else round.logps_CT
    torch.testing.assert_close(lesson.ref_logps_C, expected.sum(1))
    assert lesson.ref_logps_C[1].item() == pytest.approx(-(4 + 5) * (0.25 if name == "online_dpo" else 0.1))
    read = numbers(lesson.metrics)
    assert read["pairs/kept"] == 1 and read["pairs/gap"] == (3.5 + 1) / 2 and read["pairs/length_difference"] == -1
    assert objective.needs.reference_model == (name == "online_dpo") and objective.needs.view == "rollout"
    assert objective.generations == 2 and not objective.with_given and not objective.needs.reference


def test_self_rewarding_tells_how_many_judgements_could_be_read():
    lesson = objectives.get("self_rewarding")().learn(make_round(SCORES, LOGPS), {})
    read = numbers(lesson.metrics)
    known = [1, 4, 0.5, 1, 2, 2, 3]
    assert read["judge/parsed"] == 7 / 8 and read["judge/reward"] == pytest.approx(np.mean(known))
    assert read["judge/std"] == pytest.approx(np.std(known, ddof=1))


@pytest.mark.parametrize("name", ["online_dpo", "external_reward_dpo", "self_rewarding", "best_of_n"])
def test_a_round_without_a_preference_is_nothing_to_learn_from(name):
    for scores, said in (([2.0] * 8, "2 are tied"), ([NAN] * 8, "2 lack a known reward")):
        with pytest.raises(NothingToDraw, match=said):
            objectives.get(name)().learn(make_round(scores, LOGPS, REFS), {})


def test_learning_is_pure():
    for name in ("online_dpo", "external_reward_dpo", "self_rewarding", "best_of_n", "spin"):
        round, state = make_round(SCORES, LOGPS, REFS, [False] + [True] * 3 + [False] + [True] * 3), {"rounds": 1}
        objective = objectives.get(name)()
        first, second = objective.learn(round, state), objective.learn(round, state)
        assert first.rows_PN.tolist() == second.rows_PN.tolist() and numbers(first.metrics) == numbers(second.metrics)
        assert state == {"rounds": 1} and first.state == second.state


def test_pairs_all_gap_and_length_are_handed_on():
    round = make_round([1.0, 4.0, 0.5, 1.0, 2.0, 2.5, NAN, 3.0], LOGPS)
    kind = objectives.get("external_reward_dpo")
    assert len(kind(pairs="all").learn(round, {}).rows_PN) == 3 + 3
    assert kind(minimum_gap=2.0).learn(round, {}).rows_PN.tolist() == [[1, 2]]
    # rewards less lengths: -2, 2, -3.5 and 1, -0.5, 2
    assert kind(length_penalty=1.0).learn(round, {}).rows_PN.tolist() == [[1, 2], [7, 5]]
    assert kind(length_tolerance=1.0).learn(round, {}).rows_PN.tolist() == [[1, 2], [7, 4]]


# ---- the losses ------------------------------------------------------------------------------------------------------

def moved(policy):
    """Some steps away from where the round began."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    return policy


def loss_and_gradient(objective, policy, batch):
    policy.zero_grad()
    loss = objective.compute_loss(policy, batch)
    loss.total.backward()
    return loss.total.detach(), torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None]), loss


SAMPLED = [False, True, True, True, False, True, True, True]


@pytest.mark.parametrize("name", ["external_reward_dpo", "spin", "self_rewarding"])
def test_it_is_dpo_on_these_pairs_with_the_policy_as_the_round_began(name, policy):
    """log 2 before the first step, and DPO's loss, gradient and metrics behind it."""
    objective, dpo = objectives.get(name)(beta=0.3), objectives.get("dpo")(beta=0.3)
    round = begun(policy, scores=SCORES, sampled=SAMPLED if name == "spin" else (True,) * 8)
    lesson = objective.learn(round, {})
    objective.take_up(lesson.state)
    batch = as_batch(lesson.rows_PN, round.scores_C, lesson.ref_logps_C)
    first = objective.compute_loss(policy, batch).total.item()
    assert first == pytest.approx(len(batch) * math.log(2), abs=1e-4)
    moved(policy)
    (total, gradient, loss), (expected, of_dpo, other) = (loss_and_gradient(each, policy, batch)
                                                          for each in (objective, dpo))
    assert total.item() != pytest.approx(first, abs=1e-3)
    torch.testing.assert_close(total, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradient, of_dpo, rtol=0, atol=0)
    assert numbers(loss.metrics) == numbers(other.metrics)
    assert objective.count_items(batch) == len(batch) == dpo.count_items(batch)


def test_every_loss_of_dpo_is_one_of_online_dpo():
    batch = as_batch([[1, 2], [7, 4]], SCORES, torch.arange(8.0) * -1)
    fixed = Fixed([[-5.0, -7.0], [-3.0, -8.0]], [[2.0, 4.0], [1.0, 1.0]])
    for options in ({"loss_type": "ipo"}, {"label_smoothing": 0.1}, {"nll_weight": 0.5}):
        online, dpo = (objectives.get(name)(beta=0.5, **options) for name in ("online_dpo", "dpo"))
        torch.testing.assert_close(online.compute_loss(fixed, batch).total, dpo.compute_loss(fixed, batch).total)


def test_bradley_terry_labels_by_hand():
    """Log-ratios: -5 + 1 and -7 + 2, lead 1; -3 + 7 and -8 + 4, lead 8.  Rewards 4, 0.5 and 3, 2."""
    batch = as_batch([[1, 2], [7, 4]], SCORES, torch.arange(8.0) * -1)
    fixed = Fixed([[-5.0, -7.0], [-3.0, -8.0]], [[2.0, 4.0], [1.0, 1.0]])

    def expected(leads, gaps):
        return sum(-1 / (1 + math.exp(-gap)) * float(logsigmoid(torch.tensor(0.5 * lead)))
                   - 1 / (1 + math.exp(gap)) * float(logsigmoid(torch.tensor(-0.5 * lead)))
                   for lead, gap in zip(leads, gaps))
    soft = objectives.get("online_dpo")(beta=0.5, labels="bradley_terry").compute_loss(fixed, batch)
    assert soft.total.item() == pytest.approx(expected([1, 8], [3.5, 1]), rel=1e-5)
    shorter = objectives.get("online_dpo")(beta=0.5, labels="bradley_terry", length_penalty=0.25)
    assert shorter.compute_loss(fixed, batch).total.item() == pytest.approx(expected([1, 8], [4, 1]), rel=1e-5)


class Bandit:
    """Four completions of one prompt, with a probability each."""

    def __init__(self, logits_A, pairs_P2):
        self.logits_A, self.pairs_P2 = logits_A, pairs_P2

    def completion_stats(self, batch):
        return CompletionStats(self.logits_A.log_softmax(0)[self.pairs_P2], torch.ones(self.pairs_P2.shape))


def test_with_bradley_terry_labels_the_optimum_is_that_of_rewards_with_a_kl():
    """pi ~ ref exp(r / beta), by exact gradients over all pairs; with hard labels it runs off to the best one."""
    rewards_A, beta = torch.tensor([1.0, 0.2, -0.5, 0.0]), 0.7
    ref_A = torch.tensor([0.1, 0.2, 0.3, 0.4])
    pairs_P2 = torch.tensor([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [3, 2]])
    expected = (ref_A.log() + rewards_A / beta).softmax(0)

    def distance(labels, steps=3000):
        logits_A = ref_A.log().clone().requires_grad_()
        objective = objectives.get("online_dpo")(beta=beta, labels=labels)
        batch = laid_out([([1], [[2], [3]])] * 6, rewards_A[pairs_P2], ref_A.log()[pairs_P2], torch.ones(6, 2).bool())
        optimiser = torch.optim.Adam([logits_A], lr=0.02)
        for _ in range(steps):
            optimiser.zero_grad()
            objective.compute_loss(Bandit(logits_A, pairs_P2), batch).total.backward()
            optimiser.step()
        return 0.5 * (logits_A.detach().softmax(0) - expected).abs().sum().item()
    assert distance("bradley_terry") < 1e-3
    assert distance("hard", 1000) > 0.3


# ---- best of n -------------------------------------------------------------------------------------------------------

def test_best_of_n_is_the_likelihood_of_the_best(policy):
    objective = objectives.get("best_of_n")()
    lesson = objective.learn(make_round(SCORES, LOGPS), {})
    assert lesson.rows_PN.tolist() == [[1], [7]] and lesson.ref_logps_C is None
    assert numbers(lesson.metrics)["pairs/kept"] == 1
    batch = as_batch(lesson.rows_PN)
    loss = objective.compute_loss(policy, batch)
    nll = 0.0
    for prompt, completion in ((PROMPTS[0], IDS[1]), (PROMPTS[1], IDS[7])):
        ids = torch.tensor([prompt + completion])
        logps = policy.model(input_ids=ids).logits[0].log_softmax(-1)
        nll -= sum(logps[len(prompt) + t - 1, token].item() for t, token in enumerate(completion))
    assert loss.total.item() == pytest.approx(nll, rel=1e-5) and objective.count_items(batch) == 3
    assert numbers(loss.metrics) == pytest.approx({"lm_loss": nll / 3, "completions/mean_length": 1.5}, rel=1e-5)
    assert not objective.needs.reference_model and objective.generations == 2
    level = objectives.get("best_of_n")(length_tolerance=1.0).learn(
        make_round([4.5, 5.0, 0.0, 4.5, 2.0, 2.5, 0.0, 3.0], LOGPS), {})
    assert level.rows_PN.tolist() == [[1], [7]]


# ---- spin ------------------------------------------------------------------------------------------------------------

def test_spin_pairs_the_data_with_the_samples():
    """The first completion of each prompt is the data's; the fourth is a sample that says the same."""
    spin = objectives.get("spin")()
    assert spin.with_given and spin.generations == 1 and not spin.needs.reference_model
    finished = [True] * 5 + [False, True, True]
    lesson = spin.learn(make_round([NAN] * 8, LOGPS, sampled=SAMPLED, finished=finished), {})
    assert lesson.rows_PN.tolist() == [[0, 1], [0, 2], [4, 5], [4, 6], [4, 7]]
    torch.testing.assert_close(lesson.ref_logps_C, make_round([NAN] * 8, LOGPS).logps_CT.sum(1))
    assert numbers(lesson.metrics) == pytest.approx({
        "pairs/kept": 5 / 6, "pairs/identical": 1 / 6, "pairs/without_given": 0, "pairs/unfinished": 1 / 5,
        "pairs/length_difference": (1 - 1 - 2 - 1 + 0) / 5})
    assert lesson.state == {"rounds": 1} and spin.learn(make_round([NAN] * 8, LOGPS, sampled=SAMPLED),
                                                        {"rounds": 4}).state == {"rounds": 5}


def test_spin_without_data_or_with_nothing_but_data():
    alone = [True] * 4 + SAMPLED[4:]
    lesson = objectives.get("spin")().learn(make_round([NAN] * 8, LOGPS, sampled=alone), {})
    assert lesson.rows_PN.tolist() == [[4, 5], [4, 6], [4, 7]]
    assert numbers(lesson.metrics)["pairs/without_given"] == 4 / 7
    second = [True, False, False, True] + [True] * 4      # the first given one counts, here the second completion
    assert objectives.get("spin")().learn(make_round([NAN] * 8, LOGPS, sampled=second), {}).rows_PN.tolist() == [
        [1, 0], [1, 3]]
    with pytest.raises(NothingToDraw, match="of 8 samples, 8 answer a prompt without"):
        objectives.get("spin")().learn(make_round([NAN] * 8, LOGPS), {})


def test_the_betas_of_spin_are_of_one_round_each_and_survive_a_resume():
    spin, batch = objectives.get("spin")(beta=[0.1, 0.2, 5.0]), as_batch([[0, 1]], ref_logps_C=torch.zeros(8))
    fixed = Fixed([[-1.0, -2.0]], [[3.0, 2.0]])
    state = {}
    for beta in (0.1, 0.2, 5.0, 5.0):
        state = spin.learn(make_round([NAN] * 8, LOGPS, sampled=SAMPLED), state).state
        spin.take_up(state)
        assert spin.compute_loss(fixed, batch).total.item() == pytest.approx(math.log1p(math.exp(-beta)))
    resumed = objectives.get("spin")(beta=[0.1, 0.2, 5.0])
    assert resumed.compute_loss(fixed, batch).total.item() == pytest.approx(math.log1p(math.exp(-0.1)))
    resumed.take_up({"rounds": 2})
    assert resumed.compute_loss(fixed, batch).total.item() == pytest.approx(math.log1p(math.exp(-0.2)))


# ---- options ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, options, said", [
    ("online_dpo", {"minimum_gap": -0.1}, "minimum_gap: must not be below 0"),
    ("external_reward_dpo", {"length_penalty": math.nan}, "length_penalty: must not be below 0"),
    ("self_rewarding", {"length_tolerance": math.inf}, "length_tolerance: must not be below 0"),
    ("best_of_n", {"minimum_gap": -1}, "minimum_gap: must not be below 0"),
    ("online_dpo", {"pairs": "all", "length_tolerance": 0.1}, "length_tolerance: .* pairs=all"),
    ("online_dpo", {"labels": "bradley_terry", "loss_type": "ipo"}, "labels: bradley_terry .*loss_type=sigmoid"),
    ("online_dpo", {"labels": "bradley_terry", "label_smoothing": 0.1}, "labels: bradley_terry"),
    ("online_dpo", {"loss_type": "sigmiod"}, 'no loss "sigmiod"'), ("self_rewarding", {"beta": 0.0}, "beta: must be"),
    ("spin", {"beta": 0.0}, "beta: must be above 0"), ("spin", {"beta": []}, "beta: must be above 0"),
    ("spin", {"beta": [0.1, -1.0]}, "beta: must be above 0")])
def test_options_that_make_no_sense(name, options, said):
    with pytest.raises(ConfigError, match=said):
        objectives.get(name)(**options)
