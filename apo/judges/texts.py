"""Texts to judge, and which of them belong together: the same prompt, and the same place among its texts."""

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from apo.errors import EvaluationError, nearest
from apo.judges.pair_judge import Pair


@dataclass(frozen=True, slots=True)
class Written:
    prompt: str
    text: str


@dataclass
class Pairing:
    pairs: list[Pair]
    """In the order of the first side."""
    unpaired_a: int
    unpaired_b: int
    """Texts without a partner."""


def pair_up(a: list[Written], b: list[Written]) -> Pairing:
    """The first text that each side wrote to a prompt, the second, and so on."""
    waiting: dict[str, list[str]] = defaultdict(list)
    for written in reversed(b):
        waiting[written.prompt].append(written.text)
    pairs = [Pair(written.prompt, written.text, waiting[written.prompt].pop()) for written in a
             if waiting.get(written.prompt)]
    return Pairing(pairs, len(a) - len(pairs), len(b) - len(pairs))


def pair_with_best(a: list[Written], best: dict[str, str]) -> Pairing:
    """Every text with the one that is known as the best for its prompt, however often the prompt comes."""
    pairs = [Pair(written.prompt, written.text, best[written.prompt]) for written in a if written.prompt in best]
    return Pairing(pairs, len(a) - len(pairs), len(best.keys() - {pair.prompt for pair in pairs}))


def find_texts(name: str, scenario: str | None) -> Path:
    """A file itself; of a run directory its newest samples of the scenario: those of `evaluate.py`, which are by the
    final model, else those of the latest step.  EvaluationError where there are none."""
    place = Path(name)
    if place.is_file():
        return place
    if not place.is_dir():
        raise EvaluationError(f'"{name}" is neither a run directory nor a file of {{"prompt": ..., "text": ...}} rows.')
    files = sorted((place / "samples").glob("*.jsonl"))
    if not files:
        raise EvaluationError(f"{name} is no run directory with samples: there is no {place / 'samples'}/*.jsonl. "
                              "Name a single run, or have its samples written by evaluate.py.")
    evaluated = place / "samples" / f"evaluation-{scenario}.jsonl"
    by_step = {int(step[1]): file for file in files if (step := re.fullmatch(rf"{re.escape(scenario or '')}-(\d+)",
                                                                             file.stem))}
    if scenario and (evaluated in files or by_step):
        return evaluated if evaluated in files else by_step[max(by_step)]
    known = sorted({re.sub(r"^evaluation-|-\d{6,}$", "", file.stem) for file in files})
    problem = f"--scenario {scenario}: {name} has none of it" if scenario else f"say with --scenario which, of {name}"
    raise EvaluationError(f"{problem}; there are samples of {', '.join(known)}.{nearest(scenario or '', known)}")


def read_texts(path: Path) -> list[Written]:
    """EvaluationError for a row that is no {"prompt": ..., "text": ...}; a last line cut off by a kill is left out."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")        # splitlines() would also split inside of texts
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "not text in UTF-8"
        raise EvaluationError(f"{path} cannot be read: {reason}.") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise EvaluationError(f"{path}, line {number}: not JSON.") from None
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("prompt", "text")):
            raise EvaluationError(f'{path}, line {number}: expected {{"prompt": "...", "text": "..."}}.')
        found.append(Written(row["prompt"], row["text"]))
    return found
