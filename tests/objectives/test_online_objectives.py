"""ppo, rloo, grpo and reinforce: what they learn of a round, and what their losses are then, on a real policy."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from apo.data.completions import laid_out
from apo.data.experience import ExperienceBatch
from apo.errors import ConfigError
from apo.metrics.running import Running
from apo.models.policy import Policy
from apo.objectives import on_policy
from apo.objectives.base import NothingToDraw, objectives
from apo.objectives.online import Round

NAN = math.nan
METHODS = ["ppo", "rloo", "grpo", "reinforce"]
VARIANTS = [("ppo", {}), ("ppo", {"entropy_coef": 0.1, "value_clip": None, "is_detached": True}), ("rloo", {}),
            ("grpo", {}), ("grpo", {"beta": 0.2}), ("grpo", {"beta": 0.2, "kl_corrected": False}),
            ("grpo", {"average": "sequence", "ratio": "sequence", "clip_high": 0.3}),
            ("grpo", {"average": "constant", "length": 8, "scale": "none", "beta": 0.1}), ("reinforce", {})]
PROMPTS = [[1, 2, 3], [9, 8]]
IDS = [[4, 5, 6], [7, 7], [10, 11, 12, 13], [30], [20], [21, 22, 23], [24, 25], [26]]
"""Of eight completions, four of each prompt."""
MASK_CT = torch.tensor([[place < len(ids) for place in range(4)] for ids in IDS])
SCORES = [1.0, -0.5, 2.0, 0.25, 0.0, 3.0, 0.5, -1.0]


def made(name, **options):
    return objectives.get(name)(**options)


def numbers(metrics):
    running = Running()
    running.add(metrics)
    return running.read()


@pytest.fixture
def policy(tiny_llama):
    policy = Policy(tiny_llama(initializer_range=0.3), value_head=True).train()
    torch.nn.init.normal_(policy.value_head.linear.weight, generator=torch.Generator().manual_seed(0))
    return policy


@pytest.fixture
def reference(tiny_llama):
    return Policy(tiny_llama(seed=1, initializer_range=0.3))


def as_batch(rows_P):
    rows = [(PROMPTS[completion // 4], [IDS[completion]]) for completion in rows_P]
    zeros_RN = torch.zeros(len(rows), 1)
    return ExperienceBatch(**laid_out(rows, zeros_RN, zeros_RN, torch.ones(len(rows), 1).bool()).tensors())


def on_tokens(x_CT, batch, rows_P):
    """[C, T] of a round, where the tokens stand in a batch."""
    placed_RT = torch.zeros(batch.input_ids_RT.shape)
    placed_RT[batch.branch_RT > 0] = torch.cat([x_CT[completion, :len(IDS[completion])] for completion in rows_P])
    return placed_RT


def of_round(x_RT, batch):
    """The way back."""
    x_CT = torch.zeros(MASK_CT.shape)
    x_CT[MASK_CT] = x_RT[batch.branch_RT > 0]
    return x_CT


def begun(policy, reference=None, scores=SCORES, finished=(True,) * 8):
    """A round as it is when the policy has just written it."""
    batch = as_batch(range(8))
    with torch.no_grad():
        stats = policy.completion_tokens(batch, ("values",))
        ref_CT = kl_CT = None
        if reference is not None:
            ref_CT = of_round(reference.completion_tokens(batch).logps_BT, batch)
            kl_CT = torch.where(MASK_CT, 0.1 + torch.arange(4.0), 0.0)
    return Round(np.repeat([0, 1], 4), np.array(scores, float), np.array(finished), np.ones(8, bool), MASK_CT,
                 of_round(stats.logps_BT, batch), ref_CT, of_round(stats.values_BT, batch), kl_CT)


def given(logps_rows, ref_rows=None, scores=(1.0, 3.0), values_rows=None, prompts=(0, 0), finished=(True, True)):
    """A round of two completions of two tokens and of one."""
    mask_CT = torch.tensor([[True, True], [True, False]])
    tensors = [None if rows is None else torch.tensor(rows, dtype=torch.float32)
               for rows in (logps_rows, ref_rows, values_rows)]
    return Round(np.array(prompts), np.array(scores, float), np.array(finished), np.ones(2, bool), mask_CT, tensors[0],
                 tensors[1], torch.zeros(2, 2) if tensors[2] is None else tensors[2])


def served(round, lesson):
    """All rows of a lesson in one batch."""
    rows_P = lesson.rows_PN[:, 0]
    batch = as_batch(rows_P)
    there = {"old_logps": round.logps_CT, "old_values": round.values_CT, "ref_logps": round.ref_logps_CT}
    for name, x_CT in (there | lesson.tokens).items():
        if x_CT is not None:
            setattr(batch, f"{name}_RT", on_tokens(x_CT, batch, rows_P))
    return batch


def moved(policy, by=0.02):
    """The policy some steps later."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += by * torch.randn(weight.shape, generator=generator)
    return policy


