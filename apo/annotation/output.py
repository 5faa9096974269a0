"""The result on disk: PHF's columns as Parquet or JSON lines, what it was made from, and the rows that were refused.

    NAME                 texts, scores, avg_score, and num_sents or num_lines where text was cut into these
    NAME.meta.json       scorer, options, code and weights, cutting, source, command; Parquet has it in its own metadata
    NAME.rejects.jsonl   row, origin and reason; no file where nothing was refused
    NAME.card.md, .json  what is in it (`card.py`)
    NAME.log.jsonl       when and how fast: the only file with times

The bytes are a function of the documents and the metadata: rows are gathered into row groups by their number and
length, never by how they came, and a gzip stream carries no name and no time.
"""

import gzip
import io
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

from apo.annotation.rows import Entry
from apo.data.records import ScoredText
from apo.errors import DataError
from apo.identity import leaves
from apo.rundir import read_json

FORMATS = (".parquet", ".jsonl", ".jsonl.gz")
META_KEY = b"apo.annotation"
GROUP_ROWS, GROUP_CHARACTERS = 1000, 4_000_000
"""A row group of the Parquet file ends when it has one or the other."""
COUNTED = {"sentence": "num_sents", "line": "num_lines"}
"""PHF's column for the number of segments, by what they are."""
NO_MATTER = ("apo", "command", "counts")
NO_REASON = (*NO_MATTER, "input")
"""Metadata that may differ between annotations with one result; where the input lies is told if something else does."""


@dataclass(frozen=True)
class Output:
    path: Path

    def beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    @property
    def is_parquet(self) -> bool:
        return self.path.suffix.lower() == ".parquet"

    def meta(self) -> dict[str, Any] | None:
        """What it says it was made from; None where it says nothing."""
        if not self.is_parquet:
            return read_json(self.beside(".meta.json"))
        import pyarrow
        import pyarrow.parquet
        try:
            found = (pyarrow.parquet.ParquetFile(self.path).metadata.metadata or {}).get(META_KEY)
        except (pyarrow.ArrowInvalid, OSError):
            return None
        return json.loads(found) if found else None

    def documents(self) -> Iterator[ScoredText]:
        """Raises DataError where the file is not what was written."""
        try:
            for row in self._rows():
                yield ScoredText(row["texts"], row["scores"])
        except (ValueError, KeyError, EOFError, OSError, zlib.error) as error:     # ArrowInvalid is a ValueError
            raise DataError(f"{self.path}: damaged ({type(error).__name__}: {error}); make it again") from error

    def _rows(self) -> Iterator[dict[str, Any]]:
        if not self.is_parquet:
            opener = gzip.open if self.path.suffix == ".gz" else open
            with opener(self.path, "rt", encoding="utf-8", newline="\n") as lines:
                yield from map(json.loads, lines)
            return
        import pyarrow.parquet
        for batch in pyarrow.parquet.ParquetFile(self.path).iter_batches(64, columns=["texts", "scores"]):
            yield from batch.to_pylist()

    def rejects(self) -> Iterator[Entry]:
        file = self.beside(".rejects.jsonl")
        if not file.exists():
            return
        with open(file, encoding="utf-8", newline="\n") as lines:
            for row in map(json.loads, lines):
                yield Entry(row["origin"], [], row=row["row"] - 1, reason=row["reason"])


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """What makes two annotations give different results, a line each; empty where nothing does.

    Where a scorer's weights lie makes none: what lies there is in its `code`."""
    places = {f"scorer.options.{name}" for meta in (there, here) for name in meta.get("scorer", {}).get("places", ())}
    places.add("scorer.places")

    def unlike(without: tuple[str, ...]) -> list[str]:
        a, b = ({key: value for key, value in leaves(meta) if key not in places and key.split(".")[0] not in without}
                for meta in (there, here))
        return [f"  - {key}: {a.get(key)} there, {b.get(key)} here"
                for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
    return "\n".join(unlike(NO_MATTER)) if unlike(NO_REASON) else ""


def reject_line(entry: Entry) -> str:
    """Rows are counted from 1 for people."""
    return json.dumps({"row": entry.row + 1, "origin": entry.origin, "reason": entry.reason}, ensure_ascii=False) + "\n"


def writer(path: Path, output: Output, segmentation: str) -> "_Parquet | _Lines":
    """Writes `output`'s format to `path`."""
    counted = COUNTED.get(segmentation.split()[0])
    return _Parquet(path, counted) if output.is_parquet else _Lines(path, output, counted)


def _row(document: ScoredText, counted: str | None) -> dict[str, Any]:
    row = {"texts": document.texts, "scores": document.scores, "avg_score": document.avg_score}
    return row | ({counted: len(document.texts)} if counted else {})


class _Parquet:
    def __init__(self, path: Path, counted: str | None):
        import pyarrow
        import pyarrow.parquet
        columns = {"texts": pyarrow.list_(pyarrow.string()), "scores": pyarrow.list_(pyarrow.float64()),
                   "avg_score": pyarrow.float64()}
        self.schema = pyarrow.schema(columns | ({counted: pyarrow.int64()} if counted else {}))
        self.file, self.counted = pyarrow.parquet.ParquetWriter(path, self.schema, compression="zstd"), counted
        self.rows: list[dict[str, Any]] = []
        self.characters = 0

    def write(self, document: ScoredText) -> None:
        self.rows.append(_row(document, self.counted))
        self.characters += sum(map(len, document.texts))
        if len(self.rows) >= GROUP_ROWS or self.characters >= GROUP_CHARACTERS:
            self._group()

    def close(self, meta: dict[str, Any]) -> None:
        self._group()
        self.file.add_key_value_metadata({META_KEY: json.dumps(meta)})
        self.file.close()

    def _group(self) -> None:
        import pyarrow
        if self.rows:
            self.file.write_table(pyarrow.Table.from_pylist(self.rows, self.schema))
            self.rows, self.characters = [], 0


class _Lines:
    def __init__(self, path: Path, output: Output, counted: str | None):
        raw = open(path, "wb")
        self.raw, self.counted = raw, counted
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if output.path.suffix == ".gz" else raw
        self.file = io.TextIOWrapper(packed, encoding="utf-8", newline="\n")

    def write(self, document: ScoredText) -> None:
        self.file.write(json.dumps(_row(document, self.counted), ensure_ascii=False, allow_nan=False) + "\n")

    def close(self, meta: dict[str, Any]) -> None:
        """The metadata stand in a file of their own."""
        self.file.close()
        self.raw.close()

