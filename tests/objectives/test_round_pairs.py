"""Which completions of a round are paired: by hand, against a slow formula, and that every prompt is accounted for."""

import math
from itertools import combinations

import numpy as np
import pytest

from apo.metrics.running import Running
from apo.objectives.base import NothingToDraw
from apo.objectives.pairs_from_round import all_pairs, best_and_worst

NAN = math.nan


def arrays(*prompts):
    """Scores, prompts and texts of a round from (score, text) lists, one a prompt; and lengths, those of the texts."""
    rows = [(number, score, text) for number, prompt in enumerate(prompts) for score, text in prompt]
    names = {text: place for place, text in enumerate(dict.fromkeys(text for _, _, text in rows))}
    return (np.array([score for _, score, _ in rows], float), np.array([number for number, _, _ in rows], np.int64),
            np.array([len(text) for _, _, text in rows]), np.array([names[text] for _, _, text in rows], np.int64))


def counts(found):
    return {name: getattr(found, name) for name in ("considered", "unparsed", "identical", "tied", "below_gap")}


# Numbers of completions: 0-3, 4-5, 6-7, 8-10, 11-13, 14-15, 16.
ROUND = arrays([(1, "aa"), (3, "b"), (0, "cccc"), (3, "dd")],        # best: the first of two 3s; worst: 0
               [(2, "a"), (2, "b")],                                 # tied
               [(2, "a"), (2.4, "bbb")],                             # a gap of 0.4
               [(NAN, "a"), (1, "b"), (NAN, "c")],                   # one known reward
               [(5, "a"), (1, "a"), (NAN, "b")],                     # two rewards of one text
               [(NAN, "a"), (NAN, "b")],
               [(1, "a")])


def test_best_against_worst_by_hand():
    found = best_and_worst(*ROUND)
    assert found.pairs_P2.tolist() == [[1, 2], [7, 6]] and found.pairs_P2.dtype == np.int64
    assert found.gaps_P == pytest.approx([3, 0.4]) and found.longer_P.tolist() == [-3, 2]
    assert counts(found) == {"considered": 7, "unparsed": 3, "identical": 1, "tied": 1, "below_gap": 0}
    wide = best_and_worst(*ROUND, minimum_gap=0.5)
    assert wide.pairs_P2.tolist() == [[1, 2]]
    assert counts(wide) == {"considered": 7, "unparsed": 3, "identical": 1, "tied": 1, "below_gap": 1}
    running = Running()
    running.add(wide.metrics())
    assert running.read() == pytest.approx({
        "pairs/kept": 1 / 7, "pairs/unparsed": 3 / 7, "pairs/identical": 1 / 7, "pairs/tied": 1 / 7,
        "pairs/below_gap": 1 / 7, "pairs/gap": 3, "pairs/length_difference": -3})


def test_all_pairs_by_hand():
    """6, 1, 1, 3, 3, 1 and 0 pairs of the seven prompts."""
    found = all_pairs(*ROUND, minimum_gap=0.5)
    assert found.pairs_P2.tolist() == [[1, 0], [0, 2], [3, 0], [1, 2], [3, 2]]
    assert found.gaps_P.tolist() == [2, 1, 2, 3, 3] and found.longer_P.tolist() == [-1, -2, 0, -3, -2]
    assert counts(found) == {"considered": 15, "unparsed": 3 + 2 + 1, "identical": 1, "tied": 2, "below_gap": 1}


def test_one_text_with_several_rewards_has_their_mean():
    """Text a: 4 and 0, so 2.  Without that its 4 would be the best."""
    found = best_and_worst(*arrays([(4, "a"), (3, "bb"), (0, "a"), (1, "c")]))
    assert found.pairs_P2.tolist() == [[1, 3]] and found.gaps_P == [2]
    tied = best_and_worst(*arrays([(0.1, "a"), (0.1, "b"), (0.1, "a"), (0.1, "a")]))
    assert tied.tied == 1, "the mean of equal rewards is that reward, to the last bit"