def gradients(policy, total):
    policy.zero_grad()
    total.backward()
    return torch.cat([weight.grad.flatten() for weight in policy.parameters() if weight.grad is not None])


# ---- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, options", VARIANTS)
def test_before_the_first_step_the_ratio_is_exactly_1(policy, reference, name, options):
    objective, round = made(name, **options), begun(policy, reference)
    loss = objective.compute_loss(policy, served(round, objective.learn(round, {})))
    found = numbers(loss.metrics)
    assert found["val/ratio"] == 1
    assert found["val/ratio_var"] == found["policy/approxkl_avg"] == found["policy/policykl_avg"] == 0
    assert found.get("policy/clipfrac_avg", 0) == 0


@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo", "reinforce"])
def test_the_first_step_is_that_of_the_plain_policy_gradient(policy, reference, name):
    objective, round = made(name, **{"value_coef": 0.0} if name == "ppo" else {}), begun(policy, reference)
    batch = served(round, objective.learn(round, {}))
    ours = gradients(policy, objective.compute_loss(policy, batch).total)
    plain = -(batch.advantages_RT * policy.completion_tokens(batch).logps_BT).sum()
    expected = gradients(policy, plain)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(ours[:len(expected)], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name, options", VARIANTS)
def test_micro_batches_have_the_same_loss_and_gradient_together(policy, reference, name, options):
    objective, round = made(name, **options), begun(policy, reference)
    batch = served(round, objective.learn(round, {}))
    moved(policy)
    whole = objective.compute_loss(policy, batch).total
    parts = [objective.compute_loss(policy, part).total for part in batch.split(3)]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(policy, sum(parts)), gradients(policy, objective.compute_loss(
        policy, batch).total), rtol=1e-4, atol=1e-5)
    assert sum(objective.count_items(part) for part in batch.split(3)) == objective.count_items(batch)


def by_numpy(name, options, stats, batch):
    """The loss written a second time, completion by completion."""
    sides = (stats.logps_BT, batch.old_logps_RT, batch.advantages_RT, batch.ref_logps_RT, stats.values_BT,
             batch.old_values_RT, batch.returns_RT, stats.entropy_BT)
    total = 0.0
    for row, inside in enumerate((batch.branch_RT > 0).numpy()):
        logps, old, advantages, ref, values, old_values, returns, entropy = (
            None if side is None else side[row].detach().numpy()[inside] for side in sides)
        ratios = np.exp(logps - old)
        if name == "reinforce":
            total += -(advantages * logps).sum()
            continue
        if name == "rloo":
            ratios, advantages = np.exp((logps - old).sum()), advantages[0]
        if options.get("ratio") == "sequence":
            ratios = np.full_like(ratios, np.exp((logps - old).mean()))
        clipped = np.clip(ratios, 0.8, 1 + options.get("clip_high", 0.2))
        losses = -np.minimum(advantages * ratios, advantages * clipped)
        if name == "ppo":
            near = old_values + np.clip(values - old_values, -0.2, 0.2) if "value_clip" not in options else values
            losses = losses + 0.1 * 0.5 * np.maximum((values - returns) ** 2, (near - returns) ** 2)
            losses = losses - options.get("entropy_coef", 0) * entropy
        if options.get("beta"):
            k3 = np.exp(ref - logps) - 1 - (ref - logps)
            losses = losses + options["beta"] * k3 * (ratios if options.get("kl_corrected", True) else 1)
        mean = options.get("average")
        total += losses.mean() if mean == "sequence" else losses.sum() / (8 if mean == "constant" else 1)
    return total


