"""The user's own files: JSON lines, Parquet or CSV, plain or gzipped, one or several, read row by row.

JSON lines and CSV are read here rather than through a library, so that a complaint names the exact line; nothing is
held in memory but the row at hand.
"""

import csv
import gzip
import hashlib
import json
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from apo.data.sources.base import BadRow, Cell, Document, Row, Size, Source, read_rows, sources
from apo.errors import DataError, nearest
from apo.schema import DataConfig

JSON_LINES, TABLES, PARQUET = (".jsonl", ".json", ".ndjson"), (".csv", ".tsv"), (".parquet", ".pq")
MAX_FIELD = 2**31 - 1
"""Characters in one CSV cell; the csv module's own limit is 131,072."""


class OfFiles(Source):
    """A source of rows in files of the user's own (`data.path`)."""

    def __init__(self, data: DataConfig):
        super().__init__(data)
        self.paths = [Path(path).expanduser() for path in ([data.path] if isinstance(data.path, str) else data.path)]

    def rows(self) -> Iterator[Row]:
        return (row for path in self.paths for row in rows_of(path))

    def fingerprint(self) -> str:
        """Over the contents of the files, in order; where they lie does not matter."""
        return hashlib.sha256("\n".join(content_hash(path) for path in self.paths).encode()).hexdigest()

    def size(self) -> Size:
        return Size(None, sum(checked_path(path).stat().st_size for path in self.paths))


@sources.register("file")
class Files(OfFiles):
    """JSONL, Parquet or CSV files of the user's own (`data.path`)."""

    needs_path = ("your own text, data.path=mine.jsonl (JSONL, Parquet or CSV, also .gz), with a score in every row or "
                  "scorer=my_module:my_function")

    def documents(self) -> Iterator[Document]:
        return read_rows(self.rows(), self.data, str(self))

    def size(self) -> Size:
        size = super().size()
        if all(path.suffix in PARQUET for path in self.paths):
            size.documents = sum(_parquet(path).metadata.num_rows for path in self.paths)
        return size


def rows_of(path: Path) -> Iterator[Row]:
    """(origin, row) pairs of one file of any of the formats.  Raises DataError for a file that cannot be read."""
    path, found = checked_path(path), False
    with readable(path):
        for row in _reader(path)(path):
            found = True
            yield row
    if not found:
        raise DataError(f"{path}: no rows; there is nothing to train on")


@contextmanager
def readable(path: Path):
    """What opening and reading a file may raise, as a DataError that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.object[error.start]:#04x}); save it as UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}); "
                        "rename it if it is not compressed, or copy it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def checked_path(path: Path) -> Path:
    """The path of a file that exists; else DataError with the nearest name in its folder."""
    if path.is_file():
        return path
    if path.is_dir():
        raise DataError(f"{path} is a folder; name the files in it (a list is allowed), or use data.source=hub")
    if not path.parent.is_dir():
        raise DataError(f"{path}: there is no folder {path.parent}")
    raise DataError(f"{path}: no such file.{nearest(path.name, (other.name for other in path.parent.iterdir()))}")


def content_hash(path: Path) -> str:
    try:
        with open(checked_path(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _reader(path: Path):
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix.lower() in JSON_LINES:
        return _json_rows
    if suffix.lower() in TABLES:
        return _csv_rows
    if suffix.lower() in PARQUET and path.suffix != ".gz":
        return _parquet_rows
    raise DataError(f"{path}: unknown format \"{''.join(path.suffixes[-2:])}\"; known are .jsonl, .json, .csv, .tsv "
                    "(each also with .gz) and .parquet")


def _open(path: Path, newline: str):
    opener = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline=newline)


def _json_rows(path: Path) -> Iterator[Row]:
    with _open(path, "\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            if number == 1 and line.lstrip().startswith("["):
                raise DataError(f"{path} is one JSON array; write one object per line (JSON lines) instead")
            yield f"{path}, row {number}", _parse(line)


def _parse(line: str) -> dict[str, Any] | BadRow:
    try:
        row = json.loads(line.rstrip("\r\n"))
    except json.JSONDecodeError as error:
        return BadRow(f"not JSON ({error.msg} at character {error.pos + 1})")
    except RecursionError:
        return BadRow("not JSON that can be read (nested too deeply)")
    return row if isinstance(row, dict) else BadRow(f"a JSON {type(row).__name__}, not an object {{...}}")


def _csv_rows(path: Path) -> Iterator[Row]:
    """Every cell is text; what is to be a number is made one here.  The origin is the line a row ends on."""
    csv.field_size_limit(MAX_FIELD)
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    with _open(path, "") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                yield f"{path}, line {reader.line_num}", _typed(row)
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: not CSV ({error})") from None


def _typed(row: dict[str, Any]) -> dict[str, Any] | BadRow:
    if None in row:
        return BadRow(f"{len(row[None])} more {'cell' if len(row[None]) == 1 else 'cells'} than the header has")
    if None in row.values():
        return BadRow("fewer cells than the header has")
    return {name: Cell(value) for name, value in row.items()}


def _parquet(path: Path):
    import pyarrow
    import pyarrow.parquet
    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    number = 0
    try:
        for batch in _parquet(path).iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}, after row {number}: damaged ({str(error).splitlines()[0]})") from None
