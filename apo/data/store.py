"""A tokenised corpus as flat arrays on disk, mapped into memory: opening one costs nothing, however large it is.

Every segment is tokenised on its own (as PHF does), so that a segment's tokens are the same with and without a
control token in front of it, and no token straddles two scores.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterable

import numpy as np

from apo.cache import Cache
from apo.console import progress
from apo.data.records import ScoredText
from apo.data.tokenizer import tokenizer_fingerprint
from apo.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from apo.data.chat import Chat

FORMAT = 3
"""Of the cached files; counted up when it changes."""
INDEX = "store.json"
DOCUMENTS_AT_ONCE = 64


@dataclass
class TokenStore:
    """N tokens in S segments in D documents.  Offsets are cumulative and begin with 0."""

    tokens_N: np.ndarray
    """uint16 where the vocabulary fits, else int32."""
    segment_starts_S1: np.ndarray
    """int64 [S + 1]: segment s holds tokens starts[s] to starts[s + 1]; it may be empty."""
    segment_scores_S: np.ndarray
    """float64; NaN for a segment without a score, the prompt of a completion."""
    segment_bytes_S: np.ndarray
    """int32: length of the segment's text in UTF-8."""
    document_segments_D1: np.ndarray
    """int64 [D + 1]: document d holds segments document_segments[d] to document_segments[d + 1]."""
    document_ranks_D: np.ndarray
    """int32: of a completion, how many of those of its prompt are better; -1 for text that is no completion."""
    document_groups_D: np.ndarray
    """int32: of a completion the number of its prompt, whose completions stand next to each other, best first; -1."""

    @property
    def num_tokens(self) -> int:
        return len(self.tokens_N)

    @property
    def num_segments(self) -> int:
        return len(self.segment_scores_S)

    @property
    def num_documents(self) -> int:
        return len(self.document_segments_D1) - 1

    @cached_property
    def document_scores_D(self) -> np.ndarray:
        """float64: mean of the scores of the document's segments that have one (PHF's avg_score)."""
        if not self.num_documents:
            return np.zeros(0)
        first_D, known_S = self.document_segments_D1[:-1], ~np.isnan(self.segment_scores_S)
        return (np.add.reduceat(np.where(known_S, self.segment_scores_S, 0), first_D)
                / np.add.reduceat(known_S, first_D, dtype=np.int64))

    @cached_property
    def known_scores_S(self) -> np.ndarray:
        """float64: of the segments that have one."""
        return self.segment_scores_S[~np.isnan(self.segment_scores_S)]

    @property
    def of_completions(self) -> bool:
        return bool(self.num_documents and self.document_groups_D[0] >= 0)

    @cached_property
    def document_starts_D1(self) -> np.ndarray:
        """int64 [D + 1]: first token of each document."""
        return self.segment_starts_S1[self.document_segments_D1]

    def in_order(self, order_D: np.ndarray) -> "TokenStore":
        """The same documents in another order, in memory."""
        segments = _gathered(self.document_segments_D1, order_D)
        tokens = _gathered(self.segment_starts_S1, segments)
        return TokenStore(self.tokens_N[tokens], _offsets(np.diff(self.segment_starts_S1)[segments]),
                          self.segment_scores_S[segments], self.segment_bytes_S[segments],
                          _offsets(np.diff(self.document_segments_D1)[order_D]), self.document_ranks_D[order_D],
                          self.document_groups_D[order_D])

    @classmethod
    def open(cls, folder: Path) -> "TokenStore":
        """Raises DataError where the files are not what the index says."""
        try:
            index = json.loads((folder / INDEX).read_text())
            arrays = {name: _open(folder / f"{name}.bin", *index[name]) for name in cls.__dataclass_fields__}
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder}: damaged tokenised data ({error}); delete this folder") from None
        return cls(**arrays)


