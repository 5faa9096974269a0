"""Views of a store of completions: pairs and rankings as numbers of documents, and a source of batches of them.

The tokens stay where they are, so every view of one corpus costs a few integers, and what is cached about a completion
(its log-probability under a reference) is cached once for all views.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import torch

from apo.data.completions import CompletionBatch, laid_out
from apo.data.sampling import BatchSource, rows_per_process
from apo.data.store import TokenStore
from apo.errors import DataError
from apo.seeds import stream

BRANCHES = 4
"""Completions of one prompt that a reference reads at once."""
ABSENT = -1
"""In place of a document, where a row has fewer completions than others."""


@dataclass
class Items:
    """What is trained on: [P, N] documents, the best first, ABSENT behind the last; and how many pairs were left out
    because neither completion is better."""

    documents_PN: np.ndarray
    ties: int = 0


def groups(store: TokenStore) -> list[np.ndarray]:
    """Documents of each prompt, best first."""
    return np.split(np.arange(store.num_documents), np.flatnonzero(np.diff(store.document_groups_D)) + 1)


def preferences(store: TokenStore, per_prompt: int | None, seed: int = 0) -> Items:
    """(better, worse) of every two completions of a prompt, at most `per_prompt` by a draw that depends on the prompt's
    place and `seed`.  Which is better the ranks say: where the data know it, a scorer has no say in it.  Two of one
    rank are no preference.  Raises DataError where there is none."""
    ranks_D, found, ties = store.document_ranks_D, [], 0
    for number, documents in enumerate(groups(store)):
        pairs = [pair for pair in combinations(documents.tolist(), 2) if ranks_D[pair[0]] != ranks_D[pair[1]]]
        ties += len(documents) * (len(documents) - 1) // 2 - len(pairs)
        if per_prompt is not None and len(pairs) > per_prompt:
            kept = stream(seed, "pairs", number).permutation(len(pairs))[:per_prompt]
            pairs = [pairs[i] for i in np.sort(kept)]
        found += pairs
    if not found:
        raise DataError("no prompt of the training data has two completions of which one is better: there are no "
                        "preferences to train on")
    return Items(np.array(found), ties)


def rankings(store: TokenStore, length: int) -> Items:
    """The `length` completions with the lowest scores of every prompt that has two or more whose scores differ: the
    methods that take them weigh by the distances between scores."""
    scores_D, found = store.document_scores_D, []
    for documents in groups(store):
        best = documents[np.argsort(scores_D[documents], kind="stable")][:length]
        if len(np.unique(scores_D[best])) > 1:
            found.append(np.pad(best, (0, length - len(best)), constant_values=ABSENT))
    if not found:
        raise DataError("no prompt of the training data has two completions of which one is better: there are no "
                        "rankings to train on")
    return Items(np.array(found))


class RankedRows(BatchSource):
    """Rows of a prompt with its completions, epoch after epoch in an order drawn for each.

    Steps are cut from windows of `bucket_steps` steps, within which items are sorted by length and the steps then
    mixed: rows of a step are of like length, and little of a batch is padding.  What a step consists of depends on the
    seed alone, not on micro-batches or processes.
    """

    def __init__(self, store: TokenStore, items: Items, *, max_length: int, end_id: int, effective_batch_size: int,
                 seed: int, bucket_steps: int = 1, rank: int = 0, world_size: int = 1):
        """`max_length`: tokens of the longest prompt and completion together; of a longer one the beginning of the
        prompt is cut off.  `end_id` stands before every prompt."""
        self.store, self.max_length, self.end_id, self.seed = store, max_length, end_id, seed
        first_D = store.document_segments_D1[:-1]
        self.prompt_lengths_D = np.diff(store.segment_starts_S1)[first_D]
        self.completion_lengths_D = np.diff(store.document_starts_D1) - self.prompt_lengths_D
        self.items = self._fitting(items)
        self.room_D = self._rooms()
        self.rows_per_step, self.rank, self.step = effective_batch_size, rank, 0
        self.share = rows_per_process(effective_batch_size, world_size)
        self.rewards_D = -store.document_scores_D
        self.ref_logps_D: np.ndarray | None = None
        self.bucket_steps = bucket_steps
        self.reach: int | None = None
        """Steps that will be made; a reference is asked about what they serve.  None: about everything."""
        self._window = lru_cache(maxsize=2)(self._draw_window)
        self._order = lru_cache(maxsize=2)(self._draw_order)

    @property
    def num_items(self) -> int:
        return len(self.items.documents_PN)

    def _fitting(self, items: Items) -> Items:
        """Without items of which a completion alone is too long to stand behind any prompt."""
        self.fits_D = self.completion_lengths_D < self.max_length - 1
        fits_P = (self.fits_D[items.documents_PN] | (items.documents_PN == ABSENT)).all(1)
        self.too_long = int((~fits_P).sum())
        if not fits_P.any():
            raise DataError(f"no completion is shorter than data.block_size={self.max_length} tokens: raise it")
        return Items(items.documents_PN[fits_P], items.ties)

    def _rooms(self) -> np.ndarray:
        """Tokens there are for each document's prompt: so many that the longest completion of that prompt fits behind
        it.  The prompt is then the same in every row, and what is cached about a completion holds in all of them."""
        _, group_D = np.unique(self.store.document_groups_D, return_inverse=True)
        longest_G = np.zeros(group_D.max() + 1, np.int64)
        np.maximum.at(longest_G, group_D[self.fits_D], self.completion_lengths_D[self.fits_D])
        return self.max_length - longest_G[group_D]

    def next(self) -> CompletionBatch:
        window, place = divmod(self.step, self.bucket_steps)
        self.step += 1
        return self.rows(self._window(window)[place][self.rank * self.share:(self.rank + 1) * self.share])

    def _draw_window(self, window: int) -> np.ndarray:
        """[steps, rows] items of a window of steps."""
        count = self.bucket_steps * self.rows_per_step
        items = np.array([self._item_at(served) for served in range(window * count, (window + 1) * count)])
        steps_SR = items[np.argsort(self.row_lengths_P[items], kind="stable")].reshape(self.bucket_steps, -1)
        return stream(self.seed, "windows", window).permutation(steps_SR)

    def _draw_order(self, epoch: int) -> np.ndarray:
        """Numbers of the items in the order of an epoch, as many as there are items."""
        return stream(self.seed, "order", epoch).permutation(self.num_items)

    def _item_at(self, served: int) -> int:
        epoch, place = divmod(served, self.num_items)
        return int(self._order(epoch)[place])

    def rows(self, items_R: np.ndarray) -> CompletionBatch:
        return self.batch(self.items.documents_PN[items_R])[0]

    def batch(self, documents_RN: np.ndarray) -> tuple[CompletionBatch, np.ndarray]:
        """A row for every list of documents, the longest first: what is too large for the memory shows at once.  And
        the documents in that order."""
        made = [self._row(documents) for documents in documents_RN]
        order = sorted(range(len(made)), key=lambda row: -len(made[row][0]) - sum(map(len, made[row][1])))
        documents_RN = documents_RN[order]
        present_RN = documents_RN != ABSENT
        ref_RN = np.full(documents_RN.shape, np.nan) if self.ref_logps_D is None else self.ref_logps_D[documents_RN]
        return laid_out([made[row] for row in order],
                        torch.tensor(np.where(present_RN, self.rewards_D[documents_RN], 0)).float(),
                        torch.tensor(np.where(present_RN, ref_RN, 0)).float(), torch.tensor(present_RN)), documents_RN

    def _row(self, documents_N: np.ndarray) -> tuple[list[int], list[list[int]]]:
        """Token ids of the prompt, cut on the left where it is too long, and of the completions."""
        documents = [int(document) for document in documents_N if document != ABSENT]
        prompt, _ = self._parts(documents[0])
        room = int(self.room_D[documents[0]]) - 1
        return [self.end_id, *prompt[max(len(prompt) - room, 0):]], [self._parts(each)[1] for each in documents]

    def _parts(self, document: int) -> tuple[list[int], list[int]]:
        first = self.store.document_segments_D1[document]
        begin, middle, end = self.store.segment_starts_S1[first:first + 3]
        return self.store.tokens_N[begin:middle].tolist(), self.store.tokens_N[middle:end].tolist()

    def reached(self) -> np.ndarray:
        """Items that are served within `reach`, each once."""
        if self.reach is None:
            return np.arange(self.num_items)
        count = -(-self.reach // self.bucket_steps) * self.bucket_steps * self.rows_per_step
        epochs = range(-(-count // self.num_items))
        served = np.concatenate([self._order(epoch) for epoch in epochs])[:count]
        return np.unique(served)

    def documents(self) -> np.ndarray:
        """[Q, BRANCHES] documents that occur in the items within reach, each once, those of one prompt side by side:
        what a reference is asked about."""
        used = set(self.items.documents_PN[self.reached()].ravel().tolist()) - {ABSENT}
        rows = []
        for group in groups(self.store):
            chosen = [int(document) for document in group if int(document) in used]
            rows += [chosen[start:start + BRANCHES] for start in range(0, len(chosen), BRANCHES)]
        return np.array([row + [ABSENT] * (BRANCHES - len(row)) for row in rows])

    def keep_reference(self, logps_QN: np.ndarray) -> None:
        """What a reference says of `documents()`: from now on it stands in the batches."""
        documents_QN = self.documents()
        self.ref_logps_D = np.full(self.store.num_documents, np.nan)
        self.ref_logps_D[documents_QN[documents_QN != ABSENT]] = logps_QN[documents_QN != ABSENT]

    # ---- the cursor --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = int(state["step"])

    def skip(self, tokens: int) -> None:
        raise DataError("training.tokens_already_seen: rows of prompts with completions are no continuation of a "
                        "stream of tokens; leave it at 0")

    @property
    def documents_seen(self) -> int:
        """Items served."""
        return self.step * self.rows_per_step

    @property
    def epoch(self) -> float:
        return self.documents_seen / self.num_items

    @cached_property
    def row_lengths_P(self) -> np.ndarray:
        """Tokens of each item's row."""
        documents_PN = self.items.documents_PN
        completions_PN = np.where(documents_PN != ABSENT, self.completion_lengths_D[documents_PN], 0)
        first_P = documents_PN[:, 0]
        return completions_PN.sum(1) + np.minimum(self.prompt_lengths_D + 1, self.room_D)[first_P]

    @property
    def tokens_per_item(self) -> float:
        """Mean tokens of a row."""
        return float(self.row_lengths_P.mean())

    @property
    def steps_per_epoch(self) -> float:
        return self.num_items / self.rows_per_step

    def describe(self) -> dict[str, Any]:
        tokens = self.tokens_per_item
        present_PN = self.items.documents_PN != ABSENT
        return {"items": self.num_items, "completions": int(present_PN.sum()), "ties": self.items.ties,
                "too_long": self.too_long, "tokens_per_epoch": tokens * self.num_items,
                "tokens_per_step": tokens * self.rows_per_step, "steps_per_epoch": self.steps_per_epoch}
