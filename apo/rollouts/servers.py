"""What every server that speaks OpenAI's protocol has in common: how it is asked, and what is done when it fails.

Servers drop connections, limit rates and fail for a while: such a request is made again after a pause that doubles, or
the one the server asks for.  What cannot get better by waiting (a wrong key, an unknown model) ends at once, and all of
it ends in one ServerError that names the address and the reason.  Only the standard library: no client of a vendor.

The key is read from the environment for each request.  It is kept nowhere, and taken out of what the server says.
"""

import json
import os
import ssl
import time
import urllib.error
import urllib.request
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse, IncompleteRead
from time import monotonic
from typing import Callable, ClassVar, TypeVar
from urllib.parse import urlsplit

from apo.console import say
from apo.errors import ServerError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
PATIENCE_S = 600.0
"""A server that asks for a longer pause than this is given up."""
LONGEST_ANSWER_S = 600.0
"""An answer that trickles in is given up after so long, although each byte comes in time."""
Answer = TypeVar("Answer")


class Server:
    """Base class of the clients.  May be asked from several threads at once.

    Args:
        url: of the API, as `http://localhost:8000/v1`.
        api_key_env: environment variable that holds the key; where it is not set, none is sent.
        timeout_s: without a byte from the server.
        retries: of one request, beside the first attempt.
    """

    path: ClassVar[str]
    """Of what is asked, behind the API's address."""

    def __init__(self, url: str, model: str, api_key_env: str = "OPENAI_API_KEY", timeout_s: float = 120.0,
                 retries: int = 6):
        try:
            parts = urlsplit(url)
        except ValueError:                      # of a bracket that is not closed
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerError(f'"{url}" is not the address of a server: write it like http://localhost:8000/v1')
        if parts.username or parts.password:
            raise ServerError(f"the address of {parts.hostname} holds a name or password, which would be shown and "
                              f"stored: put the key into the environment variable {api_key_env}")
        if parts.query or parts.fragment:
            raise ServerError(f'the address of {parts.hostname} holds a "?" or "#", behind which nothing can be asked '
                              "and where a key would be shown and stored: end it before that")
        self.url, self.model = url.rstrip("/").removesuffix(self.path) + self.path, model
        self.api_key_env, self.timeout_s, self.retries = api_key_env, timeout_s, retries
        self._opener = urllib.request.build_opener(_NoRedirects)

    def ask(self, body: dict, read: Callable[[bytes], Answer]) -> Answer:
        """One request, made again while that may help.

        `read` turns the bytes of the answer into what they mean; it raises Passing for what a further attempt may
        mend.  Raises ServerError."""
        for attempt in range(self.retries + 1):
            try:
                return read(self._post(json.dumps(body).encode()))
            except Passing as passing:
                problem, pause = passing, passing.pause_s
                if pause is None:
                    pause = min(FIRST_PAUSE_S * 2 ** attempt, LONGEST_PAUSE_S)
                if pause > PATIENCE_S:
                    raise self.error(f"{problem}, and asks to wait {pause:.0f} s") from None
                if attempt == self.retries:
                    raise self.error(f"{problem} (tried {attempt + 1} times)") from None
            say(f"{self.url} {problem}; trying again in {pause:g} s")
            time.sleep(pause)

    def error(self, reason: str) -> ServerError:
        return ServerError(f"{self.url} {reason}")

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(self.api_key_env):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, body, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.timeout_s) as response:
                return _whole(response)
        except urllib.error.HTTPError as error:
            raise self._status(error, key) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise self.error(f"has a certificate that cannot be trusted: {error.reason.verify_message}") from None
            raise Passing(f"cannot be reached: {error.reason}") from None
        except TimeoutError:
            raise Passing(f"did not answer for {self.timeout_s:g} s") from None
        except (OSError, HTTPException) as error:
            raise Passing(f"dropped the connection: {error or type(error).__name__}") from None

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
            return Passing(reason, _retry_after(error.headers.get("Retry-After")))
        if error.code in (401, 403):
            state = "is set" if key else "is not set"
            reason += f" (the key is read from the environment variable {self.api_key_env}, which {state})"
        return self.error(reason)


def _whole(response: HTTPResponse) -> bytes:
    """In small parts, which come in time or are late; a large one would be waited for."""
    begun, parts = monotonic(), []
    while part := response.read(64):
        parts.append(part)
        if monotonic() - begun > LONGEST_ANSWER_S:
            raise Passing(f"had not come to an end of its answer after {LONGEST_ANSWER_S:g} s")
    if response.length:
        raise IncompleteRead(b"".join(parts), response.length)
    return b"".join(parts)


class Passing(Exception):
    """What may be over after a pause; `pause_s` is the one that the server asked for."""

    def __init__(self, reason: str, pause_s: float | None = None):
        super().__init__(reason)
        self.pause_s = pause_s


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The key goes to the address that the user named and to no other."""

    def redirect_request(self, *_):
        return None


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
