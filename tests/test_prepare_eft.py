"""scripts/prepare_eft.py: answers that people ranked become examples, and from these a policy learns to judge."""

import json
import re

import pytest

from apo import experiment
from apo.config import load_config
from apo.errors import DataError
from apo.judges.rubric import Rubric

PROMPTS = 12


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("prepare_eft")


def rows_in(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def ranked(tmp_path):
    """Four answers to each of twelve prompts, the second of which is as good as the first."""
    return write(tmp_path / "ranked.jsonl", [
        {"prompt": f"Question {number}?", "completion": f" answer {place}", "rank": max(place - 1, 0)}
        for number in range(PROMPTS) for place in range(4)])


def test_examples_are_read_by_the_judge_and_divided_by_prompt(script, ranked, tmp_path, capsys):
    out = tmp_path / "eft"
    assert script.main([ranked, str(out), "--ift", "2", "--eval", "0.3"]) == 0
    said = capsys.readouterr().out
    train, held_out, ift = (rows_in(out / f"{name}.jsonl") for name in ("train", "eval", "ift"))
    rubric = Rubric()
    for row in train + held_out:
        assert rubric.read(row["completion"]) == row["mark"] and row["label"] is True
        assert row["mark"] == {0: 5, 2: 2, 3: 0}[row["rank"]]
    asked = {rubric.ask(f"Question {number}?", f" answer {place}"): number
             for number in range(PROMPTS) for place in range(4)}
    prompts = [{asked[row["prompt"]] for row in part} for part in (train, held_out)]
    learnt = {int(row["prompt"].removeprefix("Question ").removesuffix("?")) for row in ift}
    assert len(prompts[1]) == 3 and len(learnt) == 2 and not prompts[0] & prompts[1]
    assert not learnt & (prompts[0] | prompts[1]) and {row["completion"] for row in ift} == {" answer 0"}
    assert len(held_out) == 3 * 4 and [sum(row["mark"] == mark for row in train) for mark in (5, 2, 0)] == [7, 7, 7]
    assert "marks 0: 7, 2: 7, 5: 7" in said and "read            12  prompts" in said
    assert "dropped          7  examples of the most frequent mark" in said
    before = (out / "train.jsonl").read_bytes()
    assert script.main([ranked, str(out), "--ift", "2", "--eval", "0.3"]) == 0
    assert (out / "train.jsonl").read_bytes() == before
    script.main([ranked, str(out), "--no-balance", "--eval", "0"])
    assert len(rows_in(out / "train.jsonl")) == PROMPTS * 4 and rows_in(out / "eval.jsonl") == []


def test_a_judge_of_ones_own_and_marks_that_people_gave(script, tmp_path):
    template = tmp_path / "judge.txt"
    template.write_text("{{ prompt }}|{{ response }}\nMark: ...")
    source = write(tmp_path / "rated.jsonl", [{"prompt": "Who?", "completions": [" I", " you"], "rewards": [7.5, 1]},
                                              {"prompt": "Why?", "completions": [" so", " no"], "rewards": [9, 3]}])
    judge = ["--template", str(template), "--pattern", "Mark: {{ reward }}", "--high", "10", "--low", "1"]
    assert script.main([source, str(tmp_path / "out"), *judge, "--marks", "reward", "--eval", "0"]) == 0
    assert {row["prompt"]: row["completion"] for row in rows_in(tmp_path / "out" / "train.jsonl")} == {
        "Who?| I\nMark: ...": "Mark: 7.5", "Who?| you\nMark: ...": "Mark: 1",
        "Why?| so\nMark: ...": "Mark: 9", "Why?| no\nMark: ...": "Mark: 3"}


def message(number, parent, role, text, rank=None, lang="en", **more):
    return {"message_id": number, "parent_id": parent, "role": role, "text": text, "rank": rank, "lang": lang, **more}


def test_open_assistant_flat_and_as_trees(script, tmp_path):
    """First questions with their ranked answers; nothing of later turns, of other languages, or deleted."""
    flat = [message("a", None, "prompter", "Who? "), message("b", "a", "assistant", "You.", 1),
            message("c", "a", "assistant", "I.", 0), message("d", "b", "prompter", "Really?"),
            message("e", "d", "assistant", "Yes.", 0), message("f", "a", "assistant", "Bad.", 2, deleted=True),
            message("g", "a", "assistant", "Unranked."), message("h", None, "prompter", "Wer?", lang="de"),
            message("i", "h", "assistant", "Ich.", 0, "de"), message("j", "h", "assistant", "Du.", 1, "de")]
    trees = [{"message_tree_id": "a", "prompt": {**flat[0], "replies": [{**flat[1], "replies": []}, flat[2]]}}]
    wanted = {Rubric().ask("\n\nHuman: Who?\n\nAssistant:", text): mark for text, mark in ((" I.", 5), (" You.", 0))}
    for name, rows in (("flat", flat), ("trees", trees)):
        source, out = write(tmp_path / f"{name}.jsonl", rows), tmp_path / name
        assert script.main([source, str(out), "--lang", "en", "--eval", "0"]) == 0
        assert {row["prompt"]: row["mark"] for row in rows_in(out / "train.jsonl")} == wanted


def test_a_server_judges_and_is_kept_where_it_agrees(script, ranked, tmp_path, completions_server, capsys):
    """It likes odd questions' answers the right way round, and even ones' the wrong way."""
    def answer(request):
        question = request["messages"][0]["content"]
        place, number = int(question.split(" answer ")[1][0]), int(question.split("Question ")[1].split("?")[0])
        mark = 4 - max(place - 1, 0) if number % 2 else place
        return {"choices": [{"message": {"content": f"Because.\nScore: {mark}"}}], "usage": {}}
    server, out = completions_server(answer), tmp_path / "out"
    command = [ranked, str(out), "--url", server.url, "--model", "m", "--draws", "1", "--eval", "0", "--no-balance"]
    assert script.main(command) == 0
    rows = rows_in(out / "train.jsonl")
    assert len(rows) == 6 * 4 and {row["completion"] for row in rows} == {f"Because.\nScore: {mark}"
                                                                          for mark in (4, 3, 2)}
    said = capsys.readouterr().out
    assert "6  of them whose marks are not in the people's order" in said
    assert "30 pairs in the people's order, 0 tied, 30 the other way round, 0 with a mark" in said and "50.0%" in said
    asked = len(server.requests)
    script.main(command)
    assert len(server.requests) == asked == PROMPTS * 4


@pytest.mark.parametrize("arguments, said", [
    (["--ift", "12"], "--ift 12: there are 12 prompts"), (["--draws", "0"], "--draws 0: makes no sense"),
    (["--url", "http://localhost:1/v1"], "--model None"), (["--eval", "1"], "--eval 1.0"),
    (["--template", "gone.txt"], "gone.txt: the judge's template cannot be read"),
    (["--pattern", "Mark: {{ reward }}"], 'does not ask for "Mark:"')])
def test_mistakes_are_one_message(script, ranked, tmp_path, capsys, arguments, said):
    assert script.main([ranked, str(tmp_path / "out"), *arguments]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_data_that_have_no_order(script, tmp_path, capsys):
    source = write(tmp_path / "same.jsonl", [{"prompt": "Who?", "completion": " I", "label": True}])
    assert script.main([source, str(tmp_path / "out")]) == 2
    assert "two answers of different rank are needed" in capsys.readouterr().err
    assert script.main([source, str(tmp_path)]) == 2 and "holds what is read" in capsys.readouterr().err


# ---- the policy judges -----------------------------------------------------------------------------------------------

def test_a_policy_that_has_learnt_to_judge_is_read(script, tmp_path, capsys):
    """Tuned on answers and on examples of judging by a template of a few letters, and then asked by it about its own
    answers.  Untuned for judging it is not understood once."""
    template = tmp_path / "judge.txt"
    template.write_text("{{ prompt }}{{ response }} #=")
    words = ("ab", "ba", "aab", "bba", "abab", "baba", "aabb", "bbaa", "abba", "baab", "aaab", "bbba")
    source = write(tmp_path / "ranked.jsonl", [{"prompt": f"{word}>", "completions": [word.upper(), "x"],
                                                "rewards": [1, 0]} for word in words])
    eft = tmp_path / "eft"
    judge = ["--template", str(template), "--pattern", "#={{ reward }}", "--high", "9"]
    assert script.main([source, str(eft), *judge, "--eval", "0"]) == 0
    answers = write(tmp_path / "ift.jsonl", [{"prompt": f"{word}>", "completion": text, "label": True}
                                             for word in words for text in (word.upper(), "x")])

    def config(method, *options):
        return load_config(["task=custom", f"method={method}", "scale=smoke", f"output_dir={tmp_path / 'outputs'}",
                            f"cache_dir={tmp_path / 'cache'}", "data.source=completions", "data.block_size=64",
                            "data.max_documents=null", "evaluation.at_start=false", "evaluation.every_n_steps=null",
                            "evaluation.scenarios.unconditional=null", "evaluation.best=null", "data.eval_fraction=0.1",
                            "evaluation.heldout_tokens=0", *options])

    def parsed(*files):
        tuned = experiment.train(config("mle", f"data.path=[{','.join(files)}]", "training.max_steps=300",
                                        "training.learning_rate=5e-3", "model.vocab_size=300"))
        judged = experiment.train(config(
            "self_rewarding", f"data.path={answers}", f"init_from.run={tuned.path}", "training.max_steps=2",
            "rollout.judge.kind=policy", f"rollout.judge.template={template}", "rollout.max_new_tokens=12",
            "rollout.judge.pattern='#={{ reward }}'", "rollout.judge.high=9", "rollout.judge.max_tokens=4",
            "training.learning_rate=1e-6", "rollout.prompts=8"))
        lines = [json.loads(line) for line in (judged.path / "metrics.jsonl").read_text().splitlines()]
        return [line["judge/parsed"] for line in lines if "judge/parsed" in line], judged, tuned
    found, judged, tuned = parsed(answers, str(eft / "train.jsonl"))
    assert found and min(found) > 0.9
    capsys.readouterr()
    assert script.main([source, str(tmp_path / "more"), *judge, "--writer", str(tuned.path / "final"), "--max-tokens",
                        "4", "--eval", "0"]) == 0       # and it agrees with what it has learnt
    right = int(re.search(r"judge +(\d+) pairs in the people's order", capsys.readouterr().out)[1])
    assert right > 0.8 * 3 * len(words) and {row["completion"] for row in rows_in(tmp_path / "more" / "train.jsonl")} \
        == {"#=9", "#=0"}
    with pytest.raises(DataError, match="10 rounds in a row had nothing to train on"):
        parsed(answers)
    assert "of 8 possible, 8 lack a known reward" in capsys.readouterr().err
    rows = [row for file in (judged.path / "rounds").glob("round-*.jsonl") for row in rows_in(file)]
    assert {mark for row in rows for mark in row["judgements"]} <= {0.0, 9.0}
