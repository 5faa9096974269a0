"""Anthropic's hh-rlhf to the files PRO and A-LoL train on, or back, with clean splits: docs/data.md.

    python scripts/prepare_hh.py hh-rlhf/{harmless,helpful}-base/{train,test}.jsonl.gz OUT
    python scripts/prepare_hh.py --format hh data/hh_test/*.json data/hh_dev/sampled_dev.json OUT

Reads rows of either format (`chosen`, `rejected`; `prefix`, `suffix`, `reward`) and writes JSON lines:

    OUT/hh_train/train.json         all training files, one after the other
    OUT/hh_dev/sampled_dev.json     --dev prompts drawn from the test files, or the dev files given
    OUT/hh_test/SUBSET.json         one per subset: harmless_base, helpful_base, ...

(`.jsonl` with `--format hh`).  What a file is for is in its name (train, dev, test) or its folder's (hh_train, hh_dev,
hh_test); for others say `--split`.  The answers of a row keep their order, and every paragraph stays.

Left out, and counted: rows without one prompt that both answers answer; rows in which an answer ends in ":" (the very
last character; A-LoL's rule for training, see `--colon`); dev and test prompts that are also in training; test prompts
that are also in dev.  Prompts are compared without regard to how much white space they have.
"""

import argparse
import json
import os
import random
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apo.data.dialogue import NotADialogue, parse, to_pro
from apo.data.sources.base import told
from apo.data.sources.file import rows_of
from apo.data.sources.hh import Answered, read_answers
from apo.disk import write_atomic
from apo.errors import DataError, UserError

SPLITS = ("train", "dev", "test")
COLON, IN_TRAINING, IN_DEV = 'an answer ends in ":"', "prompt is in training", "prompt is in dev"


@dataclass(frozen=True)
class Entry:
    origin: str
    split: str
    subset: str
    answered: Answered
    meta: dict[str, Any]

    @property
    def key(self) -> str:
        return " ".join(self.answered.prompt.split())


@dataclass
class Kept:
    """The rows that are left, and what was not: (split, subset, reason) -> rows."""

    entries: list[Entry] = field(default_factory=list)
    read: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)

    def of(self, split: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.split == split]

    def drop(self, reason: str, wrong: Callable[[Entry], bool]) -> None:
        left = []
        for entry in self.entries:
            if wrong(entry):
                self.dropped[entry.split, entry.subset, reason] += 1
            else:
                left.append(entry)
        self.entries = left


def place(path: Path, otherwise: str | None) -> tuple[str, str]:
    """Split and subset of a file, by its name and its folder's.  Raises DataError where they do not say."""
    stem, folder = path.name.partition(".")[0], folder_of(path)
    if stem in SPLITS:
        return stem, _subset(folder)
    found = re.match(r"hh_(train|dev|test)(?:_|$)", folder) or re.search(r"(?:^|[_-])(train|dev|test)(?:[_-]|$)", stem)
    split = found[1] if found else otherwise
    if split is None:
        raise DataError(f"{path}: neither its name nor its folder's says train, dev or test; say --split")
    return split, _subset(stem)


def folder_of(path: Path) -> str:
    """The last word of the folder as it was named, wherever links lead."""
    return Path(os.path.abspath(path)).parent.name


def _subset(name: str) -> str:
    return name.replace("-", "_")


def read(paths: list[Path], otherwise: str | None) -> Kept:
    """Every row of every file.  Raises DataError."""
    kept = Kept()
    if len({path.resolve() for path in paths}) < len(paths):
        raise DataError("a file is named twice")
    for path, (split, subset) in [(path, place(path, otherwise)) for path in paths]:
        for entry in told(rows_of(path), _reader(path, split, subset), str(path)):
            kept.read[split, subset] += 1
            if isinstance(entry, Entry):
                kept.entries.append(entry)
            else:
                kept.dropped[split, subset, entry] += 1
    return kept


def _reader(path: Path, split: str, subset: str) -> Callable[[dict[str, Any], str], Entry | str]:
    """An entry for a row, or the reason why there is none."""
    name = f"{folder_of(path)}/{path.name}"

    def read_row(row: dict[str, Any], origin: str) -> Entry | str:
        try:
            answered = read_answers(row)
        except NotADialogue as reason:
            return str(reason)
        number = int(origin.rpartition(" ")[2])
        meta = row["meta"] if isinstance(row.get("meta"), dict) else {"path": name, "line_num": number,
                                                                      "task": "dialogue"}
        return Entry(origin, split, subset, answered, meta)
    return read_row


