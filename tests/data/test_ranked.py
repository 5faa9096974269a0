"""Completions in a store and the views of it: pairs, rankings, rows, and what packed rows make of them."""

import numpy as np
import pytest
import torch

from apo.cache import Cache
from apo.data.corpus import prepare_corpus
from apo.data.heldout import HeldoutText
from apo.data.labelled import LabelledRows, labelled
from apo.data.ranked import ABSENT, RankedRows, groups, preferences, rankings
from apo.data.sampling import PackedRows
from apo.data.sources.base import CompletionSource, Ranked, sources
from apo.data.thresholds import ControlTokens, View, make_view
from apo.data.tokenizer import train_tokenizer
from apo.errors import DataError
from apo.schema import DataConfig

RANKINGS = [("How?", [" Like this.", " So.", " No idea."], [3.0, 1.0, -1.0]),
            ("Why?", [" Because.", " Just so."], [2.0, 2.0]),
            ("When?", [" Now."], [5.0]),
            ("Where is it, and who put it there?", [" Here it is.", " Away."], [1.0, 0.0])]


@pytest.fixture
def completion_source(monkeypatch):
    """Registers, as "given", a source of these rankings, and returns one."""

    def make(*rankings, **options):
        class Given(CompletionSource):
            name = "given"

            def rankings(self):
                return iter(rankings)

            def fingerprint(self):
                return "given"

        sources.get("file")
        monkeypatch.setitem(sources._classes, "given", Given)
        return Given(DataConfig(source="given", **options))
    return make


@pytest.fixture
def made(tmp_path, completion_source):
    """(corpus, store, tokenizer) of RANKINGS, none of them held out."""
    completion_source(*(Ranked(f"row {i}", *ranking) for i, ranking in enumerate(RANKINGS)))
    cache = Cache(tmp_path)
    corpus = prepare_corpus(DataConfig(source="given", eval_fraction=0.0), None, cache)
    tokenizer = train_tokenizer(["How Why When Where Like this So No idea Because"], 300)
    return corpus, corpus.tokenise(tokenizer, cache)[0], tokenizer


def text_of(store, tokenizer, document):
    begin, end = store.document_starts_D1[document:document + 2]
    return tokenizer.decode(store.tokens_N[begin:end].tolist())


def test_a_completion_is_a_document_whose_prompt_has_no_score(made):
    _, store, tokenizer = made
    assert store.document_ranks_D.tolist() == [0, 1, 2, 0, 0, 0, 0, 1]          # the second prompt's two are a tie
    assert store.document_groups_D.tolist() == [0, 0, 0, 1, 1, 2, 3, 3]
    assert np.isnan(store.segment_scores_S).tolist() == [True, False] * 8
    assert store.document_scores_D.tolist() == [-3, -1, 1, -2, -2, -5, -1, 0]      # scores: lower is better
    assert store.known_scores_S.tolist() == store.document_scores_D.tolist()
    assert text_of(store, tokenizer, 1) == "How? So.<|endoftext|>"
    assert [documents.tolist() for documents in groups(store)] == [[0, 1, 2], [3, 4], [5], [6, 7]]


def test_pairs_are_all_but_ties(made):
    _, store, _ = made
    items = preferences(store, None)
    assert items.documents_PN.tolist() == [[0, 1], [0, 2], [1, 2], [6, 7]] and items.ties == 1
    few = preferences(store, 2).documents_PN
    assert len(few) == 3 and few.tolist() == preferences(store, 2).documents_PN.tolist()


def test_a_label_stands_whatever_a_scorer_says(tmp_path, completion_source):
    """Equal scores of a scorer do not make a tie of what people ordered, and other scores do not turn it round."""

    class Scorer:
        kind, in_context = "score", False

        def score(self, texts):
            return [0.0 if "equal" in text else 1.0 * ("good" in text) for text in texts]

        def fingerprint(self):
            return "scorer"

    completion_source(Ranked("row 1", "One", [" good", " bad"]), Ranked("row 2", "Two", [" equal", " equal too"]))
    corpus = prepare_corpus(DataConfig(source="given", eval_fraction=0.0), Scorer(), Cache(tmp_path))
    store = corpus.tokenise(train_tokenizer(["good bad"], 300), Cache(tmp_path))[0]
    assert store.document_scores_D.tolist() == [1, 0, 0, 0]
    assert preferences(store, None).documents_PN.tolist() == [[0, 1], [2, 3]] and preferences(store, None).ties == 0


