"""Hub datasets in PHF's schema (`texts`, `scores`, per sentence or line) or with `text` and `score`.

Memory-mapped (downloaded once, by the `datasets` library, into its own cache) or streamed.  A local folder or file
stands wherever a hub name does, so that everything here can be tried without a network.  A name may go on with a
folder inside the dataset (`owner/name/data/finetune`).  Several names are read one after the other, as PHF reads its 39
shards.

`FilesOrHub` is for sources whose rows are not plain text, in files of their own formats or on the hub.
"""

import hashlib
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Iterator

from apo.data.sources.base import BadRow, Columns, Document, DocumentStream, Row, Size, Source, read_rows, sources
from apo.data.sources.file import JSON_LINES, PARQUET, TABLES, checked_path, content_hash, rows_of
from apo.errors import DataError
from apo.schema import DataConfig

LOADERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}


@sources.register("hub")
class Hub(Source):
    """Datasets of the Hugging Face hub, or local copies of them (`data.path`, `data.streaming`)."""

    local = False
    needs_path = "the name of a dataset on the hub, a local copy of one, or a list"

    def __init__(self, data: DataConfig):
        super().__init__(data)
        self.names = [data.path] if isinstance(data.path, str) else list(data.path)

    def documents(self) -> Iterator[Document]:
        return read_rows(self.rows(), self.data, str(self))

    def rows(self) -> Iterator[Row]:
        return (row for name in self.names for row in self._rows(name))

    def stream(self) -> "HubStream":
        """The documents with a cursor, read as they are asked for."""
        import datasets
        loaded = [self._load(name) for name in self.names]
        columns = _columns_of(loaded[0], self.data, self.names[0])
        wanted = [name for name in (columns.text, columns.score) if name]
        selected = [dataset.select_columns(wanted) for dataset in loaded]
        whole = selected[0] if len(selected) == 1 else datasets.concatenate_datasets(selected)
        return HubStream(whole, columns, str(self))

    def fingerprint(self) -> str:
        """Contents of local copies; for hub datasets the commit they were downloaded at.  A stream is known only by
        its name and revision: give `data.revision` to pin it."""
        return hashlib.sha256("\n".join(self.identity(name) for name in self.names).encode()).hexdigest()

    def size(self) -> Size:
        local = [path for name in self.names if (path := Path(name)).exists()]
        if len(local) < len(self.names):
            return Size()
        return Size(None, sum(file.stat().st_size for path in local for file in _files(path)))

    def _rows(self, name: str) -> Iterator[Row]:
        dataset, number = self._load(name), 0
        columns = _columns_of(dataset, self.data, name)
        dataset = dataset.select_columns([column for column in (columns.text, columns.score) if column])
        for row in _told(dataset, name, self.data):
            number += 1
            yield f"{name}, row {number}", row

    def whole_rows(self, name: str) -> Iterator[Row]:
        """The rows of one of the names with all their columns, for sources that read other columns than text."""
        for number, row in enumerate(_told(self._load(name), name, self.data), 1):
            yield f"{name}, row {number}", row

    def identity(self, name: str) -> str:
        """Changes with the contents of one of the names; what `fingerprint` is made of."""
        path, split = Path(name), self.data.split
        if path.exists():
            return "\n".join([split, *(content_hash(file) for file in _files(path))])
        if self.data.streaming:
            return f"{name}@{self.data.revision or 'main'}:{split}"
        return f"{name}:{self._load(name)._fingerprint}"

    def _load(self, name: str) -> Any:
        import datasets
        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        path, options = Path(name).expanduser(), {"split": self.data.split, "streaming": self.data.streaming}
        if not path.exists():
            name, options["data_dir"] = _folder_of(name)
            options["revision"] = self.data.revision
        elif path.is_file():
            if path.suffix not in LOADERS:
                raise DataError(f'{name}: unknown format "{path.suffix}"; known are {", ".join(LOADERS)}')
            options["data_files"], name = str(path), LOADERS[path.suffix]
        return _explained(lambda: datasets.load_dataset(name, **options), str(path), self.data)


def _folder_of(name: str) -> tuple[str, str | None]:
    """`owner/name` and the folder inside it, if one is named.  Raises DataError for what can only be a place here."""
    if name.startswith(("/", ".", "~")):
        raise DataError(f"{name}: there is no such file or folder")
    parts = name.strip("/").split("/")
    return "/".join(parts[:2]), "/".join(parts[2:]) or None


