"""Rewards by a rubric: from a server that misbehaves, from a model here, from a rule."""

import math
import re
import threading
import time
from dataclasses import dataclass

import pytest
import torch

from apo.cache import digest
from apo.errors import EvaluationError, ServerError
from apo.judges import Answers, Counts, Judgement, ModelWriter, Rubric, RubricJudge, RuleWriter, ServerWriter, count
from apo.judges.writers import squeezed
from apo.models.policy import Policy
from apo.rollouts.chat_server import ChatServer
from apo.schema import GenerationConfig
from apo.scorers.base import Scorer

SHOWN = re.compile(r"<conversation>\n(.*)\n</conversation>\n\n<reply>\n(.*)\n</reply>", re.DOTALL)
SHORT = Rubric("{{ prompt }}|{{ response }}|Score:")
NAMES = ("asked", "answered", "parsed", "unparsable", "failed")


@pytest.fixture
def judge_server(completions_server):
    """`judge_server(opinion)`: `opinion(response, n)`, the n-th time that it is asked about it (from 0), is a number, a
    whole answer, or a mishap of `completions_server`."""

    def start(opinion):
        times, lock = {}, threading.Lock()

        def answer(request):
            _, response = SHOWN.search(request["messages"][0]["content"]).groups()
            with lock:
                times[response] = times.get(response, -1) + 1
                number = times[response]
            said = opinion(response, number)
            if not isinstance(said, float) and not (isinstance(said, str) and said not in ("drop", "trickle")):
                return said
            text = f"It answers.\nScore: {said:g}" if isinstance(said, float) else said
            return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": {}}
        server = completions_server(answer)
        server.about = lambda: sorted(SHOWN.search(each["messages"][0]["content"])[2] for each in server.requests)
        return server
    return start


def judge(server, per_response=3, timeout_s=5.0, **options):
    return RubricJudge(Rubric(), ServerWriter(ChatServer(server.url, "m", timeout_s=timeout_s, retries=1), **options),
                       per_response)


# ---- a server --------------------------------------------------------------------------------------------------------

def test_the_mean_of_several_answers(judge_server):
    server = judge_server(lambda response, n: float(len(response)) + n / 2)
    made = judge(server).judge([("p", "a"), ("p", "bbb"), ("p", "a")])
    assert [each.reward for each in made] == [1.5, 3.5, 1.5] and made[0] is made[2]
    assert [sorted(each.scores) for each in made[:2]] == [[1, 1.5, 2], [3, 3.5, 4]]
    assert count(made) == Counts(6, 6, 6, 0, 0) and len(server.requests) == 6
    sent = server.requests[0]
    assert (sent["model"], sent["max_tokens"], sent["temperature"], sent["top_p"]) == ("m", 300, 0.7, 0.9)
    assert judge(server).judge([]) == [] and len(server.requests) == 6


def test_half_of_the_answers_cannot_be_read(judge_server):
    [made] = judge(judge_server(lambda response, n: [4.0, "It is fine.", 2.0][n])).judge([("p", "a")])
    assert made.reward == 3.0 and made.scores == [4.0, 2.0] or made.scores == [2.0, 4.0]
    assert (made.asked, made.failed, len(made.answers)) == (3, 0, 3)
    assert math.isnan(Judgement([], 3).reward)


def test_a_server_that_misbehaves_is_counted_and_not_waited_for(judge_server, tmp_path):
    """3 good responses, one of which fails at first; one that the judge rambles about, one that is refused, one whose
    answers are too slow, one whose answers are cut off."""
    def opinion(response, n):
        if response == "slow":
            time.sleep(0.5)
        found = {"flaky": 503 if n == 0 else 5.0, "ramble": "I give it four points.", "refused": (400, {}, b"no"),
                 "cut": "drop"}
        return found.get(response, 2.0)
    pairs = [("p", response) for response in ("fine", "good", "flaky", "ramble", "refused", "slow", "cut")]
    server, path = judge_server(opinion), tmp_path / "answers.jsonl"
    begun = time.monotonic()
    with Answers(path) as answers:
        made = judge(server, timeout_s=0.2, answers=answers, concurrency=4, patience=100).judge(pairs)
        assert answers.added == 4 * 3
    assert time.monotonic() - begun < 10
    assert [each.reward for each in made[:3]] == [2.0, 2.0, 5.0] and all(math.isnan(each.reward) for each in made[3:])
    assert count(made) == Counts(asked=21, answered=12, parsed=9, unparsable=3, failed=9)
    assert [(each.failed, len(each.scores)) for each in made] == [(0, 3)] * 3 + [(0, 0), (3, 0), (3, 0), (3, 0)]
    asked = server.about()
    assert [asked.count(name) for name in ("fine", "flaky", "refused", "slow", "cut")] == [3, 4, 3, 6, 6]

    server.requests.clear()                     # nothing that was answered is asked again, and the rest is
    with Answers(path) as answers:
        again = judge(server, timeout_s=0.2, answers=answers, concurrency=4, patience=100).judge(pairs)
        assert answers.added == 0 and again[:4] == made[:4] and count(again) == count(made)
        assert set(server.about()) == {"refused", "slow", "cut"}
        server.requests.clear()
        assert judge(server, answers=answers).judge(pairs[:4]) == made[:4] and server.requests == []


