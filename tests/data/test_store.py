"""TokenStore on disk."""

import pytest

from apo.data.records import ScoredText
from apo.data.store import TokenStore, token_type, write_store
from apo.errors import DataError


@pytest.fixture
def folder(tmp_path, byte_tokenizer):
    documents = [ScoredText([f"a{i}", "", "Z\u00fcrich"], [0.1, 0.2, i]) for i in range(150)]
    documents[3] = ScoredText(["", ""], [1.0, 1.0])
    write_store(tmp_path, documents, byte_tokenizer)
    return tmp_path


def test_what_is_written_is_read(folder, byte_tokenizer):
    store = TokenStore.open(folder)
    assert (store.num_documents, store.num_segments) == (149, 447)  # one document has no token
    assert store.num_tokens == store.segment_bytes_S.sum() == store.segment_starts_S1[-1]
    begin, end = store.document_starts_D1[3:5]
    assert byte_tokenizer.decode(store.tokens_N[begin:end]) == "a4Z\u00fcrich"
    assert store.document_scores_D[3] == pytest.approx((0.1 + 0.2 + 4) / 3)


def test_an_empty_store(tmp_path, byte_tokenizer):
    write_store(tmp_path, [], byte_tokenizer)
    store = TokenStore.open(tmp_path)
    assert (store.num_documents, store.num_segments, store.num_tokens, len(store.document_scores_D)) == (0, 0, 0, 0)


@pytest.mark.parametrize("name", ["tokens_N.bin", "store.json"])
def test_damage_is_noticed(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-3])
    with pytest.raises(DataError, match="damaged tokenised data.*delete this folder"):
        TokenStore.open(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match="damaged tokenised data"):
        TokenStore.open(folder)


def test_tokens_are_as_small_as_the_vocabulary_allows():
    assert token_type(65536).itemsize == 2 and token_type(65537).itemsize == 4
