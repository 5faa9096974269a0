"""Batch sources: what the training loop draws optimiser steps from, and whose cursor is part of the checkpoint."""

from abc import ABC, abstractmethod
from typing import Any

from apo.data.collate import Batch


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
