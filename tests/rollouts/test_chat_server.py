"""The client of chat servers, against a real one on localhost.  What it shares with that of completions servers is
tested there (test_completions_server.py)."""

import json

import pytest

from apo.errors import ServerError
from apo.rollouts.chat_server import ChatServer, Reply

MESSAGES = [{"role": "user", "content": "Hi?"}]


def chat(content, **more):
    return {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}], **more}


def reply(server, **options):
    return ChatServer(server.url, "m", **options).reply(MESSAGES, 5, 0.0)


def test_what_is_asked_and_what_comes_back(completions_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    server = completions_server(lambda request: chat("Hello!", usage=usage))
    assert ChatServer(server.url + "/chat/completions", "m").reply(MESSAGES, 5, 0.5) == Reply("Hello!", "stop", 7, 2)
    assert server.requests == [{"model": "m", "messages": MESSAGES, "max_tokens": 5, "temperature": 0.5}]
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize("usage", [{}, {"usage": None}, {"usage": {"prompt_tokens": None}}])
def test_a_server_that_counts_no_tokens(completions_server, usage):
    assert reply(completions_server(lambda request: chat("Hello!", **usage))) == Reply("Hello!", "stop")


def test_a_model_that_says_nothing_is_no_failure(completions_server):
    server = completions_server(lambda request: chat(None))
    assert reply(server).text == "" and len(server.requests) == 1


def test_what_passes_is_tried_again(completions_server):
    mishaps = [500, (429, {"Retry-After": "0"}, b""), "drop", json.dumps({"choices": []}).encode(),
               json.dumps(chat(["a part"])).encode(), b"[]"]
    server = completions_server(lambda request: chat("Hello!"), mishaps)
    assert reply(server).text == "Hello!"
    assert server.pauses == [1, 0, 4, 8, 16, 32]


def test_an_answer_that_never_ends_is_given_up(completions_server, monkeypatch):
    """Each byte comes in time, so no timeout of the connection notices."""
    monkeypatch.setattr("apo.rollouts.servers.LONGEST_ANSWER_S", 0.2)
    server = completions_server(lambda request: chat("Hello!"), ["trickle"])
    assert reply(server, timeout_s=5).text == "Hello!" and server.pauses == [1]
    with pytest.raises(ServerError, match=r"had not come to an end of its answer after 0.2 s \(tried 1 times\)"):
        reply(completions_server(lambda request: "trickle"), timeout_s=5, retries=0)


def test_what_stays_wrong_ends_with_address_and_reason(completions_server):
    server = completions_server(lambda request: chat("Hello!"), [b'{"id": 1}'] * 2)
    with pytest.raises(ServerError, match=rf"{server.url}/chat/completions answered something that is no reply of a "
                                          r"chat: '\{\"id\": 1\}' \(tried 2 times\)"):
        reply(server, retries=1)


@pytest.mark.parametrize("url", ["http://[::1", "http://host/v1?key=sk-secret", "https://host/v1#sk-secret"])
def test_what_is_no_address(url):
    with pytest.raises(ServerError) as caught:
        ChatServer(url, "m")
    assert "sk-secret" not in str(caught.value)
