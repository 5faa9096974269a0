"""A small store built by hand, and files of rows."""

import gzip
import json

import numpy as np
import pytest

from apo.data.store import TokenStore


@pytest.fixture
def make_store():
    """`make_store([[([ids], score), ...], ...])`: documents of segments of token ids."""

    def make(documents):
        segments = [segment for document in documents for segment in document]
        tokens = [token for ids, _ in segments for token in ids]
        return TokenStore(np.array(tokens, np.uint16), np.cumsum([0, *(len(ids) for ids, _ in segments)]),
                          np.array([score for _, score in segments], float),
                          np.array([len(ids) for ids, _ in segments], np.int32),
                          np.cumsum([0, *map(len, documents)]), np.full(len(documents), -1, np.int32))
    return make


@pytest.fixture
def random_documents():
    """60 documents of 1 to 8 segments of 0 to 12 tokens with ids from 100 on; about half the segments score 0."""
    rng = np.random.default_rng(0)
    documents = [[(rng.integers(100, 999, rng.integers(0, 13)).tolist(), float(rng.choice([0, 0.5, 1.5])))
                  for _ in range(rng.integers(1, 9))] for _ in range(60)]
    return [document for document in documents if any(ids for ids, _ in document)]


@pytest.fixture
def rows_file(tmp_path):
    """`rows_file("a.jsonl", rows)`: a file of JSON lines, gzipped if its name says so; a row may be text as it is."""

    def write(name, rows):
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return str(path)
    return write
