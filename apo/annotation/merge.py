"""Shards to the whole: every n-th row comes from one of n outputs, so they are read side by side."""

from typing import Any, Iterator

from apo.annotation.output import Output, differences
from apo.annotation.rows import Entry
from apo.errors import DataError


def shards_in_order(shards: list[Output]) -> tuple[list[Output], dict[str, Any]]:
    """The outputs by the number of their shard, and the metadata of the whole.

    Raises DataError where they are not the shards of one annotation, each once."""
    metas = {shard: _meta(shard) for shard in shards}
    first = shards[0]
    for shard in shards[1:]:
        wrong = differences({**metas[first], "shard": None}, {**metas[shard], "shard": None})
        if wrong:
            raise DataError(f"{first.path} (there) and {shard.path} (here) are shards of different annotations:\n"
                            + wrong)
    numbers = {shard: tuple(map(int, meta["shard"].split("/"))) for shard, meta in metas.items()}
    count = max(count for _, count in numbers.values())
    if sorted(numbers.values()) != [(number, count) for number in range(1, count + 1)]:
        there = ", ".join(metas[shard]["shard"] for shard in shards)
        raise DataError(f"merge needs the shards 1/{count} to {count}/{count}, each once; these are {there}")
    ordered = sorted(shards, key=numbers.__getitem__)
    return ordered, {**metas[ordered[0]], "shard": None}


def _meta(shard: Output) -> dict[str, Any]:
    if not shard.path.is_file():
        raise DataError(f"{shard.path}: no such file; merge takes the outputs of finished shards")
    meta = shard.meta()
    if meta is None or meta.get("shard") is None:
        raise DataError(f"{shard.path} is not the output of a shard (shard=i/n)")
    refused = sum(1 for _ in shard.rejects())
    if refused != meta["counts"]["rejected"]:
        raise DataError(f"{shard.beside('.rejects.jsonl')} has {refused} rows, and {meta['counts']['rejected']} were "
                        "refused; it tells which rows of the input are missing, so it is needed whole")
    return meta


def interleaved(shards: list[Output]) -> Iterator[Entry]:
    """All rows in the order of the input.  Raises DataError where a shard is shorter than its turn."""
    readers = [_entries(shard, number, len(shards)) for number, shard in enumerate(shards)]
    row = 0
    while (entry := next(readers[row % len(shards)], None)) is not None:
        yield entry
        row += 1
    left = [str(shard.path) for shard, reader in zip(shards, readers) if next(reader, None) is not None]
    if left:
        raise DataError(f"{shards[row % len(shards)].path} ends before {', '.join(left)}: one of them is damaged")


def _entries(shard: Output, first: int, step: int) -> Iterator[Entry]:
    """A shard's rows with their numbers in the input: a row that was not refused is the next document."""
    documents, rejects = shard.documents(), shard.rejects()
    refused, row = next(rejects, None), first
    while True:
        if refused is not None and refused.row == row:
            yield refused
            refused = next(rejects, None)
        else:
            document = next(documents, None)
            if document is None:
                return
            yield Entry("", document.texts, document.scores, row=row)
        row += step
