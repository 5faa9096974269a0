"""Who answers a question: a server, a model here, or, to a judge's about one response, a rule that is no model."""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from apo.cache import digest
from apo.console import progress
from apo.errors import EvaluationError
from apo.judges.answers import Answers
from apo.judges.asking import Asking
from apo.judges.rubric import Rubric
from apo.judges.rubric_judge import Ask
from apo.rollouts.chat_server import ChatServer, Reply
from apo.schema import GenerationConfig
from apo.seeds import stream_seed


@dataclass
class ServerWriter:
    """A model behind a server that speaks OpenAI's chat protocol.

    An answer is kept the moment it comes, under all that it depends on and which of several it is.  A request that
    fails is made again as `ChatServer` does it; one that fails for good is an answer that there is not, and `patience`
    of them in a row end it.  Raises EvaluationError for numbers that make no sense."""

    server: ChatServer
    answers: Answers | None = None
    """Where answers are kept and found again.  None: nowhere."""
    max_tokens: int = 300
    """Of an answer.  One that is cut before its last line cannot be read."""
    temperature: float = 0.7
    """0: the same answer each time, so each question is asked once."""
    top_p: float = 0.9
    concurrency: int = 4
    """Requests on their way at once.  It changes no reward."""
    patience: int = 8
    doing: str = "judging"
    """What it is asked for, in what is told of it."""

    def __post_init__(self):
        for name, least in (("max_tokens", 1), ("temperature", 0), ("concurrency", 1), ("patience", 1)):
            if not getattr(self, name) >= least:
                raise EvaluationError(f"{name} {getattr(self, name)}: {self.doing} it must be {least} or more.")
        if not 0 < self.top_p <= 1:
            raise EvaluationError(f"top_p {self.top_p:g}: a share of the probability lies above 0 and up to 1.")

    @property
    def varies(self) -> bool:
        return self.temperature > 0

    def describe(self) -> dict[str, Any]:
        return {"judge": "server", "url": self.server.url, "model": self.server.model, "max_tokens": self.max_tokens,
                "temperature": self.temperature, "top_p": self.top_p}

    def write(self, rubric: Rubric, asks: list[Ask]) -> list[str | None]:
        """As `answer`."""
        return self.answer([rubric.ask(ask.prompt, ask.response) for ask in asks], [ask.number for ask in asks])

    def answer(self, questions: list[str], numbers: list[int]) -> list[str | None]:
        """None where there is no answer to be had.  `numbers`: which of several times each is put.

        Raises ServerError where questions fail and fail, or none is answered at all."""
        keys = [self.key(question, number) for question, number in zip(questions, numbers)]
        asking = Asking(self._ask, self.answers, self.concurrency, self.patience, self.doing)
        replies = asking.replies(dict(zip(keys, questions)))
        return [replies[key].text if key in replies else None for key in keys]

    def key(self, question: str, number: int) -> str:
        return digest({**self.describe(), "question": question, "number": number})

    def _ask(self, question: str) -> Reply:
        return self.server.reply([{"role": "user", "content": question}], self.max_tokens, self.temperature, self.top_p)