def _gathered(starts_1: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Places of everything in the chosen of the stretches that begin at `starts`, one after another."""
    lengths = np.diff(starts_1)[chosen]
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts_1[:-1][chosen] - (ends - lengths), lengths)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def cached_store(cache: Cache, key: dict, documents: Callable[[], Iterable[ScoredText]], total: int | None,
                 tokenizer: "PreTrainedTokenizerBase", chat: "Chat | None" = None) -> TokenStore:
    """The store of `documents()`, from the cache or tokenised now.  `key`: what decides the documents."""

    def build(folder: Path) -> None:
        with progress("tokenising documents", total) as bar:
            write_store(folder, documents(), tokenizer, bar.advance, chat)

    key = {**key, "format": FORMAT, "tokenizer": tokenizer_fingerprint(tokenizer), "end": tokenizer.eos_token_id}
    if chat is not None:
        key["chat_template"] = chat.fingerprint()
    return TokenStore.open(cache.get("tokens", key, build))


def write_store(folder: Path, documents: Iterable[ScoredText], tokenizer: "PreTrainedTokenizerBase",
                advance: Callable[[int], None] = lambda documents: None, chat: "Chat | None" = None) -> None:
    """Tokenise into `folder`, a batch of documents at a time.  Documents without a token are left out.  A completion
    that is not cut off has the end-of-text token for its last, with its own score: where to stop is part of it.
    `chat`: writes prompts and completions in another form than their plain one."""
    writer = _Writer(folder, token_type(len(tokenizer)))
    documents = iter(documents)
    while batch := list(islice(documents, DOCUMENTS_AT_ONCE)):
        if chat is None:
            texts = [text for document in batch for text in document.texts]
            ids = iter(token_ids(tokenizer, texts))
        else:
            pieces = [each for document in batch for each in chat.document(document.texts)]
            texts, ids = map("".join, pieces), iter(chat.ids(pieces))
        lengths = (len(text.encode()) for text in texts)
        for document in batch:
            segments = list(islice(ids, len(document.texts)))
            if document.standing is not None and document.standing.ended:
                segments[-1].append(tokenizer.eos_token_id)
            writer.add(document, segments, list(islice(lengths, len(segments))))
        writer.flush()
        advance(len(batch))
    writer.close()


def token_ids(tokenizer: "PreTrainedTokenizerBase", segments: list[str]) -> list[list[int]]:
    """Plain text to ids: nothing is added, and text that looks like a special token stays text."""
    return tokenizer(segments, add_special_tokens=False, return_attention_mask=False, split_special_tokens=True,
                     verbose=False)["input_ids"]


def token_type(vocab_size: int) -> np.dtype:
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.int32)


class _Writer:
    """Appends to one raw file per array; the index with types and lengths comes last."""

    def __init__(self, folder: Path, token_dtype: np.dtype):
        self.folder = folder
        self.types = {"tokens_N": token_dtype, "segment_starts_S1": np.dtype(np.int64),
                      "segment_scores_S": np.dtype(np.float64), "segment_bytes_S": np.dtype(np.int32),
                      "document_segments_D1": np.dtype(np.int64), "document_ranks_D": np.dtype(np.int32),
                      "document_groups_D": np.dtype(np.int32)}
        self.files = {name: open(folder / f"{name}.bin", "wb") for name in self.types}
        self.pending: dict[str, list] = {name: [] for name in self.types}
        self.lengths = dict.fromkeys(self.types, 0)
        self.num_tokens = self.num_segments = 0
        self.pending["segment_starts_S1"].append(0)
        self.pending["document_segments_D1"].append(0)

    def add(self, document: ScoredText, ids: list[list[int]], lengths: list[int]) -> None:
        """`lengths`: bytes of the text of each segment."""
        if not any(ids):
            return
        for length, score, segment in zip(lengths, document.scores, ids):
            self.num_tokens += len(segment)
            self.pending["tokens_N"].extend(segment)
            self.pending["segment_starts_S1"].append(self.num_tokens)
            self.pending["segment_scores_S"].append(score)
            self.pending["segment_bytes_S"].append(length)
        self.num_segments += len(ids)
        self.pending["document_segments_D1"].append(self.num_segments)
        standing = document.standing
        self.pending["document_ranks_D"].append(-1 if standing is None else standing.rank)
        self.pending["document_groups_D"].append(-1 if standing is None else standing.group)

    def flush(self) -> None:
        for name, values in self.pending.items():
            np.array(values, dtype=self.types[name]).tofile(self.files[name])
            self.lengths[name] += len(values)
            values.clear()

    def close(self) -> None:
        self.flush()
        for file in self.files.values():
            file.close()
        index: dict[str, Any] = {name: [dtype.str, self.lengths[name]] for name, dtype in self.types.items()}
        (self.folder / INDEX).write_text(json.dumps(index))


def _open(path: Path, dtype: str, length: int) -> np.ndarray:
    expected = np.dtype(dtype).itemsize * length
    if path.stat().st_size != expected:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, not {expected}")
    return np.asarray(np.memmap(path, dtype, "r", shape=(length,))) if length else np.zeros(0, dtype)
