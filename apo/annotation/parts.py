"""What is done of an annotation, kept beside its output until the whole is written: `<output>.parts/`.

A part is a file of JSON lines, one per row of the input that it covers, written aside and renamed, and named by the
rows it goes from and to.  After a kill the parts there are complete, in order and without a gap, so the work goes on
from the row that the last one ends at.  Where parts begin and end follows the clock and has no part in the result.
"""

import json
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from apo.annotation.output import differences
from apo.annotation.rows import Entry
from apo.errors import RunError
from apo.rundir import read_json, write_atomic, write_json

PART_S = 2.0
"""Seconds of work in a part, and one chunk at least: what a kill costs."""
PART_CHARACTERS = 2_000_000
"""Or as much text, whichever comes first: what is held in memory."""


class Parts:
    def __init__(self, folder: Path):
        self.folder, self.meta_file = folder, folder / "meta.json"
        self.pending: list[Entry] = []
        self.done = 0
        """Rows of the input that the parts cover."""
        self.written, self.characters = time.monotonic(), 0

    @contextmanager
    def owned(self):
        """Holds the lock.  Raises RunError where another process writes the same output, or nothing can be written."""
        from filelock import FileLock, Timeout
        lock = FileLock(self.folder / ".lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(f"{self.folder} is being written by another process; wait for it, or stop it") from None
        except OSError as error:
            raise RunError(f"cannot write {self.folder}: {error.strerror or error}; choose another output") from error
        try:
            yield self
        except OSError as error:
            raise RunError(f"{error.filename or self.folder}: {error.strerror or error}; what is scored is kept, and "
                           "the same command goes on from it") from error
        finally:
            lock.release()

    def begin(self, meta: dict[str, Any], force: bool) -> None:
        """Finds what is done.  Raises RunError where it belongs to another annotation."""
        if force:
            self.clear()
        there = read_json(self.meta_file) if self._files() else None
        if there is None:
            write_json(self.meta_file, meta)
        elif wrong := differences(there, meta):
            raise RunError(f"{self.folder} holds the beginning of another annotation; name another output, or begin "
                           "anew with force=true.\n" + wrong)
        for file in self._files():
            start, stop = map(int, file.stem.split("-"))
            if start != self.done:      # somebody took one away
                file.unlink()
            else:
                self.done = stop

    def add(self, entries: list[Entry]) -> None:
        """Whole chunks, in order."""
        self.pending += entries
        self.characters += sum(len(text) for entry in entries for text in entry.texts)
        if time.monotonic() - self.written >= PART_S or self.characters >= PART_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        if self.pending:
            stop = self.pending[-1].row + 1
            text = "".join(json.dumps(_record(entry), ensure_ascii=False) + "\n" for entry in self.pending)
            write_atomic(self.folder / f"{self.done:012d}-{stop:012d}.jsonl", text)
            self.done, self.pending = stop, []
        self.written, self.characters = time.monotonic(), 0

    def entries(self) -> Iterator[Entry]:
        for file in self._files():
            with open(file, encoding="utf-8", newline="\n") as lines:
                yield from (Entry(**json.loads(line)) for line in lines)

    def clear(self) -> None:
        for item in self.folder.iterdir():
            if item.name != ".lock":
                item.unlink()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*-[0-9]*.jsonl"))


def _record(entry: Entry) -> dict[str, Any]:
    """Without the origin of a document, which the output does not have."""
    if entry.reason:
        return {"row": entry.row, "origin": entry.origin, "texts": [], "reason": entry.reason}
    return {"row": entry.row, "origin": "", "texts": entry.texts, "scores": entry.scores}