@dataclass
class ModelWriter:
    """A causal language model here, which may be the very policy in training.

    An answer depends on the weights, the seed, the question and which of several answers it is, and on no other
    question that is asked beside it."""

    model: Any
    """A `Policy`, or a causal model of transformers."""
    tokenizer: Any
    seed: int
    generation: GenerationConfig = field(
        default_factory=lambda: GenerationConfig(temperature=0.7, top_p=0.9, max_new_tokens=256))
    chat_template: str = "plain"
    """As `data.chat_template`: how the question becomes tokens."""
    batch_size: int = 32
    name: str = "the policy"
    """Who it is, in what is told of it."""
    doing: str = "judging"
    """What it is asked for."""

    @classmethod
    def from_directory(cls, directory: str | Path, seed: int, **options: Any) -> "ModelWriter":
        """Of a run's `final/`, any model directory, or a name on the hub.  Raises ModelError."""
        import torch

        from apo.models.load import load_trained
        policy, tokenizer = load_trained(directory)
        policy.to("cuda" if torch.cuda.is_available() else "cpu")
        return cls(policy, tokenizer, seed, name=str(directory), **options)

    @property
    def varies(self) -> bool:
        return self.generation.do_sample

    def describe(self) -> dict[str, Any]:
        return {"judge": "model", "model": self.name, "seed": self.seed, "chat_template": self.chat_template,
                "generation": asdict(self.generation)}

    def write(self, rubric: Rubric, asks: list[Ask]) -> list[str | None]:
        """As `answer`."""
        return self.answer([rubric.ask(ask.prompt, ask.response) for ask in asks], [ask.number for ask in asks])

    def answer(self, questions: list[str], numbers: list[int]) -> list[str | None]:
        """None where there is no room for a question and its answer.  `numbers`: which of several times each is put.

        Raises EvaluationError where the model's context has room for none of the questions and an answer."""
        from apo.models.policy import Policy
        from apo.rollouts.generate import generate
        model = self.model.model if isinstance(self.model, Policy) else self.model
        prompts = self._prompts(questions)
        fitting = self._fitting(model, prompts)
        drawn_by = [draw_number(questions[place], numbers[place]) for place in fitting]
        with progress(self.doing, len(fitting)) as bar:
            written = generate(model, [prompts[place] for place in fitting], self.generation, tokenizer=self.tokenizer,
                               seed=stream_seed(self.seed, "judge"), batch_size=self.batch_size, progress=bar,
                               numbers=drawn_by)
        answers: list[str | None] = [None] * len(questions)
        for place, continuation in zip(fitting, written):
            answers[place] = self.tokenizer.decode(continuation.ids, skip_special_tokens=True,
                                                   clean_up_tokenization_spaces=False)
        return answers

    def _prompts(self, questions: list[str]) -> list[list[int]]:
        """Behind the end of the text before, as everything that is sampled."""
        from apo.data.chat import chat_in
        if not questions:
            return []
        if (chat := chat_in(self.chat_template, self.tokenizer)) is not None:
            ids = chat.ids([chat.prompt(question) for question in questions])
        else:
            ids = self.tokenizer(questions, add_special_tokens=False, verbose=False)["input_ids"]
        return [[self.tokenizer.eos_token_id, *each] for each in ids]

    def _fitting(self, model: Any, prompts: list[list[int]]) -> list[int]:
        from apo.models.policy import longest_context
        context = longest_context(model.config)
        if context is None:
            return list(range(len(prompts)))
        room = context - self.generation.max_new_tokens
        fitting = [place for place, prompt in enumerate(prompts) if len(prompt) <= room]
        if prompts and not fitting:
            raise EvaluationError(f"{self.name} has no room for {self.doing}: the shortest question has "
                                  f"{min(map(len, prompts))} tokens, an answer up to "
                                  f"{self.generation.max_new_tokens}, and its context is {context}. Ask with a shorter "
                                  "template, let the answer be shorter, or take another model.")
        return fitting


def draw_number(question: str, number: int) -> int:
    """Under which an answer's random numbers are drawn."""
    return int.from_bytes(hashlib.sha256(f"{number}\n{question}".encode()).digest()[:8], "big") >> 1


@dataclass
class RuleWriter:
    """No model: a scorer's reward in the words of a judge, for tests and demonstrations, and says so in each answer."""

    scorer: Any
    """As of `apo/scorers/base.py`."""
    varies: ClassVar[bool] = False

    def describe(self) -> dict[str, Any]:
        return {"judge": "rule", "scorer": self.scorer.name, "fingerprint": self.scorer.fingerprint()}

    def write(self, rubric: Rubric, asks: list[Ask]) -> list[str | None]:
        """Raises ScorerError."""
        from apo.data.scoring import completion_scores
        if not asks:
            return []
        scores = completion_scores(self.scorer, [[ask.prompt, ask.response] for ask in asks])
        return [f'This is a rule and no language model: by "{self.scorer.name}" the reward is {-score:g}.\n'
                + rubric.say(squeezed(-score, rubric.low, rubric.high)) for _, score in scores]


def squeezed(reward: float, low: float, high: float) -> float:
    """Any number to one from low to high, larger ones to larger ones; 0 to the middle.  r / (1 + |r|), which tells
    apart what a sigmoid has long rounded to its end."""
    share = 0.5 + 0.5 * reward / (1 + abs(reward))
    return min(max(low + (high - low) * share, low), high)
