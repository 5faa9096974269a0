"""Real code that every machine has: the standard library of the interpreter that runs, one document per file.

Tests and `encodings/` (tables of characters, the same violation on every line) are left out; on CPython 3.11 that
leaves 609 files, 10.7 MB.  Which files there are depends on the interpreter alone, so the same interpreter gives the
same corpus; its version and contents are in the fingerprint.
"""

import hashlib
import io
import os
import platform
import sysconfig
import tokenize
from pathlib import Path
from typing import Iterable, Iterator

from apo.data.sources.base import Document, Size, Source, cut, lines, sources
from apo.errors import DataError

LEFT_OUT = {"test", "tests", "idle_test", "encodings", "site-packages", "dist-packages", "__pycache__"}
"""Folders, wherever they stand in the tree."""


@sources.register("stdlib")
class StandardLibrary(Source):
    """The Python standard library."""

    def documents(self) -> Iterator[Document]:
        for name, text in self._texts():
            yield Document(name, cut(text, self.data.segment_by))

    def fingerprint(self) -> str:
        """Over the interpreter's version and the relative paths and contents of the files."""
        total = hashlib.sha256(f"{platform.python_implementation()} {platform.python_version()}\n".encode())
        for name, text in self._texts():
            total.update(f"{name}\0{hashlib.sha256(text.encode()).hexdigest()}\n".encode())
        return total.hexdigest()

    def size(self) -> Size:
        paths = self._paths()
        return Size(len(paths), sum(path.stat().st_size for path in paths))

    def prompt_sets(self, heldout: Iterable[str]) -> dict[str, list[str]]:
        """`functions`: the signatures of top-level functions, `def name(...):` and a newline."""
        found = (signature for text in heldout for signature in signatures(text))
        return {"functions": list(dict.fromkeys(found))}

    def _paths(self) -> list[Path]:
        """Sorted, the same on every file system; empty files are left out."""
        root = Path(sysconfig.get_paths()["stdlib"])
        found = []
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if name not in LEFT_OUT]
            found += [Path(folder, name) for name in names if name.endswith(".py")]
        found = [path for path in found if path.stat().st_size]
        if not found:
            raise DataError(f"no standard library in {root}: this interpreter keeps it in an archive; use another one, "
                            "or data.source=file")
        return sorted(found, key=lambda path: path.relative_to(root).as_posix())

    def _texts(self) -> Iterator[tuple[str, str]]:
        root = Path(sysconfig.get_paths()["stdlib"])
        for path in self._paths():
            try:
                text = path.read_bytes().decode("utf-8")
            except UnicodeDecodeError:
                continue
            yield path.relative_to(root).as_posix(), text.replace("\r\n", "\n")


def signatures(text: str) -> Iterator[str]:
    """Top-level `def` statements up to the end of the line of their colon; nothing from text that is not Python."""
    rows = lines(text)
    start: int | None = None
    statement: list[tokenize.TokenInfo] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
                continue
            if not statement:
                start = token.start[0] if token.start[1] == 0 and token.string in ("def", "async") else None
            statement.append(token)
            if token.type == tokenize.NEWLINE:
                if start is not None and statement[-2].string == ":":
                    yield from _signature("".join(rows[start - 1:token.end[0]]), statement)
                statement = []
    except (tokenize.TokenError, SyntaxError):
        return


def _signature(text: str, statement: list[tokenize.TokenInfo]) -> Iterator[str]:
    """Without one that carries a comment after its colon: a prompt ends in a colon and a newline."""
    if text.endswith(":\n") and "def" in (statement[0].string, statement[1].string):
        yield text
