"""The policy writes, a scorer judges: prompts in, completions with rewards out.

Completion i of round r depends on (seed, r, i) and the weights alone, not on how many are written at once.  What is
written is what the policy says: a sampler that cuts the distribution (top-p, a least length) makes the
log-probabilities those of another one, and methods that rest on them refuse it (`Online.off_policy`).
"""

from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np

from apo.data.scoring import completion_scores
from apo.evaluation import Template
from apo.experience.prompts import Prompt
from apo.rollouts.generate import Continuation, generate
from apo.schema import GenerationConfig, RolloutConfig
from apo.seeds import stream, stream_seed


@dataclass
class Judged:
    """One number for each completion, and what it is made of."""

    rewards_C: np.ndarray
    """float64, higher is better; NaN where a judge could not be understood."""
    parts: list[dict[str, Any]]
    """Of each completion, for who reads the samples."""
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass
class Writer:
    options: RolloutConfig
    tokenizer: Any
    template: Template
    """Turns tokens back into text."""
    stop_strings: list[str]
    banned_ids: list[int]
    batch_size: int
    seed: int

    @property
    def generation(self) -> GenerationConfig:
        options = self.options
        return GenerationConfig(temperature=options.temperature, top_p=options.top_p, top_k=options.top_k,
                                min_new_tokens=options.min_new_tokens, max_new_tokens=options.max_new_tokens,
                                stop_strings=self.stop_strings)

    def write(self, policy: Any, prompts: list[Prompt], number: int, progress: Any) -> list[Continuation]:
        """One continuation for each; a prompt may come several times.  `number`: of the round."""
        written = generate(policy.model, [prompt.ids for prompt in prompts], self.generation, tokenizer=self.tokenizer,
                           seed=stream_seed(self.seed, "rollout", number), banned_token_ids=self.banned_ids,
                           batch_size=self.batch_size, progress=progress)
        if self.options.lengths is None:
            return written
        low, high = self.options.lengths
        longest = stream(self.seed, "lengths", number).integers(low, high + 1, len(written))
        # What is written token by token has the text of the shorter length for its beginning.
        return [each if len(each.ids) <= most else Continuation(each.ids[:most], False)
                for each, most in zip(written, longest.tolist())]

    def text(self, prompt: Prompt, ids: list[int], finished: bool) -> str:
        return self.template.text(prompt.text, Continuation(ids, finished))


@dataclass
class ByScorer:
    """The task's scorer as a judge."""

    scorer: Any

    def __call__(self, pairs: list[tuple[str, str]], number: int, check: Callable[[], None]) -> Judged:
        """`pairs`: prompts and completions.  `number`: of the round."""
        check()
        rewards = [-score for _, score in completion_scores(self.scorer, [list(pair) for pair in pairs])]
        return Judged(np.array(rewards), [{} for _ in pairs])


def unjudged(pairs: list[tuple[str, str]], number: int, check: Callable[[], None]) -> Judged:
    """Where there is no scorer, and the method asks for no reward: none is known."""
    check()
    return Judged(np.full(len(pairs), np.nan), [{} for _ in pairs])
