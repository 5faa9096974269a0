"""Self-rewarding language models (Yuan et al. 2024): DPO on own samples that the policy itself has judged.

The loss is `external_reward_dpo`'s.  What differs is where rewards come from, a judge (`apo/judges/rubric_judge.py`),
which may be the policy in training, and that they may be missing: a judge that cannot be understood gives NaN.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from apo.lazy import torch
from apo.metrics import running
from apo.objectives.base import objectives
from apo.objectives.online import Lesson, Round
from apo.objectives.online_dpo import ExternalRewardDPO


@objectives.register("self_rewarding")
@dataclass
class SelfRewarding(ExternalRewardDPO):
    """DPO on pairs of a round's samples, ordered by a judge's rewards, against the policy as the round began."""

    def learn(self, round: Round, state: dict[str, Any]) -> Lesson:
        lesson = super().learn(round, state)
        judged_C = round.scores_C[round.sampled_C]
        known_C = judged_C[~np.isnan(judged_C)]
        lesson.metrics |= {"judge/parsed": running.ratio(len(known_C), len(judged_C)),
                           "judge/reward": running.ratio(known_C.sum(), len(known_C)),
                           "judge/std": running.std(torch.as_tensor(known_C))}
        return lesson
