"""The cache: built once, by one process, and never half."""

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from apo.cache import Cache, digest
from apo.errors import RunError


def write(text):
    return lambda folder: (folder / "value").write_text(text) and None


def test_an_entry_is_built_once_and_found_again(tmp_path):
    first = Cache(tmp_path).get("kind", {"b": 1, "a": [2]}, write("one"))
    again = Cache(tmp_path).get("kind", {"a": [2], "b": 1}, write("two"))
    assert first == again
    assert (again / "value").read_text() == "one"
    assert (again / "key.json").read_text() == '{"a":[2],"b":1}\n'
    assert Cache(tmp_path).get("kind", {"a": [3]}, write("two")) != first


def test_keys_have_one_spelling():
    assert digest({"a": 1, "b": None}) == digest({"b": None, "a": 1})
    with pytest.raises(ValueError):
        digest({"a": float("nan")})


def test_a_failed_build_leaves_nothing(tmp_path):
    def fails(folder):
        (folder / "value").write_text("half")
        raise KeyError("x")

    with pytest.raises(KeyError):
        Cache(tmp_path).get("kind", {}, fails)
    assert [path.suffix for path in (tmp_path / "kind").iterdir() if path.suffix != ".lock"] == []
    assert (Cache(tmp_path).get("kind", {}, write("whole")) / "value").read_text() == "whole"


def test_the_default_root_is_the_environments(monkeypatch, tmp_path):
    monkeypatch.setenv("APO_CACHE", str(tmp_path / "here"))
    assert Cache().root == tmp_path / "here"
    monkeypatch.delenv("APO_CACHE")
    assert Cache().root == Path("~/.cache/apo").expanduser()
    assert Cache("~/x").root == Path("~/x").expanduser()


def test_a_folder_that_cannot_be_made_names_the_option(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="--cache-dir"):
        Cache(tmp_path / "file").get("kind", {}, write("x"))


def test_a_full_disk_names_the_option_and_leaves_nothing(tmp_path):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match="No space left on device.*--cache-dir"):
        Cache(tmp_path).get("kind", {}, full)
    assert not Cache(tmp_path).path("kind", {}).exists()


def test_a_missing_input_file_is_not_the_caches_fault(tmp_path):
    with pytest.raises(FileNotFoundError):
        Cache(tmp_path / "cache").get("kind", {}, lambda folder: (tmp_path / "input").read_text())


def test_an_entry_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    Cache(tmp_path).get("kind", {}, write("x"))
    monkeypatch.setattr(Path, "mkdir", lambda *args, **kwargs: pytest.fail("wrote"))
    assert (Cache(tmp_path).get("kind", {}, write("y")) / "value").read_text() == "x"


def slow_build(folder):
    (folder / "part").write_text(str(os.getpid()))
    time.sleep(0.5)
    (folder / "value").write_text(str(os.getpid()))


def get_slowly(root, queue):
    queue.put((Cache(root).get("kind", {}, slow_build) / "value").read_text())


def never_ends(folder):
    (folder / "value").write_text("half")
    time.sleep(60)


def build_forever(root):
    Cache(root).get("kind", {}, never_ends)


def test_two_processes_at_once_build_once(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=get_slowly, args=(tmp_path, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    values = {queue.get(timeout=30) for _ in processes}
    for process in processes:
        process.join()
    assert len(values) == 1


def test_a_killed_build_leaves_no_entry_and_no_lock(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=build_forever, args=(tmp_path,))
    process.start()
    building = Cache(tmp_path).path("kind", {}).with_name(Cache(tmp_path).path("kind", {}).name + ".building")
    while not (building / "value").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert building.exists() and not Cache(tmp_path).path("kind", {}).exists()
    assert (Cache(tmp_path).get("kind", {}, write("whole")) / "value").read_text() == "whole"
    assert not building.exists()
