"""Self-play fine-tuning (Chen et al. 2024, SPIN): the completions of the data against the policy's own.

No reward is asked for.  The opponent of a round, who writes the samples, is the policy as the round began, and so is
the reference: the first round is DPO with samples of the policy as the rejected completions.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from apo.errors import ConfigError
from apo.metrics import running
from apo.objectives.base import Loss, NothingToDraw, objectives
from apo.objectives.dpo import AgainstReference
from apo.objectives.online import Lesson, Online, Round


@objectives.register("spin")
@dataclass
class SPIN(Online):
    """log(1 + exp(-beta (log-ratio of the data's completion - log-ratio of the sample)))."""

    beta: float | list[float] = 0.1
    """The paper's lambda.  A list has one for each round, and its last for all that follow."""

    completions_per_row: ClassVar[int] = 2
    by_reward: ClassVar[bool] = False

    def __post_init__(self):
        self.betas = [self.beta] if not isinstance(self.beta, list) else self.beta
        if not self.betas or min(self.betas) <= 0:
            raise ConfigError(f"beta: must be above 0, one or a list, got {self.beta}")
        self.take_up({})

    @property
    def with_given(self) -> bool:
        return True

    def take_up(self, state: dict[str, Any]) -> None:
        number = max(int(state.get("rounds", 1)) - 1, 0)
        self.dpo = AgainstReference(beta=self.betas[min(number, len(self.betas) - 1)])

    def rows_of(self, prompts: int, generations: int) -> int:
        return prompts * generations

    def count_items(self, batch) -> int:
        """Pairs."""
        return len(batch)

    def learn(self, round: Round, state: dict[str, Any]) -> Lesson:
        pairs, alone, identical = against_given(round)
        count = int(round.sampled_C.sum())
        if not pairs:
            raise NothingToDraw(f"a round without a pair to learn from: of {count} samples, {alone} answer a prompt "
                                f"without a completion in the data, and {identical} are that completion")
        pairs_P2 = np.array(pairs)
        longer_P = round.mask_CT.sum(1).numpy()[pairs_P2] @ np.array([1, -1])
        metrics = {"pairs/kept": running.ratio(len(pairs), count), "pairs/identical": running.ratio(identical, count),
                   "pairs/without_given": running.ratio(alone, count),
                   "pairs/unfinished": running.ratio((~round.finished_C[pairs_P2[:, 1]]).sum(), len(pairs)),
                   "pairs/length_difference": running.ratio(longer_P.sum(), len(pairs))}
        return Lesson(pairs_P2, ref_logps_C=round.logps_CT.sum(1), metrics=metrics,
                      state={"rounds": int(state.get("rounds", 0)) + 1})

    def compute_loss(self, policy, batch) -> Loss:
        return self.dpo.compute_loss(policy, batch)


def against_given(round: Round) -> tuple[list[tuple[int, int]], int, int]:
    """(given, sampled) of every sample whose prompt has a completion in the data, the first of them; how many samples
    have none; and how many are that very text."""
    pairs, alone, identical = [], 0, 0
    for prompt in dict.fromkeys(round.prompts_C.tolist()):
        of_prompt_C = round.prompts_C == prompt
        given, sampled = (np.flatnonzero(of_prompt_C & which) for which in (~round.sampled_C, round.sampled_C))
        if not len(given):
            alone += len(sampled)
            continue
        same = round.texts_C[sampled] == round.texts_C[given[0]]
        identical += int(same.sum())
        pairs += [(int(given[0]), int(each)) for each in sampled[~same]]
    return pairs, alone, identical
