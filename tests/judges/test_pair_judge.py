"""Verdicts and what they add up to, against numbers worked out by hand, and judges that behave badly."""

import threading
import time

import pytest

from apo.errors import EvaluationError, ServerError
from apo.judges import Answers, Pair, Question, Verdict, tally
from apo.judges.pair_judge import Answer
from apo.judges.tally import usage
from apo.metrics.statistics import wilson
from apo.rollouts.chat_server import Reply

PAIRS = [Pair("p0", "aaaa", "b"), Pair("p1", "aaa", "b"), Pair("p2", "a", "bb"), Pair("p3", "aa", "bb")]


def verdict(forward, backward, prompt="p"):
    """Of one aspect; None for an answer that could not be read."""
    answers = [Answer(name, Reply(""), {} if choice is None else {"fun": choice})
               for name, choice in (("f" + prompt, forward), ("b" + prompt, backward))]
    return Verdict(Pair(prompt, "a", "b"), *answers)


# Forward: the letter A is the text a.  Backward: the letter A is the text b.
TABLE = [("A", "B", "win"), ("B", "A", "loss"),                             # both name the same text
         ("A", "A", "tie"), ("B", "B", "tie"),                              # both name the same place
         ("A", "equal", "tie"), ("equal", "B", "tie"), ("B", "neither", "tie"), ("neither", "A", "tie"),
         ("equal", "equal", "tie"), ("equal", "neither", "tie"), ("neither", "neither", "tie"),
         (None, "B", None), ("A", None, None), (None, None, None)]


@pytest.mark.parametrize("forward, backward, outcome", TABLE)
def test_both_orders_make_one_outcome(forward, backward, outcome):
    found = verdict(forward, backward)
    assert found.outcome("fun") == outcome
    assert found.value("fun") == {"win": 1.0, "tie": 0.5, "loss": 0.0, None: None}[outcome]
    assert found.order_decided("fun") == ((forward, backward) in [("A", "A"), ("B", "B")])


def test_the_whole_table_counted():
    """11 pairs can be read: 1 win, 1 loss, 9 ties, of which 2 by place and 4 with a winner in one order only.  Answers
    that name a winner: 12 in the first 8 rows, 6 of them A, and in the last three an A and a B."""
    found = tally([verdict(forward, backward, str(n)) for n, (forward, backward, _) in enumerate(TABLE)], "fun")
    assert (found.wins, found.ties, found.losses, found.unparsable, found.unparsable_answers) == (1, 9, 1, 3, 4)
    assert found.win_rate == wilson(5.5, 11)
    assert found.order_decided == 2 / 11 and found.half_decided == 4 / 11
    assert found.first_place == 7 / 14


