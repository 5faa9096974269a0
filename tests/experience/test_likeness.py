"""ROUGE-L by words, against the table that defines it."""

import random

import pytest

from apo.experience.likeness import Texts, longest_common, words_of


def by_the_table(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_it_is_the_longest_common_subsequence():
    draw = random.Random(1)
    for _ in range(500):
        a, b = ([draw.choice("abcd") for _ in range(draw.randrange(80))] for _ in range(2))
        assert longest_common(a, b) == by_the_table(a, b)


@pytest.mark.parametrize("limit, text, alike", [
    (0.7, "How do I bake some bread?", True),           # 5 of 5 and of 6 words: 10 / 11
    (0.7, "BAKE bread, I do how!", False),              # the words, in another order: at most 2
    (0.7, "How do I mend a sock?", False),              # 2 * 3 / 11
    (0.5, "How do I mend a sock?", True), (1.0, "how do i bake bread", True), (1.0, "How do I bake some bread?", False),
    (0.7, "", False), (0.7, "Wie backe ich Brot?", False)])
def test_a_text_is_alike_from_the_limit_on(limit, text, alike):
    texts = Texts(limit)
    for known in ("Who was it?", "How do I bake bread?"):
        texts.add(known)
    assert texts.has_like(text) is alike


def test_the_index_leaves_none_out():
    draw = random.Random(2)
    texts, known = Texts(0.6), []
    for _ in range(300):
        text = " ".join(draw.choice("abcdef") for _ in range(draw.randrange(1, 9)))
        pairs = [(words_of(text), words_of(other)) for other in known]
        expected = any(2 * by_the_table(a, b) >= 0.6 * (len(a) + len(b)) for a, b in pairs)
        assert texts.has_like(text) is expected
        texts.add(text)
        known.append(text)