@pytest.mark.parametrize("name, options", VARIANTS)
def test_the_loss_is_the_formula_once_the_policy_has_moved(policy, reference, name, options):
    objective, round = made(name, **options), begun(policy, reference)
    batch = served(round, objective.learn(round, {}))
    moved(policy)
    loss = objective.compute_loss(policy, batch)
    stats = policy.completion_tokens(batch, ("values", "entropy"))
    assert loss.total.item() == pytest.approx(by_numpy(name, options, stats, batch), rel=1e-4)
    found = numbers(loss.metrics)
    assert found["val/ratio_var"] > 1e-4
    if "policy/clipfrac_avg" in found:
        assert 0 < found["policy/clipfrac_avg"] < 1


def test_what_is_averaged_over():
    batch = as_batch(range(8))
    tokens = sum(map(len, IDS))
    assert made("ppo").count_items(batch) == made("grpo").count_items(batch) == tokens
    others = [made("rloo"), made("reinforce"), made("grpo", average="sequence"),
              made("grpo", average="constant", length=4)]
    assert [objective.count_items(batch) for objective in others] == [8] * 4


def test_values_reach_the_trunk_unless_detached(policy, reference):
    round = begun(policy, reference)
    for detached in (False, True):
        objective = made("ppo", is_detached=detached)
        batch = served(round, objective.learn(round, {}))
        batch.advantages_RT = torch.zeros_like(batch.advantages_RT)
        gradients(policy, objective.compute_loss(policy, batch).total)
        assert policy.value_head.linear.weight.grad.any()
        assert policy.model.model.layers[0].mlp.up_proj.weight.grad.any() != detached


# ---- ppo -------------------------------------------------------------------------------------------------------------


def test_ppo_learns_of_a_round_by_hand():
    """Log-ratios 0.5 and -0.1 in the first completion, 0.2 in the second; beta 0.5; no values, lambda 1."""
    round = given([[-1.0, -2.0], [-0.5, 0]], [[-1.5, -1.9], [-0.7, 0]], finished=(True, False))
    objective = made("ppo", beta=0.5, lam=1.0, whiten_advantages=False)
    lesson = objective.learn(round, {})
    expected = [[-0.25 + 0.05 + 1, 0.05 + 1], [-0.1 + 3, 0]]
    torch.testing.assert_close(lesson.tokens["advantages"], torch.tensor(expected))
    torch.testing.assert_close(lesson.tokens["returns"], torch.tensor(expected))
    assert lesson.rows_PN.tolist() == [[0], [1]] and lesson.state["kl_coef"] == 0.5
    found = numbers(lesson.metrics)
    assert found["objective/kl"] == pytest.approx((0.4 + 0.2) / 2)
    assert found["objective/entropy"] == pytest.approx((3 + 0.5) / 2)
    assert found["objective/non_score_reward"] == pytest.approx(-0.15)
    assert found["objective/rlhf_reward"] == pytest.approx(2 - 0.15)
    assert found["objective/scores"] == 2 and found["objective/scores_std"] == pytest.approx(math.sqrt(2))
    assert found["objective/kl_coef"] == 0.5 and found["val/num_eos_tokens"] == 1
    returns = np.array([0.8, 1.05, 2.9])
    assert found["returns/mean"] == found["advantages/mean"] == pytest.approx(returns.mean(), rel=1e-6)
    assert found["returns/var"] == pytest.approx(returns.var(), rel=1e-5)
    assert found["val/var_explained"] == pytest.approx(0, abs=1e-6)     # a constant explains nothing


def test_values_that_say_what_comes_explain_all_of_it():
    round = given([[-1.0, -2.0], [-0.5, 0]], [[-1.0, -2.0], [-0.5, 0]], values_rows=[[1, 1], [3, 0]])
    lesson = made("ppo", whiten_advantages=False).learn(round, {})
    assert not lesson.tokens["advantages"].any()
    assert numbers(lesson.metrics)["val/var_explained"] == 1


