"""Checkpoints that exist only when they are complete.

`transformers.Trainer` writes straight into `checkpoint-N`, its state file last, and resumes from the highest number
whether or not it was finished.  Here a checkpoint is written into a sibling, every file is fsynced, a list of sizes and
sha256 is written last, and the folder is renamed.  `latest` verifies that list, sets a damaged checkpoint aside with a
warning and takes the one before.

    checkpoints/checkpoint-120/
        config.json model.safetensors ...    loads with AutoModelForCausalLM
        value_head.safetensors               where the method has one
        optimizer.pt scheduler.pt            read with weights_only=True; all other files are safetensors or JSON
        trainer_state.json state.json        the Trainer's state; ours: source cursor, running metrics, log size
        checkpoint.json                      files, sizes, sha256
"""

import hashlib
import itertools
import json
import shutil
from pathlib import Path

from apo.console import warn
from apo.rundir import write_json

MANIFEST = "checkpoint.json"
PREFIX = "checkpoint-"


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(PREFIX))


def listed(folder: Path) -> list[Path]:
    """Checkpoints by step, whether or not they are sound."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=step_of)


def seal(checkpoint: Path) -> None:
    """Write the list of files that makes a checkpoint complete."""
    files = {str(file.relative_to(checkpoint)): {"size": file.stat().st_size, "sha256": sha256(file)}
             for file in sorted(checkpoint.rglob("*")) if file.is_file() and file.name != MANIFEST}
    write_json(checkpoint / MANIFEST, {"files": files})


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError):
        return f"no readable {MANIFEST}"
    for name, expected in files.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected["size"] or sha256(file) != expected["sha256"]:
            return f"{name} is not what was written"
    return None


def latest(folder: Path) -> Path | None:
    """The newest sound checkpoint.  Damaged ones are renamed to `*.broken`, never deleted."""
    for leftover in folder.glob(f".incomplete-{PREFIX}*"):
        shutil.rmtree(leftover)
    for replaced in folder.glob(f".replaced-{PREFIX}*"):
        target = folder / replaced.name.removeprefix(".replaced-")
        shutil.rmtree(replaced) if target.exists() else replaced.rename(target)
    for checkpoint in reversed(listed(folder)):
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint
        warn(f"{checkpoint} is damaged ({problem}); it is set aside as {checkpoint.name}.broken and the one before "
             "it is used")
        checkpoint.rename(_free_name(checkpoint))
    return None


def _free_name(checkpoint: Path) -> Path:
    """`<name>.broken`, or with a number where the same step was damaged before."""
    names = (f"{checkpoint.name}.broken{number or ''}" for number in itertools.count())
    return next(path for name in names if not (path := checkpoint.with_name(name)).exists())


def rotate(folder: Path, keep: int, best_step: int | None) -> None:
    """Keep the last `keep` checkpoints and the best."""
    for checkpoint in listed(folder)[:-keep]:
        if step_of(checkpoint) != best_step:
            shutil.rmtree(checkpoint)


def sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
