"""Text and its log-probabilities from a server that speaks OpenAI's completions protocol: hosted, vLLM, llama.cpp.

Servers drop connections, limit rates and fail for a while: such a request is made again after a pause that doubles, or
the one the server asks for.  What cannot get better by waiting (a wrong key, an unknown model) ends at once, and all of
it ends in one ServerError that names the address and the reason.  Only the standard library: no client of a vendor.

The key is read from the environment for each request.  It is kept nowhere, and taken out of what the server says.
"""

import json
import math
import os
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from urllib.parse import urlsplit

from apo.console import say
from apo.errors import ServerError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
PATIENCE_S = 600.0
"""A server that asks for a longer pause than this is given up."""
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


class CompletionsServer:
    """Args:
        url: of the API, as `http://localhost:8000/v1`.
        api_key_env: environment variable that holds the key; where it is not set, none is sent.
        timeout_s: without a byte from the server.
        retries: of one request, beside the first attempt.
    """

    def __init__(self, url: str, model: str, api_key_env: str = "OPENAI_API_KEY", timeout_s: float = 120.0,
                 retries: int = 6):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerError(f'"{url}" is not the address of a server: write it like http://localhost:8000/v1')
        if parts.username or parts.password:
            raise ServerError(f"the address of {parts.hostname} holds a name or password, which would be shown and "
                              f"stored: put the key into the environment variable {api_key_env}")
        base = url.rstrip("/").removesuffix("/completions")
        self.url, self.model = f"{base}/completions", model
        self.api_key_env, self.timeout_s, self.retries = api_key_env, timeout_s, retries
        self._opener = urllib.request.build_opener(_NoRedirects)

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
            found += self._choices(body, logprobs)[:n - len(found)]
        return found

    def _choices(self, body: dict, logprobs: bool) -> list[Completion]:
        """One request, made again while that may help."""
        for attempt in range(self.retries + 1):
            try:
                return self._read(self._post(json.dumps(body).encode()), logprobs)
            except _Passing as passing:
                problem, pause = passing, passing.pause_s
                if pause is None:
                    pause = min(FIRST_PAUSE_S * 2 ** attempt, LONGEST_PAUSE_S)
                if pause > PATIENCE_S:
                    raise self._error(f"{problem}, and asks to wait {pause:.0f} s") from None
                if attempt == self.retries:
                    raise self._error(f"{problem} (tried {attempt + 1} times)") from None
            say(f"{self.url} {problem}; trying again in {pause:g} s")
            time.sleep(pause)

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(self.api_key_env):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, body, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.timeout_s) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            raise self._status(error, key) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise self._error(f"has a certificate that cannot be trusted: {error.reason.verify_message}") from None
            raise _Passing(f"cannot be reached: {error.reason}") from None
        except TimeoutError:
            raise _Passing(f"did not answer for {self.timeout_s:g} s") from None
        except (OSError, HTTPException) as error:
            raise _Passing(f"dropped the connection: {error or type(error).__name__}") from None

    def _status(self, error: urllib.error.HTTPError, key: str | None) -> Exception:
        """What a status other than 200 means: wait and try again, or not."""
        try:
            said = _message(error.read(4096))
        except (OSError, HTTPException):
            said = ""
        if key:
            said = said.replace(key, "***")
        reason = f"answered {error.code} {error.reason}" + (f": {said}" if said else "")
        if error.code in (408, 429) or error.code >= 500:
            return _Passing(reason, _retry_after(error.headers.get("Retry-After")))
        if error.code in (401, 403):
            state = "is set" if key else "is not set"
            reason += f" (the key is read from the environment variable {self.api_key_env}, which {state})"
        return self._error(reason)

    def _read(self, answer: bytes, logprobs: bool) -> list[Completion]:
        try:
            choices = json.loads(answer)["choices"]
            made = [_completion(choice) for choice in choices]
        except (ValueError, KeyError, TypeError, AttributeError):
            start = answer[:60].decode("utf-8", "replace")
            raise _Passing(f"answered something that is no list of completions: {start!r}") from None
        if not made:
            raise _Passing("answered with no completion at all")
        if logprobs and not all(map(_has_logprobs, choices)):
            raise self._error(f"returns no log-probabilities for the model {self.model}; they are needed here, so use "
                              "a server and a model that give them")
        return made

    def _error(self, reason: str) -> ServerError:
        return ServerError(f"{self.url} {reason}")


class _Passing(Exception):
    """What may be over after a pause; `pause_s` is the one that the server asked for."""

    def __init__(self, reason: str, pause_s: float | None = None):
        super().__init__(reason)
        self.pause_s = pause_s


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The key goes to the address that the user named and to no other."""

    def redirect_request(self, *_):
        return None


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


def _message(body: bytes) -> str:
    """OpenAI's {"error": {"message": ...}}, or the beginning of whatever it is."""
    text = body.decode("utf-8", "replace").strip()
    try:
        error = json.loads(text)
        error = error.get("error", error)
        text = error if isinstance(error, str) else str(error.get("message", text))
    except (ValueError, AttributeError):
        pass
    return " ".join(text.split())[:300]


def _retry_after(value: str | None) -> float | None:
    """Seconds, or a date, as HTTP allows; None where there is neither."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max((parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None