def test_a_limit_of_documents_parts_no_completions(completion_source):
    source = completion_source(*(Ranked(f"row {i}", f"Prompt {i}", [" a", " b", " c"]) for i in range(4)),
                               max_documents=4)
    assert [document.standing.group for document in source.limited()] == [0, 0, 0, 1, 1, 1]


def test_rankings_are_as_long_as_asked_for(made):
    _, store, _ = made
    assert rankings(store, 2).documents_PN.tolist() == [[0, 1], [6, 7]]
    assert rankings(store, 4).documents_PN.tolist() == [[0, 1, 2, ABSENT], [6, 7, ABSENT, ABSENT]]


def rows_of(store, items, **options):
    options = {"max_length": 60, "end_id": 0, "effective_batch_size": 2, "seed": 1} | options
    return RankedRows(store, items, **options)


def test_a_row_holds_the_prompt_once_behind_the_end_of_text(made):
    _, store, tokenizer = made
    batch = rows_of(store, preferences(store, None)).rows(np.array([0]))
    ids, branches = batch.input_ids_RT[0], batch.branch_RT[0]
    assert tokenizer.decode(ids[branches == 0].tolist()) == "<|endoftext|>How?"
    assert tokenizer.decode(ids[branches == 1].tolist()) == " Like this.<|endoftext|>"
    assert tokenizer.decode(ids[branches == 2].tolist()) == " So.<|endoftext|>"
    assert batch.rewards_RN.tolist() == [[3, 1]] and batch.ref_logps_RN.isnan().all()


def test_rows_of_a_step_are_sorted_by_length_and_each_item_comes_once_an_epoch(made):
    _, store, _ = made
    rows = rows_of(store, preferences(store, None), effective_batch_size=4)
    batch = rows.next()
    lengths = (batch.branch_RT >= 0).sum(1).tolist()
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(map(tuple, batch.rewards_RN.tolist())) == [(1, -1), (1, 0), (3, -1), (3, 1)]
    assert rows.epoch == 1.0 and rows.documents_seen == 4


@pytest.mark.parametrize("bucket_steps", [1, 2, 4])
def test_windows_change_the_order_and_not_what_an_epoch_holds(made, bucket_steps):
    _, store, _ = made
    rows = rows_of(store, preferences(store, None), effective_batch_size=1, bucket_steps=bucket_steps)
    served = [rows.next().rewards_RN.tolist()[0] for _ in range(8)]
    epochs = [sorted(served[:4]), sorted(served[4:])]
    assert epochs[0] == epochs[1] == [[1, -1], [1, 0], [3, -1], [3, 1]]


def test_steps_of_a_window_hold_rows_of_like_length(made):
    _, store, _ = made
    rows = rows_of(store, preferences(store, None), effective_batch_size=2, bucket_steps=2)
    lengths = [(rows.next().branch_RT >= 0).sum(1).tolist() for _ in range(2)]
    low, high = sorted(lengths)
    assert max(low) <= min(high)


