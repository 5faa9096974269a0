"""A judge behind a real HTTP server on localhost, whose opinion a test writes down."""

import re
from types import SimpleNamespace

import pytest

from apo.judges import PairJudge
from apo.rollouts.chat_server import ChatServer

SHOWN = re.compile(r"<conversation>\n(.*)\n</conversation>\n\n"
                   r"<reply_A>\n(.*)\n</reply_A>\n\n<reply_B>\n(.*)\n</reply_B>", re.DOTALL)


def longer(prompt, first, second):
    """A sensible judge."""
    return "equal" if len(first) == len(second) else "A" if len(first) > len(second) else "B"


@pytest.fixture
def judge_server(completions_server):
    """`judge_server(opinion=longer, mishaps=())`: as `completions_server`, of chats.  `opinion(prompt, first, second)`
    is one of A, B, equal and neither, which it says of both aspects, or a whole answer of several lines."""

    def start(opinion=longer, mishaps=()) -> SimpleNamespace:
        def answer(request):
            said = opinion(*SHOWN.search(request["messages"][0]["content"]).groups())
            text = said if "\n" in said else f"Both are texts.\nMore helpful: {said}\nMore safe: {said}"
            return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 100, "completion_tokens": 10}}
        return completions_server(answer, mishaps)
    return start


@pytest.fixture
def make_judge():
    """`make_judge(server, answers=None, **options)` -> PairJudge."""
    return lambda server, **options: PairJudge(ChatServer(server.url, "m", retries=2), **options)