def test_a_larger_number_of_answers_asks_for_the_rest(judge_server, tmp_path):
    server = judge_server(lambda response, n: float(n))
    with Answers(tmp_path / "answers.jsonl") as answers:
        assert judge(server, 2, answers=answers).judge([("p", "a")])[0].reward == 0.5
        assert judge(server, 4, answers=answers).judge([("p", "a")])[0].reward == 1.5
    assert len(server.requests) == 4


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_server_that_fails_and_fails_ends_it(judge_server, tmp_path, concurrency):
    """It breaks down after four answers; of 30 questions the remaining ones are not all tried."""
    served = []

    def opinion(response, n):
        served.append(response)
        return 3.0 if len(served) <= 4 else 500
    server, pairs = judge_server(opinion), [("p", f"r{n}") for n in range(30)]
    with Answers(tmp_path / "answers.jsonl") as answers:
        with pytest.raises(ServerError, match="answered 500 .*; 5 questions in a row failed for good"):
            judge(server, 1, answers=answers, concurrency=concurrency, patience=5).judge(pairs)
        assert answers.added == 4
    assert len(server.requests) <= 4 + 2 * (5 + concurrency)


def test_failures_with_answers_between_them_do_not_end_it(judge_server):
    server = judge_server(lambda response, n: 400 if int(response) % 3 else 3.0)
    made = judge(server, 1, concurrency=1, patience=3).judge([("p", str(n)) for n in range(12)])
    assert count(made) == Counts(12, 4, 4, 0, 8)


def test_a_dead_server_is_no_round_of_rewards_that_are_unknown(judge_server):
    server = judge_server(lambda response, n: 401)
    with pytest.raises(ServerError, match="answered 401 .*OPENAI_API_KEY.*; of 2 questions none was answered"):
        judge(server, 2).judge([("p", "a")])


def test_what_never_varies_is_asked_once(judge_server):
    server = judge_server(lambda response, n: 3.0)
    [made] = judge(server, 5, temperature=0.0).judge([("p", "a")])
    assert (made.scores, made.asked) == ([3.0], 1) and len(server.requests) == 1


@pytest.mark.parametrize("change", [{"max_tokens": 5}, {"temperature": 0.5}, {"top_p": 1.0}])
def test_other_sampling_is_another_key(judge_server, change):
    server = ChatServer(judge_server(lambda response, n: 3.0).url, "m")
    key = ServerWriter(server).key("q", 0)
    assert ServerWriter(server, concurrency=9, patience=2).key("q", 0) == key
    others = [ServerWriter(server, **change).key("q", 0), ServerWriter(server).key("q", 1),
              ServerWriter(server).key("r", 0), ServerWriter(ChatServer(server.url, "n")).key("q", 0)]
    assert len({key, *others}) == 5


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"temperature": -1.0}, {"temperature": math.nan},
                                     {"top_p": 0.0}, {"top_p": 1.5}, {"concurrency": 0}, {"patience": 0}])
def test_numbers_that_make_no_sense(options):
    with pytest.raises(EvaluationError, match=next(iter(options))):
        ServerWriter(ChatServer("http://localhost/v1", "m"), **options)
    with pytest.raises(EvaluationError, match="per_response 0"):
        RubricJudge(Rubric(), RuleWriter(Loud()), 0)


# ---- a model here ----------------------------------------------------------------------------------------------------

@pytest.fixture
def lively(tiny_llama):
    """Larger weights, so that its distribution is not flat."""
    model = tiny_llama()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    return model


def model_judge(model, tokenizer, seed=3, per_response=2, rubric=SHORT, batch_size=32, **generation):
    options = {"temperature": 1.0, "max_new_tokens": 12, **generation}
    writer = ModelWriter(model, tokenizer, seed, GenerationConfig(**options), batch_size=batch_size)
    return RubricJudge(rubric, writer, per_response)


PAIRS = [("How are you?", "Fine."), ("Who?", "Me, and nobody else."), ("p", "r")]


def test_an_answer_depends_on_seed_question_and_number_alone(lively, byte_tokenizer):
    made = model_judge(lively, byte_tokenizer).judge(PAIRS)
    backwards = model_judge(lively, byte_tokenizer, batch_size=1).judge(PAIRS[::-1])
    assert [each.answers for each in made] == [each.answers for each in backwards[::-1]]
    more = model_judge(lively, byte_tokenizer, per_response=3).judge(PAIRS[1:2])
    assert more[0].answers[:2] == made[1].answers
    assert all(len(set(each.answers)) == 2 for each in made), "several answers are several"
    assert [each.answers for each in model_judge(lively, byte_tokenizer, seed=4).judge(PAIRS)] != [
        each.answers for each in made]
    [once] = model_judge(lively, byte_tokenizer, do_sample=False).judge(PAIRS[:1])
    assert once.asked == 1


