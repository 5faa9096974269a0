"""Which of two texts is better, asked of a language model in both orders.

A judge prefers the text that it sees first (or the one that it sees last), by more than good texts differ (Zheng et al.
2023; Wang et al. 2023).  So every pair is asked twice, and a text wins only where it wins in both places, as in
MT-bench: two answers that disagree are a tie, and so is a win in one order with an equal in the other.
"""

from dataclasses import dataclass, field
from typing import Literal

from apo.cache import digest
from apo.errors import EvaluationError
from apo.judges.answers import Answers
from apo.judges.asking import Asking
from apo.judges.question import Question
from apo.rollouts.chat_server import ChatServer, Reply

Outcome = Literal["win", "tie", "loss"]
VALUES: dict[Outcome, float] = {"win": 1.0, "tie": 0.5, "loss": 0.0}
MIRRORED = {"A": "B", "B": "A", "equal": "equal", "neither": "neither"}


@dataclass(frozen=True, slots=True)
class Pair:
    prompt: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Answer:
    """To one question: a pair in one order."""

    key: str
    """A hash of all that the reply depends on."""
    reply: Reply
    choices: dict[str, str]
    """Aspect -> `A` (the text shown first), `B`, `equal` or `neither`; without the aspects that could not be read."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one pair."""

    pair: Pair
    forward: Answer
    """The pair's `a` was shown first."""
    backward: Answer
    """The pair's `b` was shown first."""

    def choices(self, aspect: str) -> tuple[str, str] | None:
        """What both answers said of the places; None where one of them could not be read."""
        if aspect not in self.forward.choices or aspect not in self.backward.choices:
            return None
        return self.forward.choices[aspect], self.backward.choices[aspect]

    def outcome(self, aspect: str) -> Outcome | None:
        """For the pair's `a`.  None where an answer could not be read."""
        said = self.choices(aspect)
        if said is None:
            return None
        winner = said[0] if said[0] == MIRRORED[said[1]] else None
        return {"A": "win", "B": "loss"}.get(winner, "tie")

    def value(self, aspect: str) -> float | None:
        """1 where the pair's `a` won, 0 where `b` did, 1/2 for a tie.  None where an answer could not be read."""
        outcome = self.outcome(aspect)
        return None if outcome is None else VALUES[outcome]

    def order_decided(self, aspect: str) -> bool:
        """The same place won both times, whichever text stood there."""
        return self.choices(aspect) in (("A", "A"), ("B", "B"))


@dataclass
class PairJudge:
    """Raises EvaluationError for numbers that make no sense."""

    server: ChatServer
    question: Question = field(default_factory=Question)
    max_tokens: int = 300
    """Of an answer.  One that is cut before its lines cannot be read."""
    temperature: float = 0.0
    concurrency: int = 4
    """Requests on their way at once.  It changes no verdict."""
    answers: Answers | None = None
    """Where answers are kept and found again.  None: nowhere."""

    def __post_init__(self):
        for name, least in (("concurrency", 1), ("max_tokens", 1), ("temperature", 0)):
            if not getattr(self, name) >= least:
                raise EvaluationError(f"--{name.replace('_', '-')} {getattr(self, name)}: it must be {least} or more.")

    def compare(self, pairs: list[Pair]) -> list[Verdict]:
        """One verdict for every pair, in their order.  The same question is asked once, however often it comes.

        Raises ServerError where a request fails for good, with all that was answered until then kept."""
        orders = [((pair.prompt, pair.a, pair.b), (pair.prompt, pair.b, pair.a)) for pair in pairs]
        keys = {texts: self.key(*texts) for both in orders for texts in both}
        replies = Asking(self._ask, self.answers, self.concurrency).replies(
            {key: self.question.ask(*texts) for texts, key in keys.items()})
        read = {key: Answer(key, reply, self.question.read(reply.text)) for key, reply in replies.items()}
        return [Verdict(pair, read[keys[forward]], read[keys[backward]])
                for pair, (forward, backward) in zip(pairs, orders)]

    def describe(self) -> dict[str, object]:
        """All that an answer depends on beside the texts."""
        return {"url": self.server.url, "model": self.server.model, "template": self.question.template,
                "aspects": list(self.question.aspects), "max_tokens": self.max_tokens, "temperature": self.temperature}

    def key(self, prompt: str, first: str, second: str) -> str:
        """The order is in it: which text stands first."""
        return digest({**self.describe(), "prompt": prompt, "first": first, "second": second})

    def _ask(self, question: str) -> Reply:
        return self.server.reply([{"role": "user", "content": question}], self.max_tokens, self.temperature)
