"""A language model gives a reward to one text, by a rubric: the judge of self-rewarding models (Yuan et al. 2024).

    judge = RubricJudge(Rubric(), ServerWriter(ChatServer("http://localhost:8000/v1", "name")), per_response=3)
    [judgement] = judge.judge([("How are you?", "Fine!")])
    judgement.reward                    # the mean of what could be read of three answers; NaN where nothing could

A judge that is sampled says another number each time; the mean of a few is finer than the rubric's points and has fewer
ties, which no pair can be made of.  Who answers is a `Writer` (`writers.py`): a server, a model here, or a rule.
"""

import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Protocol

from apo.errors import EvaluationError
from apo.judges.rubric import Rubric


@dataclass(frozen=True, slots=True)
class Ask:
    """One question about one response, and which of several times it is put."""

    prompt: str
    response: str
    number: int = 0


class Writer(Protocol):
    """Who answers."""

    @property
    def varies(self) -> bool:
        """Whether it may answer otherwise when it is asked again."""

    def write(self, rubric: Rubric, asks: list[Ask]) -> list[str | None]:
        """The answers, in the order of what is asked; None where there is none to be had."""

    def describe(self) -> dict[str, Any]:
        """All that an answer depends on beside the rubric and the texts."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """On one response."""

    scores: list[float]
    """Of the answers that could be read."""
    asked: int
    answers: list[str | None] = field(default_factory=list)
    """All of them; None for one that failed."""

    @property
    def reward(self) -> float:
        """Their mean; NaN where none could be read."""
        return fmean(self.scores) if self.scores else math.nan

    @property
    def failed(self) -> int:
        return self.answers.count(None)


@dataclass(frozen=True, slots=True)
class Counts:
    """asked = answered + failed, answered = parsed + unparsable."""

    asked: int
    answered: int
    parsed: int
    unparsable: int
    """Answers without a number that could be read."""
    failed: int
    """Questions that were not answered: the request failed for good, or there was no room for it."""


def count(judgements: list[Judgement]) -> Counts:
    """One judgement that stands for several equal pairs counts once."""
    different = {id(judgement): judgement for judgement in judgements}.values()
    asked, failed = (sum(getattr(each, name) for each in different) for name in ("asked", "failed"))
    parsed = sum(len(each.scores) for each in different)
    return Counts(asked, asked - failed, parsed, asked - failed - parsed, failed)


@dataclass
class RubricJudge:
    """Raises EvaluationError for a number that makes no sense."""

    rubric: Rubric
    writer: Writer
    per_response: int = 3
    """Answers to each question, of which the mean is taken; of a writer that does not vary, one."""

    def __post_init__(self):
        if self.per_response < 1:
            raise EvaluationError(f"per_response {self.per_response}: a judge is asked once or more about a response.")

    def judge(self, pairs: list[tuple[str, str]]) -> list[Judgement]:
        """One judgement for each (prompt, response), in their order.  What comes twice is asked once.

        Raises what the writer raises where nothing can be judged; what fails for one question only is counted."""
        times = self.per_response if self.writer.varies else 1
        different = list(dict.fromkeys(pairs))
        answers = self.writer.write(self.rubric, [Ask(*pair, number) for pair in different for number in range(times)])
        made = {pair: self._judgement(answers[place * times:(place + 1) * times])
                for place, pair in enumerate(different)}
        return [made[pair] for pair in pairs]

    def describe(self) -> dict[str, Any]:
        """All that a judgement depends on beside the texts."""
        rubric = self.rubric
        return {"template": rubric.template, "pattern": rubric.pattern, "low": rubric.low, "high": rubric.high,
                "per_response": self.per_response, **self.writer.describe()}

    def _judgement(self, answers: list[str | None]) -> Judgement:
        read = [self.rubric.read(answer) for answer in answers if answer is not None]
        return Judgement([score for score in read if score is not None], len(answers), answers)
