"""Likelihood of the best of several samples: rejection sampling with fine-tuning (Dong et al. 2023, RAFT)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from apo.errors import ConfigError
from apo.metrics import running
from apo.objectives.base import Loss, objectives
from apo.objectives.online import Lesson, Online, Round
from apo.objectives.pairs_from_round import best_and_worst


@objectives.register("best_of_n")
@dataclass
class BestOfN(Online):
    """Mean cross-entropy per token of each prompt's best completion."""

    minimum_gap: float = 0.0
    """Prompts whose best and worst rewards differ by less are left out; equal ones in any case."""
    length_tolerance: float = 0.0
    """Of the completions whose reward lies within it of the highest, the shortest is the best."""

    off_policy: ClassVar[bool] = True

    def __post_init__(self):
        for name in ("minimum_gap", "length_tolerance"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: must not be below 0, got {getattr(self, name):g}")

    @property
    def generations(self) -> int:
        return 2

    def rows_of(self, prompts: int, generations: int) -> int:
        return prompts

    def learn(self, round: Round, state: dict[str, Any]) -> Lesson:
        found = best_and_worst(round.scores_C, round.prompts_C, round.mask_CT.sum(1).numpy(), round.texts_C,
                               self.minimum_gap, length_tolerance=self.length_tolerance).some()
        return Lesson(found.pairs_P2[:, :1].copy(), metrics=found.metrics())

    def compute_loss(self, policy, batch) -> Loss:
        stats = policy.completion_stats(batch)
        total = -stats.logps_RN.sum()
        return Loss(total, {"lm_loss": running.ratio(total, stats.lengths_RN.sum()),
                            "completions/mean_length": running.mean(stats.lengths_RN)})
