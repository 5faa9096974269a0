"""One annotation from beginning to end, or the merging of several."""

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any, Iterable

import apo
from apo.annotation import card
from apo.annotation.merge import interleaved, shards_in_order
from apo.annotation.output import Output, differences, reject_line, writer
from apo.annotation.parts import Parts
from apo.annotation.request import Job, Merge, Shard
from apo.annotation.rows import Entry, Patience, count, entries, judged
from apo.console import duration, progress, say, warn
from apo.data.records import ScoredText
from apo.data.scoring import chunked, in_order
from apo.data.sources.base import segmentation
from apo.errors import DataError, RunError
from apo.rundir import fsync, now, write_atomic, write_json

FORMAT = 1
"""Of the metadata and the parts; counted up when it changes."""
TOGETHER, APART = 50_000, 5_000
"""Characters scored in one go by a scorer that batches by itself, and by one of several processes: with a slow scorer,
a thousand short documents are work for all of them to the end."""
PAYS_FROM = 200_000
"""Bytes of input from which processes are started unasked."""


def run(request: Job | Merge) -> None:
    """Raises UserError; what is scored by then is kept."""
    (merge if isinstance(request, Merge) else annotate)(request)


def annotate(job: Job) -> None:
    meta = meta_of(job)
    if is_finished(job.output, meta, job.force):
        return
    parts = Parts(job.output.beside(".parts"))
    with parts.owned():
        if is_finished(job.output, meta, job.force):    # by the process that had the lock
            return
        parts.begin(meta, job.force)
        record = score(job, parts)
        counts = finish(parts.entries(), job.output, meta, parts)
        log(job.output, {**record, "rows": counts["documents"] + counts["rejected"]})
        parts.remove()
    told(job.output, counts)


def merge(request: Merge) -> None:
    shards, meta = shards_in_order(request.shards)
    if is_finished(request.output, meta, request.force):
        return
    parts = Parts(request.output.beside(".parts"))
    with parts.owned():
        parts.begin(meta, request.force)
        try:
            counts = finish(interleaved(shards), request.output, meta, parts)
        finally:
            parts.remove()      # nothing in it is worth keeping
    told(request.output, counts)


def meta_of(job: Job) -> dict[str, Any]:
    """What the result is a function of: no time, no number of workers.  What only says where something lies is there to
    be read and not to be compared (`output.differences`)."""
    scorer = job.scorer
    meta = {"format": FORMAT, "apo": apo.__version__, "command": job.command,
            "scorer": {"name": scorer.name, "kind": scorer.kind, "options": dataclasses.asdict(scorer),
                       "places": scorer.places, "fingerprint": scorer.fingerprint(), "code": scorer.code()},
            "segmentation": segmentation(job.data.segment_by),
            "source": {"name": job.data.source, "fingerprint": job.source.fingerprint()},
            "input": str(job.source), "text_column": job.data.text_column, "max_documents": job.data.max_documents,
            "shard": str(job.shard) if job.shard != Shard(1, 1) else None}
    return json.loads(json.dumps(meta))     # as it is read again: tuples are lists


def is_finished(output: Output, meta: dict[str, Any], force: bool) -> bool:
    """Says so where it is.  Raises RunError where something else stands in its place."""
    if force or not output.path.exists():
        return False
    there = output.meta()
    if there is None:
        raise RunError(f"{output.path} exists and does not say what it was made from; name another output, or replace "
                       "it with force=true")
    if wrong := differences(there, meta):
        raise RunError(f"{output.path} is the result of another annotation; name another output, or replace it with "
                       f"force=true.\n{wrong}")
    Parts(output.beside(".parts")).remove()     # left where a kill hit after the last rename
    say(f"{output.path} is finished; nothing to do")
    return True


