"""The policy: a causal language model, maybe a value head, and the numbers objectives ask of them.

Everything an objective sees is *aligned on the tokens themselves*: `logps_BT[b, t]` is log p(token t | tokens before
t).  A language model predicts token t at position t - 1; that shift happens here, in `token_stats`, for rows of
text; where a row holds several completions of a prompt, `CompletionBatch.predictions` says which state predicts what.
Column 0 has no prediction: it is zero and its mask is False.

Some architectures do more after the head (scaling, soft-capping).  The three kinds there are in transformers are
applied here from the model's config, and `check_head` compares the result with the model's own logits when it is
loaded: a silent difference would make every log-probability wrong.
"""

import copy
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from apo.data.completions import laid_out
from apo.errors import ModelError
from apo.models import attention
from apo.models.heads import ValueHead
from apo.models.token_log_probs import reduce_vocabulary

DROPOUT_SUFFIXES = ("dropout", "pdrop", "dropout_prob", "dropout_rate")
"""Of the names of dropout probabilities in a model's config."""
MASKED = -1e30
"""Added to the attention scores of what is not to be attended to; finite also in bf16."""


@dataclass
class TokenStats:
    """All [B, T], fp32 (mask: bool); what was not asked for is None."""

    logps_BT: torch.Tensor
    mask_BT: torch.Tensor
    """Where predicting token t counts; False in column 0."""
    values_BT: torch.Tensor | None = None
    """The value head's raw output at the state that predicts token t."""
    entropy_BT: torch.Tensor | None = None
    sum_p_squared_BT: torch.Tensor | None = None
    kl_BT: torch.Tensor | None = None
    """KL(policy || other) at the state that predicts token t, nats, exact over the vocabulary."""


@dataclass
class CompletionStats:
    """Of R rows of up to N completions, all [R, N], fp32; 0 where there is no completion."""

    logps_RN: torch.Tensor
    """Summed log p of the completion's tokens, its end of text included, nats."""
    lengths_RN: torch.Tensor
    """Tokens."""
    prompt_logps_R: torch.Tensor | None = None
    """Summed log p of the prompt's tokens but the first."""

    @property
    def means_RN(self) -> torch.Tensor:
        """Mean log p of a token."""
        return self.logps_RN / self.lengths_RN.clamp(min=1)


def longest_context(config) -> int | None:
    """Tokens that a model of this transformers config can read at most; None of an architecture that knows no such
    number (Bloom, Mamba)."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or None


@contextmanager
def evaluating(model: nn.Module):
    """Eval mode inside; afterwards every submodule's own flag, also where they differ."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


