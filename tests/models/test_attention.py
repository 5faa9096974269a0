"""Attention by matrix products: near exact attention, no farther than torch's kernel; what it hands on."""

import pytest
import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from apo.models import attention as ours


def tensors(rows=2, heads=4, keys=4, length=33, width=16, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, count, length, width, generator=generator).to(dtype).requires_grad_()
            for count in (heads, keys, keys)]


def of_products(query, key, value, mask, **options):
    output, _ = ours.attention(torch.nn.Module(), query, key, value, mask, **options)
    return output.transpose(1, 2)


def blocks(rows=2, length=33):
    """Bool [R, 1, T, T]: causal, two branches that do not see one another."""
    mask = torch.ones(length, length, dtype=torch.bool).tril().repeat(rows, 1, 1, 1)
    mask[:, :, 20:, 10:20] = False
    return mask


def with_gradients(function, arguments):
    output = function(*arguments)
    torch.manual_seed(1)
    return [output, *torch.autograd.grad(output, arguments, torch.randn(output.shape).to(output.dtype))]


def distance(found, exact):
    return float(((found.double() - exact).norm() / exact.norm()).detach())


@pytest.mark.parametrize("keys", [4, 2])
@pytest.mark.parametrize("mask", [None, blocks(), blocks().float().sub(1).mul(1e9)], ids=["causal", "bool", "added"])
def test_as_near_to_exact_attention_as_the_kernel(mask, keys):
    """Exact: softmax(q k' / sqrt(D) + bias) v in double precision, written out."""
    def exact(query, key, value):
        key, value = (x.repeat_interleave(4 // keys, 1) for x in (key, value))
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        seen = torch.ones(33, 33, dtype=torch.bool).tril() if mask is None else mask if mask.dtype == torch.bool else \
            mask == 0
        return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value

    def kernel(query, key, value):
        key, value = (x.repeat_interleave(4 // keys, 1) for x in (key, value))
        added = mask.to(torch.bfloat16) if mask is not None and mask.dtype != torch.bool else mask
        return F.scaled_dot_product_attention(query, key, value, attn_mask=added, is_causal=mask is None)

    inputs = tensors(keys=keys)
    right = with_gradients(exact, [x.detach().double().requires_grad_() for x in inputs])
    mine = with_gradients(lambda *qkv: of_products(*qkv, mask), inputs)
    for found, theirs, truth in zip(mine, with_gradients(kernel, inputs), right):
        assert found.dtype == torch.bfloat16
        assert distance(found, truth) < max(1.5 * distance(theirs, truth), 1e-3)
        assert distance(found, truth) < 6e-3


def test_without_a_mask_all_is_seen_where_the_module_is_not_causal():
    query, key, value = tensors()
    found = of_products(query, key, value, None, is_causal=False)
    exact = F.scaled_dot_product_attention(*(x.double() for x in (query, key, value)))
    assert distance(found, exact.detach()) < 6e-3


def test_a_row_that_sees_nothing_is_a_number():
    query, key, value = tensors()
    mask = blocks()
    mask[1] = False
    output = of_products(query, key, value, mask)
    output.sum().backward()
    assert output.isfinite().all() and query.grad.isfinite().all() and key.grad.isfinite().all()


def test_the_same_bits_with_gradients_and_without():
    inputs = tensors()
    with torch.no_grad():
        without = of_products(*inputs, None)
    assert torch.equal(without, of_products(*inputs, None))


@pytest.mark.parametrize("case", ["fp32", "cache", "dropout", "many", "mask of a cache"])
def test_hands_on_what_is_another_case(monkeypatch, case):
    handed = []
    monkeypatch.setattr(ours, "sdpa_attention_forward", lambda *_, **options: handed.append(options) or (0, None))
    query, key, value = tensors(dtype=torch.float32 if case == "fp32" else torch.bfloat16)
    if case == "cache":
        query = query[:, :, :1]
    if case == "many":
        monkeypatch.setattr(ours, "MOST_SCORES", 2 * 4 * 33 * 33 - 1)
    mask = torch.ones(1, 1, 33, 40, dtype=torch.bool) if case == "mask of a cache" else None
    ours.attention(torch.nn.Module(), query, key, value, mask, dropout=0.1 if case == "dropout" else 0.0, scaling=0.5)
    assert handed == [{"dropout": 0.1 if case == "dropout" else 0.0, "scaling": 0.5, "is_causal": None}]


def test_a_model_uses_it_under_autocast(monkeypatch):
    """Once installed; and its logits are near those in fp32."""
    ours.install()
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                         num_attention_heads=4, num_key_value_heads=2)).eval()
    ids_BT = torch.arange(24).reshape(2, 12)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[0, 9:] = 0
    calls, products = [], ours.Products.apply
    monkeypatch.setattr(ours.Products, "apply", lambda *arguments: calls.append(1) or products(*arguments))
    exact = model(input_ids=ids_BT, attention_mask=mask_BT).logits
    assert not calls
    with torch.autocast("cpu", torch.bfloat16):
        found = model(input_ids=ids_BT, attention_mask=mask_BT).logits.float()
    assert len(calls) == 2
    inside = mask_BT.bool()
    assert distance(found[inside], exact[inside].detach().double()) < 1e-2
