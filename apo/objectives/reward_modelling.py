"""Reward modelling from preferences (Bradley & Terry 1952; Ouyang et al. 2022, eq. 1).

The reward of a completion is a linear function of the last hidden state at its last token, the end of the text, found
by its place and not by its id.
"""

from dataclasses import dataclass

from apo.metrics import running
from apo.objectives import preferences
from apo.objectives.base import Loss, Needs, Objective, objectives


@objectives.register("reward_model")
@dataclass
class RewardModelling(Objective):
    """-log sigmoid(r(chosen) - r(rejected) - margin) + centre (r(chosen) + r(rejected))^2."""

    writes_text = False

    centre: float = 0.01
    """Weight of the term that keeps rewards around 0 (Eisenstein et al. 2023); the loss sees only differences."""
    use_margin: bool = False
    """Ask the chosen to lie above the rejected by the difference of their rewards in the data (Touvron et al. 2023)."""

    @property
    def needs(self) -> Needs:
        return Needs(view="preference", value_head=True)

    def count_items(self, batch) -> int:
        return len(batch)

    def compute_loss(self, policy, batch) -> Loss:
        rewards_RN = policy.completion_rewards(batch)
        chosen_R, rejected_R = rewards_RN.unbind(1)
        margins_R = batch.rewards_RN[:, 0] - batch.rewards_RN[:, 1] if self.use_margin else None
        losses_R = preferences.bradley_terry_losses(chosen_R, rejected_R, margins_R, centre=self.centre)
        return Loss(losses_R.sum(), {
            "accuracy": running.mean((chosen_R > rejected_R).float()),
            "margin": running.mean(chosen_R - rejected_R),
            "mean_reward": running.mean(rewards_RN),
            "min_reward": running.minimum(rewards_RN),
            "max_reward": running.maximum(rewards_RN),
        }, chosen_R - rejected_R)
