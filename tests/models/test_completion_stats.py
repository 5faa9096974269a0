"""Prompts shared between completions: the same log-probabilities and gradients as rows of their own, on every kind of
attention there is."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from apo.data.completions import PADDING, laid_out
from apo.models.policy import Policy

SHAPES = {
    "llama": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "initializer_range": 0.3},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.3, "attn_pdrop": 0.0, "embd_pdrop": 0.0,
             "resid_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.3},
}
TAKES_MASKS = {"llama": True, "gpt2": True, "bloom": False}
CASES = [("llama", "sdpa"), ("llama", "eager"), ("gpt2", "sdpa"), ("gpt2", "eager"), ("bloom", "eager")]


@pytest.fixture(params=CASES, ids="-".join)
def policy(request):
    architecture, attention = request.param
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, vocab_size=60, **SHAPES[architecture])
    return Policy(AutoModelForCausalLM.from_config(config, attn_implementation=attention), value_head=True).train()


@pytest.fixture
def batch():
    """Two rows of unlike lengths; the second has one completion fewer."""
    rows = [([1, 2, 3, 4], [[5, 6, 7], [8, 9], [10, 11, 12, 13]]), ([14, 15], [[16, 17, 18, 19, 20, 21], [22]])]
    present_RN = torch.tensor([[True, True, True], [True, True, False]])
    return laid_out(rows, torch.zeros(2, 3), torch.zeros(2, 3), present_RN)


def by_hand(policy, ids, begin):
    """Sum of log p of the tokens from `begin` on, from the model's own logits."""
    logits = policy.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return sum(logits.detach()[place - 1, ids[place]] for place in range(begin, len(ids)))


def test_shared_prompts_change_no_log_probability(policy, batch):
    stats = policy.completion_stats(batch, prompts=True)
    assert policy.takes_masks == TAKES_MASKS[policy.model.config.model_type]
    expected = [[by_hand(policy, [1, 2, 3, 4, 5, 6, 7], 4), by_hand(policy, [1, 2, 3, 4, 8, 9], 4),
                 by_hand(policy, [1, 2, 3, 4, 10, 11, 12, 13], 4)],
                [by_hand(policy, [14, 15, 16, 17, 18, 19, 20, 21], 2), by_hand(policy, [14, 15, 22], 2), 0.0]]
    torch.testing.assert_close(stats.logps_RN, torch.tensor(expected), rtol=1e-5, atol=1e-5)
    assert stats.lengths_RN.tolist() == [[3, 2, 4], [6, 1, 0]]
    prompts = [by_hand(policy, [1, 2, 3, 4], 1), by_hand(policy, [14, 15], 1)]
    torch.testing.assert_close(stats.prompt_logps_R, torch.stack(prompts), rtol=1e-5, atol=1e-5)


def gradients(policy, loss):
    policy.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def test_shared_bucketed_and_padded_forms_have_one_gradient(policy, batch):
    weights_RN = torch.tensor([[1.0, -2.0, 0.5], [0.3, -1.0, 0.0]])
    whole = gradients(policy, (policy.completion_stats(batch).logps_RN * weights_RN).sum())
    split = [(policy.completion_stats(part).logps_RN * weights_RN[row]).sum()
             for row, part in enumerate(batch.split(1))]
    torch.testing.assert_close(whole, gradients(policy, sum(split)), rtol=1e-4, atol=1e-5)
    alone = policy._of_rows(batch.unshared(), False).logps_RN.view(2, 3)
    torch.testing.assert_close(whole, gradients(policy, (alone * weights_RN).sum()), rtol=1e-4, atol=1e-5)


def test_the_reward_is_read_at_the_last_token_of_each_completion(policy, batch):
    torch.nn.init.normal_(policy.value_head.linear.weight)
    rewards_RN = policy.completion_rewards(batch)
    for row, column, ids in ((0, 1, [1, 2, 3, 4, 8, 9]), (1, 0, [14, 15, 16, 17, 18, 19, 20, 21])):
        hidden = policy.body(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        torch.testing.assert_close(rewards_RN[row, column], policy.value_head(hidden), rtol=1e-5, atol=1e-5)
    assert rewards_RN[1, 2] == 0


def test_positions_go_on_where_the_prompt_ends(batch):
    assert batch.positions_RT()[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 4, 5, 4, 5, 6, 7]
    assert batch.positions_RT()[1, :9].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 2]


def test_a_completion_attends_to_the_prompt_and_itself(batch):
    mask_TT = batch.attention_mask_R1TT()[0, 0]
    assert mask_TT[8].nonzero().flatten().tolist() == [0, 1, 2, 3, 7, 8]
    assert mask_TT[3].nonzero().flatten().tolist() == [0, 1, 2, 3]
    padding = batch.attention_mask_R1TT()[1, 0, -1]
    assert padding.nonzero().flatten().tolist() == [12]         # to something, else its state is no number


def test_a_part_is_cut_to_its_own_longest_row(batch):
    part = batch[1:]
    assert part.input_ids_RT.shape == (1, 9) and PADDING not in part.branch_RT