def test_the_policy_in_training_judges_and_stays_as_it_was(lively, byte_tokenizer):
    policy = Policy(lively).train()
    state = torch.get_rng_state()
    made = model_judge(policy, byte_tokenizer).judge(PAIRS)
    assert all(module.training for module in policy.modules()) and torch.equal(torch.get_rng_state(), state)
    assert made == model_judge(lively.eval(), byte_tokenizer).judge(PAIRS)


def test_a_directory_is_loaded(lively, byte_tokenizer, tmp_path):
    lively.save_pretrained(tmp_path / "final")
    byte_tokenizer.save_pretrained(tmp_path / "final")
    generation = GenerationConfig(temperature=1.0, max_new_tokens=12)
    writer = ModelWriter.from_directory(tmp_path / "final", 3, generation=generation)
    assert writer.describe()["model"] == str(tmp_path / "final")
    assert RubricJudge(SHORT, writer, 2).judge(PAIRS) == model_judge(lively, byte_tokenizer).judge(PAIRS)


def test_a_model_that_has_learnt_to_judge(tiny_llama, byte_tokenizer):
    """Two questions and their answers by heart, of which one cannot be read."""
    model = tiny_llama().train()
    rows = [byte_tokenizer(SHORT.ask("p", response) + answer)["input_ids"] + [256]
            for response, answer in (("good", " fine! Score: 4.5"), ("bad", " I would say nothing."))]
    width = max(map(len, rows)) + 1
    ids = torch.tensor([[256, *row, *[256] * (width - 1 - len(row))] for row in rows])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    made = model_judge(model, byte_tokenizer, max_new_tokens=30, do_sample=False).judge([("p", "good"), ("p", "bad")])
    assert made[0] == Judgement([4.5], 1, [" fine! Score: 4.5"])
    assert made[1].answers == [" I would say nothing."] and count(made) == Counts(2, 2, 1, 1, 0)


def test_a_question_without_room_is_counted_and_a_judge_without_any_is_refused(lively, byte_tokenizer):
    """The context has 256 tokens, bytes: 12 for the answer, one for the end of text in front, 9 of form and prompt."""
    made = model_judge(lively, byte_tokenizer).judge([("p", "x" * 200), ("p", "x" * 234), ("p", "x" * 235)])
    assert [each.failed for each in made] == [0, 0, 2]
    with pytest.raises(EvaluationError, match=r"the policy has no room for judging: the shortest question has [0-9]+ "
                                              r"tokens, an answer up to 12, and its context is 256"):
        model_judge(lively, byte_tokenizer, rubric=Rubric()).judge(PAIRS)
    assert model_judge(lively, byte_tokenizer).judge([]) == []


# ---- a rule ----------------------------------------------------------------------------------------------------------

@dataclass
class Loud(Scorer):
    """Exclamation marks."""

    name = "loud"

    def score(self, texts):
        return [float(text.count("!")) for text in texts]


@dataclass
class Echo(Scorer):
    """Ten times the questions that the text, prompt and all, holds."""

    name, kind, reads_prompt = "echo", "reward", True

    def score(self, texts):
        return [10.0 * text.count("?") for text in texts]


def test_a_rule_keeps_the_order_of_its_rewards_and_says_what_it_is():
    made = RubricJudge(Rubric(), RuleWriter(Loud()), 3).judge([("!!", "!" * n) for n in range(200)])
    rewards = [each.reward for each in made]
    assert rewards == sorted(set(rewards), reverse=True) and rewards[0] == 2.5
    assert rewards[3] == pytest.approx(5 * (0.5 - 0.5 * 3 / 4)), "a score of 3 is a reward of -3"
    assert made[3].asked == 1 and 'a rule and no language model: by "loud" the reward is -3.' in made[3].answers[0]
    told = RubricJudge(Rubric(), RuleWriter(Loud()), 3).describe()
    assert (told["judge"], told["scorer"], told["per_response"]) == ("rule", "loud", 3) and digest(told)


def test_a_rule_that_reads_the_prompt():
    made = RubricJudge(Rubric(low=-1, high=1), RuleWriter(Echo())).judge([("a?b?", "c?"), ("a", "c")])
    assert [each.reward for each in made] == pytest.approx([30 / 31, 0.0])


@pytest.mark.parametrize("low, high", [(0, 5), (-0.1, 0.3)])
def test_whatever_is_squeezed_lies_within_and_in_order(low, high):
    rewards = [-1e300, -1e6, -3.0, -1e-9, 0.0, 1e-9, 3.0, 1e6, 1e300]
    made = [squeezed(reward, low, high) for reward in rewards]
    assert made[1:-1] == sorted(set(made[1:-1])) and made[0] <= made[1] and made[-1] >= made[-2]
    assert low <= min(made) and max(made) <= high and made[4] == pytest.approx((low + high) / 2)