class Policy(nn.Module):
    def __init__(self, model: nn.Module, value_head: bool = False):
        super().__init__()
        attention.install()
        self.model = model
        self.value_head = ValueHead(model.config.get_text_config().hidden_size) if value_head else None
        self.adapter_is_new = True
        """False where the model came with an adapter that is trained on: without it, it is not what it began as."""

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context(self) -> int | None:
        return longest_context(self.model.config)

    @property
    def num_parameters(self) -> int:
        """Of the model, an adapter included; 4-bit weights lie two in a byte."""
        return sum(p.numel() * (2 if type(p).__name__ == "Params4bit" else 1) for p in self.model.parameters())

    @property
    def language_model(self) -> nn.Module:
        """The causal model itself, out of PEFT's wrapper where there is one; its layers hold the adapter."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def body(self) -> nn.Module:
        """The transformer without its language-model head."""
        return self.language_model.base_model

    @property
    def head(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Head and what the architecture does after it, [N, V]."""
        logits_NV = self.head(hidden_ND)
        config = self.model.config.get_text_config()
        if scale := getattr(config, "logit_scale", None):               # Cohere
            logits_NV = logits_NV * scale
        if scaling := getattr(config, "logits_scaling", None):          # Granite
            logits_NV = logits_NV / scaling
        if cap := getattr(config, "final_logit_softcapping", None):     # Gemma 2
            logits_NV = torch.tanh(logits_NV / cap) * cap
        return logits_NV

    def hidden(self, batch) -> torch.Tensor:
        """Last hidden states, [B, T, D]."""
        return self.body(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT,
                         use_cache=False).last_hidden_state

    def token_stats(self, batch, want: tuple[str, ...] = (), other: "Policy | None" = None,
                    detach_values: bool = False) -> TokenStats:
        """Log-probabilities of the batch's tokens and, on request, more.

        Args:
            batch: anything with `input_ids_BT`, `loss_mask_BT` and `attention_mask_BT` (or None).
            want: of "entropy", "sum_p_squared", "kl" (to `other`), "values".
            detach_values: no gradient from the values into the trunk.
        """
        hidden_BTD = self.hidden(batch)
        states_BSD = hidden_BTD[:, :-1]                     # position t - 1 predicts token t
        targets_BS = batch.input_ids_BT[:, 1:]
        mask_BT = batch.loss_mask_BT.clone()
        mask_BT[:, 0] = False
        over_vocabulary = tuple(name for name in want if name != "values")
        reduced = reduce_vocabulary(self.logits, self.head.weight.shape[0], rows(states_BSD), targets_BS.reshape(-1),
                                    over_vocabulary, self._other(batch, other))
        shape = targets_BS.shape
        stats = TokenStats(aligned(reduced.logps.view(shape)), mask_BT)
        for name in over_vocabulary:
            setattr(stats, f"{name}_BT", aligned(getattr(reduced, name).view(shape)))
        if "values" in want:
            stats.values_BT = aligned(self.value_head(states_BSD.detach() if detach_values else states_BSD).float())
        return stats

    def completion_rewards(self, batch) -> torch.Tensor:
        """The value head's raw output at the last token of each completion, [R, N] fp32; 0 where there is none."""
        shape_RN = batch.rewards_RN.shape
        if not self.takes_masks:
            batch = batch.unshared()
        hidden_RTD = self.hidden_of_rows(batch)
        row_M, place_M, _, item_M = batch.predictions()
        last_M = torch.ones_like(item_M, dtype=torch.bool)
        last_M[:-1] = item_M[1:] != item_M[:-1]
        rewards_M = self.value_head(hidden_RTD[row_M[last_M], place_M[last_M]]).float()
        zeros = torch.zeros(shape_RN.numel(), device=rewards_M.device)
        return zeros.index_add(0, item_M[last_M], rewards_M).view(shape_RN)

    def completion_stats(self, batch, prompts: bool = False) -> CompletionStats:
        """Log-probabilities of completions; only their positions reach the head.

        Args:
            batch: `apo.data.completions.CompletionBatch`.
            prompts: those of the prompts too.
        """
        shape_RN = batch.rewards_RN.shape
        if not self.takes_masks:
            stats = self._of_rows(batch.unshared(), prompts)
            prompt_logps_R = stats.prompt_logps_R.view(shape_RN)[:, 0] if prompts else None
            return CompletionStats(stats.logps_RN.view(shape_RN), stats.lengths_RN.view(shape_RN), prompt_logps_R)
        return self._of_rows(batch, prompts)

    def completion_tokens(self, batch, want: tuple[str, ...] = (), other=None,
                          detach_values: bool = False) -> TokenStats:
        """Log-probabilities of completion tokens one by one, and more; only their positions reach the head.

        Args:
            batch: `apo.data.completions.CompletionBatch`; of several completions to a row, for an architecture that
                takes masks of our own.
            want: of "entropy", "sum_p_squared", "kl" (to `other`), "values".
            other: `apo.models.reference.Reference`.
            detach_values: no gradient from the values into the trunk.
        """
        over_vocabulary = tuple(name for name in want if name != "values")
        row_M, place_M, from_M, _ = batch.predictions()
        hidden_MD = self.hidden_of_rows(batch)[row_M, from_M]
        beside = None
        if other is not None:
            with other.as_it_was() as was:
                beside = other.logits, was.hidden_of_rows(batch)[row_M, from_M]
        reduced = reduce_vocabulary(self.logits, self.head.weight.shape[0], hidden_MD,
                                    batch.input_ids_RT[row_M, place_M], over_vocabulary, beside)

        def placed(values_M):
            zeros_RT = torch.zeros(batch.input_ids_RT.shape, device=values_M.device)
            return zeros_RT.index_put((row_M, place_M), values_M)

        stats = TokenStats(placed(reduced.logps), batch.branch_RT > 0)
        for name in over_vocabulary:
            setattr(stats, f"{name}_BT", placed(getattr(reduced, name)))
        if "values" in want:
            stats.values_BT = placed(self.value_head(hidden_MD.detach() if detach_values else hidden_MD).float())
        return stats

    def as_evaluated(self):
        """Inside, without dropout."""
        return evaluating(self)

    def without_dropout(self) -> None:
        """From now on training drops nothing out either: of methods whose loss looks at how the policy has moved, which
        dropout would have moved before the first step.  What is saved still names the probabilities."""
        still: dict[int, Any] = {}
        for module in self.modules():
            for name, value in vars(module).items():
                if isinstance(value, float) and (isinstance(module, nn.Dropout) and name == "p"
                                                 or name.endswith(DROPOUT_SUFFIXES)):
                    setattr(module, name, 0.0)
            if module not in (self.model, self.language_model) and hasattr(vars(module).get("config"), "to_dict"):
                module.config = still.setdefault(id(module.config), _without_dropout(module.config))

    @property
    def drops_out(self) -> bool:
        """Whether what it says in training is drawn: a dropout somewhere in the model or its adapter is not 0."""
        if not self.training:
            return False
        config = self.model.config.get_text_config()
        return (any(isinstance(module, nn.Dropout) and module.p > 0 for module in self.modules())
                or any(value for name, value in vars(config).items()
                       if name.endswith(DROPOUT_SUFFIXES) and isinstance(value, float)))

    def _of_rows(self, batch, prompts: bool) -> CompletionStats:
        hidden_RTD = self.hidden_of_rows(batch)
        row_M, place_M, from_M, item_M = batch.predictions()
        logps_M = self._logps(hidden_RTD[row_M, from_M], batch.input_ids_RT[row_M, place_M])
        total = batch.rewards_RN.numel()
        logps_RN = torch.zeros(total, device=logps_M.device).index_add(0, item_M, logps_M).view(batch.rewards_RN.shape)
        stats = CompletionStats(logps_RN, batch.lengths_RN)
        if prompts:
            row_M, place_M = (batch.branch_RT[:, 1:] == 0).nonzero(as_tuple=True)
            logps_M = self._logps(hidden_RTD[row_M, place_M], batch.input_ids_RT[row_M, place_M + 1])
            stats.prompt_logps_R = torch.zeros(len(batch), device=logps_M.device).index_add(0, row_M, logps_M)
        return stats

    def hidden_of_rows(self, batch) -> torch.Tensor:
        if batch.rewards_RN.shape[1] == 1:      # one completion to a row is plain text, padded on the right
            return self.body(input_ids=batch.input_ids_RT, use_cache=False).last_hidden_state
        mask_R1TT = batch.attention_mask_R1TT()
        if self.model.config._attn_implementation != "sdpa":
            mask_R1TT = torch.zeros(mask_R1TT.shape, device=mask_R1TT.device).masked_fill(~mask_R1TT, MASKED)
        return self.body(input_ids=batch.input_ids_RT, attention_mask=mask_R1TT, position_ids=batch.positions_RT(),
                         use_cache=False).last_hidden_state

    def _logps(self, hidden_MD: torch.Tensor, targets_M: torch.Tensor) -> torch.Tensor:
        return reduce_vocabulary(self.logits, self.head.weight.shape[0], hidden_MD, targets_M).logps

    @cached_property
    def takes_masks(self) -> bool:
        """Whether the architecture attends by a mask of our own and positions of our own: it is tried on three tokens,
        of which the second branches off twice."""
        probe = laid_out([([0], [[1], [2]])], torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2).bool())
        probe, training = probe.to(self.device), self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                shared = self.hidden_of_rows(probe)[0, 1:]
                alone = self.hidden_of_rows(probe.unshared())[:, 1]
            return shared.shape == alone.shape and torch.allclose(shared, alone, rtol=1e-3, atol=1e-3)
        except (TypeError, ValueError, RuntimeError):
            return False
        finally:
            self.model.train(training)

    def _other(self, batch, other):
        if other is None:
            return None
        with torch.no_grad():
            states_BSD = other.hidden(batch)[:, :-1]
        return other.logits, rows(states_BSD)

    @torch.no_grad()
    def check_head(self) -> None:
        """Raises ModelError where `logits(body(x))` is not the model's own output."""
        ids_BT = torch.arange(8, device=self.device)[None] % self.model.config.get_text_config().vocab_size
        training = self.model.training
        self.model.eval()
        own = self.model(input_ids=ids_BT, use_cache=False).logits.float()
        ours = self.logits(self.body(input_ids=ids_BT, use_cache=False).last_hidden_state).float()
        self.model.train(training)
        if own.shape != ours.shape or not torch.allclose(own, ours, rtol=1e-3, atol=1e-3):
            raise ModelError(f"{type(self.language_model).__name__} computes its logits in a way of its own after the "
                             "head, which is not supported; choose another architecture")


def _without_dropout(config):
    """A copy: some layers read probabilities where they are used (Falcon, Persimmon), and the model's own config is
    what is saved."""
    config = copy.deepcopy(config)
    for name, value in vars(config).items():
        if isinstance(value, float) and name.endswith(DROPOUT_SUFFIXES):
            setattr(config, name, 0.0)
    return config


def rows(x_BSD: torch.Tensor) -> torch.Tensor:
    """[B, S, D] -> [B * S, D]."""
    return x_BSD.reshape(-1, x_BSD.shape[-1])


def aligned(x_BS: torch.Tensor) -> torch.Tensor:
    """[B, T-1] of predictions -> [B, T] on the tokens, column 0 zero."""
    return nn.functional.pad(x_BS, (1, 0))
