"""The file of answers: what a kill leaves in it, and what is refused."""

import json
import threading

import pytest

from apo.errors import DataError, RunError
from apo.judges import Answers
from apo.rollouts.chat_server import Reply


@pytest.fixture
def path(tmp_path):
    with Answers(tmp_path / "answers.jsonl") as answers:
        answers.add("one", Reply("More fun: A", "stop", 7, 2))
        answers.add("two", Reply("gr\u00fcn\u2028\ud83d", "length"))
    return tmp_path / "answers.jsonl"


def test_what_is_written_is_read(path):
    with Answers(path) as answers:
        assert answers.get("one") == Reply("More fun: A", "stop", 7, 2) and answers.added == 0
        assert answers.get("two") == Reply("gr\u00fcn\u2028\ud83d", "length") and answers.get("three") is None
    assert path.read_bytes().isascii()


@pytest.mark.parametrize("left, known", [
    (b'{"key": "three", "te', {"one", "two"}), (b"\x00" * 9, {"one", "two"}), (b'{"key": "th\n', {"one", "two"}),
    (b'{"key": "three", "text": "x"}', {"one", "two", "three"}), (b"{}", {"one", "two"}), (b"", {"one", "two"})])
def test_a_last_line_cut_off_by_a_kill(path, left, known, capsys):
    with open(path, "ab") as file:
        file.write(left)
    with Answers(path) as answers:
        assert {name for name in ("one", "two", "three") if answers.get(name)} == known
        answers.add("four", Reply("x"))
    assert {json.loads(line)["key"] for line in path.read_bytes().splitlines()} == known | {"four"}
    assert ("cut off" in capsys.readouterr().err) == (left != b"" and len(known) == 2)
    with Answers(path) as answers:
        assert answers.get("four")


@pytest.mark.parametrize("damage", [b'{"key": "o', b"", b'{"key": 1, "text": ""}', b'{"key": "k", "text": "", "x": 1}'])
def test_damage_elsewhere_is_refused_with_its_line(path, damage):
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(first + b"\n" + damage + b"\n" + rest)
    with pytest.raises(DataError, match="answers.jsonl, line 2: .*damaged"), Answers(path):
        pass
    path.write_bytes(first + b"\n" + rest)
    with Answers(path) as answers:
        assert answers.get("two")


def test_one_process_at_a_time(path):
    with Answers(path):
        with pytest.raises(RunError, match="answers.jsonl is being written by another process"), Answers(path):
            pass


def test_many_threads(path):
    with Answers(path) as answers:
        threads = [threading.Thread(target=lambda n=n: [answers.add(f"{n}-{m}", Reply("x" * 999)) for m in range(20)])
                   for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers.added == 160
    with Answers(path) as answers:
        assert all(answers.get(f"{n}-{m}") for n in range(8) for m in range(20))


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write .*answers.jsonl: "), Answers(tmp_path / "file/answers.jsonl"):
        pass
