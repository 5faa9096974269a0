"""A round's parts as tests script them: prompts, what is written behind them, and who judges it."""

import json
from dataclasses import dataclass

import numpy as np
import torch

from apo.experience.writing import Judged, Writer
from apo.metrics import running
from apo.objectives.base import Needs, NothingToDraw
from apo.objectives.online import VIEW, Lesson, Online
from apo.rollouts.generate import Continuation
from apo.seeds import stream

TEXTS = ["the sea", "a", "stones and sand", "we went by", "to", "evening, then night"]


@dataclass
class Plain(Online):
    """Every completion a row, its reward for an advantage."""

    name = "plain"
    enough: bool = False
    fails: int = 0

    @property
    def needs(self):
        return Needs(view=VIEW, reference_model=self.reference is not None)

    def learn(self, round, state):
        count = state.get("rounds", 0)
        if count == 0 and self.fails > 0:
            self.fails -= 1
            raise NothingToDraw("nothing here")
        advantages_CT = torch.tensor(round.scores_C).float()[:, None] * round.mask_CT
        return Lesson(np.arange(len(round.scores_C))[:, None], {"advantages": advantages_CT},
                      metrics={"objective/scores": running.mean(torch.tensor(round.scores_C))},
                      state={"rounds": count + 1})

    def exhausted(self):
        said, self.enough = self.enough, False
        return said


class Scripted(Writer):
    """Writes random tokens of random lengths, a function of (seed, round, place), and counts."""

    calls = 0

    def write(self, policy, prompts, number, progress):
        self.calls += 1
        found = []
        for place in range(len(prompts)):
            random = stream(self.seed, "scripted", number, place)
            length = int(random.integers(1, 9))
            ids = random.integers(0, 200, length).tolist()
            found.append(Continuation([*ids[:-1], 256] if place % 2 else ids, bool(place % 2)))
        progress.advance(len(prompts))
        return found


def judge(pairs, number, check):
    rewards = np.array([len(text) + 0.5 * len(prompt) for prompt, text in pairs])
    return Judged(rewards, [{"length": len(text)} for _, text in pairs])


def stands_in(folder, number):
    """A checkpoint inside that round."""
    checkpoint = folder.parent / "checkpoints" / f"checkpoint-{number}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text(json.dumps({"source": {"round": number}}))


def same(one, other):
    assert one.tensors().keys() == other.tensors().keys()
    for name, tensor in one.tensors().items():
        torch.testing.assert_close(tensor, other.tensors()[name], rtol=0, atol=0, equal_nan=True)