def clean(kept: Kept, colon: str, dev: int, seed: int) -> None:
    """Takes out what is not to be written, and makes a dev split of test rows where none was given."""
    kept.drop(COLON, lambda entry: colon in (entry.split, "all")
              and any(answer.endswith(":") for answer in entry.answered.answers))
    trained = {entry.key for entry in kept.of("train")}
    kept.drop(IN_TRAINING, lambda entry: entry.split != "train" and entry.key in trained)
    chosen = drawn(kept.of("test"), dev, seed)
    kept.entries = [Entry(entry.origin, "dev", entry.subset, entry.answered, entry.meta)
                    if entry.origin in chosen else entry for entry in kept.entries]
    held = {entry.key for entry in kept.of("dev")}
    kept.drop(IN_DEV, lambda entry: entry.split == "test" and entry.key in held)


def drawn(entries: list[Entry], count: int, seed: int) -> set[str]:
    """Origins of the first rows of so many prompts."""
    first: dict[str, str] = {}
    for entry in entries:
        first.setdefault(entry.key, entry.origin)
    if count > len(first):
        raise DataError(f"--dev {count}: the test files have only {len(first)} prompts that are not in training")
    return set(random.Random(seed).sample(list(first.values()), count))


def pro_row(entry: Entry) -> dict[str, Any]:
    """`reward` only where it is known."""
    answered, count = entry.answered, len(entry.answered.answers)
    reward = {} if answered.rewards is None else {"reward": answered.rewards}
    return {"prefix": [to_pro(parse(answered.prompt))] * count,
            "suffix": [answer.removeprefix(" ") for answer in answered.answers],
            **reward, "sft_index": 0, "meta": entry.meta}


def hh_row(entry: Entry) -> dict[str, Any]:
    answers = entry.answered.answers
    if len(answers) != 2:
        raise DataError(f"{entry.origin}: {len(answers)} answers, of which --format hh can hold two")
    return {"chosen": entry.answered.prompt + answers[0], "rejected": entry.answered.prompt + answers[1]}


def files(kept: Kept, output: Path, form: str) -> dict[Path, list[Entry]]:
    """What is to be written, in the order it is told in."""
    suffix, found = ".json" if form == "pro" else ".jsonl", {}
    for split, name in (("train", "train"), ("dev", "sampled_dev"), ("test", None)):
        for entry in kept.of(split):
            path = output / f"hh_{split}" / f"{name or entry.subset}{suffix}"
            found.setdefault(path, []).append(entry)
    return found


def write(found: dict[Path, list[Entry]], output: Path, form: str, inputs: list[Path]) -> None:
    """Raises DataError rather than write over an input, or beside files of another call that look like ours."""
    there = [path for split in SPLITS for path in sorted((output / f"hh_{split}").glob("*"))]
    resolved = {path.resolve() for path in inputs}
    for path in there:
        if path not in found or path.resolve() in resolved:
            raise DataError(f"{path} is there and is not of this command; name another folder")
    row = pro_row if form == "pro" else hh_row
    texts = {path: "".join(json.dumps(row(entry), ensure_ascii=False) + "\n" for entry in entries)
             for path, entries in found.items()}
    for path, text in texts.items():
        try:
            write_atomic(path, text)
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None


def report(kept: Kept, found: dict[Path, list[Entry]]) -> Iterator[str]:
    for (split, subset), count in kept.read.items():
        yield f"read     {count:9,}  {split} {subset}"
    for (split, subset, reason), count in sorted(kept.dropped.items()):
        yield f"dropped  {count:9,}  {split} {subset}: {reason}"
    for path, entries in found.items():
        yield f"written  {len(entries):9,}  {path}"
    yield (f"in all   {kept.read.total():9,}  read, {kept.dropped.total():,} dropped, "
           f"{sum(map(len, found.values())):,} written")


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="IN", help="JSON lines, also .gz")
    parser.add_argument("output", type=Path, metavar="OUT", help="a folder")
    parser.add_argument("--format", choices=("pro", "hh"), default="pro", help="of what is written (default: pro)")
    parser.add_argument("--split", choices=SPLITS, help="of files whose name does not say")
    parser.add_argument("--dev", type=int, metavar="N", help="prompts drawn from the test files (default: 280 where "
                        "there are test files and no dev files, as PRO has it)")
    parser.add_argument("--seed", type=int, default=0, help="of that draw (default: 0)")
    parser.add_argument("--colon", choices=("train", "all", "none"), default="train",
                        help='where rows with an answer that ends in ":" are left out (default: train)')
    return parser.parse_intermixed_args(arguments)     # options may stand between files


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    try:
        if options.output.is_file():
            raise DataError(f"{options.output} is a file; the last argument is the folder to write into")
        kept = read(options.files, options.split)
        splits = {split for split, _ in kept.read}
        dev = options.dev if options.dev is not None else 280 if "test" in splits and "dev" not in splits else 0
        if dev < 0 or (dev and "dev" in splits):
            raise DataError(f"--dev {dev}: {'is to be 0 or more' if dev < 0 else 'dev files are given already'}")
        clean(kept, options.colon, dev, options.seed)
        found = files(kept, options.output, options.format)
        if not found:
            raise DataError("nothing is left to write:\n" + "\n".join(report(kept, found)))
        write(found, options.output, options.format, options.files)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("\n".join(report(kept, found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
