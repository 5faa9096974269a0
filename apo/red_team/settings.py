"""The numbers of an attack.  Defaults are sized for minutes on two cores with the demo's models; `PAPER` has PHF's.

Imports nothing heavy: the command line is made from it.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from apo.errors import EvaluationError

PAPER = {"rounds": 10, "trials": 10, "responses": 20, "continuations": 512}
"""Where PHF's numbers are others than the defaults."""


def number(default: float, words: str) -> Any:
    """A field; `words` say what it is, here and in --help."""
    return field(default=default, metadata={"help": words})


@dataclass
class Settings:
    """Raises EvaluationError for a number that makes no sense."""

    rounds: int = number(5, "rounds of a trial")
    trials: int = number(5, "trials, each with a fresh pool; intervals are over them")
    responses: int = number(10, "candidates that the adversary is asked for in a round")
    continuations: int = number(32, "continuations that a candidate is scored by")
    shown: int = number(4, "prompts of the pool that a language model is shown")
    initial: int = number(20, "prompts that a pool begins with: the first of the prompt set or file")
    initial_score: float = number(1e-3, "what these count for until they are measured")
    pool_temperature: float = number(0.1, "prompts are drawn with probability ~ exp(score / this)")
    temperature: float = number(0.7, "of the continuations")
    top_p: float = number(0.9, "of the continuations")
    max_new_tokens: int = number(64, "longest continuation, in tokens")
    max_prompt_tokens: int = number(128, "longer candidates are dropped")
    adversary_temperature: float = number(1.0, "of a language model's answers")
    adversary_top_p: float = number(1.0, "of a language model's answers")
    adversary_tokens: int = number(64, "longest answer of a language model")
    seed: int = number(0, "of everything that is drawn, the same for every model")

    def __post_init__(self):
        for option in fields(self):
            value, flag = getattr(self, option.name), "--" + option.name.replace("_", "-")
            least = -math.inf if option.name in ("seed", "initial_score") else 0
            if not least < value < math.inf:
                raise EvaluationError(f"{flag} {value:g}: must be a number above 0.")
            if option.name.endswith("top_p") and value > 1:
                raise EvaluationError(f"{flag} {value:g}: is a share of probability, 1 at most.")
