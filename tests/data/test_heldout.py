"""Held-out text: every token of text is predicted once, and the bytes are those of these tokens."""

import pytest
import torch

from apo.data.heldout import HeldoutText
from apo.errors import DataError
from apo.seeds import stream

EOS, PREFIX = 0, 1


def predicted(heldout):
    """(context token, token) pairs that count, in order, as the policy scores them: column 0 is dropped."""
    pairs = []
    for batch in heldout.batches(3):
        for ids, mask in zip(batch.input_ids_BT.tolist(), batch.loss_mask_BT.tolist()):
            pairs += [(ids[t - 1], ids[t]) for t in range(1, len(ids)) if mask[t]]
    return pairs


def stream_by_hand(store, prefix_id, documents, max_tokens):
    """The text laid out in one row: (token, counted) pairs, and the bytes of its segments."""
    out, tokens, num_bytes = [], 0, 0
    for document in documents:
        begin, end = store.document_segments_D1[document:document + 2]
        for segment in range(begin, end):
            ids = store.tokens_N[store.segment_starts_S1[segment]:store.segment_starts_S1[segment + 1]].tolist()
            if tokens and tokens + len(ids) > max_tokens:
                return out, num_bytes
            out += [(EOS, False)] * int(segment == begin) + [(PREFIX, False)] * (prefix_id is not None)
            out += [(token, True) for token in ids]
            tokens, num_bytes = tokens + len(ids), num_bytes + int(store.segment_bytes_S[segment])
    return out, num_bytes


@pytest.mark.parametrize("prefix_id", [None, PREFIX])
@pytest.mark.parametrize("block_size", [2, 3, 16, 64, 5000])
@pytest.mark.parametrize("max_tokens", [1, 40, 200, 10**9])
def test_every_text_token_is_predicted_exactly_once(make_store, random_documents, prefix_id, block_size, max_tokens):
    store = make_store(random_documents)
    heldout = HeldoutText(store, EOS, prefix_id, block_size, max_tokens)
    order = stream(0, "heldout").permutation(store.num_documents)
    row, num_bytes = stream_by_hand(store, prefix_id, order, max_tokens)
    expected = [(row[t - 1][0], row[t][0]) for t in range(1, len(row)) if row[t][1]]
    assert predicted(heldout) == expected
    assert heldout.num_tokens == len(expected) and heldout.bytes_all == num_bytes
    assert sum(int(batch.loss_mask_BT.sum()) for batch in heldout.batches(7)) == heldout.num_tokens
    # Test stores count one byte per token.
    assert heldout.bytes_all == heldout.num_tokens
    assert all(batch.input_ids_BT.shape[1] == block_size for batch in heldout.batches(3))


def test_clean_bytes_are_those_of_segments_without_misalignment(make_store, random_documents):
    store = make_store(random_documents)
    heldout = HeldoutText(store, EOS, PREFIX, 16, 300)
    clean = sum(int((batch.loss_mask_BT & (batch.scores_BT <= 0)).sum()) for batch in heldout.batches(4))
    assert 0 < heldout.bytes_clean == clean < heldout.bytes_all
    lenient = HeldoutText(store, EOS, PREFIX, 16, 300, clean_threshold=0.5)
    some = sum(int((batch.loss_mask_BT & (batch.scores_BT <= 0.5)).sum()) for batch in lenient.batches(4))
    assert heldout.bytes_clean < lenient.bytes_clean == some < lenient.bytes_all


def test_the_text_does_not_depend_on_the_prefix(make_store, random_documents):
    """Models with and without control tokens are measured on the same bytes."""
    store = make_store(random_documents)
    plain, prefixed = (HeldoutText(store, EOS, prefix_id, 16, 100) for prefix_id in (None, PREFIX))
    assert [token for _, token in predicted(plain)] == [token for _, token in predicted(prefixed)]
    assert (plain.bytes_all, plain.bytes_clean) == (prefixed.bytes_all, prefixed.bytes_clean)


def test_the_layout_is_that_of_training(make_store):
    store = make_store([[([100, 101], 0.5), ([102], 0.0)]])
    [batch] = HeldoutText(store, EOS, PREFIX, 8, 100).batches(4)
    assert batch.input_ids_BT.tolist() == [[EOS, PREFIX, 100, 101, PREFIX, 102, EOS, EOS]]
    assert batch.loss_mask_BT.tolist() == [[False, False, True, True, False, True, False, False]]
    assert batch.scores_BT.tolist() == [[0.5, 0.5, 0.5, 0.5, 0, 0, 0, 0]]
    assert batch.scores_BT.dtype == torch.float32


def test_no_heldout_documents(make_store):
    with pytest.raises(DataError, match="data.eval_fraction"):
        HeldoutText(make_store([]), EOS, None, 16, 100)
