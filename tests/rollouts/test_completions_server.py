"""The client of completions servers, against a real one on localhost and what can go wrong with it."""

import json
import math
import socket
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from apo.errors import ServerError
from apo.rollouts.completions_server import Completion, CompletionsServer

GREETING = {"text": " you", "finish_reason": "length",
            "logprobs": {"tokens": [" y", "ou"], "token_logprobs": [-1, -0.5]}}


def copies(request, choice=GREETING):
    return [choice] * request["n"]


def complete(server, n=2, **options):
    return CompletionsServer(server.url, "m").complete("hi", n, 4, 1.0, 1.0, **options)


def test_what_is_asked_and_what_comes_back(completions_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server = completions_server(copies)
    found = CompletionsServer(server.url + "/", "m").complete("hi", 2, 4, 0.7, 0.9, ["\n"], 5, logprobs=True)
    assert found == [Completion(" you", [" y", "ou"], [-1.0, -0.5], "length")] * 2
    assert server.requests == [{"model": "m", "prompt": "hi", "n": 2, "max_tokens": 4, "temperature": 0.7,
                                "top_p": 0.9, "stop": ["\n"], "seed": 5, "logprobs": 1}]
    assert server.headers[0]["path"] == "/v1/completions"
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"


def test_without_a_key_none_is_sent(completions_server):
    server = completions_server(copies)
    complete(server)
    assert "Authorization" not in server.headers[0]
    assert not server.requests[0].keys() & {"stop", "seed", "logprobs"}


def test_what_passes_is_tried_again(completions_server):
    server = completions_server(copies, ["drop", 500, (429, {"Retry-After": "7"}, b"slow down"), b'{"choices": [{"te',
                                         b'{"choices": []}'])
    assert complete(server, n=1)[0].text == " you"
    assert len(server.requests) == 6
    assert server.pauses == [1, 2, 7, 8, 16]


def test_pauses_are_capped_and_a_date_is_understood(completions_server):
    soon = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=30))
    server = completions_server(copies, [*[503] * 8, (429, {"Retry-After": soon}, b"")])
    CompletionsServer(server.url, "m", retries=9).complete("hi", 1, 4, 1.0, 1.0)
    assert server.pauses[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert 20 < server.pauses[8] <= 30


def test_it_gives_up_with_address_and_reason(completions_server):
    server = completions_server(copies, [502] * 3)
    with pytest.raises(ServerError, match=rf"{server.url}/completions answered 502 Bad Gateway \(tried 3 times\)"):
        CompletionsServer(server.url, "m", retries=2).complete("hi", 1, 4, 1.0, 1.0)


def test_a_pause_beyond_all_patience_is_not_waited_for(completions_server):
    server = completions_server(copies, [(429, {"Retry-After": "86400"}, b"")])
    with pytest.raises(ServerError, match="429 .* asks to wait 86400 s"):
        complete(server)
    assert server.pauses == []


def test_what_does_not_pass_ends_at_once_and_the_key_is_not_shown(completions_server, monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    body = json.dumps({"error": {"message": "Incorrect API key provided: sk-secret"}}).encode()
    server = completions_server(copies, [(401, {}, body)])
    client = CompletionsServer(server.url, "m", api_key_env="MY_KEY")
    with pytest.raises(ServerError, match="401 .*provided: .*MY_KEY, which is set") as caught:
        client.complete("hi", 1, 4, 1.0, 1.0)
    assert len(server.requests) == 1
    assert "sk-secret" not in str(caught.value) + capsys.readouterr().err + repr(vars(client))


def test_the_key_does_not_follow_a_redirect(completions_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    other = completions_server(copies)
    server = completions_server(copies, [(307, {"Location": other.url + "/completions"}, b"")])
    with pytest.raises(ServerError, match="answered 307"):
        complete(server)
    assert other.requests == []


def test_a_server_that_is_not_there(completions_server):
    server = completions_server(copies)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ServerError, match=rf"{url}/completions cannot be reached: .*refused.*tried 3 times"):
        CompletionsServer(url, "m", retries=2).complete("hi", 1, 4, 1.0, 1.0)
    assert server.pauses == [1, 2]


@pytest.mark.parametrize("logprobs", [None, {"tokens": None, "token_logprobs": None}])
def test_missing_log_probabilities_are_refused(completions_server, logprobs):
    bare = {"text": "x", "finish_reason": "stop", "logprobs": logprobs}
    server = completions_server(lambda request: [GREETING, bare])
    assert len(complete(server)) == 2
    with pytest.raises(ServerError, match="no log-probabilities for the model m"):
        complete(server, logprobs=True)


@pytest.mark.parametrize("numbers", [[-1], [-1, None], [-1, math.nan]])
def test_damaged_log_probabilities_are_no_answer(completions_server, numbers):
    spoilt = GREETING | {"logprobs": {"tokens": [" y", "ou"], "token_logprobs": numbers}}
    server = completions_server(lambda request: copies(request, spoilt))
    with pytest.raises(ServerError, match="no list of completions"):
        complete(server, logprobs=True)


def test_fewer_than_asked_for_are_asked_for_again(completions_server):
    counter = iter(range(100))
    server = completions_server(lambda request: [GREETING | {"text": str(next(counter))} for _ in range(2)])
    assert [completion.text for completion in complete(server, n=5, seed=10)] == ["0", "1", "2", "3", "4"]
    assert [(request["n"], request["seed"]) for request in server.requests] == [(5, 10), (3, 12), (1, 14)]


def test_many_are_asked_for_in_parts(completions_server):
    server = completions_server(copies)
    assert len(complete(server, n=300)) == 300
    assert [request["n"] for request in server.requests] == [128, 128, 44]


def test_log_probabilities_as_llama_cpp_writes_them(completions_server):
    choice = {"text": "a", "finish_reason": "stop", "logprobs": {"content": [{"token": "a", "logprob": -2}]}}
    server = completions_server(lambda request: copies(request, choice))
    assert complete(server, n=1, logprobs=True) == [Completion("a", ["a"], [-2.0], "stop")]


@pytest.mark.parametrize("text, tokens, reason, counted", [
    ("a b", ["a", " b", "<|endoftext|>"], "stop", True), ("a b", ["a", " b"], "stop", False),
    ("", ["</s>"], "stop", True), ("a b", ["a", " b"], "length", False), ("", [], "stop", False),
    ("a\ufffd", ["a", "bytes:\\xe2"], "stop", False)])
def test_whether_the_end_of_text_has_a_log_probability(text, tokens, reason, counted):
    assert Completion(text, tokens, [-1.0] * len(tokens), reason).end_counted is counted


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", "http://", "https://me:sk-secret@host/v1"])
def test_what_is_no_address(url):
    with pytest.raises(ServerError) as caught:
        CompletionsServer(url, "m")
    assert "sk-secret" not in str(caught.value)
