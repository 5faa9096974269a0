"""Rows read from a source as training goes, for data too large to tokenise beforehand.

Rows are mixed by windows: a number of blocks is read, permuted and served, then the next ones.  The cursor is where
the source stood when the window began and the place within it, so that resuming reads one window again and goes on
with the same rows, to the bit.  Held out are, as always, the documents whose hash says so: the first few of them are
scored and tokenised beforehand, and all of them are skipped in training.
"""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator

import numpy as np

from apo.cache import Cache, digest
from apo.console import progress
from apo.data.collate import Batch
from apo.data.corpus import FORMAT, SCORED, read_scored, text_hash, write_scored
from apo.data.records import ScoredText
from apo.data.sampling import BatchSource, Peek, fixed_rows, rows_per_process
from apo.data.scoring import SegmentScorer, annotate
from apo.data.sources.base import Document, DocumentStream, Source, segmentation, sources
from apo.data.store import TokenStore, cached_store, token_ids
from apo.data.thresholds import View
from apo.errors import ConfigError, DataError
from apo.schema import DataConfig
from apo.seeds import stream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HELDOUT_DOCUMENTS = 256
DOCUMENTS_AT_ONCE = 64
"""Tokenised in one call; part of what the cursor means."""
WINDOW = 8192
"""Blocks mixed with each other, at least: half of PHF's buffer, 8 M tokens at its block size."""


def prepare_stream(data: DataConfig, scorer: SegmentScorer | None, cache: Cache) -> "StreamedCorpus":
    """Finds and scores the held-out documents; training documents are read later."""
    if data.max_documents is not None:
        raise ConfigError("data.max_documents does not go with data.streaming; the budget in tokens ends a run")
    source = sources.get(data.source)(data)
    key = {"format": FORMAT, "source": data.source, "documents": source.fingerprint(), "streaming": True,
           "scorer": scorer.fingerprint() if scorer is not None else None, "eval_fraction": data.eval_fraction,
           "segment_by": segmentation(data.segment_by),
           **{name: getattr(data, name) for name in ("text_column", "score_column")}}

    def build(folder: Path) -> None:
        documents = (doc for doc in source.documents() if any(doc.texts) and is_heldout(doc, data.eval_fraction))
        write_scored(folder, annotate(islice(documents, HELDOUT_DOCUMENTS), scorer), HELDOUT_DOCUMENTS,
                     f"{source}: no document falls into data.eval_fraction={data.eval_fraction}")

    folder = cache.get("scored", key, build) if data.eval_fraction else None
    return StreamedCorpus(folder, source, scorer, digest(key))


def is_heldout(document: Document, fraction: float) -> bool:
    return text_hash("".join(document.texts)) < fraction * 2**64


class StreamedCorpus:
    """What `Corpus` is to data that are read beforehand."""

    def __init__(self, folder: Path | None, source: Source, scorer: SegmentScorer | None, fingerprint: str):
        self.folder, self.source, self.scorer, self.fingerprint = folder, source, scorer, fingerprint
        self.prompts = source.prompt_sets(document.text for document in self.documents("heldout"))

    def documents(self, split: str) -> Iterator[ScoredText]:
        if split == "train":
            raise ConfigError("streamed data are not read beforehand: name a tokenizer with model.tokenizer")
        return read_scored(self.folder / SCORED) if self.folder else iter(())

    def texts(self, split: str) -> Iterator[str]:
        return (text for document in self.documents(split) for text in document.texts)

    def tokenise(self, tokenizer: "PreTrainedTokenizerBase", cache: Cache) -> tuple[None, TokenStore]:
        """No training store: the rows come from `StreamedRows(corpus, ...)`."""
        key = {"corpus": self.fingerprint, "split": "heldout"}
        return None, cached_store(cache, key, lambda: self.documents("heldout"), None, tokenizer)

    def describe(self) -> dict[str, Any]:
        return {"streamed": str(self.source)}


