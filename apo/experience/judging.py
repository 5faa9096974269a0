"""A language model, or what stands for one, as the judge of a round: rewards by a rubric (`apo/judges/`).

What a server was paid for is kept in the run directory the moment it comes, so a run that was killed while a round was
being judged asks only for what is missing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np

from apo.experience.writing import Judged
from apo.judges import Answers, Rubric, RubricJudge
from apo.judges.rubric_judge import count
from apo.judges.writers import ModelWriter, RuleWriter, ServerWriter
from apo.metrics.running import ratio
from apo.rollouts.chat_server import ChatServer
from apo.schema import GenerationConfig, JudgeConfig, NewPromptsConfig

ANSWERS = "answers.jsonl"


def rubric_of(options: JudgeConfig) -> Rubric:
    """Raises EvaluationError for a template or a pattern that makes no sense."""
    own = (options.pattern, options.low, options.high)
    return Rubric.from_file(Path(options.template), *own) if options.template else Rubric(
        pattern=own[0], low=own[1], high=own[2])


@dataclass
class ByRubric:
    judge: RubricJudge
    answers: Path | None
    """Where a server's answers are kept."""

    def __call__(self, pairs: list[tuple[str, str]], number: int, check: Callable[[], None]) -> Judged:
        check()
        if self.answers is None:
            judgements = self.judge.judge(pairs)
        else:
            with Answers(self.answers) as self.judge.writer.answers:
                judgements = self.judge.judge(pairs)
        counts = count(judgements)
        metrics = {"judge/asked": ratio(counts.asked, 1), "judge/failed": ratio(counts.failed, counts.asked),
                   "judge/unparsable": ratio(counts.unparsable, counts.asked)}
        parts = [{"judgements": each.scores, "answers": each.answers} for each in judgements]
        return Judged(np.array([each.reward for each in judgements]), parts, metrics)


def writer_of(options: JudgeConfig | NewPromptsConfig, *, policy: Any, tokenizer: Any, chat_template: str, seed: int,
              batch_size: int, doing: str = "judging") -> ModelWriter | ServerWriter:
    """Who answers, where it is a model (`kind`: policy, model or server).  Raises as `judge_of`."""
    if options.kind == "server":
        server = ChatServer(options.url, options.model, options.api_key_env)
        return ServerWriter(server, max_tokens=options.max_tokens, temperature=options.temperature,
                            top_p=options.top_p, concurrency=options.concurrency, doing=doing)
    generation = GenerationConfig(do_sample=options.temperature > 0, temperature=options.temperature or 1.0,
                                  top_p=options.top_p, max_new_tokens=options.max_tokens)
    own = {"generation": generation, "batch_size": batch_size, "doing": doing}
    if options.kind == "policy":
        return ModelWriter(policy, tokenizer, seed, chat_template=chat_template, **own)
    return ModelWriter.from_directory(options.model, seed, **own)


def judge_of(options: JudgeConfig, *, scorer: Any, policy: Any, tokenizer: Any, chat_template: str, seed: int,
             batch_size: int, folder: Path) -> ByRubric:
    """Args:
        scorer: of the task, for a rule.
        policy, tokenizer: in training, for a policy that judges itself.
        chat_template: how questions to the policy become tokens.
        folder: of the run's rounds.
    Raises EvaluationError for options that make no sense, ModelError for a model that is not there.
    """
    writer = RuleWriter(scorer) if options.kind == "rule" else writer_of(
        options, policy=policy, tokenizer=tokenizer, chat_template=chat_template, seed=seed, batch_size=batch_size)
    answers = folder / ANSWERS if options.kind == "server" else None
    return ByRubric(RubricJudge(rubric_of(options), writer, options.per_response), answers)