def test_advantages_are_whitened_over_the_round(policy, reference):
    lesson = made("ppo").learn(begun(policy, reference), {})
    chosen = lesson.tokens["advantages"][MASK_CT]
    assert chosen.mean().item() == pytest.approx(0, abs=1e-6) and chosen.std().item() == pytest.approx(1, rel=1e-4)
    assert not lesson.tokens["advantages"][~MASK_CT].any()


def test_whitened_rewards_keep_their_mean():
    round = given([[-1.0, -2.0], [-0.5, 0]], [[-1.5, -1.9], [-0.7, 0]])
    lesson = made("ppo", beta=0.5, lam=0.0, gamma=0.0, whiten_rewards=True, whiten_advantages=False).learn(round, {})
    rewards = np.array([-0.25, 0.05 + 1, -0.1 + 3])
    expected = (rewards - rewards.mean()) / rewards.std(ddof=1) + rewards.mean()
    assert lesson.tokens["advantages"][round.mask_CT].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kl", ["k1", "k3", "full"])
def test_the_distance_that_is_priced_and_the_one_that_is_measured(policy, reference, kl):
    round, objective = begun(policy, reference), made("ppo", beta=0.5, kl=kl)
    assert objective.exact_kl == (kl == "full")
    found = numbers(objective.learn(round, {}).metrics)
    log_ratios_CT = round.logps_CT - round.ref_logps_CT
    priced_CT = {"k1": log_ratios_CT, "k3": torch.where(MASK_CT, (-log_ratios_CT).exp() - 1 + log_ratios_CT, 0.0),
                 "full": round.kl_CT}[kl]
    assert found["objective/non_score_reward"] == pytest.approx(-0.5 * priced_CT.sum(1).mean().item(), rel=1e-5)
    measured_CT = round.kl_CT if kl == "full" else log_ratios_CT
    assert found["objective/kl"] == pytest.approx(measured_CT.sum(1).mean().item(), rel=1e-5)


def test_an_adaptive_beta_goes_from_round_to_round():
    """A KL of 0.3 nats against a target of 0.2: the error of 0.5 is cut to 0.2, over 2 of 10 completions."""
    round = given([[-1.0, -2.0], [-0.5, 0]], [[-1.5, -1.9], [-0.7, 0]])
    objective = made("ppo", beta=0.5, kl_target=0.2, kl_horizon=10)
    state, coefs = {}, []
    for _ in range(3):
        lesson = objective.learn(round, state)
        state = lesson.state
        coefs.append(numbers(lesson.metrics)["objective/kl_coef"])
    assert coefs == pytest.approx([0.5, 0.5 * 1.04, 0.5 * 1.04 ** 2])


def test_scores_are_shifted_scaled_by_all_so_far_and_cut():
    """Scores 1 and 3, then 5 and 9, less 2 each."""
    objective = made("ppo", beta=0.0, lam=1.0, whiten_advantages=False, score_baseline=2.0, score_scale="std",
                     score_clip=2.0)
    logps = [[-1.0, -2.0], [-0.5, 0]]
    first = objective.learn(given(logps), {})
    assert first.tokens["returns"][:, 0].tolist() == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2)])
    second = objective.learn(given(logps, scores=(5.0, 9.0)), first.state)
    std = np.std([1, 3, 5, 9], ddof=1)
    assert second.tokens["returns"][:, 0].tolist() == pytest.approx([3 / std, 2.0])
    assert numbers(second.metrics)["objective/scores"] == 7
    assert numbers(second.metrics)["objective/rlhf_reward"] == pytest.approx((3 / std + 2) / 2)


def far(policy, objective, round, completion=2):
    """A batch in which the policy makes one completion e^5 times as likely, token by token, as before the round."""
    batch = served(round, objective.learn(round, {}))
    batch.old_logps_RT[completion] -= 5.0 * (batch.branch_RT[completion] > 0)
    return batch


