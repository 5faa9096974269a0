"""PackedRows against a stream that is written out token by token, and the promises that comparisons rest on."""

from itertools import islice

import numpy as np
import pytest
import torch

from apo.data.sampling import PackedRows
from apo.data.thresholds import ControlTokens, View
from apo.errors import ConfigError
from apo.seeds import stream

EOS, GOOD, BAD = 0, 1, 2
BLOCK = 16


def control(threshold=0.0, drop=0.3):
    return ControlTokens(threshold, drop, GOOD, BAD)


VIEWS = {"mle": View(EOS), "filtering": View(EOS, filter_threshold=0.6), "conditional": View(EOS, control=control()),
         "both": View(EOS, 0.6, control(0.5, 0.1))}


def make(store, view, seed=1, step_rows=4, **options):
    return PackedRows(store, view, block_size=BLOCK, effective_batch_size=step_rows, seed=seed, **options)


def epoch_by_hand(documents, view, seed, epoch):
    """(id, score) pairs of one epoch, in the plainest way there is."""
    draws = stream(seed, "control", epoch).random(sum(map(len, documents)), dtype=np.float32)
    first = np.cumsum([0, *map(len, documents)])
    pairs = []
    for number in stream(seed, "order", epoch).permutation(len(documents)):
        document = documents[number]
        mean = sum(score for _, score in document) / len(document)
        if view.filter_threshold is not None and mean > view.filter_threshold:
            continue
        front, out = [EOS], []
        for offset, (ids, score) in enumerate(document):
            if view.control is not None and draws[first[number] + offset] >= np.float32(view.control.drop_fraction):
                front.append(GOOD if score <= view.control.threshold else BAD)
            out += [(token, score) for token in front + ids]
            front = [] if front + ids else front
        pairs += out
    return pairs


