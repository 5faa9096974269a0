"""From hidden states to log-probabilities of given tokens, without `[B, T, V]` in fp32.

For each position N the head's logits [N, V] are reduced over the vocabulary to what objectives use: log p of the
token, and on request the entropy, the sum of p squared, and the KL to another distribution.  All of them come out of
one pass, in fp32, a slice of positions at a time.  The gradients are simple enough to write down:

    d log p_y = onehot(y) - p      d H = -p (log p + H)      d S = 2 p (p - S)      d KL = p (log p - log q - KL)

so backward needs only the logits in the precision the head made them and one number per position, and no softmax is
kept.  What no loss depends on (an entropy that is only logged) costs nothing there.  Where even those logits are large
(big vocabularies), head and reduction run slice by slice under activation checkpointing and the logits are made anew in
backward.
"""

from dataclasses import dataclass
from typing import Callable

import torch
from torch.utils.checkpoint import checkpoint

SLICE = 1 << 20
"""Elements of logits turned to fp32 at a time: 4 MB, which stays in a CPU's cache."""
KEEP = 1 << 28
"""Elements of logits kept for backward; above it they are computed twice instead (2^28 in bf16 is 512 MB)."""


@dataclass
class Reduced:
    """Each [N], fp32; None where it was not asked for."""

    logps: torch.Tensor
    entropy: torch.Tensor | None = None
    sum_p_squared: torch.Tensor | None = None
    kl: torch.Tensor | None = None


def reduce_vocabulary(head: Callable, vocabulary: int, hidden_ND: torch.Tensor, targets_N: torch.Tensor,
                      want: tuple[str, ...] = (),
                      other: tuple[Callable, torch.Tensor] | None = None) -> Reduced:
    """`head(hidden)`, [N, vocabulary], reduced at `targets`; `other` = (head, hidden) of the policy that `kl` is to."""
    rows = max(1, KEEP // vocabulary)
    parts = []
    for start in range(0, max(len(targets_N), 1), rows):
        part = slice(start, start + rows)
        arguments = (head, hidden_ND[part], targets_N[part], want,
                     None if other is None else (other[0], other[1][part]))
        again = torch.is_grad_enabled() and len(targets_N) > rows
        parts.append(checkpoint(_reduce_part, *arguments, use_reentrant=False) if again else _reduce_part(*arguments))
    columns = [torch.cat(column) if len(column) > 1 else column[0] for column in zip(*parts)]
    return Reduced(columns[0], **dict(zip(want, columns[1:])))


def _reduce_part(head, hidden_ND, targets_N, want, other):
    logits_NV = head(hidden_ND)
    other_NV = None
    if other is not None:
        with torch.no_grad():
            other_NV = other[0](other[1])
    return _Reduce.apply(logits_NV, targets_N, want, other_NV)


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits_NV, targets_N, want, other_NV):
        count = len(targets_N)
        outputs = [torch.empty(count, dtype=torch.float32, device=logits_NV.device) for _ in range(1 + len(want))]
        lse_N = torch.empty(count, dtype=torch.float32, device=logits_NV.device)
        for part in _slices(logits_NV):
            logits = logits_NV[part].float()
            logp = logits.log_softmax(-1)       # one kernel on a CPU, and twice as fast as logsumexp, which is several
            lse_N[part] = logits.amax(-1) - logp.amax(-1)
            outputs[0][part] = logp.gather(-1, targets_N[part, None]).squeeze(-1)
            if want:
                p = logp.exp()
                for output, name in zip(outputs[1:], want):
                    output[part] = _expectation(name, p, logp, None if other_NV is None else other_NV[part])
        ctx.save_for_backward(logits_NV, targets_N, lse_N, other_NV, *outputs[1:])
        ctx.want = want
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx, *gradients):
        logits_NV, targets_N, lse_N, other_NV, *expectations = ctx.saved_tensors
        gradient_NV = torch.empty_like(logits_NV)
        log_probs, *others = gradients
        if log_probs is None:
            log_probs = torch.zeros_like(lse_N)
        used = [triple for triple in zip(ctx.want, others, expectations) if triple[1] is not None]
        for part in _slices(logits_NV):
            logp = logits_NV[part].float().sub_(lse_N[part, None])
            g = log_probs[part, None]
            if used:
                p = logp.exp()
                gradient = p * -g
                for name, grad, value in used:
                    other = None if other_NV is None else other_NV[part]
                    gradient += grad[part, None] * _derivative(name, p, logp, value[part, None], other)
            else:
                gradient = logp.exp_().mul_(-g)
            gradient.scatter_add_(-1, targets_N[part, None], g)
            gradient_NV[part] = gradient
        return gradient_NV, None, None, None


def _slices(logits_NV):
    rows = max(1, SLICE // logits_NV.shape[-1])
    return [slice(start, start + rows) for start in range(0, len(logits_NV), rows)]


def _expectation(name: str, p, logp, other):
    if name == "entropy":
        return -(p * logp).sum(-1)
    if name == "sum_p_squared":
        return (p * p).sum(-1)
    return (p * (logp - other.float().log_softmax(-1))).sum(-1)


def _derivative(name: str, p, logp, value, other):
    if name == "entropy":
        return -p * (logp + value)
    if name == "sum_p_squared":
        return 2 * p * (p - value)
    return p * (logp - other.float().log_softmax(-1) - value)