def test_a_completion_that_is_too_far_is_left_out_whatever_it_is_batched_with(policy, reference):
    objective, round = made("ppo"), begun(policy, reference)
    batch = far(policy, objective, round)
    loss = objective.compute_loss(policy, batch)
    others = [row for row in range(8) if row != 2]
    torch.testing.assert_close(loss.total, made("ppo", ratio_limit=None).compute_loss(policy, batch[others]).total)
    assert numbers(loss.metrics)["policy/left_out"] == pytest.approx(len(IDS[2]) / sum(map(len, IDS)))
    kept = made("ppo", ratio_limit=None).compute_loss(policy, batch)
    assert numbers(kept.metrics)["policy/left_out"] == 0 and (kept.total - loss.total).abs() > 1
    apart = sum(objective.compute_loss(policy, part).total for part in batch.split(3))
    torch.testing.assert_close(apart, loss.total, rtol=1e-5, atol=1e-5)


def test_what_is_no_number_is_not_left_out(policy, reference):
    objective, round = made("ppo"), begun(policy, reference)
    batch = served(round, objective.learn(round, {}))
    batch.old_logps_RT[1] = NAN
    assert objective.compute_loss(policy, batch).total.isnan()


def test_a_round_is_exhausted_once_the_policy_has_gone_too_far(policy, reference):
    objective, round = made("ppo", target_kl=0.1), begun(policy, reference)
    batch = served(round, objective.learn(round, {}))
    inside_RT = batch.branch_RT > 0

    def after(*drifts):
        for drift in drifts:
            moved = served(round, objective.learn(round, {}))
            moved.old_logps_RT += drift * inside_RT
            objective.compute_loss(policy, moved)
        return objective.exhausted()

    assert not objective.exhausted()
    assert not after(0.14) and after(0.16)
    assert not objective.exhausted()                # what was noted is forgotten
    assert after(0.0, 0.4) and not after(0.0, 0.2) and not after(-5.0)
    with torch.no_grad():
        assert not after(1.0)                       # nothing is trained on it
    assert not made("ppo").exhausted()
    never = made("ppo")
    batch.old_logps_RT += inside_RT
    never.compute_loss(policy, batch)
    assert not never.exhausted()


# ---- rloo, grpo, reinforce -------------------------------------------------------------------------------------------


