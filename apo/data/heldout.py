"""Held-out text as rows to measure on: every token of text is predicted exactly once, and bytes are known exactly.

Bits per byte compares models whatever their tokenizers, so the bytes counted must be those of the tokens counted:
only whole segments are taken.  End-of-text and control tokens are context, never counted, and so are prompts.
"""

from typing import Iterator

import numpy as np
import torch

from apo.data.collate import Batch
from apo.data.store import TokenStore
from apo.errors import DataError
from apo.seeds import stream


class HeldoutText:
    """[end-of-text] + for every segment [prefix] + its tokens, document after document, cut into rows.

    Documents come in an order that is the same for every run.  Neighbouring rows share one token: column 0 has no
    prediction, so each row begins with the last token of the one before it.  The last row is padded on the right.
    """

    def __init__(self, store: TokenStore, eos_id: int, prefix_id: int | None, block_size: int, max_tokens: int,
                 clean_threshold: float = 0.0):
        """Take whole segments until one more would exceed `max_tokens` tokens of text; at least one.

        `prefix_id`: control token before every segment.  `bytes_clean` counts the segments with a score of at most
        `clean_threshold`.
        Raises DataError where there is no held-out text.
        """
        if not store.num_documents:
            raise DataError("there are no held-out documents to measure bits per byte on: raise data.eval_fraction, or "
                            "set evaluation.heldout_tokens=0")
        segments_N, first_N = _chosen(store, max_tokens)
        ids_N, scores_N, text_N = _laid_out(store, segments_N, first_N, eos_id, prefix_id)
        self.clean_threshold = np.float32(clean_threshold)
        clean_N = store.segment_scores_S[segments_N].astype(np.float32) <= self.clean_threshold
        known_N = ~np.isnan(store.segment_scores_S[segments_N])
        self.num_tokens = int(text_N.sum())
        self.bytes_all = int(store.segment_bytes_S[segments_N][known_N].sum())
        self.bytes_clean = int(store.segment_bytes_S[segments_N][clean_N].sum())
        self.ids_RB = _rows(ids_N, block_size, eos_id)
        self.scores_RB = _rows(np.nan_to_num(scores_N).astype(np.float32), block_size, 0)
        self.mask_RB = _rows(text_N, block_size, False)
        self.mask_RB[:, 0] = False

    def __len__(self) -> int:
        return len(self.ids_RB)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Rows in order.  `loss_mask_BT.sum()` over all of them is `num_tokens`."""
        for start in range(0, len(self), batch_size):
            rows = slice(start, start + batch_size)
            yield Batch(torch.from_numpy(self.ids_RB[rows]), torch.from_numpy(self.scores_RB[rows]),
                        torch.from_numpy(self.mask_RB[rows]))


def _chosen(store: TokenStore, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Segments in order, and which of them begin a document."""
    chosen, first, tokens = [], [], 0
    for document in stream(0, "heldout").permutation(store.num_documents):
        begin, end = store.document_segments_D1[document:document + 2]
        for segment in range(begin, end):
            prompt = np.isnan(store.segment_scores_S[segment])
            length = 0 if prompt else int(store.segment_starts_S1[segment + 1] - store.segment_starts_S1[segment])
            if tokens and tokens + length > max_tokens:
                return np.array(chosen), np.array(first)
            tokens += length
            chosen.append(segment)
            first.append(segment == begin)
    return np.array(chosen), np.array(first)


def _laid_out(store: TokenStore, segments_N: np.ndarray, first_N: np.ndarray, eos_id: int,
              prefix_id: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, scores, and whether a token is text."""
    ids, scores, text = [], [], []
    for segment, begins in zip(segments_N, first_N):
        begin, end = store.segment_starts_S1[segment:segment + 2]
        score = store.segment_scores_S[segment]
        front = [eos_id] * bool(begins) + ([] if prefix_id is None or np.isnan(score) else [prefix_id])
        ids.append(np.concatenate([np.array(front, np.int64), store.tokens_N[begin:end].astype(np.int64)]))
        scores.append(np.full(len(ids[-1]), score))
        counted = (np.arange(len(ids[-1])) >= len(front)) & ~np.isnan(score)
        if store.of_completions:
            counted[-1] = False         # the end of the completion, or the last token of the prompt
        text.append(counted)
    return np.concatenate(ids), np.concatenate(scores), np.concatenate(text)


def _rows(values_N: np.ndarray, block_size: int, padding: object) -> np.ndarray:
    step = block_size - 1
    count = max(-(-(len(values_N) - 1) // step), 1)
    padded_N = np.full(count * step + 1, padding, values_N.dtype)
    padded_N[:len(values_N)] = values_N
    return np.lib.stride_tricks.sliding_window_view(padded_N, block_size)[::step].copy()