@pytest.mark.parametrize("bucket_steps, reach", [(1, 2), (2, 1), (2, 3), (1, 9)])
@pytest.mark.parametrize("view", [RankedRows, LabelledRows])
def test_a_reference_is_asked_about_what_will_be_served_and_nothing_else(made, view, bucket_steps, reach):
    _, store, _ = made
    items = preferences(store, None) if view is RankedRows else labelled(store)
    rows = view(store, items, max_length=64, end_id=0, effective_batch_size=1, seed=3, bucket_steps=bucket_steps)
    everything = rows.documents()
    rows.reach = reach
    asked = rows.documents()
    assert len(rows.reached()) == min(-(-reach // bucket_steps) * bucket_steps, rows.num_items)
    assert {row[0] for row in asked.tolist()} <= {row[0] for row in everything.tolist()}
    rows.keep_reference(np.where(asked == ABSENT, np.nan, -1.0 - asked))
    for _ in range(reach):
        assert not rows.next().ref_logps_RN.isnan().any()
    if len(rows.reached()) == rows.num_items:
        assert asked.tolist() == everything.tolist()
    else:
        (unasked,) = np.nonzero(np.isnan(rows.ref_logps_D[rows.items.documents_PN].sum(1)))
        assert len(unasked)


@pytest.mark.parametrize("bucket_steps", [1, 3])
def test_the_cursor_is_a_number(made, bucket_steps):
    _, store, _ = made
    rows, again = (rows_of(store, preferences(store, None), bucket_steps=bucket_steps) for _ in range(2))
    served = [rows.next() for _ in range(5)]
    again.load_state_dict({"step": 3})
    assert again.next().input_ids_RT.tolist() == served[3].input_ids_RT.tolist()
    assert rows.state_dict() == {"step": 5}


def test_two_processes_share_a_step(made):
    _, store, _ = made
    items = preferences(store, None)
    whole = rows_of(store, items, effective_batch_size=4).next()
    halves = [rows_of(store, items, effective_batch_size=4, rank=rank, world_size=2).next() for rank in (0, 1)]
    assert sorted(whole.rewards_RN.tolist()) == sorted(halves[0].rewards_RN.tolist() + halves[1].rewards_RN.tolist())


def test_a_long_prompt_loses_its_beginning_the_same_in_every_row(made):
    _, store, tokenizer = made
    rows = rows_of(store, preferences(store, None), max_length=24)
    batch = rows.rows(np.array([3]))
    prompt = tokenizer.decode(batch.input_ids_RT[0][batch.branch_RT[0] == 0].tolist())
    whole = RANKINGS[3][0]
    assert prompt.startswith("<|endoftext|>") and whole.endswith(prompt.removeprefix("<|endoftext|>"))
    longest = max(int((batch.branch_RT[0] == k).sum()) for k in (1, 2))
    assert int((batch.branch_RT[0] == 0).sum()) + longest == 24


def test_a_completion_that_fits_behind_no_prompt_is_left_out(made):
    _, store, _ = made
    lengths_D = rows_of(store, preferences(store, None)).completion_lengths_D
    longest = int(np.argmax(np.where(np.isin(np.arange(8), [0, 1, 2, 6, 7]), lengths_D, 0)))
    rows = rows_of(store, preferences(store, None), max_length=int(lengths_D[longest]) + 1)
    assert rows.too_long == sum(longest in pair for pair in ([0, 1], [0, 2], [1, 2], [6, 7]))
    assert rows.too_long and longest not in rows.items.documents_PN
    with pytest.raises(DataError, match="no completion is shorter than data.block_size=3"):
        rows_of(store, preferences(store, None), max_length=3)


def test_mean_tokens_of_a_row_are_those_of_its_rows(made):
    _, store, _ = made
    for length in (24, 60):
        rows = rows_of(store, preferences(store, None), max_length=length)
        batch = rows.rows(np.arange(rows.num_items))
        assert rows.tokens_per_item == pytest.approx((batch.branch_RT >= 0).sum().item() / rows.num_items)


def test_documents_are_asked_about_once_with_their_prompt(made):
    _, store, _ = made
    asked = rows_of(store, preferences(store, None)).documents()
    assert sorted(asked[asked != ABSENT].tolist()) == [0, 1, 2, 6, 7]
    assert asked[0].tolist() == [0, 1, 2, ABSENT]


def test_packed_rows_count_no_prompt_and_put_control_tokens_before_completions(made):
    _, store, tokenizer = made
    view = View(0, control=ControlTokens(-1.5, 0.0, 298, 299))
    batch = PackedRows(store, view, block_size=120, effective_batch_size=1, seed=1).next()
    ids, counted = batch.input_ids_BT[0].tolist(), batch.loss_mask_BT[0].tolist()
    assert not batch.scores_BT.isnan().any()
    documents = " ".join(map(str, ids)).split(" 0 0 ")      # the end of one and the beginning of the next
    assert len(documents) > 4
    for token, counts, after in zip(ids, counted, ids[1:]):
        if token in (298, 299):
            assert counts                                   # predicted by the prompt, and so by nobody who samples
        if after in (298, 299):
            assert not counts
    marks = [token for token in ids if token in (298, 299)]
    assert 298 in marks and 299 in marks


@pytest.mark.parametrize("control", [None, ControlTokens(-1.5, 0.0, 298, 299)])
def test_prompts_in_the_loss_are_all_but_the_token_in_front_of_them(made, control):
    _, store, _ = made

    def first_rows(**loss):
        view = View(0, control=control, **loss)
        return PackedRows(store, view, block_size=64, effective_batch_size=4, seed=1).next()
    usual, every = first_rows(), first_rows(loss_on_prompts=True)
    assert torch.equal(usual.input_ids_BT, every.input_ids_BT) and torch.equal(usual.scores_BT, every.scores_BT)
    assert usual.scored_BT is None and torch.equal(every.scored_BT, usual.loss_mask_BT)
    ids, left_out = every.input_ids_BT.flatten(), ~every.loss_mask_BT.flatten()
    assert left_out.any() and (ids[left_out] == 0).all()
    starts = torch.zeros(len(ids), dtype=torch.bool)        # the second of two: of the row before, or of this one
    starts[1:] = (ids[1:] == 0) & (ids[:-1] == 0)
    within = torch.arange(len(ids)) % 64 > 0                # rows are mixed, and so is what stands before their first
    assert torch.equal(left_out[within], starts[within])


def test_the_option_is_the_view(made):
    _, store, _ = made
    for threshold in (None, -1.0):
        data = DataConfig(loss_on="all")
        data.conditional_training_config.threshold = threshold
        assert make_view(data, store, 0, (298, 299)).loss_on_prompts
        data.loss_on = "completion"
        assert not make_view(data, store, 0, (298, 299)).loss_on_prompts


def test_bits_per_byte_are_those_of_completions(made):
    _, store, _ = made
    text = HeldoutText(store, 0, None, 64, 10_000)
    assert text.bytes_all == sum(len(completion) for _, completions, _ in RANKINGS for completion in completions)
    assert text.num_tokens == int(store.num_tokens - sum(
        store.segment_starts_S1[s + 1] - store.segment_starts_S1[s] for s in range(0, store.num_segments, 2))) - 8


def test_completions_of_one_prompt_stay_on_one_side(tmp_path, completion_source):
    completion_source(*(Ranked(f"row {i}", f"Prompt {i}", [f" good {i}", f" bad {i}"]) for i in range(40)))
    corpus = prepare_corpus(DataConfig(source="given", eval_fraction=0.3), None, Cache(tmp_path))
    sides = {split: [document.texts[0] for document in corpus.documents(split)] for split in ("train", "heldout")}
    assert not set(sides["train"]) & set(sides["heldout"]) and sides["heldout"]
    assert all(prompts.count(prompt) == 2 for prompts in sides.values() for prompt in prompts)
    assert corpus.prompts == {"heldout": list(dict.fromkeys(sides["heldout"]))}
    scores = [document.scores[1] for document in corpus.documents("train")]
    assert scores[:2] == [0.0, 1.0]             # only the order is known: the place is the score


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_labels_are_halves_by_rank_or_sides_of_the_mean(made):
    """Rewards are 3, 1, -1 | 2, 2 | 5 | 1, 0 with a mean of 13/8; the middle one of the first three is left out."""
    _, store, _ = made
    items, desirable_P = labelled(store)
    assert items.documents_PN[:, 0].tolist() == [0, 2, 3, 4, 5, 6, 7] and items.ties == 1
    assert desirable_P.tolist() == [True, False, True, True, True, True, False]
    groups_PN = store.document_groups_D[items.documents_PN]
    assert (groups_PN[:, 0] != groups_PN[:, 1]).all() and len(set(items.documents_PN[:, 1])) == 7


def test_rows_of_labels(made):
    _, store, tokenizer = made
    rows = LabelledRows(store, labelled(store), max_length=14, end_id=tokenizer.eos_token_id, effective_batch_size=7,
                        seed=1)
    rows.keep_reference(-np.arange(14.0).reshape(7, 2))
    batch, documents_RN = rows.batch(rows.items.documents_PN)
    own = [0, 2, 3, 4, 5, 6, 7]
    for row, document in enumerate(documents_RN[:, 0]):
        place = own.index(document)
        assert batch.rewards_RN[row].tolist() == [place not in (1, 6), 0]
        assert batch.ref_logps_RN[row].tolist() == [-2 * place, -2 * place - 1]
        ids, branch = batch.input_ids_RT[row], batch.branch_RT[row]
        prompt, completion = text_of(store, tokenizer, document), tokenizer.decode(ids[branch == 1])
        assert prompt.endswith(completion) and len(ids[branch != 1]) >= 1
        prompt_and_beside = int(((branch == 0) | (branch == 2)).sum())
        assert prompt_and_beside <= 14
        beside = tokenizer.decode(ids[branch == 2])
        assert beside and text_of(store, tokenizer, documents_RN[row, 1]).find(beside) > 0
    assert rows.describe()["desirable"] == 5 and rows.describe()["completions"] == 7


@pytest.mark.parametrize("given, said", [
    ([("A", [" x"], [1.0]), ("B", [" y"], [1.0])], "no labels to train on"),
    ([("A", [" x", " y"], [1.0, 0.0])], "each needs one of another prompt")])
def test_data_without_labels(tmp_path, completion_source, given, said):
    completion_source(*(Ranked(f"row {i}", *each) for i, each in enumerate(given)))
    cache = Cache(tmp_path)
    corpus = prepare_corpus(DataConfig(source="given", eval_fraction=0.0), None, cache)
    with pytest.raises(DataError, match=said):
        labelled(corpus.tokenise(train_tokenizer(["A B x y"], 300), cache)[0])
