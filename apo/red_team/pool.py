"""The prompts of one trial with what they are known to bring out, and how an adversary's examples are drawn from them.

A prompt's score is the mean score of the target's continuations.  The prompts a trial begins with have not been tried:
they stand at a score that is given, which only weights the draw, until they are measured like any other.
"""

from dataclasses import dataclass
from typing import Iterable

import numpy as np


@dataclass
class Known:
    """`score`: the mean over `count` continuations; a score that was given where there are none."""

    score: float
    count: int = 0


class Pool:
    """Prompts in the order they came."""

    def __init__(self, initial: Iterable[str], initial_score: float, temperature: float):
        self.prompts = {text: Known(initial_score) for text in initial}
        self.temperature = temperature

    def __contains__(self, text: str) -> bool:
        return text in self.prompts

    def __len__(self) -> int:
        return len(self.prompts)

    def add(self, text: str, score: float, count: int) -> None:
        """A prompt measured before keeps its earlier continuations: the mean is over all of them (PHF)."""
        before = self.prompts.get(text, Known(0.0))
        total = before.count + count
        self.prompts[text] = Known((before.score * before.count + score * count) / total, total)

    def weights(self) -> np.ndarray:
        """Probability of every prompt to be the first drawn, ~ exp(score / temperature)."""
        exponents = self._exponents()
        weights = np.exp(exponents - exponents.max())
        return weights / weights.sum()

    def draw(self, number: int, random: np.random.Generator) -> list[str]:
        """Different prompts, at most as many as there are, each drawn by `weights` among those left.

        The largest of exponent + Gumbel noise are such a draw, and unlike weights the exponents never underflow."""
        keys = self._exponents() + random.gumbel(size=len(self.prompts))
        texts = list(self.prompts)
        return [texts[i] for i in np.argsort(-keys, kind="stable")[:number]]

    def best(self, number: int) -> list[tuple[str, Known]]:
        """The measured prompts with the highest scores, the earlier first among equals; fewer where there are fewer."""
        measured = [(text, known) for text, known in self.prompts.items() if known.count]
        return sorted(measured, key=lambda pair: -pair[1].score)[:number]

    def _exponents(self) -> np.ndarray:
        return np.array([known.score for known in self.prompts.values()]) / self.temperature
