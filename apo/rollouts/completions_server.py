"""Text and its log-probabilities from a server that speaks OpenAI's completions protocol: hosted, vLLM, llama.cpp."""

import json
import math
from dataclasses import dataclass, field

from apo.rollouts.servers import Passing, Server

CHOICES_AT_ONCE = 128
"""Completions asked for in one request: OpenAI's own limit."""


@dataclass(slots=True)
class Completion:
    text: str
    tokens: list[str] = field(default_factory=list)
    """As the server writes them.  Empty where log-probabilities were not asked for."""
    logprobs: list[float] = field(default_factory=list)
    """Of each token, nats."""
    finish_reason: str | None = None
    """`stop`: ended by itself or at a stop string; `length`: cut at max_tokens."""

    @property
    def end_counted(self) -> bool:
        """Whether the last token is that of the end of text, which is no part of `text`.  Some servers leave it out."""
        last = self.tokens[-1] if self.tokens else ""
        piece_of_a_character = last.startswith("bytes:") or "\ufffd" in last
        return self.finish_reason == "stop" and bool(last) and not piece_of_a_character and not self.text.endswith(last)


class CompletionsServer(Server):
    path = "/completions"

    def complete(self, prompt: str, n: int, max_tokens: int, temperature: float, top_p: float,
                 stop: list[str] | None = None, seed: int | None = None, logprobs: bool = False) -> list[Completion]:
        """Exactly `n` completions, over as many requests as the server needs for them.

        `seed`: requests after the first count on from it, so that they do not repeat each other.  Whether a seed has an
        effect is the server's business.  Raises ServerError.
        """
        found: list[Completion] = []
        while len(found) < n:
            body = {"model": self.model, "prompt": prompt, "n": min(n - len(found), CHOICES_AT_ONCE),
                    "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
            if stop:
                body["stop"] = stop
            if seed is not None:
                body["seed"] = seed + len(found)
            if logprobs:
                body["logprobs"] = 1
            found += self.ask(body, lambda answer: self._read(answer, logprobs))[:n - len(found)]
        return found

    def _read(self, answer: bytes, logprobs: bool) -> list[Completion]:
        try:
            choices = json.loads(answer)["choices"]
            made = [_completion(choice) for choice in choices]
        except (ValueError, KeyError, TypeError, AttributeError):
            start = answer[:60].decode("utf-8", "replace")
            raise Passing(f"answered something that is no list of completions: {start!r}") from None
        if not made:
            raise Passing("answered with no completion at all")
        if logprobs and not all(map(_has_logprobs, choices)):
            raise self.error(f"returns no log-probabilities for the model {self.model}; they are needed here, so use "
                             "a server and a model that give them")
        return made


def _completion(choice: dict) -> Completion:
    """Log-probabilities come as two lists (OpenAI, vLLM) or as one of objects (llama.cpp)."""
    if not isinstance(choice["text"], str):
        raise TypeError
    given = choice.get("logprobs") or {}
    if "content" in given:
        pairs = [(token["token"], token["logprob"]) for token in given["content"]]
    else:
        tokens, numbers = given.get("tokens") or [], given.get("token_logprobs") or []
        pairs = list(zip(tokens, numbers, strict=True))
    if not all(isinstance(token, str) and math.isfinite(number) for token, number in pairs):
        raise ValueError
    return Completion(choice["text"], [token for token, _ in pairs], [float(number) for _, number in pairs],
                      choice.get("finish_reason"))


def _has_logprobs(choice: dict) -> bool:
    """An empty text without the token of its end has empty lists."""
    given = choice.get("logprobs")
    return isinstance(given, dict) and ("content" in given or bool(given.get("token_logprobs")) or not choice["text"])