def rows_by_hand(documents, view, seed):
    """Rows in the order they are served, without end."""
    pairs, epoch = [], 0
    while True:
        first = -(-len(pairs) // BLOCK)
        pairs += epoch_by_hand(documents, view, seed, epoch)
        end = -(-len(pairs) // BLOCK)
        following = pairs + epoch_by_hand(documents, view, seed, epoch + 1)
        for place in stream(seed, "rows", epoch).permutation(end - first):
            row = first + int(place)
            yield following[row * BLOCK:(row + 1) * BLOCK]
        epoch += 1


def served(source, steps):
    batches = [source.next() for _ in range(steps)]
    return torch.cat([b.input_ids_BT for b in batches]), torch.cat([b.scores_BT for b in batches])


@pytest.mark.parametrize("name", VIEWS)
def test_rows_are_those_of_the_stream_written_out(make_store, random_documents, name):
    steps = 60
    ids, scores = served(make(make_store(random_documents), VIEWS[name]), steps)
    expected = list(islice(rows_by_hand(random_documents, VIEWS[name], 1), steps * 4))
    first_differences = [(i, e) for i, (row, e) in enumerate(zip(ids.tolist(), expected)) if row != [t for t, _ in e]]
    assert first_differences == []
    # The score of an end-of-text token is its segment's; an empty first segment without control token has no token.
    is_text = ids != EOS
    assert torch.equal(scores[is_text], torch.tensor([[s for _, s in row] for row in expected])[is_text])


@pytest.mark.parametrize("name", VIEWS)
def test_an_epoch_serves_every_token_once(make_store, random_documents, name):
    store, view = make_store(random_documents), VIEWS[name]
    source = make(store, view, step_rows=1)
    epochs, rows = 3, []
    while source.epoch < epochs:
        rows.append(source.next().input_ids_BT[0])
    counts = torch.bincount(torch.cat(rows), minlength=1000)
    by_hand = [token for epoch in range(epochs) for token, _ in epoch_by_hand(random_documents, view, 1, epoch)]
    extra = len(rows) * BLOCK - len(by_hand)
    assert 0 <= extra < BLOCK  # the row that straddles the last boundary
    by_hand += [token for token, _ in epoch_by_hand(random_documents, view, 1, epochs)[:extra]]
    assert torch.equal(counts, torch.bincount(torch.tensor(by_hand), minlength=1000))


def test_scores_belong_to_the_segment(make_store):
    store = make_store([[([100, 101], 0.5), ([102], 0.0), ([103], 2.0)]])
    batch = PackedRows(store, View(EOS, control=control(0.0, 0.0)), block_size=8, effective_batch_size=1, seed=1).next()
    assert batch.input_ids_BT.tolist() == [[EOS, BAD, 100, 101, GOOD, 102, BAD, 103]]
    assert batch.scores_BT.tolist() == [[0.5, 0.5, 0.5, 0.5, 0.0, 0.0, 2.0, 2.0]]
    assert batch.loss_mask_BT.all()


@pytest.mark.parametrize("view", [View(EOS, filter_threshold=1e9), View(EOS, control=control(drop=1.0)),
                                  View(EOS, 1e9, control(drop=1.0))])
def test_filtering_nothing_and_dropping_every_control_token_are_mle(make_store, random_documents, view):
    store = make_store(random_documents)
    for ours, mle in zip(served(make(store, view), 40), served(make(store, View(EOS)), 40)):
        assert torch.equal(ours, mle)


def test_the_filter_leaves_the_order_of_what_passes(make_store, random_documents):
    """A document is known by its first token here."""
    documents = [[([100 + number, 7, 7], float(number % 3))] for number in range(50)]
    store = make_store(documents)
    kept, everything = (make(store, view)._epoch(0).order_P for view in (View(EOS, 1.0), View(EOS)))
    assert kept.tolist() == [number for number in everything if number % 3 <= 1]


def test_a_control_token_is_dropped_for_a_segment_whatever_the_filter(make_store, random_documents):
    store = make_store(random_documents)
    assert (make(store, VIEWS["conditional"])._epoch(1).control_S ==
            make(store, View(EOS, 0.3, control()))._epoch(1).control_S).all()


def test_control_tokens_are_drawn_anew_every_epoch_at_the_asked_rate(make_store, random_documents):
    source = make(make_store([[([5], 0.0)]] * 2000), View(EOS, control=control(drop=0.1)))
    first, second = source._epoch(0).control_S, source._epoch(1).control_S
    assert abs(1 - first.mean() - 0.1) < 0.03 and (first != second).any()


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("killed_at", [0, 1, 7, 23, 31])
def test_resume_serves_the_same_rows(make_store, random_documents, name, killed_at):
    store = make_store(random_documents)
    whole = make(store, VIEWS[name])
    expected = served(whole, 35)
    before = make(store, VIEWS[name])
    served_before = served(before, killed_at) if killed_at else None
    resumed = make(store, VIEWS[name])
    resumed.load_state_dict(before.state_dict())
    assert resumed.documents_seen == before.documents_seen and resumed.epoch == before.epoch
    for i, part in enumerate(served(resumed, 35 - killed_at)):
        assert torch.equal(part, expected[i][killed_at * 4:])
        assert served_before is None or torch.equal(served_before[i], expected[i][:killed_at * 4])


def test_processes_share_a_step_without_overlap(make_store, random_documents):
    store = make_store(random_documents)
    whole = make(store, VIEWS["both"])
    parts = [make(store, VIEWS["both"], rank=rank, world_size=2) for rank in range(2)]
    for _ in range(20):
        batch = whole.next()
        assert torch.equal(batch.input_ids_BT, torch.cat([part.next().input_ids_BT for part in parts]))
    assert parts[1].documents_seen == whole.documents_seen
    with pytest.raises(ConfigError, match="effective_batch_size"):
        make(store, View(EOS), world_size=3)


def test_seeds_give_other_orders_of_the_same_documents(make_store, random_documents):
    store = make_store(random_documents)
    first, second = (served(make(store, View(EOS), seed=seed), 3)[0] for seed in (1, 2))
    assert not torch.equal(first, second)


def test_documents_seen_is_exact_at_the_end_of_an_epoch(make_store, random_documents):
    source = make(make_store(random_documents), VIEWS["filtering"], step_rows=1)
    passing = source.describe()["documents"]
    seen = [source.documents_seen]
    while source.epoch < 2:
        source.next()
        seen.append(source.documents_seen)
    assert seen[0] == 0 and seen == sorted(seen)
    assert 2 * passing <= seen[-1] <= 2 * passing + 2


def test_an_epoch_shorter_than_a_row(make_store):
    source = make(make_store([[([100, 101], 0.0)]]), View(EOS), step_rows=2)
    batch = source.next()
    assert batch.input_ids_BT.flatten().tolist() == ([EOS, 100, 101] * 11)[:32]
    assert source.documents_seen == 11


def test_description(make_store):
    store = make_store([[([5, 5, 5], 0.0), ([5], 1.0)], [([5] * 6, 3.0)]])
    sizes = make(store, View(EOS, 1.0, control(0.0, 0.0))).describe()
    assert sizes["documents"] == 1 and sizes["segments"] == 2 and sizes["tokens_per_epoch"] == 4 + 1 + 2
    assert sizes["tokens_per_step"] == 4 * BLOCK and sizes["steps_per_epoch"] == 7 / (4 * BLOCK)
    assert sizes["documents_kept"] == 0.5 and sizes["tokens_kept"] == 0.4
    assert sizes["segments_aligned"] == 0.5 and sizes["tokens_aligned"] == 0.75


def test_a_later_stage_goes_on_where_the_earlier_one_ended(make_store, random_documents):
    """Of the same seed: mle in two stages serves the rows of mle in one, also over the end of an epoch."""
    store = make_store(random_documents)
    whole = make(store, VIEWS["mle"])
    steps = [whole.next().input_ids_BT for _ in range(12)]
    for done in (1, 5, 9):
        later = make(store, VIEWS["mle"])
        later.skip(done * 4 * BLOCK + 3)        # a rest shorter than a row is not skipped
        assert all(torch.equal(later.next().input_ids_BT, step) for step in steps[done:])
        assert later.epoch == whole.epoch and later.documents_seen == whole.documents_seen
        assert later.state_dict() == {"step": 12 - done}
