"""Separate random streams from one seed: the same bits wherever, whenever and in whatever order they are drawn.

A stream is named by what it is for and numbered by what it belongs to (an epoch, a step): `stream(seed, "order", 3)`.
Nothing is carried from one to the next, so resuming needs no saved generator state, and adding a stream disturbs none.
Global random state (`random`, `numpy.random`, `torch`) is never touched, and Python's `hash`, which differs from one
process to the next, is never used.
"""

import hashlib

import numpy as np


def stream(seed: int, name: str, *numbers: int) -> np.random.Generator:
    """A numpy generator of its own for (seed, name, numbers)."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(_digest(seed, name, numbers)[:16], "big")))


def stream_seed(seed: int, name: str, *numbers: int) -> int:
    """A non-negative 63-bit seed for (seed, name, numbers), for generators that are not numpy's (`manual_seed`)."""
    return int.from_bytes(_digest(seed, name, numbers)[:8], "big") >> 1


def _digest(seed: int, name: str, numbers: tuple[int, ...]) -> bytes:
    return hashlib.sha256("/".join([str(int(seed)), name, *(str(int(n)) for n in numbers)]).encode()).digest()