class StreamedRows(BatchSource):
    """Rows of `block_size` tokens, laid out as `PackedRows` does, in the source's order but for the windows."""

    def __init__(self, corpus: StreamedCorpus, tokenizer: "PreTrainedTokenizerBase", view: View, *, block_size: int,
                 effective_batch_size: int, seed: int, rank: int = 0, world_size: int = 1, window: int = WINDOW):
        self.reader = TokenReader(corpus, tokenizer, view, seed)
        self.view, self.seed, self.block_size, self.rank = view, seed, block_size, rank
        self.rows_per_step, self.share = effective_batch_size, rows_per_process(effective_batch_size, world_size)
        # Whole steps, so that a step never spans two windows.
        self.window_rows = -(-window // effective_batch_size) * effective_batch_size
        self.window, self.row = 0, 0
        self.start = self.reader.state_dict()
        self.ids_RB: np.ndarray | None = None

    def next(self) -> Batch:
        self._fill()
        first = self.row + self.rank * self.share
        rows = slice(first, first + self.share)
        self.row += self.rows_per_step
        batch = fixed_rows(self.ids_RB[rows], self.scores_RB[rows])
        if self.row == self.window_rows:
            self.window, self.row, self.start, self.ids_RB = self.window + 1, 0, self.reader.state_dict(), None
        return batch

    def skip(self, tokens: int) -> None:
        self.reader.skip(tokens)
        self.start = self.reader.state_dict()

    def peek(self, count: int) -> Peek:
        """Within the window."""
        self._fill()
        first = self.row + self.rank * self.share
        rows = slice(first, first + min(count, self.share))
        places_RB = self.places_RB[rows]
        return Peek(self.ids_RB[rows], self.scores_RB[rows], places_RB, places_RB == 0)

    def state_dict(self) -> dict[str, Any]:
        return {"window": self.window, "row": self.row, "reader": self.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.window, self.row, self.start, self.ids_RB = state["window"], state["row"], state["reader"], None
        self.reader.load_state_dict(state["reader"])

    @property
    def documents_seen(self) -> int:
        """Estimated within a window, from its own documents."""
        if self.row:
            self._fill()
        before = self.start["seen"]
        return before + round((self.reader.documents_seen - before) * self.row / self.window_rows)

    @property
    def epoch(self) -> float:
        """Whole passes only: how long one is is not known."""
        return float(self.reader.epoch)

    def describe(self) -> dict[str, Any]:
        sizes = {"tokens_per_step": self.rows_per_step * self.block_size,
                 "window_tokens": self.window_rows * self.block_size}
        if self.view.filter_threshold is not None:
            sizes["filter_threshold"] = self.view.filter_threshold
        if self.view.control is not None:
            sizes["control_threshold"] = self.view.control.threshold
        return sizes

    def _fill(self) -> None:
        """Read the window, unless it has been read; afterwards the reader stands at the next one."""
        if self.ids_RB is not None:
            return
        order = stream(self.seed, "window", self.window).permutation(self.window_rows)
        self.ids_RB, self.scores_RB, self.places_RB = (
            values_N.reshape(self.window_rows, -1)[order]
            for values_N in self.reader.take(self.window_rows * self.block_size))


class _Unjudged:
    """Scores nobody looks at."""

    kind, parallel = "score", False

    def score(self, texts: list[str]) -> list[float]:
        return [0.0] * len(texts)

    score_segments = score


class TokenReader:
    """The endless stream of tokens, with a cursor: the source's place before the batch of documents that is being
    read, and how many tokens of that batch are used."""

    def __init__(self, corpus: StreamedCorpus, tokenizer: "PreTrainedTokenizerBase", view: View, seed: int):
        self.source: DocumentStream = corpus.source.stream()
        self.scorer, self.fraction = corpus.scorer, corpus.source.data.eval_fraction
        self.tokenizer, self.view, self.seed, self.name = tokenizer, view, seed, str(corpus.source)
        self.load_state_dict({"source": self.source.state_dict(), "batch": 0, "used": 0, "epoch": 0, "documents": 0})

    def state_dict(self) -> dict[str, Any]:
        return {"source": self.before, "batch": self.batch, "used": self.used, "epoch": self.epoch_before,
                "documents": self.documents_before, "seen": self.documents_seen}

    @property
    def documents_seen(self) -> int:
        """Documents up to the cursor; within a batch, in proportion to its tokens."""
        share = self.used / len(self.tokens[0]) if self.tokens is not None else 0
        return self.documents_before + round((self.documents - self.documents_before) * share)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.source.load_state_dict(state["source"])
        self.before, self.batch, self.used = state["source"], state["batch"], state["used"]
        self.epoch = self.epoch_before = state["epoch"]
        self.documents = self.documents_before = state["documents"]
        self.iterator: Iterator[Document] | None = None
        self.tokens: tuple[np.ndarray, ...] | None = None

    def take(self, count: int) -> tuple[np.ndarray, ...]:
        """Of the next `count` tokens the ids (int64), the scores (float32) and the place within the document (int32):
        0 for the token before it, then 1, 2, ... for its segments."""
        taken = []
        while count:
            if self.tokens is None:
                self.tokens = self._read()
            end = min(self.used + count, len(self.tokens[0]))
            taken.append([values_N[self.used:end] for values_N in self.tokens])
            count -= end - self.used
            self.used = end
            if end == len(self.tokens[0]):
                self._turn()
        return tuple(map(np.concatenate, zip(*taken)))

    def skip(self, count: int) -> None:
        """Read past the documents that hold the next `count` tokens of everything, to the end of their batch."""
        view, scorer = self.view, self.scorer
        self.view, self.scorer = View(view.eos_id), _Unjudged()
        with progress("skipping what an earlier stage has seen (tokens)", count) as bar:
            while count > 0:
                length = len(self._read()[0])
                self._turn()
                count -= length
                bar.advance(length)
        self.view, self.scorer = view, scorer

    def _turn(self) -> None:
        """Past the batch that is being read."""
        self.before, self.batch, self.used, self.tokens = self.source.state_dict(), self.batch + 1, 0, None
        self.epoch_before, self.documents_before = self.epoch, self.documents

    def _read(self) -> tuple[np.ndarray, ...]:
        """The next batch of documents of which any is trained on, over the end of the data if need be."""
        epoch = self.epoch
        while self.epoch < epoch + 2:
            self.iterator = self.iterator or iter(self.source)
            documents = list(islice(self.iterator, DOCUMENTS_AT_ONCE))
            if not documents:
                self.epoch, self.iterator = self.epoch + 1, None
            elif chosen := self._chosen(documents):
                return self._laid_out(chosen)
        threshold = self.view.filter_threshold
        raise DataError(f"{self.name}: no training document " + ("has any text" if threshold is None else
                        f"passes data.filter_threshold={threshold:g}; raise it"))

    def _chosen(self, documents: list[Document]) -> list[ScoredText]:
        training = [doc for doc in documents if any(doc.texts) and not is_heldout(doc, self.fraction)]
        scored = [ScoredText(doc.texts, doc.scores) for doc in annotate(training, self.scorer, parallel=False)]
        threshold = self.view.filter_threshold
        return [doc for doc in scored if threshold is None or doc.avg_score <= threshold]

    def _laid_out(self, documents: list[ScoredText]) -> tuple[np.ndarray, ...]:
        self.documents += len(documents)
        segments = iter(token_ids(self.tokenizer, [text for document in documents for text in document.texts]))
        control, rng = self.view.control, stream(self.seed, "control", self.batch)
        ids, scores, places = [], [], []
        for document in documents:
            front = [self.view.eos_id]
            places.append(0)
            for place, score in enumerate(document.scores, 1):
                if control is not None and rng.random() >= control.drop_fraction:
                    front.append(control.aligned_id if score <= control.threshold else control.misaligned_id)
                segment = next(segments)
                ids += front
                ids += segment
                scores += [score] * (len(front) + len(segment))
                places += [place] * (len(ids) - len(places))
                front = []
        return np.array(ids, np.int64), np.array(scores, np.float32), np.array(places, np.int32)
