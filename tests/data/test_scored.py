"""The view of scored completions: which are served, how often, and what stands beside them in a batch."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from apo.cache import Cache
from apo.data.records import ScoredText, Standing
from apo.data.scored import ScoredRows, completions
from apo.data.store import TokenStore, write_store
from apo.models.policy import Policy
from apo.reference_logps import reference_logps, reference_token_logps

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
ARCHITECTURES = {"llama": SIZES, "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2}}
"""The second takes no mask of ours."""


@pytest.fixture
def store(tmp_path, byte_tokenizer):
    """Three prompts with three, one and two completions."""
    found = [("How?", [(" Like this.", 3.0), (" So.", 1.0), (" No.", -1.0)]), ("Why so late?", [(" Because.", 2.0)]),
             ("When?", [(" Now.", 0.5), (" Later, I think.", 0.5)])]
    documents = [ScoredText([prompt, text], [np.nan, -reward], Standing(group, 0 if group == 2 else rank))
                 for group, (prompt, answers) in enumerate(found) for rank, (text, reward) in enumerate(answers)]
    folder = tmp_path / "store"
    folder.mkdir()
    write_store(folder, documents, byte_tokenizer)
    return TokenStore.open(folder)


@pytest.fixture
def rows(store, byte_tokenizer):
    return ScoredRows(store, completions(store), max_length=40, end_id=byte_tokenizer.eos_token_id,
                      effective_batch_size=2, seed=1)


@pytest.fixture(params=ARCHITECTURES)
def policy(request, byte_tokenizer):
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, vocab_size=len(byte_tokenizer), initializer_range=0.3,
                                  **ARCHITECTURES[request.param])
    return Policy(AutoModelForCausalLM.from_config(config))


def served(rows, steps):
    return np.concatenate([rows._draw_window(step)[0] for step in range(steps)])


def test_each_completion_is_an_item(rows):
    assert rows.documents_P.tolist() == [0, 1, 2, 3, 4, 5] and rows.groups_P.tolist() == [0, 0, 0, 1, 2, 2]
    assert rows.good_P.tolist() == [True, False, False, True, True, True]           # a tie is two best
    batch, documents_RN = rows.batch(np.array([[1], [3]]))
    assert documents_RN[:, 0].tolist() == [3, 1] and batch.rewards_RN[:, 0].tolist() == [2.0, 1.0]
    assert batch.values_R is None and batch.ref_logps_RT is None


def test_only_what_is_kept_is_served_and_each_once_an_epoch(rows):
    rows.keep(np.array([True, False, True, True, False, True]))
    assert rows.num_items == 4 and rows.steps_per_epoch == 2
    assert sorted(rows.documents_P[served(rows, 2)].tolist()) == [0, 2, 3, 5]


def test_weights_say_how_often(rows):
    """Systematic: in every epoch each as often as its share says, rounded up or down."""
    rows.keep(np.array([True, True, True, True, False, False]), np.array([4.0, 2.0, 1.0, 1.0, 9.0, 9.0]))
    counts = np.array([np.bincount(rows._order(epoch), minlength=4) for epoch in range(400)])
    assert (counts.sum(1) == 4).all() and (counts[:, :2] == [2, 1]).all() and set(counts[:, 2:].ravel()) == {0, 1}
    assert counts.mean(0) == pytest.approx([2, 1, 0.5, 0.5], abs=0.08)
    assert rows.describe()["effective_items"] == pytest.approx(64 / 22)
    lengths = rows.row_lengths_P
    assert rows.tokens_per_item == pytest.approx((4 * lengths[0] + 2 * lengths[1] + lengths[2] + lengths[3]) / 8)


def test_a_cursor_serves_the_same_again(rows):
    rows.keep(np.ones(6, bool), np.arange(1.0, 7.0))
    drawn = [rows.next() for _ in range(9)]
    rows.load_state_dict({"step": 5})
    assert all(torch.equal(rows.next().input_ids_RT, each.input_ids_RT) for each in drawn[5:])


def test_what_the_reference_says_of_each_token(rows, policy, tmp_path):
    key, asked = {"corpus": "a", "tokenizer": "b", "weights": "c"}, (Cache(tmp_path / "cache"), "fp32", 3)
    sums_QN = reference_logps(policy, rows, key, *asked)
    rows.keep_reference_tokens(reference_token_logps(policy, rows, key, *asked))
    known_QN = rows.documents() >= 0
    np.testing.assert_allclose(rows.ref_logps_D[rows.documents()[known_QN]], sums_QN[known_QN], rtol=1e-5)
    rows.values_D = np.linspace(0, 1, 6)
    batch, documents_RN = rows.batch(np.array([[5], [0], [3]]))
    policy.eval()
    stats = policy.completion_tokens(batch)
    assert (stats.mask_BT == (batch.branch_RT == 1)).all() and not stats.logps_BT[~stats.mask_BT].any()
    torch.testing.assert_close(stats.logps_BT, batch.ref_logps_RT, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stats.logps_BT.sum(1), policy.completion_stats(batch).logps_RN[:, 0])
    assert batch.values_R.tolist() == pytest.approx(rows.values_D[documents_RN[:, 0]].tolist())
    part = batch[1:]
    assert part.values_R.tolist() == batch.values_R[1:].tolist()
    assert part.ref_logps_RT.shape == part.input_ids_RT.shape


def test_tokens_agree_with_the_model_itself(rows, policy):
    policy.eval()
    batch, _ = rows.batch(np.array([[0], [5]]))
    stats = policy.completion_tokens(batch, want=("entropy",))
    for row in range(2):
        length = int((batch.branch_RT[row] >= 0).sum())
        logits = policy.model(input_ids=batch.input_ids_RT[row:row + 1, :length]).logits[0].float().log_softmax(-1)
        for place in torch.nonzero(stats.mask_BT[row])[:, 0].tolist():
            before = logits[place - 1]
            assert stats.logps_BT[row, place].item() == pytest.approx(before[batch.input_ids_RT[row, place]].item(),
                                                                      abs=1e-5)
            assert stats.entropy_BT[row, place].item() == pytest.approx(-(before.exp() * before).sum().item(), abs=1e-4)
