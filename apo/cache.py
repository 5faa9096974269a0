"""Content-addressed artifacts on disk: scored data, tokenised data, tokenizers, shared by every run on a machine.

An entry is a folder named by the hash of everything it was made from, so it is never out of date and never
overwritten.  It is built in a sibling folder and renamed, under a file lock: a killed build leaves nothing that could
be taken for an entry, and a second process that wants the same one waits for it.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Callable

from apo.console import say
from apo.disk import fsync, fsync_tree
from apo.errors import RunError

KEY_FILE = "key.json"
PATIENCE_S = 5.0
"""Seconds to wait for another process before saying so."""


def default_root() -> Path:
    return Path(os.environ.get("APO_CACHE") or "~/.cache/apo").expanduser()


def canonical_json(value: object) -> str:
    """One spelling for equal values; refuses what JSON has no exact form for (NaN, objects)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: object) -> str:
    """sha256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class Cache:
    def __init__(self, root: Path | str | None = None):
        """`root`: null for $APO_CACHE, else ~/.cache/apo.  Nothing is created until something is built."""
        self.root = default_root() if root is None else Path(root).expanduser()

    def path(self, kind: str, key: dict) -> Path:
        return self.root / kind / digest(key)[:16]

    def has(self, kind: str, key: dict) -> bool:
        return (self.path(kind, key) / KEY_FILE).exists()

    def get(self, kind: str, key: dict, build: Callable[[Path], None]) -> Path:
        """The folder made by `build(empty folder)` for this key, built now unless it is there.

        Raises RunError where the cache cannot be written; what `build` raises passes through and leaves no entry.
        """
        entry = self.path(kind, key)
        if self.has(kind, key):
            return entry
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            lock = self._locked(entry)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            if not (entry / KEY_FILE).exists():
                self._build(entry, key, build)
        finally:
            lock.release()
        return entry

    def _locked(self, entry: Path):
        from filelock import FileLock, Timeout
        lock = FileLock(entry.with_name(entry.name + ".lock"))
        try:
            return lock.acquire(timeout=PATIENCE_S) and lock
        except Timeout:
            say(f"waiting for another process that is building {entry}")
        lock.acquire()
        return lock

    def _build(self, entry: Path, key: dict, build: Callable[[Path], None]) -> None:
        """Holds the lock, so anything under the building name was left by a process that died."""
        building = entry.with_name(entry.name + ".building")
        shutil.rmtree(building, ignore_errors=True)
        try:
            building.mkdir()
            build(building)
            (building / KEY_FILE).write_text(canonical_json(key) + "\n", encoding="utf-8")
            fsync_tree(building)
            shutil.rmtree(entry, ignore_errors=True)
            os.rename(building, entry)
            fsync(entry.parent)
        except OSError as error:
            if error.filename and not Path(os.fsdecode(error.filename)).is_relative_to(self.root):
                raise
            raise self._unwritable(error) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(f"cannot write to the cache {self.root} ({error.strerror or error}): free some space there, "
                        "or name another folder with --cache-dir or $APO_CACHE")
