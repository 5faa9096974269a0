"""A run whose samples are judged by a language model behind HTTP: the counts add up, nothing hangs, and what was
answered is not asked again by the run that goes on."""

import json
import re

import pytest

from apo import experiment
from apo.config import load_config
from apo.errors import ServerError
from apo.experience.judging import ByRubric, judge_of
from apo.schema import JudgeConfig

REPLY = re.compile(r"<reply>\n(.*)\n</reply>", re.DOTALL)


def said(text):
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": {}}


@pytest.fixture
def config(tmp_path):
    def build(url, *options):
        return load_config(["task=hh", "method=self_rewarding", "scale=smoke", f"output_dir={tmp_path / 'outputs'}",
                            f"cache_dir={tmp_path / 'cache'}", "rollout.judge.kind=server", f"rollout.judge.url={url}",
                            "rollout.judge.model=m", "rollout.judge.per_response=2", "rollout.prompts=4",
                            "rollout.generations=3", "training.max_steps=3", "evaluation.at_start=false",
                            "evaluation.every_n_steps=null", "evaluation.num_bootstrap=10", *options])
    return build


def rounds(run):
    return [[json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            for file in sorted((run / "rounds").glob("round-*.jsonl"))]


def test_a_server_that_rambles_and_fails_gives_rewards_and_counts_that_add_up(config, completions_server):
    """By the length of the reply: some answers cannot be read, some requests are refused, some are dropped at first."""
    dropped = set()

    def answer(request):
        reply = REPLY.search(request["messages"][0]["content"])[1]
        if len(reply) % 5 == 0:
            return (400, {}, b"no")
        if len(reply) % 5 == 1:
            return said("I would give it four.")
        if len(reply) % 5 == 2 and reply not in dropped:
            dropped.add(reply)
            return "drop"
        return said(f"It is what it is.\nScore: {len(reply) % 6}")
    server = completions_server(answer)
    made = config(server.url)
    outcome = experiment.train(made)
    lines = [json.loads(line) for line in (outcome.path / "metrics.jsonl").read_text().splitlines()]
    told, found = [line for line in lines if "judge/asked" in line], rounds(outcome.path)
    assert len(found) == 3 and sum(len(rows) for rows in found) == 36
    for row in (row for rows in found for row in rows):
        kind = len(row["text"]) % 5
        assert len(row["answers"]) == 2
        assert row["judgements"] == ([] if kind < 2 else [float(len(row["text"]) % 6)] * 2)
        assert row["answers"] == [None, None] if kind == 0 else None not in row["answers"]
        assert row["reward"] == (None if kind < 2 else len(row["text"]) % 6)
    asked = sum(line["judge/asked"] for line in told)
    failed, unparsable = (sum(line[f"judge/{name}"] * line["judge/asked"] for line in told)
                          for name in ("failed", "unparsable"))
    different = {(row["prompt"], row["text"]) for rows in found for row in rows}
    assert asked == 2 * len(different)
    assert failed == pytest.approx(2 * sum(len(text) % 5 == 0 for _, text in different))
    assert unparsable == pytest.approx(2 * sum(len(text) % 5 == 1 for _, text in different))


def test_a_run_that_goes_on_in_the_middle_of_judging_asks_nothing_twice(config, completions_server):
    """The server is gone after 11 answers, in the first round; later it is there again."""
    answered, most = [], {"answers": 11}

    def answer(request):
        if len(answered) >= most["answers"]:
            return (401, {}, b"the key is not valid any more")
        reply = REPLY.search(request["messages"][0]["content"])[1]
        answered.append(request["messages"][0]["content"])
        return said(f"Score: {len(reply) % 6}")
    server = completions_server(answer)
    made = config(server.url, "rollout.judge.concurrency=1")
    with pytest.raises(ServerError):
        experiment.train(made)
    assert len(answered) == 11
    before = list(answered)
    most["answers"] = 10_000
    outcome = experiment.train(made)
    everything = {(row["prompt"], row["text"]) for rows in rounds(outcome.path) for row in rows}
    assert outcome.state == "done" and answered[:11] == before
    assert len(answered) == 2 * len(everything)         # each of the two answers to each, and never a third
    assert max(answered.count(question) for question in set(answered)) == 2


def test_the_policy_judges_itself_and_a_rule_says_that_it_is_one(byte_tokenizer, tiny_llama, tmp_path):
    from apo.models.policy import Policy
    from apo.scorers.rules import HHRule
    policy = Policy(tiny_llama(max_position_embeddings=2048))
    common = {"policy": policy, "tokenizer": byte_tokenizer, "chat_template": "plain", "seed": 1, "batch_size": 4,
              "folder": tmp_path}
    pairs = [("\n\nHuman: How do I fold the map?\n\nAssistant:", " Well."), ("\n\nHuman: Hi.\n\nAssistant:", " Hello.")]
    by_policy = judge_of(JudgeConfig(kind="policy", per_response=2, max_tokens=8), scorer=None, **common)
    judged = by_policy(pairs, 0, lambda: None)
    assert [len(part["answers"]) for part in judged.parts] == [2, 2] and judged.metrics["judge/asked"].values[0] == 4
    assert all(isinstance(answer, str) for part in judged.parts for answer in part["answers"])
    by_rule: ByRubric = judge_of(JudgeConfig(kind="rule"), scorer=HHRule(), **common)
    judged = by_rule(pairs, 0, lambda: None)
    assert all("This is a rule and no language model" in part["answers"][0] for part in judged.parts)
    assert ((judged.rewards_C >= 0) & (judged.rewards_C <= 5)).all() and not (tmp_path / "answers.jsonl").exists()
