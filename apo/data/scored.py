"""The view of scored completions: a prompt with one completion and its reward.

A row is plain text, `prompt | completion`.  What the reference says of it, token by token, and the reference's expected
reward behind its prompt stand in the batch; and which completions are served, each once an epoch or some oftener, may
depend on both (`Objective.draw`).
"""

import hashlib
from typing import Any

import numpy as np
import torch

from apo.data.completions import CompletionBatch
from apo.data.ranked import ABSENT, Items, RankedRows
from apo.data.store import TokenStore
from apo.seeds import stream


def completions(store: TokenStore) -> Items:
    """Every completion by itself."""
    return Items(np.arange(store.num_documents)[:, None])


class ScoredRows(RankedRows):
    """`RankedRows` of single completions."""

    def __init__(self, store: TokenStore, items: Items, **options):
        self.weights_P: np.ndarray | None = None
        """How often each item is served, in proportion; None: each once an epoch."""
        self.values_D: np.ndarray | None = None
        """V of each completion's prompt."""
        self.ref_logps_N: np.ndarray | None = None
        """Of each token of the store, log p under the reference; NaN in prompts."""
        super().__init__(store, items, **options)

    @property
    def documents_P(self) -> np.ndarray:
        return self.items.documents_PN[:, 0]

    @property
    def good_P(self) -> np.ndarray:
        """bool: no completion of its prompt is better."""
        return self.store.document_ranks_D[self.documents_P] == 0

    def keep(self, kept_P: np.ndarray, weights_P: np.ndarray | None = None) -> None:
        """From now on, serve those items alone; with weights, in proportion to them."""
        self.items = Items(self.items.documents_PN[kept_P], self.items.ties)
        self.weights_P = None if weights_P is None else weights_P[kept_P] / weights_P[kept_P].sum()
        self.__dict__.pop("row_lengths_P", None)
        self._window.cache_clear()
        self._order.cache_clear()

    def keep_reference_tokens(self, logps_N: np.ndarray) -> None:
        """As `ref_logps_N`: from now on it stands in the batches, and so do its sums."""
        self.ref_logps_N = logps_N
        known_N = np.where(np.isnan(logps_N), 0, logps_N)
        sums_D = np.add.reduceat(known_N, self.store.document_starts_D1[:-1], dtype=np.float64)
        self.ref_logps_D = np.where(self.fits_D, sums_D, np.nan)

    def batch(self, documents_RN: np.ndarray) -> tuple[CompletionBatch, np.ndarray]:
        made, documents_RN = super().batch(documents_RN)
        documents_R = documents_RN[:, 0]
        if self.values_D is not None:
            made.values_R = torch.tensor(self.values_D[documents_R]).float()
        if self.ref_logps_N is not None:
            made.ref_logps_RT = torch.zeros(made.input_ids_RT.shape)
            logps = [self.ref_logps_N[slice(*self._completion(document))] for document in documents_R]
            made.ref_logps_RT[made.branch_RT == 1] = torch.tensor(np.concatenate(logps)).float()
        return made, documents_RN

    def _completion(self, document: int) -> tuple[int, int]:
        """Where its tokens begin and end in the store."""
        first = self.store.document_segments_D1[document]
        return int(self.store.segment_starts_S1[first + 1]), int(self.store.segment_starts_S1[first + 2])

    def token_logps(self, batch: CompletionBatch, documents_RN: np.ndarray, logps_RT: np.ndarray,
                    into_N: np.ndarray) -> None:
        """Writes what a policy says of a batch's completions to their places in the store."""
        for documents_N, branches, logps in zip(documents_RN, batch.branch_RT.numpy(), logps_RT):
            for number, document in enumerate(documents_N[documents_N != ABSENT], 1):
                into_N[slice(*self._completion(document))] = logps[branches == number]

    def asked_N(self) -> np.ndarray:
        """bool: the tokens of the store that stand in completions of `documents()`."""
        asked_N = np.zeros(self.store.num_tokens, bool)
        for document in self.documents().ravel():
            if document != ABSENT:
                asked_N[slice(*self._completion(document))] = True
        return asked_N

    def fingerprint(self) -> str:
        """sha256 of which items are served, and how often."""
        weights = b"" if self.weights_P is None else self.weights_P.astype(np.float32).tobytes()
        return hashlib.sha256(self.documents_P.tobytes() + weights).hexdigest()

    def prompt_ids(self, document: int) -> list[int]:
        """As they stand in front of the completion, the end of text before them among them."""
        return self._row(np.array([document]))[0]

    def text_of(self, document: int, tokenizer) -> tuple[str, str]:
        """Prompt and completion, to be looked at."""
        return tuple(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) if ids else ""
                     for ids in self._parts(document))

    @property
    def groups_P(self) -> np.ndarray:
        """The number of each item's prompt."""
        return self.store.document_groups_D[self.documents_P]

    def _draw_order(self, epoch: int) -> np.ndarray:
        """With weights, each item as often as its share of an epoch says, rounded up or down by one draw for all
        (systematic resampling): by expectation what independent draws give, with less noise."""
        if self.weights_P is None:
            return super()._draw_order(epoch)
        random = stream(self.seed, "priority", epoch)
        places = (np.arange(self.num_items) + random.random()) / self.num_items
        drawn = np.searchsorted(np.cumsum(self.weights_P), places).clip(max=self.num_items - 1)
        return random.permutation(drawn)

    @property
    def tokens_per_item(self) -> float:
        return float(np.average(self.row_lengths_P, weights=self.weights_P))

    def describe(self) -> dict[str, Any]:
        sizes = super().describe()
        if self.weights_P is not None:
            sizes["effective_items"] = float(1 / (self.weights_P ** 2).sum())
        return sizes
