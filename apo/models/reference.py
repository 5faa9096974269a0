"""The policy as its stage began, which KL penalties and preference losses measure against.

Three cases, of which only the first costs no memory worth the name:

* a new adapter: the same model with its adapter off, which is what it was before it was trained;
* an adapter that an earlier stage trained: off, the model would be the one *before* that stage, so a frozen copy of
  the adapter stands beside it in the same model;
* no adapter: a frozen copy of the model.

It is taken before the first step, and before a checkpoint is restored: what `load_policy` returns is the beginning.
"""

import copy
from contextlib import contextmanager
from typing import Iterator

import torch
from torch import nn

from apo.models.adapters import OURS, REFERENCE, adapter_weights, is_adapted
from apo.models.policy import Policy, TokenStats, evaluating


class Reference:
    """Log-probabilities of a policy as it was; also what `token_stats(other=...)` takes.  No gradients, no dropout."""

    def __init__(self, policy: Policy, adapter: str | None):
        self.policy, self.adapter = policy, adapter

    @contextmanager
    def as_it_was(self) -> Iterator[Policy]:
        """Inside, the policy itself computes what it did when the stage began."""
        with evaluating(self.policy), torch.no_grad(), using_adapter(self.policy.model, self.adapter):
            yield self.policy

    def hidden(self, batch) -> torch.Tensor:
        with self.as_it_was() as policy:
            return policy.hidden(batch)

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        with self.as_it_was() as policy:
            return policy.logits(hidden_ND)

    def token_stats(self, batch, want: tuple[str, ...] = ()) -> TokenStats:
        with self.as_it_was() as policy:
            return policy.token_stats(batch, want)


class FrozenCopy(Reference):
    def __init__(self, policy: Policy):
        super().__init__(copy.deepcopy(policy).requires_grad_(False).eval(), None)
        self.trained = policy

    @contextmanager
    def as_it_was(self) -> Iterator[Policy]:
        if self.policy.device != self.trained.device:       # the trainer has moved it since
            self.policy.to(self.trained.device)
        with torch.no_grad():
            yield self.policy


def reference_of(policy: Policy, adapter_is_new: bool | None = None) -> Reference:
    """The policy as it is now, for later.  `adapter_is_new`: nothing has trained it yet; null: as the policy knows."""
    if not is_adapted(policy.model):
        return FrozenCopy(policy)
    if policy.adapter_is_new if adapter_is_new is None else adapter_is_new:
        return Reference(policy, None)
    if REFERENCE not in policy.model.peft_config:
        _copy_adapter(policy.model)
    return Reference(policy, REFERENCE)


def _copy_adapter(model: nn.Module) -> None:
    from peft import set_peft_model_state_dict
    trained = {name: weight.requires_grad for name, weight in model.named_parameters()}
    with torch.random.fork_rng():
        model.add_adapter(REFERENCE, copy.deepcopy(model.peft_config[OURS]))
    set_peft_model_state_dict(model, adapter_weights(model), adapter_name=REFERENCE)
    for name, weight in model.named_parameters():
        weight.requires_grad_(trained.get(name, False))


@contextmanager
def using_adapter(model: nn.Module, adapter: str | None) -> Iterator[None]:
    """Another adapter, or with None none, in place of the active one.  PEFT's own switches would also decide anew which
    weights are trained."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper
    parts = [module for module in model.modules() if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))]
    before = [(part, part._active_adapter, part._disable_adapters) for part in parts]
    try:
        for part in parts:
            part._disable_adapters = adapter is None
            if adapter is not None:
                part._active_adapter = [adapter]
        yield
    finally:
        for part, active, disabled in before:
            part._active_adapter, part._disable_adapters = active, disabled
