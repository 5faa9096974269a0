"""The run directory: everything a run leaves behind, and who may write there.

    config.yaml manifest.json status.json metrics.jsonl timings.jsonl hacking.jsonl samples/ checkpoints/ final/

Its name is a function of the config, so the same command finds the same directory: a finished run is reported, an
unfinished one goes on.  "The same run" means the config and the fingerprints of data, scorer code and tokenizer; a
difference is refused and shown.  One process owns a directory at a time, by a lock on the directory that the kernel
drops when the process dies.  Every file but the two append-only logs is written aside and renamed.

Wall-clock times never enter metrics.jsonl, so that the metrics of two runs can be compared byte for byte.
"""

import json
import os
import re
import shutil
import socket
import sys
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from apo.disk import fsync, fsync_tree, write_atomic
from apo.errors import RunError

STATES = ("created", "running", "done", "failed", "preempted")


def write_json(path: Path, value) -> None:
    write_atomic(path, json.dumps(value, indent=2, sort_keys=False, ensure_ascii=False) + "\n")


def read_json(path: Path):
    """The parsed file, or None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged ({error}); move the run directory away, or use force=true") from error


def unwritable(path: Path, error: OSError) -> RunError:
    return RunError(f"cannot write {path}: {error.strerror or error}; choose another place with --output-dir")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """[] where there is no file.  A half-written last line, the mark of a kill, is left out; elsewhere RunError."""
    if not path.is_file():
        return []
    # Not splitlines(): samples may hold characters that it takes for the end of a line, and JSON does not escape.
    rows, lines = [], path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise RunError(f"{path}, line {number}: not JSON. The file is damaged.") from None
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class RunDirectory:
    def __init__(self, path: Path):
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.manifest_file = self.path / "manifest.json"
        self.status_file = self.path / "status.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.timings_file = self.path / "timings.jsonl"
        self.samples = self.path / "samples"
        self.rounds = self.path / "rounds"
        self.hacking_file = self.path / "hacking.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.final = self.path / "final"

    # ---- who owns it -------------------------------------------------------------------------------------------------

    @contextmanager
    def owned(self):
        """Holds the lock; RunError where another live process has it or the place cannot be written."""
        from filelock import FileLock, Timeout
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=0)
        except Timeout:
            owner = read_json(self.status_file) or {}
            raise RunError(f"{self.path} is being written by process {owner.get('pid', '?')} on "
                           f"{owner.get('host', '?')}; wait for it, or stop it") from None
        except OSError as error:
            raise unwritable(self.path, error) from error
        try:
            yield self
        except OSError as error:
            if error.errno in (28, 30, 122):       # no space, read-only file system, quota
                raise RunError(f"{error.filename or self.path}: {error.strerror}; the last complete checkpoint is "
                               "kept, the same command goes on from it once there is room") from error
            raise
        finally:
            lock.release()

    # ---- state -------------------------------------------------------------------------------------------------------

    def status(self) -> dict:
        return read_json(self.status_file) or {"state": "created"}

    def set_status(self, state: str, step: int, max_steps: int, message: str = "") -> None:
        write_json(self.status_file, {"state": state, "step": step, "max_steps": max_steps, "heartbeat": now(),
                                      "pid": os.getpid(), "host": socket.gethostname(), "message": message})

    def is_done(self) -> bool:
        return self.status()["state"] == "done" and self.final.is_dir()

    def move_aside(self) -> None:
        """`force=true`: what is there keeps its bytes under a name nobody reads."""
        kept = [item for item in self.path.iterdir() if item.name != ".lock" and not item.name.startswith("old-")]
        if kept:
            old = self.path / f"old-{int(time.time())}"
            old.mkdir()
            for item in kept:
                item.rename(old / item.name)

    # ---- the two logs ------------------------------------------------------------------------------------------------

    def append(self, file: Path, row: dict) -> None:
        with open(file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")

    def metrics_size(self) -> int:
        """Bytes of metrics.jsonl, on disk: what a checkpoint remembers."""
        if not self.metrics_file.exists():
            return 0
        with open(self.metrics_file, "rb+") as stream:
            os.fsync(stream.fileno())
        return self.metrics_file.stat().st_size

    def truncate_metrics(self, size: int) -> None:
        """Forget the rows written after the checkpoint that a run goes on from."""
        if self.metrics_file.exists():
            if self.metrics_file.stat().st_size < size:
                raise RunError(f"{self.metrics_file} is shorter than its checkpoint remembers: it was changed from "
                               "outside; use force=true to begin anew")
            os.truncate(self.metrics_file, size)
        elif size:
            raise RunError(f"{self.metrics_file} is gone; use force=true to begin anew")

    # ---- samples -----------------------------------------------------------------------------------------------------

    def samples_file(self, scenario: str, step: int) -> Path:
        return self.samples / f"{scenario}-{step:06d}.jsonl"

    def sampled_at(self, scenario: str) -> list[int]:
        """Steps, from the first on."""
        name = re.compile(rf"{re.escape(scenario)}-(\d+)\.jsonl")
        return sorted(int(found[1]) for file in self.samples.glob("*.jsonl") if (found := name.fullmatch(file.name)))

    # ---- replacing a whole folder ------------------------------------------------------------------------------------

    @contextmanager
    def folder(self, target: Path):
        """Write a folder aside, fsync it, rename it into place: it exists only when it is complete."""
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".incomplete-{target.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
        except Exception as error:      # safetensors' and torch's writers have errors of their own for a full disk
            if "No space left" in str(error) and not isinstance(error, OSError):
                raise OSError(28, "No space left on device", str(temporary)) from error
            raise
        fsync_tree(temporary)
        replaced = target.with_name(f".replaced-{target.name}")
        shutil.rmtree(replaced, ignore_errors=True)
        if target.exists():
            target.rename(replaced)
        temporary.rename(target)
        fsync(target.parent)
        shutil.rmtree(replaced, ignore_errors=True)


def command_line() -> list[str]:
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