def test_length_decides_where_rewards_are_level():
    prompt = [(5.0, "aaaaaaaa"), (4.9, "bb"), (4.8, "c"), (1.0, "ddd")]
    for tolerance, pairs, gaps in ((0.0, [[0, 3]], [4.0]), (0.1, [[1, 3]], [3.9]), (0.2, [[2, 3]], [3.8])):
        found = best_and_worst(*arrays(prompt), length_tolerance=tolerance + 1e-9 * (tolerance > 0))
        assert found.pairs_P2.tolist() == pairs and found.gaps_P == pytest.approx(gaps)
    level = best_and_worst(*arrays([(5.0, "aaa"), (4.9, "b")]), length_tolerance=0.2)
    assert level.tied == 1, "level, and the shorter one has the lower reward: no preference for either"
    shorter = best_and_worst(*arrays([(5.0, "a"), (4.9, "bbb")]), length_tolerance=0.2)
    assert shorter.pairs_P2.tolist() == [[0, 1]]
    equal = best_and_worst(*arrays([(4.9, "ab"), (5.0, "cd"), (0.0, "e")]), length_tolerance=0.2)
    assert equal.pairs_P2.tolist() == [[1, 2]], "of equal lengths the higher reward"


def test_a_penalty_on_length_turns_a_pair_round():
    """2 - 0.5 * 4 = 0 against 1 - 0.5 * 1 = 0.5."""
    prompt = arrays([(2.0, "aaaa"), (1.0, "b")])
    found = best_and_worst(*prompt, length_penalty=0.5)
    assert found.pairs_P2.tolist() == [[1, 0]] and found.gaps_P == [0.5] and found.longer_P.tolist() == [-3]
    assert all_pairs(*prompt, length_penalty=0.5).pairs_P2.tolist() == [[1, 0]]
    assert best_and_worst(*prompt, length_penalty=1 / 3).tied == 1


def test_nothing_and_nothing_to_learn_from():
    empty = best_and_worst(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, int), np.zeros(0, np.int64))
    assert empty.considered == len(empty.pairs_P2) == 0 and empty.pairs_P2.shape == (0, 2)
    with pytest.raises(NothingToDraw, match="of 1 possible, 0 lack a known reward, 0 are of one text, 1 are tied"):
        best_and_worst(*arrays([(2, "a"), (2, "b")])).some()
    assert best_and_worst(*ROUND).some().considered == 7


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_round_everything_is_accounted_for(seed):
    """Against a formula with no array in it, on rounds of a few texts and rewards, many of them equal or missing."""
    rng = np.random.default_rng(seed)
    prompts = [[(rng.choice([0.0, 1.0, 1.5, 3.0, NAN]), rng.choice(["a", "bb", "ccc", "dddd"]))
                for _ in range(rng.integers(1, 7))] for _ in range(60)]
    scores, numbers, lengths, texts = arrays(*prompts)
    expected, begin = [], 0
    for prompt in prompts:
        means = {}
        for place, (score, text) in enumerate(prompt):
            if not math.isnan(score):
                means.setdefault(text, [begin + place, []])[1].append(score)
        known = [(place, sum(all_) / len(all_)) for place, all_ in means.values()]
        begin += len(prompt)
        if len(known) > 1:
            best, worst = max(known, key=lambda each: each[1]), min(known, key=lambda each: each[1])
            if best[1] - worst[1] >= 1.0:
                expected.append([best[0], worst[0]])
    found = best_and_worst(scores, numbers, lengths, texts, minimum_gap=1.0)
    assert found.pairs_P2.tolist() == expected and len(expected) > 5
    for made in (found, all_pairs(scores, numbers, lengths, texts, minimum_gap=1.0)):
        assert made.considered == len(made.pairs_P2) + made.unparsed + made.identical + made.tied + made.below_gap
        assert (texts[made.pairs_P2[:, 0]] != texts[made.pairs_P2[:, 1]]).all()
        assert (numbers[made.pairs_P2[:, 0]] == numbers[made.pairs_P2[:, 1]]).all() and (made.gaps_P >= 1).all()
    assert made.considered == sum(len(list(combinations(prompt, 2))) for prompt in prompts)
