"""Plain text and source code: files that are text and nothing else.

What is named holds the documents.  A folder or a pattern (`src/**/*.py`) holds files, and each of them is a document,
as source code and essays are kept.  A file named itself is a document too, but for a `.txt`: it holds many, with blank
lines between them, as one large text is kept; it is read block by block, and the blank lines belong to no document.
"""

import glob
import gzip
import hashlib
from pathlib import Path
from typing import Iterator

from apo.data.sources.base import BadRow, Document, Row, Size, Source, read_rows, sources
from apo.data.sources.file import checked_path, content_hash, readable
from apo.errors import DataError
from apo.schema import DataConfig

BLOCKS = (".txt", ".txt.gz")
PATTERN = frozenset("*?[")
BOM = b"\xef\xbb\xbf"


@sources.register("text")
class Text(Source):
    """Text and source files: a document per file of a folder or pattern, or per block of a .txt file."""

    needs_path = "a folder, a pattern such as src/**/*.py, or a .txt"

    def __init__(self, data: DataConfig):
        super().__init__(data)
        self.names = [data.path] if isinstance(data.path, str) else list(data.path)

    def documents(self) -> Iterator[Document]:
        return read_rows(self.rows(), self.data, str(self))

    def rows(self) -> Iterator[Row]:
        for path, in_blocks in self._files():
            with readable(path):
                yield from _blocks(path) if in_blocks else [_whole(path)]

    def fingerprint(self) -> str:
        """Over the contents of the files, in order, and whether they are cut at blank lines."""
        parts = (f"{content_hash(path)} {in_blocks}" for path, in_blocks in self._files())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def size(self) -> Size:
        files = self._files()
        known = not any(in_blocks for _, in_blocks in files)
        return Size(len(files) if known else None, sum(path.stat().st_size for path, _ in files))

    def _files(self) -> list[tuple[Path, bool]]:
        """Every file, and whether it is cut at blank lines.  Raises DataError where there is none."""
        return [file for name in self.names for file in _found(name)]


def _found(name: str) -> list[tuple[Path, bool]]:
    path = Path(name).expanduser()
    if path.is_dir():
        files = visible_files(path)
    elif PATTERN & set(name) and not path.exists():
        files = sorted(file for file in map(Path, glob.glob(str(path), recursive=True)) if file.is_file())
    else:
        return [(checked_path(path), path.name.endswith(BLOCKS))]
    if not files:
        raise DataError(f"{name}: no files; there is nothing to read")
    return [(file, False) for file in files]


def visible_files(folder: Path) -> list[Path]:
    """Sorted; without hidden files and folders and what Python compiles."""
    inside = ((file, file.relative_to(folder).parts) for file in folder.rglob("*"))
    return sorted(file for file, parts in inside if file.is_file()
                  and not any(part.startswith(".") or part == "__pycache__" for part in parts))


def _whole(path: Path) -> Row:
    with _open(path) as file:
        return str(path), _decoded(file.read().removeprefix(BOM))


def _blocks(path: Path) -> Iterator[Row]:
    """One per run of lines that are not blank; the origin is its first line."""
    block: list[bytes] = []
    with _open(path) as file:
        number = 0
        for number, line in enumerate(file, 1):
            line = line.removeprefix(BOM) if number == 1 else line
            if line.strip():
                block.append(line)
            elif block:
                yield f"{path}, line {number - len(block)}", _decoded(b"".join(block))
                block = []
    if block:
        yield f"{path}, line {number - len(block) + 1}", _decoded(b"".join(block))


def _open(path: Path):
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")


def _decoded(data: bytes) -> dict[str, str] | BadRow:
    try:
        return {"text": data.decode("utf-8")}
    except UnicodeDecodeError as error:
        return BadRow(f"not UTF-8 (byte {data[error.start]:#04x}); save it as UTF-8")
