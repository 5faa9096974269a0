"""Batch sources: what the training loop draws optimiser steps from, and whose cursor is part of the checkpoint.

`PackedRows` serves fixed rows of a tokenised corpus.  Its rows are those of one endless stream of tokens, epoch after
epoch, of which nothing is thrown away; every random choice is a function of the seed and the epoch alone, so the
cursor is a single number and resuming is exact.  Sources that read as they go are in `streaming.py`.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from apo.data.collate import Batch
from apo.data.store import TokenStore
from apo.data.thresholds import View
from apo.errors import ConfigError
from apo.seeds import stream


@dataclass
class Peek:
    """Rows with what the training loop need not know: where documents and segments begin.  All [rows, block]."""

    ids_RB: np.ndarray
    scores_RB: np.ndarray
    segments_RB: np.ndarray
    """A number per token that changes where the next segment of a document begins, with its control token."""
    begins_RB: np.ndarray
    """bool: the token that stands before a document."""
    store: TokenStore | None = None
    """Whose segments the numbers are; None where all they tell is one segment from the next."""


class BatchSource(ABC):
    """Serves the rows of one optimiser step at a time.

    The loop does not know where rows come from.  What `next` returns depends on the cursor alone, never on how a step
    is cut into micro-batches; with several processes, each gets its own contiguous part of the step's rows.
    """

    @abstractmethod
    def next(self) -> Batch:
        """All rows of the next optimiser step that belong to this process: effective_batch_size / world_size."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The cursor, as something `json` can write."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a cursor: the next `next` returns what it would have returned then, to the bit."""

    @abstractmethod
    def skip(self, tokens: int) -> None:
        """Begin where an earlier stage ended that saw so many tokens of everything, without filter and control tokens
        (PHF's `skip_tokens`).  Called before the first `next`."""

    def peek(self, count: int) -> Peek:
        """Up to `count` of the rows that `next` will return next; the cursor stays where it is."""
        raise ConfigError(f"{type(self).__name__} does not show its rows ahead of time")

    def news(self) -> dict[str, Any]:
        """What the source has measured since it was last asked, as `apo.metrics.running.Stat` by name."""
        return {}

    @property
    @abstractmethod
    def documents_seen(self) -> int:
        """Documents begun up to the cursor, over all processes."""

    @property
    @abstractmethod
    def epoch(self) -> float:
        """Passes over the data up to the cursor."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Sizes and shares, for the log and the manifest."""


def fixed_rows(ids_RB: np.ndarray, scores_RB: np.ndarray, begins_RB: np.ndarray | None = None) -> Batch:
    """A batch in which every token counts that has a score (NaN: none); where it is told which tokens stand before a
    document, all others count too.  Those never do without a score: what comes after the end of a completion is
    nothing to learn.  Made in numpy: torch would wake all its threads for the mask."""
    known_RB = ~np.isnan(scores_RB)
    filled_RB = np.where(known_RB, scores_RB, np.float32(0))
    if begins_RB is None:
        return Batch(*map(torch.from_numpy, (ids_RB, filled_RB, known_RB)))
    ids_RB, filled_RB, counts_RB, known_RB = map(torch.from_numpy, (ids_RB, filled_RB, known_RB | ~begins_RB, known_RB))
    return Batch(ids_RB, filled_RB, counts_RB, scored_BT=known_RB)


def rows_per_process(effective_batch_size: int, world_size: int) -> int:
    if effective_batch_size % world_size:
        raise ConfigError(f"training.effective_batch_size={effective_batch_size} cannot be shared out evenly among "
                          f"{world_size} processes")
    return effective_batch_size // world_size


class PackedRows(BatchSource):
    """Rows of `block_size` tokens cut from the concatenation of all epochs.

    Within an epoch: the documents in an order drawn for it, those that do not pass the filter left out; each is
    [end-of-text], then for every segment [control token, unless dropped] + its tokens.  All documents are shuffled
    and only then filtered, so that methods with other filters see what they share in the same order.  Rows that begin
    in an epoch are served in an order drawn for it; the one that straddles its end carries the tail over.
    """

    def __init__(self, store: TokenStore, view: View, *, block_size: int, effective_batch_size: int, seed: int,
                 rank: int = 0, world_size: int = 1):
        self.store, self.view, self.seed = store, view, seed
        self.block_size, self.rows_per_step = block_size, effective_batch_size
        self.share = rows_per_process(effective_batch_size, world_size)
        self.rank, self.step, self.skipped = rank, 0, 0
        self.passing_D = _passing(store, view)
        self.boundaries = [0]
        """Position in the stream where each epoch begins; grows as epochs are reached."""
        # Two: a row may straddle the end of an epoch.
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def next(self) -> Batch:
        served_R = self._next()
        self.step += 1
        return self.rows(served_R)

    def _next(self) -> np.ndarray:
        """Places of the next step's rows in the order of serving."""
        first = self.served + self.rank * self.share
        return np.arange(first, first + self.share)

    @property
    def served(self) -> int:
        """Rows up to the cursor, those of an earlier stage included."""
        return self.skipped + self.step * self.rows_per_step

    def skip(self, tokens: int) -> None:
        """To the rows that a run of the same seed is served next: within an epoch rows are mixed, so there is no place
        in the text where the earlier stage ended.  With a filter or control tokens rows hold other text and the two
        stages may share some."""
        self.skipped = tokens // self.block_size

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = int(state["step"])

    @property
    def documents_seen(self) -> int:
        """As though rows were served in the order of the stream: within an epoch they are not, so this is exact at
        the end of each epoch and an estimate in between."""
        position = self.served * self.block_size
        epoch = self._epoch_at(position)
        inside = np.searchsorted(self._epoch(epoch).starts_D1[:-1], position - self.boundaries[epoch])
        return epoch * int(self.passing_D.sum()) + int(inside)

    @property
    def epoch(self) -> float:
        row = self.served
        epoch = self._epoch_at(row * self.block_size)
        first, end = self._first_row(epoch), self._first_row(epoch + 1)
        return epoch + (row - first) / (end - first)

    def describe(self) -> dict[str, Any]:
        """Counts and shares of training text; `tokens_per_epoch` includes end-of-text and control tokens."""
        scores_S, lengths_S = self.store.segment_scores_S, np.diff(self.store.segment_starts_S1)
        passing_S = np.repeat(self.passing_D, np.diff(self.store.document_segments_D1))
        tokens_per_epoch, tokens_per_step = self._epoch(0).length, self.rows_per_step * self.block_size
        sizes = {"documents": int(self.passing_D.sum()), "segments": int(passing_S.sum()),
                 "tokens_per_epoch": tokens_per_epoch, "tokens_per_step": tokens_per_step,
                 "steps_per_epoch": tokens_per_epoch / tokens_per_step}
        if self.view.filter_threshold is not None:
            sizes |= {"filter_threshold": self.view.filter_threshold,
                      "documents_kept": float(self.passing_D.mean()),
                      "tokens_kept": float(lengths_S[passing_S].sum() / lengths_S.sum())}
        if self.view.control is not None:
            passing_S = passing_S & ~np.isnan(scores_S)
            aligned_S = scores_S[passing_S] <= self.view.control.threshold
            sizes |= {"control_threshold": self.view.control.threshold,
                      "segments_aligned": float(aligned_S.mean()),
                      "tokens_aligned": float(lengths_S[passing_S][aligned_S].sum() / lengths_S[passing_S].sum())}
        return sizes

    def rows(self, served_R: np.ndarray) -> Batch:
        """Rows by their place in the order of serving; any number of them, from any epoch."""
        ids_RB, scores_RB = self._look_up(served_R, Epoch.read, (np.int64, np.float32))
        if not self.view.loss_on_prompts:
            return fixed_rows(ids_RB, scores_RB)
        return fixed_rows(ids_RB, scores_RB, self._look_up(served_R, Epoch.segments, (np.int64, bool))[1])

    def peek(self, count: int) -> Peek:
        served_R = self._next()[:count]
        ids_RB, scores_RB = self._look_up(served_R, Epoch.read, (np.int64, np.float32))
        return Peek(ids_RB, scores_RB, *self._look_up(served_R, Epoch.segments, (np.int64, bool)), self.store)

    def _look_up(self, served_R: np.ndarray, read, kinds: tuple) -> list[np.ndarray]:
        """Arrays [rows, block] of what `read(epoch, positions)` gives."""
        row_R = np.array([self._row_at(int(served)) for served in served_R], np.int64)
        position_RB = row_R[:, None] * self.block_size + np.arange(self.block_size)
        found = [np.empty(position_RB.shape, kind) for kind in kinds]
        for epoch in range(self._epoch_at(int(position_RB.min())), self._epoch_at(int(position_RB.max())) + 1):
            inside_RB = (position_RB >= self._boundary(epoch)) & (position_RB < self._boundary(epoch + 1))
            position_N = position_RB[inside_RB] - self._boundary(epoch)
            for array_RB, values_N in zip(found, read(self._epoch(epoch), position_N)):
                array_RB[inside_RB] = values_N
        return found

    def _row_at(self, served: int) -> int:
        """Row of the stream that is served in that place."""
        epoch = self._epoch_at(served * self.block_size)
        first = self._first_row(epoch)
        return first + int(self._order(epoch)[served - first])

    def _first_row(self, epoch: int) -> int:
        """First row that begins in the epoch; rows begin at multiples of the block size."""
        return -(-self._boundary(epoch) // self.block_size)

    def _boundary(self, epoch: int) -> int:
        while len(self.boundaries) <= epoch:
            self.boundaries.append(self.boundaries[-1] + self._epoch(len(self.boundaries) - 1).length)
        return self.boundaries[epoch]

    def _epoch_at(self, position: int) -> int:
        while self.boundaries[-1] <= position:
            self._boundary(len(self.boundaries))
        return bisect_right(self.boundaries, position) - 1

    def _draw_epoch(self, epoch: int) -> "Epoch":
        order_D = stream(self.seed, "order", epoch).permutation(self.store.num_documents)
        control_S = None
        if self.view.control is not None:
            # One draw per segment of the store, passing or not, in the store's order.
            draws_S = stream(self.seed, "control", epoch).random(self.store.num_segments, dtype=np.float32)
            control_S = draws_S >= np.float32(self.view.control.drop_fraction)
            control_S &= ~np.isnan(self.store.segment_scores_S)
        return Epoch(self.store, self.view, order_D[self.passing_D[order_D]], control_S)

    def _draw_order(self, epoch: int) -> np.ndarray:
        rows = self._first_row(epoch + 1) - self._first_row(epoch)
        return stream(self.seed, "rows", epoch).permutation(rows)


class Epoch:
    """One pass over the documents as a stream of tokens that is never laid out: any position is looked up.

    Offsets within a document do not depend on the order of documents, so one cumulative array over the segments in
    the store's own order serves all of them.  Arrays grow with documents and segments, not with tokens.
    """

    def __init__(self, store: TokenStore, view: View, order_P: np.ndarray, control_S: np.ndarray | None):
        """`order_P`: documents that pass, in the epoch's order.  `control_S`: segments with a control token."""
        self.store, self.view, self.order_P, self.control_S = store, view, order_P, control_S
        self.offsets_S1 = store.segment_starts_S1
        """Where each segment begins, control tokens counted and end-of-text tokens not."""
        if control_S is not None:
            self.offsets_S1 = store.segment_starts_S1 + np.concatenate([[0], np.cumsum(control_S, dtype=np.int64)])
        bounds_D1 = self.offsets_S1[store.document_segments_D1]
        self.base_P = bounds_D1[order_P]
        lengths_P = bounds_D1[order_P + 1] - self.base_P + 1
        self.starts_D1 = np.concatenate([[0], np.cumsum(lengths_P)])
        """Where each document of `order_P` begins in the epoch; the last entry is the length."""

    @property
    def length(self) -> int:
        return int(self.starts_D1[-1])

    def read(self, position_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (int64) and scores (float32) at positions of this epoch."""
        store, view = self.store, self.view
        inside_N, key_N, segment_N = self._find(position_N)
        token_N = store.segment_starts_S1[segment_N] + key_N - self.offsets_S1[segment_N]
        scores_N = store.segment_scores_S[segment_N]
        if self.control_S is None:
            ids_N = store.tokens_N[token_N].astype(np.int64)
        else:
            control_N = self.control_S[segment_N]
            marker_N = np.where(scores_N <= view.control.threshold, view.control.aligned_id, view.control.misaligned_id)
            token_N -= control_N
            is_marker_N = control_N & (key_N == self.offsets_S1[segment_N])
            ids_N = np.where(is_marker_N, marker_N, store.tokens_N[np.maximum(token_N, 0)])
        ids_N[inside_N == 0] = view.eos_id
        return ids_N, scores_N.astype(np.float32)

    def segments(self, position_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """At positions of this epoch: the segment of the store, and whether a document begins."""
        inside_N, _, segment_N = self._find(position_N)
        return segment_N, inside_N == 0

    def _find(self, position_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Place within the document, place among all segments' tokens with their control tokens, and the segment."""
        place_N = np.searchsorted(self.starts_D1, position_N, side="right") - 1
        inside_N = position_N - self.starts_D1[place_N]
        # The end-of-text token takes the place of -1 and belongs to what follows it.
        key_N = self.base_P[place_N] + np.maximum(inside_N - 1, 0)
        return inside_N, key_N, np.searchsorted(self.offsets_S1, key_N, side="right") - 1


def _passing(store: TokenStore, view: View) -> np.ndarray:
    if view.filter_threshold is None:
        return np.ones(store.num_documents, bool)
    return store.document_scores_D <= view.filter_threshold