def test_rloo_against_the_mean_of_the_others(policy, reference):
    round = begun(policy, reference)
    advantages_CT = made("rloo", beta=0.1).learn(round, {}).tokens["advantages"]
    rewards = np.array(SCORES) - 0.1 * (round.logps_CT - round.ref_logps_CT).double().sum(1).numpy()
    expected = [rewards[i] - np.mean([rewards[j] for j in range(i // 4 * 4, i // 4 * 4 + 4) if j != i])
                for i in range(8)]
    assert advantages_CT[:, 0].tolist() == pytest.approx(expected, rel=1e-5)
    assert advantages_CT[:, 0].view(2, 4).mean(1).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert torch.equal(advantages_CT, advantages_CT[:, :1] * MASK_CT)


def test_of_two_completions_grpo_without_a_scale_has_half_the_advantage_of_rloo(policy, reference):
    round = begun(policy, reference)
    round.prompts_C = np.repeat(np.arange(4), 2)
    rloo = made("rloo", beta=0.1).learn(round, {}).tokens["advantages"]
    grpo = made("grpo", beta=0.1, kl_in="reward", scale="none").learn(round, {}).tokens["advantages"]
    assert rloo.abs().max() > 0.1
    torch.testing.assert_close(grpo, rloo / 2)


def test_grpo_over_the_deviation_of_the_group_of_the_round_and_of_nothing(policy, reference):
    scores = np.array(SCORES)
    centred = scores - scores.reshape(2, 4).mean(1).repeat(4)
    divided = {"none": 1, "batch": scores.std(ddof=1) + 1e-4,
               "group": (scores.reshape(2, 4).std(1, ddof=1) + 1e-4).repeat(4)}
    for scale, by in divided.items():
        lesson = made("grpo", beta=0.3, scale=scale).learn(begun(policy, reference), {})
        assert lesson.tokens["advantages"][:, 0].tolist() == pytest.approx(centred / by, rel=1e-5)


def test_metrics_of_groups(policy):
    scores = [1.0, 1.0, 1.0, 1.0, 0.0, 3.0, NAN, 0.0]
    found = numbers(made("grpo").learn(begun(policy, scores=scores, finished=[True] * 6 + [False] * 2), {}).metrics)
    assert found["reward"] == pytest.approx(7 / 7) and found["frac_reward_zero_std"] == 0.5
    assert found["reward_std"] == pytest.approx(np.std([0, 3, 0], ddof=1) / 2)
    assert found["completions/clipped_ratio"] == 0.25
    assert found["completions/mean_length"] == pytest.approx(np.mean([len(ids) for ids in IDS]))
    assert "objective/kl" not in found and "kl" not in found


def test_grpo_leaves_out_what_was_cut(policy):
    cut = [True, False, True, True, False, True, True, True]
    lesson = made("grpo", mask_truncated=True, scale="none").learn(begun(policy, finished=cut), {})
    assert lesson.rows_PN.tolist() == [[0], [2], [3], [5], [6], [7]]
    assert lesson.tokens["advantages"][0, 0].item() == pytest.approx(1.0 - np.mean(SCORES[:4]))     # counts in the mean
    with pytest.raises(NothingToDraw, match="mask_truncated"):
        made("grpo", mask_truncated=True).learn(begun(policy, finished=[False] * 8), {})


def test_clip_ratios_of_grpo_are_of_the_side_that_the_advantage_asks_for(policy):
    round, objective = begun(policy), made("grpo", scale="none", clip_high=0.5)
    batch = served(round, objective.learn(round, {}))
    inside_RT = batch.branch_RT > 0
    for by, low, high in ((-0.3, 0, 0), (-0.5, 0, 1), (0.3, 1, 0)):        # ratios e^0.3, e^0.5, e^-0.3
        batch.old_logps_RT = on_tokens(round.logps_CT, batch, range(8)) + by * inside_RT
        found = numbers(objective.compute_loss(policy, batch).metrics)
        signs_M = batch.advantages_RT[inside_RT].sign()
        assert found["clip_ratio/low_mean"] == pytest.approx(low * (signs_M < 0).float().mean().item())
        assert found["clip_ratio/high_mean"] == pytest.approx(high * (signs_M > 0).float().mean().item())


def test_reinforce_counts_what_comes_from_each_token_on():
    round = given([[-1.0, -2.0], [-0.5, 0]], [[-1.5, -1.9], [-0.7, 0]])
    returns = np.array([[-0.25 + 0.05 + 1, 0.05 + 1], [-0.1 + 3, 0]])
    tokens = made("reinforce", beta=0.5, baseline="none").learn(round, {}).tokens["advantages"]
    assert tokens.flatten().tolist() == pytest.approx(returns.flatten())
    tokens = made("reinforce", beta=0.5, gamma=0.5, baseline="none").learn(round, {}).tokens["advantages"]
    assert tokens[0, 0].item() == pytest.approx(-0.25 + 0.5 * 1.05)
    tokens = made("reinforce", beta=0.5).learn(round, {}).tokens["advantages"]
    mean = (0.8 + 1.05 + 2.9) / 3
    assert tokens.flatten().tolist() == pytest.approx([0.8 - mean, 1.05 - mean, 2.9 - mean, 0], rel=1e-5)


def test_a_running_baseline_is_of_the_rounds_before():
    objective, logps = made("reinforce", beta=0.0, baseline="running", baseline_decay=0.75), [[-1.0, -2.0], [-0.5, 0]]
    first = objective.learn(given(logps, scores=(1.0, 4.0)), {})            # over three tokens: 2
    assert numbers(first.metrics)["returns/baseline"] == pytest.approx(2)
    second = objective.learn(given(logps, scores=(10.0, 10.0)), first.state)
    assert second.tokens["advantages"][1, 0].item() == pytest.approx(8)
    assert second.state["baseline"] == pytest.approx(0.75 * 2 + 0.25 * 10)


# ---- all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_learned_from_what_has_no_score(policy, reference, name):
    scores = [*SCORES[:3], NAN, *SCORES[4:]]
    round = begun(policy, reference, scores)
    lesson = made(name, beta=0.1).learn(round, {})
    assert not lesson.tokens["advantages"][3].any() and lesson.tokens["advantages"].isfinite().all()
    assert numbers(lesson.metrics)["objective/scores"] == pytest.approx(np.nanmean(scores))
    assert all(math.isfinite(value) for value in numbers(lesson.metrics).values())
    if name == "ppo":
        assert torch.equal(lesson.tokens["returns"][3], round.values_CT[3])
    with pytest.raises(NothingToDraw, match="no completion of the round has a reward"):
        made(name).learn(begun(policy, reference, [NAN] * 8), {})


@pytest.mark.parametrize("name", METHODS)
def test_a_lesson_is_a_pure_function_and_its_state_is_json(policy, reference, name):
    import json
    round, objective = begun(policy, reference), made(name, beta=0.1)
    first = objective.learn(round, {})
    state = json.loads(json.dumps(first.state))
    assert state == first.state
    again = objective.learn(begun(policy, reference), {})
    assert torch.equal(first.tokens["advantages"], again.tokens["advantages"])
    objective.learn(round, state)


@pytest.mark.parametrize("name", METHODS)
def test_without_a_price_there_is_no_reference(policy, name):
    objective = made(name, beta=0.0)
    assert not objective.needs.reference_model and made(name, beta=0.1).needs.reference_model
    assert objective.needs.view == "rollout" and objective.needs.value_head == (name == "ppo")
    round = begun(policy)
    lesson = objective.learn(round, {})
    assert "objective/kl" not in lesson.metrics
    assert objective.compute_loss(policy, served(round, lesson)).total.isfinite()


def test_how_many_completions_of_a_prompt_are_needed():
    assert [made(name).generations for name in METHODS] == [1, 2, 2, 1]


@pytest.mark.parametrize("name", METHODS)
def test_a_kl_below_0_is_said_once(policy, name, monkeypatch):
    said = []
    monkeypatch.setattr(on_policy, "warn", said.append)
    round, objective = begun(policy), made(name, beta=0.1)
    round.ref_logps_CT = round.logps_CT + 1.0 * MASK_CT             # some 2 nats for a completion
    state = objective.learn(round, {}).state
    assert len(said) == 1 and re.search(r"-2\.\d+ nats", said[0])
    objective.learn(round, state)
    assert len(said) == 1
    round.ref_logps_CT = round.logps_CT + 0.3 * MASK_CT
    objective.learn(round, {})
    assert len(said) == 1


@pytest.mark.parametrize("name, options, key", [
    ("ppo", {"beta": -1}, "beta"), ("ppo", {"clip": 0}, "clip"), ("ppo", {"value_clip": -1}, "value_clip"),
    ("ppo", {"gamma": 1.5}, "gamma"), ("ppo", {"lam": -0.1}, "lam"), ("ppo", {"ratio_limit": 1}, "ratio_limit"),
    ("ppo", {"value_coef": -1}, "value_coef"), ("ppo", {"beta": 0, "kl_target": 6}, "kl_target"),
    ("ppo", {"target_kl": 0}, "target_kl"), ("rloo", {"clip": 0}, "clip"), ("grpo", {"clip_high": 0}, "clip_high"),
    ("grpo", {"average": "constant"}, "length"), ("grpo", {"length": 5}, "length"),
    ("grpo", {"average": "constant", "length": 0}, "length"), ("reinforce", {"baseline_decay": 2}, "baseline_decay"),
    ("reinforce", {"gamma": -1}, "gamma"),
])
def test_options_that_make_no_sense_are_refused(name, options, key):
    with pytest.raises(ConfigError, match=f"{key}: "):
        made(name, **options)


@pytest.mark.parametrize("name", METHODS)
def test_the_page_lists_what_is_logged(policy, reference, name, root: Path):
    objective, round = made(name, beta=0.1), begun(policy, reference)
    lesson = objective.learn(round, {})
    logged = set(lesson.metrics) | set(objective.compute_loss(policy, served(round, lesson)).metrics)
    section = (root / f"docs/methods/{name}.md").read_text().split("## Logged")[1].split("\n## ")[0]
    first = [line.strip("|").split("|")[0] for line in section.splitlines() if line[:1] == "|"]
    assert {word for cell in first for word in re.findall(r"`([^`]+)`", cell)} == logged
