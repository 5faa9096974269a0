"""Replies from a server that speaks OpenAI's chat protocol: hosted, vLLM, llama.cpp."""

import json
from dataclasses import dataclass

from apo.rollouts.servers import Passing, Server


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    """Empty where the model said nothing: a filter held it back, or its thoughts took all of max_tokens."""
    finish_reason: str | None = None
    """`stop`: ended by itself; `length`: cut at max_tokens."""
    prompt_tokens: int | None = None
    """As the server counts; null where it does not."""
    completion_tokens: int | None = None


class ChatServer(Server):
    path = "/chat/completions"

    def reply(self, messages: list[dict[str, str]], max_tokens: int, temperature: float,
              top_p: float | None = None) -> Reply:
        """`messages`: [{"role": "user", "content": ...}, ...].  `top_p`: None is not sent.  Raises ServerError."""
        nucleus = {} if top_p is None else {"top_p": top_p}
        return self.ask({"model": self.model, "messages": messages, "max_tokens": max_tokens,
                         "temperature": temperature, **nucleus}, _read)


def _read(answer: bytes) -> Reply:
    try:
        parsed = json.loads(answer)
        choice = parsed["choices"][0]
        text = choice["message"]["content"]
        if not isinstance(text, str | None):
            raise TypeError
        usage = parsed.get("usage") or {}
        return Reply(text or "", choice.get("finish_reason"), _count(usage, "prompt_tokens"),
                     _count(usage, "completion_tokens"))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        start = answer[:60].decode("utf-8", "replace")
        raise Passing(f"answered something that is no reply of a chat: {start!r}") from None


def _count(usage: dict, name: str) -> int | None:
    return usage[name] if isinstance(usage.get(name), int) else None
