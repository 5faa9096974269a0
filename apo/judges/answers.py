"""Answers of a judge on disk, each written the moment it comes: what was paid for once is never asked again.

One JSON object a line, under a key that is a hash of everything the answer depends on.  A kill while a line is written
leaves a piece of it at the end, which is cut off; damage anywhere else is not ours, and is refused.
"""

import json
import os
import threading
from dataclasses import asdict
from pathlib import Path

from apo.console import warn
from apo.errors import DataError, RunError
from apo.rollouts.chat_server import Reply


class Answers:
    """`with Answers(path) as answers:` owns the file.  Threads may add at once; a second process is refused.

    Raises DataError for a damaged file, RunError for one that cannot be written or that another process has."""

    def __init__(self, path: Path):
        self.path, self.added = path, 0
        self._replies: dict[str, Reply] = {}
        self._one_at_a_time = threading.Lock()

    def __enter__(self) -> "Answers":
        from filelock import FileLock, Timeout
        self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunError(f"{self.path} is being written by another process; wait for it, or choose another folder "
                           "with --out") from None
        except OSError as problem:
            raise self._cannot(problem) from None
        try:
            self._file = open(self.path, "a+b", buffering=0)
            self._load()
        except OSError as problem:
            self._lock.release()
            raise self._cannot(problem) from None
        except DataError:
            self._file.close()
            self._lock.release()
            raise
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
        self._lock.release()

    def get(self, key: str) -> Reply | None:
        return self._replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        line = json.dumps({"key": key, **asdict(reply)}).encode() + b"\n"
        with self._one_at_a_time:
            try:
                if self._file.write(line) != len(line):
                    raise OSError(28, os.strerror(28))
            except OSError as problem:
                raise self._cannot(problem) from None
            self._replies[key] = reply
            self.added += 1

    def _load(self) -> None:
        self._file.seek(0)
        whole = self._file.read()
        lines = whole.split(b"\n")
        end = 0                                     # of what is good, in bytes
        for number, line in enumerate(lines, 1):
            reply = _read(line)
            if reply is None and b"\n" in whole[end + len(line) + 1:]:
                raise DataError(f"{self.path}, line {number}: no answer of a judge. The file is damaged: take the line "
                                "out, and it is asked again.")
            if reply is None:
                break
            self._replies[reply[0]] = reply[1]
            end += len(line) + 1
        if end > len(whole):                        # only the last line's end is missing
            self._file.write(b"\n")
        elif end < len(whole):
            warn(f"{self.path}: the last line was cut off in the middle; it is asked again")
            self._file.truncate(end)

    def _cannot(self, problem: OSError) -> RunError:
        return RunError(f"cannot write {self.path}: {problem.strerror or problem}; what was answered before is kept")


def _read(line: bytes) -> tuple[str, Reply] | None:
    try:
        row = json.loads(line)
        key, text = row.pop("key"), row["text"]
        return (key, Reply(**row)) if isinstance(key, str) and isinstance(text, str) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
