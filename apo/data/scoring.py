"""Documents without scores -> documents with scores, in order, with no more than a few chunks in memory.

A scorer in pure Python (`parallel = True`) is run by a few processes: they are started fresh (`spawn`), because a
fork of a process that has loaded torch may hang, and this module imports nothing heavy so that they start quickly.
"""

import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, Callable, Iterable, Iterator, Protocol

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
    chunks = chunked(documents if scorer is not None else map(by_rank, documents), CHUNK)
    first = list(islice(chunks, PARALLEL_FROM))
    bare = [document for chunk in first for document in chunk if document.scores is None]
    if bare and scorer is None:
        raise DataError(f"{bare[0].origin}: no scores, and no scorer to make them: add a column of scores, or name a "
                        "scorer (scorer=pep8, scorer=my_package.my_module:function)")
    workers = min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    pays = (parallel and bare and len(first) == PARALLEL_FROM and workers > 1 and can_spawn()
            and getattr(scorer, "parallel", False))
    work = ((chunk, _bare(chunk)) for chunk in chain(first, chunks))
    for chunk, scores in in_order(work, _scores_of, scorer, workers if pays else 1):
        yield from _filled(chunk, scores)


def by_rank(document: Document) -> Document:
    """A completion of which only the order is known, scored by its place: 0 for the best.  Others as they are."""
    if document.rank is not None and document.scores is None:
        document.scores = [math.nan, float(document.rank)]
    return document


def can_spawn() -> bool:
    """Not in a worker of a joblib sweep: what it spawns looks for joblib's way of starting processes and dies.  There
    its fellows have the cores."""
    return multiprocessing.get_start_method(allow_none=True) in (None, *multiprocessing.get_all_start_methods())


def completion_scores(scorer: SegmentScorer, documents: list[list[str]]) -> list[list[float]]:
    """Of prompts with completions: none for the prompt, and one for the completion, read with its prompt where the
    scorer does that."""
    with_prompt = getattr(scorer, "reads_prompt", False)
    texts = [prompt + completion if with_prompt else completion for prompt, completion in documents]
    scores = _misalignment(scorer, scorer.score(texts))
    if len(scores) != len(texts):
        raise ScorerError(f"the scorer gave {len(scores)} scores for {len(texts)} completions")
    return [[math.nan, score] for score in scores]


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


def chunked(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    """Lists of documents of about `size` characters, counting one for a document whatever its length."""
    chunk, total = [], 0
    for document in documents:
        chunk.append(document)
        total += 1 + sum(map(len, document.texts))
        if total >= size:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk


def _bare(chunk: list[Document]) -> tuple[bool, list[list[str]]]:
    """Whether these are completions, which all documents of a source are or none, and what is to be scored."""
    bare = [document for document in chunk if document.scores is None]
    return any(document.rank is not None for document in bare), [document.texts for document in bare]


def _scores_of(scorer: SegmentScorer | None, payload: tuple[bool, list[list[str]]]) -> list[list[float]]:
    completions, documents = payload
    if not documents:
        return []
    return (completion_scores if completions else segment_scores)(scorer, documents)


Work = Callable[[SegmentScorer, Any], Any]
"""(scorer, payload) -> result; a function of a module, so that a process can be told its name."""


def in_order(items: Iterable[tuple[Any, Any]], work: Work, scorer: SegmentScorer | None,
             workers: int) -> Iterator[tuple[Any, Any]]:
    """(item, work(scorer, payload)) for every (item, payload), in order; with several workers, a few ahead of the
    reader.  Only payloads and results travel between processes."""
    if workers > 1:
        yield from _pooled(iter(items), work, scorer, workers)
    else:
        yield from ((item, work(scorer, payload)) for item, payload in items)


def _pooled(items: Iterator[tuple[Any, Any]], work: Work, scorer: SegmentScorer,
            workers: int) -> Iterator[tuple[Any, Any]]:
    """Goes on alone where processes cannot be started."""
    waiting: deque[tuple[Any, Any]] = deque()
    futures: deque[Future] = deque()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_set_scorer, initargs=(scorer,)) as pool:
        try:
            while True:
                for item in islice(items, 2 * workers - len(waiting)):
                    waiting.append(item)
                    futures.append(pool.submit(_work_here, work, item[1]))
                if not waiting:
                    return
                result = futures.popleft().result()
                yield waiting.popleft()[0], result
        except BrokenProcessPool:
            warn("scoring in one process: further ones ended at once (is the calling script's work under "
                 '`if __name__ == "__main__"`?)')
        finally:
            pool.shutdown(cancel_futures=True)
    yield from in_order(chain(waiting, items), work, scorer, 1)


_scorer: SegmentScorer | None = None
"""Of this worker process."""


def _set_scorer(scorer: SegmentScorer) -> None:
    global _scorer
    _scorer = scorer
    signal.signal(signal.SIGINT, signal.SIG_IGN)    # ctrl-C reaches the parent, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _work_here(work: Work, payload: Any) -> Any:
    return work(_scorer, payload)


def _filled(chunk: list[Document], scores: list[list[float]]) -> list[Document]:
    made = iter(scores)
    for document in chunk:
        if document.scores is None:
            document.scores = _checked(next(made, None), document)
    return chunk


def _checked(scores: list[float] | None, document: Document) -> list[float]:
    known = scores if document.rank is None or scores is None else scores[1:]
    fault = fault_of(known, len(document.texts) - (document.rank is not None))
    if fault:
        raise ScorerError(f"{document.origin}{fault}")
    return [float(score) for score in scores]


def fault_of(scores: list[float] | None, count: int) -> str:
    """What is wrong with a document's scores, to stand behind its name; empty for a finite number per segment."""
    if scores is None or len(scores) != count:
        return f": the scorer gave {0 if scores is None else len(scores)} scores for {count} segments"
    for number, score in enumerate(scores, 1):
        if isinstance(score, bool) or not hasattr(score, "__float__") or not math.isfinite(score):
            return f", segment {number}: the scorer gave {score!r}, not a finite number"
    return ""