def test_pairs_of_one_prompt_are_no_independent_ones():
    verdicts = [verdict("A", "B", str(n // 5)) for n in range(20)]
    verdicts += [verdict("B", "A", str(4 + n // 5)) for n in range(20)]
    found = tally(verdicts, "fun").win_rate
    assert found.mean == 0.5 and found.high - found.low > 1.8 * (wilson(20, 40).high - wilson(20, 40).low)
    same = tally([verdict("A", "B", ""), verdict("B", "A", "")], "fun").win_rate
    assert same == wilson(1, 2), "without prompts every pair is its own"


def test_nothing_to_count():
    found = tally([verdict(None, None)], "fun")
    assert found.win_rate is found.order_decided is found.first_place is None and found.unparsable == 1


def test_a_sensible_judge(judge_server, make_judge):
    """Longer is better: two wins, a loss, a tie, in either order."""
    server = judge_server()
    verdicts = make_judge(server).compare(PAIRS)
    assert [each.pair for each in verdicts] == PAIRS
    for aspect in ("helpful", "safe"):
        assert [each.value(aspect) for each in verdicts] == [1, 1, 0, 0.5]
        found = tally(verdicts, aspect)
        assert found.win_rate.mean == 2.5 / 4 and found.first_place == 0.5 and found.order_decided == 0
    assert usage(verdicts) == {"requests": 8, "prompt_tokens": 800, "completion_tokens": 80,
                               "requests_without_count": 0}
    assert server.requests[0].keys() == {"model", "messages", "max_tokens", "temperature"}
    assert server.requests[0]["temperature"] == 0


@pytest.mark.parametrize("place, share", [("A", 1.0), ("B", 0.0)])
def test_a_judge_that_looks_at_the_place_alone(judge_server, make_judge, place, share):
    found = tally(make_judge(judge_server(lambda *_: place)).compare(PAIRS), "safe")
    assert (found.wins, found.ties, found.losses) == (0, 4, 0)
    assert found.order_decided == 1.0 and found.first_place == share and found.win_rate.mean == 0.5


def test_a_judge_that_rambles_is_counted_and_not_guessed(judge_server, make_judge):
    def opinion(prompt, first, second):
        return "I like A.\nMore safe: equal" if prompt in ("p0", "p1") else "A"
    verdicts = make_judge(judge_server(opinion)).compare(PAIRS)
    found = tally(verdicts, "helpful")
    assert (found.unparsable, found.unparsable_answers, found.ties) == (2, 4, 2)
    assert tally(verdicts, "safe").unparsable == 0


def test_what_comes_often_is_asked_once(judge_server, make_judge):
    server = judge_server()
    verdicts = make_judge(server).compare([PAIRS[0], PAIRS[0], Pair("p0", "b", "aaaa"), Pair("p", "same", "same")])
    assert [each.value("safe") for each in verdicts] == [1, 1, 0, 0.5]
    assert len(server.requests) == usage(verdicts)["requests"] == 3
    assert make_judge(server).compare([]) == []


def test_many_at_once_say_the_same(judge_server, make_judge):
    busy, most, lock = 0, 0, threading.Lock()

    def slowly(prompt, first, second):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.02)
        with lock:
            busy -= 1
        return "A" if len(first) > len(second) else "B"
    pairs = [Pair(f"p{n % 7}", "a" * (n % 5 + 1), "b" * (n % 3 + 1)) for n in range(20)]
    mishaps = [(429, {"Retry-After": "0"}, b""), "drop"]       # as many as one unlucky request may meet
    one = make_judge(judge_server(slowly), concurrency=1).compare(pairs)
    assert most == 1
    server = judge_server(slowly, mishaps)
    many = make_judge(server, concurrency=8).compare(pairs)
    assert 1 < most <= 8 and len(server.pauses) == 2
    assert [each.value("helpful") for each in many] == [each.value("helpful") for each in one]
    assert tally(many, "helpful") == tally(one, "helpful") and usage(many) == usage(one)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_failure_ends_it_and_keeps_what_was_answered(judge_server, make_judge, tmp_path, concurrency):
    """Every request fails from the sixth on."""
    pairs = [Pair(f"p{n}", "aa", "b") for n in range(20)]
    server = judge_server(mishaps=[None] * 5 + [503] * 100)
    with Answers(tmp_path / "answers.jsonl") as answers:
        with pytest.raises(ServerError, match=r"answered 503 .*\(tried 3 times\)"):
            make_judge(server, concurrency=concurrency, answers=answers).compare(pairs)
        assert answers.added == 5
    assert len(server.requests) <= 5 + 3 * concurrency, "what had not begun was not asked"
    with Answers(tmp_path / "answers.jsonl") as answers:
        judge = make_judge(server)
        keys = [judge.key(pair.prompt, *texts) for pair in pairs for texts in (("aa", "b"), ("b", "aa"))]
        assert sum(answers.get(key) is not None for key in keys) == 5


def test_what_was_answered_is_not_asked_again(judge_server, make_judge, tmp_path):
    server, path = judge_server(), tmp_path / "deep/answers.jsonl"
    with Answers(path) as answers:
        first = make_judge(server, answers=answers).compare(PAIRS[:3])
    assert len(server.requests) == len(path.read_text().splitlines()) == 6
    with Answers(path) as answers:
        again = make_judge(server, answers=answers).compare(PAIRS)
        assert answers.added == 2
    assert len(server.requests) == 8 and again[:3] == first


@pytest.mark.parametrize("change", [
    {"max_tokens": 5}, {"temperature": 0.5}, {"question": Question(aspects=("safe",))},
    {"question": Question(Question().template + ".")}])
def test_another_question_is_another_key(judge_server, make_judge, change):
    server = judge_server()
    judge = make_judge(server)
    assert make_judge(server, concurrency=9).key("p", "a", "b") == judge.key("p", "a", "b") != judge.key("p", "b", "a")
    assert make_judge(server, **change).key("p", "a", "b") != judge.key("p", "a", "b")


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"max_tokens": 0}, {"temperature": -1.0},
                                     {"temperature": float("nan")}])
def test_numbers_that_make_no_sense(judge_server, make_judge, options):
    with pytest.raises(EvaluationError, match="--.* must be"):
        make_judge(judge_server(), **options)
