"""Which texts are found, and which belong together."""

import json

import pytest

from apo.errors import EvaluationError
from apo.judges.pair_judge import Pair
from apo.judges.texts import Written, find_texts, pair_up, pair_with_best, read_texts


def written(*texts):
    return [Written(*text) for text in texts]


def test_pairs_share_the_prompt_and_the_place():
    a = written(("p", "a1"), ("q", "a2"), ("p", "a3"), ("p", "a4"), ("r", "a5"))
    b = written(("q", "b1"), ("q", "b2"), ("p", "b3"), ("s", "b4"), ("p", "b5"))
    found = pair_up(a, b)
    assert found.pairs == [Pair("p", "a1", "b3"), Pair("q", "a2", "b1"), Pair("p", "a3", "b5")]
    assert (found.unpaired_a, found.unpaired_b) == (2, 2)


def test_every_text_meets_the_best_known_answer():
    found = pair_with_best(written(("p", "a1"), ("q", "a2"), ("p", "a3")), {"p": "best", "r": "other"})
    assert found.pairs == [Pair("p", "a1", "best"), Pair("p", "a3", "best")]
    assert (found.unpaired_a, found.unpaired_b) == (1, 1)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "samples").mkdir()
    for name in ("replies-000009", "replies-000100", "replies-1000000", "other-000100", "my-replies-000200"):
        (tmp_path / f"samples/{name}.jsonl").write_text("")
    return tmp_path


def test_the_newest_samples_of_a_run(run):
    assert find_texts(str(run), "replies").name == "replies-1000000.jsonl"
    (run / "samples/evaluation-replies.jsonl").write_text("")
    assert find_texts(str(run), "replies").name == "evaluation-replies.jsonl"
    assert find_texts(str(run / "samples/replies-000009.jsonl"), None).name == "replies-000009.jsonl"


@pytest.mark.parametrize("scenario, message", [
    ("replise", 'replise: .* none of it; there are samples of my-replies, other, replies.*Did you mean "replies"'),
    (None, "say with --scenario which, of .*my-replies, other, replies"), ("", "--scenario which"),
    (".*", "none of it")])
def test_a_scenario_that_is_not_there(run, scenario, message):
    with pytest.raises(EvaluationError, match=message):
        find_texts(str(run), scenario)


def test_what_is_no_run(tmp_path):
    with pytest.raises(EvaluationError, match="neither a run directory nor a file"):
        find_texts(str(tmp_path / "no"), "replies")
    with pytest.raises(EvaluationError, match="no run directory with samples"):
        find_texts(str(tmp_path), "replies")


def test_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {"prompt": "p\u2028", "text": "t\x85\n", "score": 1}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n\n" + json.dumps(row) + '\n{"prompt": "cut')
    assert read_texts(path) == [Written("p\u2028", "t\x85\n")] * 2


@pytest.mark.parametrize("line", ["not JSON", "[]", '{"prompt": "p"}', '{"prompt": null, "text": "t"}'])
def test_a_row_that_is_none(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "p", "text": "t"}\n' + line + '\n{"prompt": "p", "text": "t"}\n')
    with pytest.raises(EvaluationError, match="a.jsonl, line 2: "):
        read_texts(path)
    path.write_bytes(b"\xff\n")
    with pytest.raises(EvaluationError, match="not text in UTF-8"):
        read_texts(path)
