"""Documents without scores -> documents with scores, in order, with no more than a few chunks in memory.

A scorer in pure Python (`parallel = True`) is run by a few processes: they are started fresh (`spawn`), because a
fork of a process that has loaded torch may hang, and this module imports nothing heavy so that they start quickly.
"""

import math
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Iterable, Iterator, Protocol

from apo.console import warn
from apo.data.sources.base import Document
from apo.errors import DataError, ScorerError


class SegmentScorer(Protocol):
    """What is needed of a scorer (`apo/scorers/base.py`): data know nothing else of it."""

    kind: str

    def score(self, texts: list[str]) -> list[float]: ...

    def score_segments(self, segments: list[str]) -> list[float]: ...

    def fingerprint(self) -> str: ...


CHUNK = 200_000
"""Characters scored in one go."""
MAX_WORKERS = 4
PARALLEL_FROM = 8
"""Chunks from which starting processes pays."""


def annotate(documents: Iterable[Document], scorer: SegmentScorer | None, parallel: bool = True) -> Iterator[Document]:
    """The documents in order, each with one finite score per segment; in several processes where the scorer and
    `parallel` allow it.

    A document that brings scores keeps them.  Raises DataError without a scorer where one is needed, and ScorerError
    for a result that is not a finite number per segment.
    """
    chunks = _chunks(documents)
    first = list(islice(chunks, PARALLEL_FROM))
    bare = [document for chunk in first for document in chunk if document.scores is None]
    if bare and scorer is None:
        raise DataError(f"{bare[0].origin}: no scores, and no scorer to make them: add a column of scores, or name a "
                        "scorer (scorer=pep8, scorer=my_package.my_module:function)")
    workers = min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    pays = parallel and bare and len(first) == PARALLEL_FROM and workers > 1 and getattr(scorer, "parallel", False)
    for chunk in (_pooled if pays else _serial)(chain(first, chunks), scorer, workers):
        yield from chunk


def segment_scores(scorer: SegmentScorer, documents: list[list[str]]) -> list[list[float]]:
    """One list of scores per document, made in one call where the scorer does not look at a segment's context."""
    single = all(len(segments) == 1 for segments in documents) and getattr(scorer, "one_segment_is_a_text", True)
    if getattr(scorer, "in_context", True) and not single:
        return [_misalignment(scorer, scorer.score_segments(segments)) for segments in documents]
    texts = [segment for segments in documents for segment in segments]
    scores = _misalignment(scorer, scorer.score(texts))
    if len(scores) != len(texts):
        raise ScorerError(f"the scorer gave {len(scores)} scores for {len(texts)} segments")
    scores = iter(scores)
    return [list(islice(scores, len(segments))) for segments in documents]


def _misalignment(scorer: SegmentScorer, numbers: list[float]) -> list[float]:
    """Data are kept as misalignment whatever the scorer measures: lower is better."""
    return [-number for number in numbers] if scorer.kind == "reward" else list(numbers)


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk, size = [], 0
    for document in documents:
        chunk.append(document)
        size += sum(map(len, document.texts))
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _bare(chunk: list[Document]) -> list[list[str]]:
    return [document.texts for document in chunk if document.scores is None]


def _serial(chunks: Iterable[list[Document]], scorer: SegmentScorer | None, workers: int) -> Iterator[list[Document]]:
    for chunk in chunks:
        bare = _bare(chunk)
        yield _filled(chunk, segment_scores(scorer, bare) if bare else [])


def _pooled(chunks: Iterator[list[Document]], scorer: SegmentScorer, workers: int) -> Iterator[list[Document]]:
    """As `_serial`, a few chunks ahead of the reader.  Goes on alone where processes cannot be started."""
    waiting: deque[list[Document]] = deque()
    futures: deque[Future] = deque()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_set_scorer, initargs=(scorer,)) as pool:
        try:
            while True:
                for chunk in islice(chunks, 2 * workers - len(waiting)):
                    waiting.append(chunk)
                    futures.append(pool.submit(_score_here, _bare(chunk)))
                if not waiting:
                    return
                scores = futures.popleft().result()
                yield _filled(waiting.popleft(), scores)
        except BrokenProcessPool:
            warn("scoring in one process: further ones ended at once (is the calling script's work under "
                 '`if __name__ == "__main__"`?)')
        finally:
            pool.shutdown(cancel_futures=True)
    yield from _serial(chain(waiting, chunks), scorer, workers)


_scorer: SegmentScorer | None = None
"""Of this worker process."""


def _set_scorer(scorer: SegmentScorer) -> None:
    global _scorer
    _scorer = scorer
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _score_here(documents: list[list[str]]) -> list[list[float]]:
    return segment_scores(_scorer, documents) if documents else []


def _filled(chunk: list[Document], scores: list[list[float]]) -> list[Document]:
    made = iter(scores)
    for document in chunk:
        if document.scores is None:
            document.scores = _checked(next(made, None), document)
    return chunk


def _checked(scores: list[float] | None, document: Document) -> list[float]:
    if scores is None or len(scores) != len(document.texts):
        count = 0 if scores is None else len(scores)
        raise ScorerError(f"{document.origin}: the scorer gave {count} scores for {len(document.texts)} segments")
    for number, score in enumerate(scores, 1):
        if isinstance(score, bool) or not hasattr(score, "__float__") or not math.isfinite(score):
            raise ScorerError(f"{document.origin}, segment {number}: the scorer gave {score!r}, not a finite number")
    return [float(score) for score in scores]
