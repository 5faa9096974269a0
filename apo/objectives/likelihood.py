"""Maximum likelihood.

`filtering` and `conditional` are this objective on other data: filtering drops documents, conditional training puts a
control token in front of every segment (both in `apo.data`), so neither has a class of its own.
"""

from dataclasses import dataclass

from apo.objectives.base import Loss, Objective, objectives


def nll_sum(logps_BT, mask_BT):
    """-sum of log p over the positions that count: scalar, nats."""
    return -(logps_BT * mask_BT).sum()


@objectives.register("mle")
@dataclass
class MLE(Objective):
    """Mean cross-entropy per token."""

    def compute_loss(self, policy, batch) -> Loss:
        stats = policy.token_stats(batch)
        return Loss(nll_sum(stats.logps_BT, stats.mask_BT))
