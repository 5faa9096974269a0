"""How long a run is: optimiser steps from tokens, steps or epochs, and what loss that budget should buy."""

from apo.errors import ConfigError
from apo.schema import Config


def training_steps(config: Config, tokens_per_epoch: float | None, tokens_per_step: float | None = None) -> int:
    """Optimiser steps of the whole run, from tokens, steps or epochs, whichever the config sets.

    `tokens_per_step`: where rows differ in length, the mean; null for packed rows."""
    tokens_per_step = tokens_per_step or config.training.effective_batch_size * config.data.block_size
    training = config.training
    if training.max_steps is not None:
        return training.max_steps
    tokens = training.num_tokens
    if tokens is not None:
        tokens -= training.tokens_already_seen
    elif tokens_per_epoch is None:
        raise ConfigError("training.num_train_epochs needs data of known size: set training.num_tokens")
    else:
        tokens = training.num_train_epochs * tokens_per_epoch
    steps = int(tokens // tokens_per_step)
    if steps < 1:
        raise ConfigError(f"a budget of {tokens:g} tokens is less than one step of {tokens_per_step:g} tokens: raise "
                          "training.num_tokens")
    return steps


class ChinchillaLoss:
    """The loss that Hoffmann et al. (2022, eq. 10) fitted for N parameters and D tokens; PHF logs it beside the own."""

    def __init__(self, policy):
        self.parameters = policy.num_parameters

    def __call__(self, tokens: int) -> dict[str, float]:
        return {"chinchilla_loss": 1.69 + 406.4 / self.parameters ** 0.34 + 410.7 / max(tokens, 1) ** 0.28}
