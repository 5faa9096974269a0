"""Batch: cutting one loses nothing."""

import pytest
import torch

from apo.data.collate import Batch


@pytest.fixture
def batch():
    ids_BT = torch.arange(15).reshape(5, 3)
    return Batch(ids_BT, ids_BT / 10, ids_BT % 2 == 0, ids_BT % 3 == 0, ids_BT % 5 == 0)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 9])
def test_micro_batches_join_to_the_batch(batch, rows):
    parts = batch.split(rows)
    assert max(map(len, parts)) <= rows and sum(map(len, parts)) == 5
    for name in ("input_ids_BT", "scores_BT", "loss_mask_BT", "attention_mask_BT", "scored_BT"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))


def test_slices_and_indices(batch):
    assert batch[1:3].input_ids_BT.tolist() == [[3, 4, 5], [6, 7, 8]]
    assert batch[[4, 0]].scores_BT.tolist() == batch.scores_BT[[4, 0]].tolist()
    assert Batch(*[batch.input_ids_BT] * 3).to("cpu")[:1].attention_mask_BT is None


def test_a_micro_batch_of_no_rows_is_a_mistake(batch):
    with pytest.raises(ValueError):
        batch.split(0)


def test_judged_are_those_that_count_and_have_a_score(batch):
    assert torch.equal(batch.judged(batch.loss_mask_BT), batch.input_ids_BT % 10 == 0)
    assert torch.equal(Batch(*[batch.input_ids_BT] * 3).judged(batch.loss_mask_BT), batch.loss_mask_BT)
