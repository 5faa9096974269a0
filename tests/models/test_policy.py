"""token_stats against a plain log_softmax, its gradients against autograd's, and the shift."""

import pytest
import torch

from apo.data.collate import Batch
from apo.data.completions import laid_out
from apo.models import token_log_probs
from apo.models.policy import Policy


def make_batch(rows=3, length=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randint(0, 260, (rows, length), generator=generator), torch.rand(rows, length),
                 torch.ones(rows, length, dtype=torch.bool))


@pytest.fixture
def policy(tiny_llama):
    return Policy(tiny_llama(), value_head=True).eval()


def test_log_probs_stand_on_the_token_they_are_of(policy):
    batch = make_batch()
    stats = policy.token_stats(batch)
    logits = policy.model(input_ids=batch.input_ids_BT).logits
    for row in range(3):
        assert stats.logps_BT[row, 0] == 0
        for t in range(1, 12):
            expected = logits[row, t - 1].log_softmax(-1)[batch.input_ids_BT[row, t]]
            torch.testing.assert_close(stats.logps_BT[row, t], expected, rtol=1e-5, atol=1e-5)
    assert not stats.mask_BT[:, 0].any() and stats.mask_BT[:, 1:].all()


def test_entropy_sum_p_squared_and_kl_are_exact(policy, tiny_llama):
    batch, other = make_batch(), Policy(tiny_llama(seed=1)).eval()
    stats = policy.token_stats(batch, ("entropy", "sum_p_squared", "kl", "values"), other=other)
    p_log = policy.model(input_ids=batch.input_ids_BT).logits[:, :-1].log_softmax(-1)
    q_log = other.model(input_ids=batch.input_ids_BT).logits[:, :-1].log_softmax(-1)
    p = p_log.exp()
    torch.testing.assert_close(stats.entropy_BT[:, 1:], -(p * p_log).sum(-1))
    torch.testing.assert_close(stats.sum_p_squared_BT[:, 1:], (p * p).sum(-1))
    torch.testing.assert_close(stats.kl_BT[:, 1:], (p * (p_log - q_log)).sum(-1), rtol=1e-4, atol=1e-6)
    assert (stats.kl_BT[:, 1:] > 0).all() and (stats.values_BT == 0).all()


@pytest.mark.parametrize("slice_, keep", [(1 << 20, 1 << 28), (7 * 260, 1 << 28), (1 << 20, 10 * 260)],
                         ids=["one pass", "sliced", "made anew in backward"])
def test_gradients_equal_autograd(policy, tiny_llama, monkeypatch, slice_, keep):
    monkeypatch.setattr(token_log_probs, "SLICE", slice_)
    monkeypatch.setattr(token_log_probs, "KEEP", keep)
    batch, other = make_batch(), Policy(tiny_llama(seed=1)).eval()
    weights = torch.randn(4, 3, 11, generator=torch.Generator().manual_seed(3))

    stats = policy.token_stats(batch, ("entropy", "sum_p_squared", "kl"), other=other)
    ours = [stats.logps_BT, stats.entropy_BT, stats.sum_p_squared_BT, stats.kl_BT]
    sum((w * x[:, 1:]).sum() for w, x in zip(weights, ours)).backward()
    gradients = {name: p.grad.clone() for name, p in policy.model.named_parameters()}
    policy.zero_grad()

    p_log = policy.model(input_ids=batch.input_ids_BT).logits[:, :-1].log_softmax(-1)
    with torch.no_grad():
        q_log = other.model(input_ids=batch.input_ids_BT).logits[:, :-1].log_softmax(-1)
    p = p_log.exp()
    plain = [p_log.gather(-1, batch.input_ids_BT[:, 1:, None]).squeeze(-1), -(p * p_log).sum(-1), (p * p).sum(-1),
             (p * (p_log - q_log)).sum(-1)]
    sum((w * x).sum() for w, x in zip(weights, plain)).backward()
    for name, parameter in policy.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_values_reach_the_trunk_unless_detached(policy):
    torch.nn.init.ones_(policy.value_head.linear.weight)
    for detach in (False, True):
        policy.zero_grad()
        policy.token_stats(make_batch(), ("values",), detach_values=detach).values_BT.sum().backward()
        trunk = policy.model.model.layers[0].mlp.up_proj.weight.grad
        assert (trunk is None or not trunk.any()) == detach
        assert policy.value_head.linear.weight.grad.any()


def completions():
    """A prompt with two completions, and one with one."""
    rows = [([1, 2, 3], [[4, 5], [6, 7, 8]]), ([9], [[10, 11]])]
    return laid_out(rows, torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([[True, True], [True, False]]))


def test_values_of_completions_stand_on_the_token_that_their_state_predicts(policy):
    torch.nn.init.normal_(policy.value_head.linear.weight)
    batch = completions()
    stats = policy.completion_tokens(batch, ("values", "entropy"))
    for row, branch, prompt, ids in ((0, 1, [1, 2, 3], [4, 5]), (0, 2, [1, 2, 3], [6, 7, 8]), (1, 1, [9], [10, 11])):
        hidden_TD = policy.body(input_ids=torch.tensor([prompt + ids])).last_hidden_state[0]
        expected = policy.value_head(hidden_TD[len(prompt) - 1:-1])
        torch.testing.assert_close(stats.values_BT[row, batch.branch_RT[row] == branch], expected, rtol=1e-4, atol=1e-5)
    assert not stats.values_BT[batch.branch_RT <= 0].any() and (stats.entropy_BT[batch.branch_RT > 0] > 0).all()


def test_values_of_completions_reach_the_trunk_unless_detached(policy):
    torch.nn.init.ones_(policy.value_head.linear.weight)
    for detach in (False, True):
        policy.zero_grad()
        policy.completion_tokens(completions(), ("values",), detach_values=detach).values_BT.sum().backward()
        trunk = policy.model.model.layers[0].mlp.up_proj.weight.grad
        assert (trunk is None or not trunk.any()) == detach
        assert policy.value_head.linear.weight.grad.any()


def test_no_full_precision_copy_of_the_logits(policy, monkeypatch):
    """Under bf16 autocast the largest fp32 tensor made in the reduction is one slice."""
    monkeypatch.setattr(token_log_probs, "SLICE", 8 * 260)
    largest = 0
    original = torch.Tensor.float

    def watched(self):
        nonlocal largest
        largest = max(largest, self.numel())
        return original(self)
    monkeypatch.setattr(torch.Tensor, "float", watched)
    with torch.autocast("cpu", torch.bfloat16):
        policy.token_stats(make_batch()).logps_BT.sum().backward()
    assert 0 < largest <= 8 * 260


@pytest.mark.parametrize("architecture, options", [
    ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}),
    ("gpt_neox", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}),
    ("gemma2", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
                "intermediate_size": 64, "head_dim": 16, "final_logit_softcapping": 3.0}),
    ("granite", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
                 "intermediate_size": 64, "logits_scaling": 4.0}),
])
def test_other_architectures(architecture, options):
    from transformers import AutoConfig, AutoModelForCausalLM
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(architecture, vocab_size=260, **ids, **options)
    policy = Policy(AutoModelForCausalLM.from_config(config)).eval()
    policy.check_head()
    batch = make_batch()
    logps = policy.model(input_ids=batch.input_ids_BT).logits.float()[:, :-1].log_softmax(-1)
    expected = logps.gather(-1, batch.input_ids_BT[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(policy.token_stats(batch).logps_BT[:, 1:], expected, rtol=1e-4, atol=1e-4)