class FilesOrHub(Source):
    """Rows of files (`data.path`), of datasets of the hub, or of folders with copies of those."""

    def __init__(self, data: DataConfig):
        super().__init__(data)
        self.names = [data.path] if isinstance(data.path, str) else list(data.path)
        self.local = all(map(_is_file, self.names))
        # The first few of a large dataset are read over the network instead of downloading all of it.
        self.hub = Hub(replace(data, streaming=data.streaming or data.max_documents is not None))

    def rows(self) -> Iterator[Row]:
        for name in self.names:
            yield from self.rows_in(name)

    def rows_in(self, name: str) -> Iterator[Row]:
        """Of one of the names."""
        return rows_of(_path(name)) if _is_file(name) else self.hub.whole_rows(name)

    def fingerprint(self) -> str:
        """Over the contents of files, in order; where they lie does not matter.  Of the hub, the data's commit, or,
        with `data.max_documents`, name and revision."""
        parts = (content_hash(_path(name)) if _is_file(name) else self.hub.identity(name) for name in self.names)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def size(self) -> Size:
        if not all(_is_file(name) or _path(name).is_dir() for name in self.names):
            return Size()
        return Size(None, sum(checked_path(_path(name)).stat().st_size if _is_file(name) else
                              sum(file.stat().st_size for file in _files(_path(name))) for name in self.names))


def _path(name: str) -> Path:
    return Path(name).expanduser()


def _is_file(name: str) -> bool:
    """Rather than a dataset of the hub, or a folder with a copy of one."""
    path = _path(name)
    return path.is_file() or (path.suffix in (*JSON_LINES, *TABLES, *PARQUET, ".gz") and not path.is_dir())


class HubStream(DocumentStream):
    def __init__(self, dataset: Any, columns: Columns, name: str):
        self.dataset, self.columns, self.name, self.row = dataset, columns, name, 0
        self.start = dataset.state_dict()

    def __iter__(self) -> Iterator[Document]:
        """From the cursor on; at the end of the data the cursor goes back to its beginning."""
        rows = iter(self.dataset)
        # Left open, the reader would complain when the interpreter takes its libraries down.
        closing = weakref.finalize(self, rows.close)
        for row in rows:
            self.row += 1
            try:
                yield self.columns.read(row, f"{self.name}, row {self.row}")
            except BadRow as bad:
                raise DataError(f"{self.name}, row {self.row}: {bad}") from None
        closing.detach()
        self.load_state_dict({"row": 0, "dataset": self.start})

    def state_dict(self) -> dict[str, Any]:
        return {"row": self.row, "dataset": self.dataset.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.row = state["row"]
        self.dataset.load_state_dict(state["dataset"])


def _columns_of(dataset: Any, data: DataConfig, name: str) -> Columns:
    """By the declared columns, or, for a stream that declares none, by those of its first row."""
    names = dataset.column_names or _explained(lambda: list(next(iter(dataset), {})), name, data)
    if not names:
        raise DataError(f"{name}: no rows; there is nothing to train on")
    try:
        return Columns.find(names, data)
    except BadRow as bad:
        raise DataError(f"{name} {bad}") from None


def _told(dataset: Any, name: str, data: DataConfig) -> Iterator[dict[str, Any]]:
    """The rows, with what goes wrong on the way said in one line."""
    rows = iter(dataset)
    while (row := _explained(lambda: next(rows, None), name, data)) is not None:
        yield row


def _explained(action: Callable[[], Any], name: str, data: DataConfig) -> Any:
    """What `datasets` raises comes in many classes; its first line and what to do about it are what helps."""
    import datasets
    try:
        return action()
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        causes = [str(cause).strip().split("\n")[0].rstrip(".") for cause in (error, error.__cause__) if cause]
        said = ": ".join(dict.fromkeys(causes))
        raise DataError(f"{name}: {said}. {_advice(error, said, data)}".rstrip()) from error


def _advice(error: Exception, said: str, data: DataConfig) -> str:
    if "plit" in said:
        return f"Set data.split (now {data.split})"
    if "OfflineMode" in said or "offline mode" in said:
        return "The run is offline: download the dataset first, or run with offline=false"
    if any(word in said for word in ("gated", "authenticat", "401", "403")):
        return "Accept the dataset's terms on its page and set HF_TOKEN to a token of your account"
    if "doesn't exist on the Hub" in said:
        return "Check the name; a private dataset needs HF_TOKEN"
    if isinstance(error, ConnectionError):
        return "Check the network; with a downloaded copy, run with offline=true"
    return ""


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
