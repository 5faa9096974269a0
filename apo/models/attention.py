"""Attention on a CPU in bf16, by matrix products.

torch's own kernel for it (2.13, flash attention for CPUs) is slow backwards.  For rows of 4 heads 64 wide on two cores,
milliseconds forwards and back:

    8 rows of 128 tokens    kernel 1.3 + 5.1    products 1.0 + 1.0
    8 rows of 512 tokens    kernel 16 + 28      products 13 + 15
    4 rows of 1,024 tokens  kernel 27 + 41      products 24 + 30

which is a tenth to a quarter of a small model's step.  Scores are fp32, as in the kernel, and so is what goes back
through them; only the shares are bf16.  Output and gradients are as far from those in fp32 as the kernel's.

It takes the place of transformers' `sdpa` and hands on to it what is another case: a GPU, fp32, a cache, dropout, so
many scores that keeping them for backward costs memory that counts.  What is taken depends on shapes alone, so that a
forward pass has the same bits with gradients and without.
"""

import torch
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.modeling_utils import AttentionInterface

MOST_SCORES = 1 << 24
"""Of a layer, rows times heads times tokens squared.  Two bytes of each are kept for backward, 32 MB, and twelve are
used while it runs."""
MASKED = -1e30
"""Added to the scores of what is not to be attended to; finite, so that a row of nothing else has no NaN."""


def install() -> None:
    """For all models whose attention is `sdpa`, transformers' default."""
    AttentionInterface.register("sdpa", attention)


def attention(module, query, key, value, attention_mask, dropout: float = 0.0, scaling: float | None = None,
              is_causal: bool | None = None, **others):
    """(output [B, T, H, D], None).  Arguments as of transformers' attention functions: [B, H, T, D], the mask bool or
    what is added to scores, broadcast to [B, H, T, T]."""
    special = dropout or any(others.get(name) is not None for name in ("position_bias", "cache", "softcap"))
    if special or not by_products(query, key, attention_mask):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
                                      is_causal=is_causal, **others)
    if attention_mask is None and (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        attention_mask = query.new_ones(query.shape[2], query.shape[2], dtype=torch.bool).tril()
    groups = query.shape[1] // key.shape[1]
    output = Products.apply(query, repeat_kv(key, groups), repeat_kv(value, groups), bias_of(attention_mask),
                            query.shape[-1] ** -0.5 if scaling is None else scaling)
    return output.transpose(1, 2).contiguous(), None


def by_products(query, key, mask) -> bool:
    rows, heads, length, _ = query.shape
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    return (query.device.type == "cpu" and dtype == torch.bfloat16 and not torch.compiler.is_compiling()
            and 1 < length == key.shape[2] and rows * heads * length * length <= MOST_SCORES
            and (mask is None or mask.shape[-1] == length))


def bias_of(mask):
    """What is added to scores; None where nothing is."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape).masked_fill_(~mask, MASKED)


class Products(torch.autograd.Function):
    """softmax(scale query key' + bias) value of [B, H, T, D], in bf16."""

    @staticmethod
    def forward(ctx, query, key, value, bias, scale):
        with torch.autocast("cpu", enabled=False):
            scores = torch.matmul(query.float() * scale, key.float().transpose(-1, -2))
            if bias is not None:
                scores += bias
            shares, value = scores.softmax(-1).bfloat16(), value.bfloat16()
            ctx.save_for_backward(query.bfloat16(), key.bfloat16(), value, shares)
            ctx.scale, ctx.dtypes = scale, (query.dtype, key.dtype)
            return torch.matmul(shares, value)

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, shares = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            of_value = torch.matmul(shares.transpose(-1, -2), gradient)
            of_scores = torch.matmul(gradient, value.transpose(-1, -2)).float()
            of_scores -= (of_scores * shares).sum(-1, keepdim=True)
            of_scores = of_scores.mul_(shares).mul_(ctx.scale).bfloat16()
            of_query, of_key = torch.matmul(of_scores, key), torch.matmul(of_scores.transpose(-1, -2), query)
        return of_query.to(ctx.dtypes[0]), of_key.to(ctx.dtypes[1]), of_value, None, None