def score(job: Job, parts: Parts) -> dict[str, Any]:
    """Brings `parts` to the end of the input.  Returns what the log says of it."""
    if parts.done:
        say(f"going on from row {parts.done + 1}")
    workers, patience = processes(job), Patience(bool(parts.done))
    record = {"began": now(), "from_row": parts.done + 1, "characters": 0, "workers": workers}
    total, started = count(job.source, job.data), time.monotonic()
    size = APART if workers > 1 or job.scorer.parallel else TOGETHER
    chunks = chunked(entries(job.source, job.data, parts.done, job.shard), size)
    work = ((chunk, [entry.texts for entry in chunk if entry.reason is None]) for chunk in chunks)
    with progress(f"scoring rows with {job.scorer.name}", total) as bar:
        row = parts.done
        bar.go_on_from(row)
        for chunk, results in in_order(work, judged, job.scorer, workers):
            fill(chunk, results)
            patience.see(chunk)
            parts.add(chunk)
            record["characters"] += sum(map(len, (text for entry in chunk for text in entry.texts)))
            bar.advance(chunk[-1].row + 1 - row)
            row = chunk[-1].row + 1
    parts.flush()
    record["seconds"] = round(time.monotonic() - started, 3)
    return record


def processes(job: Job) -> int:
    """How many score.  A scorer that does its own batching, on a GPU or with threads, has one process to itself."""
    own_function = ":" in job.scorer.name
    if not job.scorer.parallel and not own_function:
        if job.workers and job.workers > 1:
            warn(f"scorer {job.scorer.name} batches by itself: scoring in one process, not {job.workers}")
        return 1
    if job.workers:
        return job.workers
    pays = (job.source.size().bytes or PAYS_FROM) >= PAYS_FROM
    return len(os.sched_getaffinity(0)) if job.scorer.parallel and pays else 1


def fill(chunk: list[Entry], results: list[list[float] | str]) -> None:
    made = iter(results)
    for entry in chunk:
        if entry.reason is None:
            result = next(made)
            entry.scores, entry.reason = (None, result) if isinstance(result, str) else (result, None)


def finish(records: Iterable[Entry], output: Output, meta: dict[str, Any], parts: Parts) -> dict[str, int]:
    """Writes everything aside and renames it into place, the output last: where it is, all is.  Returns the counts."""
    made, refused = parts.folder / "output", parts.folder / "rejects"
    statistics, out = card.Statistics(parts.folder), writer(made, output, meta["segmentation"])
    counts, first = statistics.counts, None
    with open(refused, "w", encoding="utf-8", newline="\n") as rejects:
        for entry in records:
            if entry.reason is None:
                document = ScoredText(entry.texts, entry.scores)
                out.write(document)
                statistics.add(document)
            else:
                first = first or entry
                counts["rejected"] += 1
                rejects.write(reject_line(entry))
    meta = {**meta, "counts": counts}
    out.close(meta)
    if not counts["documents"] and meta["shard"] is None:
        parts.remove()
        why = f"; the first is {first.origin}: {first.reason}" if first else ""
        raise DataError(f"{meta['input']}: none of {counts['rejected']} rows can be used{why}")
    _put(output, meta, statistics.card(), refused if first else None, made)
    return counts


def _put(output: Output, meta: dict[str, Any], made_card: dict[str, Any], refused: Path | None, made: Path) -> None:
    fsync(made)
    rejects, text = output.beside(".rejects.jsonl"), output.beside(".card.md")
    refused.rename(rejects) if refused else rejects.unlink(missing_ok=True)
    write_json(output.beside(".card.json"), {"meta": meta, **made_card})
    write_atomic(text, card.as_text(meta, made_card))
    if not output.is_parquet:
        write_json(output.beside(".meta.json"), meta)
    made.rename(output.path)
    fsync(output.path.parent)


def log(output: Output, record: dict[str, Any]) -> None:
    with open(output.beside(".log.jsonl"), "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    if record["characters"]:
        speed = record["characters"] / max(record["seconds"], 1e-3)
        say(f"scored {record['characters']:,} characters in {duration(record['seconds'])}, {speed:,.0f} a second, with "
            f"{record['workers']} process{'es' if record['workers'] > 1 else ''}")


def told(output: Output, counts: dict[str, int]) -> None:
    refused = f"; {counts['rejected']:,} rows refused ({output.beside('.rejects.jsonl')})" if counts["rejected"] else ""
    say(f"{output.path}: {counts['documents']:,} documents, {counts['segments']:,} segments{refused}; "
        f"card in {output.beside('.card.md')}")
