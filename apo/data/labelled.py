"""The view of labels: single completions that are desirable or not, each beside a completion of another prompt.

A row is `prompt | its completion | the completion of another prompt`.  What policy and reference say of the last is an
estimate of how far the policy has moved at large, which KTO measures each completion against; the mask of the batch
keeps the two apart, so one prompt and one forward serve both.  Which completion stands beside which depends on the data
alone and not on the batch, so the reference is asked once, like every other.
"""

from typing import Any

import numpy as np
import torch

from apo.data.completions import CompletionBatch
from apo.data.ranked import Items, RankedRows, groups
from apo.data.store import TokenStore
from apo.errors import DataError


def labelled(store: TokenStore) -> tuple[Items, np.ndarray]:
    """([P, 2] of a completion and one of another prompt, desirable [P]).

    A completion is desirable if it stands in the better half of its prompt's by rank, and undesirable in the worse; in
    the middle it is left out (`ties`).  Where a prompt's are all of one rank, or it has but one, the label is whether
    its reward lies above the mean of all: of KTO's own labels, 1 and 0, that is the label.
    Raises DataError where there are not both kinds, or only one prompt.
    """
    ranks_D, rewards_D = store.document_ranks_D, -store.document_scores_D
    lead_D = np.zeros(store.num_documents)
    for documents in groups(store):
        ranks = ranks_D[documents]
        alike = (ranks == ranks[0]).all()
        lead_D[documents] = rewards_D[documents] - rewards_D.mean() if alike else ranks.mean() - ranks
    (own_P,) = np.nonzero(lead_D)
    desirable_P = lead_D[own_P] > 0
    if desirable_P.all() or not desirable_P.any():
        raise DataError("the training data have no completions of which some are better and some worse: there are no "
                        "labels to train on")
    return Items(np.stack([own_P, _of_others(own_P, store.document_groups_D[own_P])], 1),
                 store.num_documents - len(own_P)), desirable_P


def _of_others(own_P: np.ndarray, group_P: np.ndarray) -> np.ndarray:
    """A cyclic shift by the size of the largest group: since a group's stand next to each other, nobody gets his own,
    unless that group is half of all."""
    shift = int(np.bincount(np.unique(group_P, return_inverse=True)[1]).max())
    others = np.roll(np.arange(len(own_P)), -shift)
    if (group_P[others] == group_P).any():
        raise DataError("completions of one prompt are half of the training data or more: each needs one of another "
                        "prompt beside it")
    return own_P[others]


class LabelledRows(RankedRows):
    """`RankedRows` of labels.  In its batches the first reward of a row is its label, 1 or 0."""

    def __init__(self, store: TokenStore, found: tuple[Items, np.ndarray], **options):
        items, desirable_P = found
        self.desirable_D = np.zeros(store.num_documents, bool)
        self.desirable_D[items.documents_PN[:, 0]] = desirable_P
        self.ref_beside_D: np.ndarray | None = None
        """Of each completion's neighbour, behind that completion's prompt."""
        super().__init__(store, items, **options)

    def batch(self, documents_RN: np.ndarray) -> tuple[CompletionBatch, np.ndarray]:
        made, documents_RN = super().batch(documents_RN)
        own_R = documents_RN[:, 0]
        made.rewards_RN[:, 0] = torch.tensor(self.desirable_D[own_R])
        made.rewards_RN[:, 1] = 0
        if self.ref_beside_D is not None:
            made.ref_logps_RN[:, 1] = torch.tensor(self.ref_beside_D[own_R])
        return made, documents_RN

    def _row(self, documents_N: np.ndarray) -> tuple[list[int], list[list[int]]]:
        """The neighbour is cut where it is longer than there is room for."""
        prompt, (own, beside) = super()._row(documents_N)
        return prompt, [own, beside[:self.max_length - len(prompt)]]

    def documents(self) -> np.ndarray:
        return self.items.documents_PN[self.reached()]

    def keep_reference(self, logps_QN: np.ndarray) -> None:
        own_P = self.documents()[:, 0]
        self.ref_logps_D, self.ref_beside_D = (np.full(self.store.num_documents, np.nan) for _ in range(2))
        self.ref_logps_D[own_P], self.ref_beside_D[own_P] = logps_QN.T

    def describe(self) -> dict[str, Any]:
        labels_P = self.desirable_D[self.items.documents_PN[:, 0]]
        return super().describe() | {"completions": self.num_items, "desirable": int(labels_P.sum())}
