"""Diversity of samples: Self-BLEU against nltk's to rounding, and fast enough for 4,096 samples."""

import math
import random
import time

import numpy as np
import pytest

from apo.data.records import Sample
from apo.metrics.base import metrics
from apo.metrics.diversity import Distinct, Length, SelfBLEU, self_bleu


def samples(*texts: str) -> list[Sample]:
    return [Sample(prompt="not counted", text=text, score=None, index=i, seed=1, step=None)
            for i, text in enumerate(texts)]


def texts_of(draw: random.Random, number: int, vocabulary: int, lengths: list[int]) -> list[str]:
    """Skewed words, so that n-grams repeat within and between texts."""
    return [" ".join(f"w{min(draw.randrange(vocabulary), draw.randrange(vocabulary))}"
                     for _ in range(draw.choice(lengths))) for _ in range(number)]


def nltk_self_bleu(texts: list[str], n: int, references: int | None) -> list[float]:
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    smoothing, tokens = bleu.SmoothingFunction().method1, [text.split() for text in texts]
    return [float(bleu.sentence_bleu((tokens[:i] + tokens[i + 1:])[:references], own, weights=(1 / n,) * n,
                                     smoothing_function=smoothing)) for i, own in enumerate(tokens)]


@pytest.mark.parametrize("references", [None, 1, 3, 200])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_self_bleu_is_nltks(n, references):
    draw = random.Random(n)
    for vocabulary in (1, 2, 5, 40):
        for number in (2, 3, 12):
            texts = texts_of(draw, number, vocabulary, [0, 1, 2, 3, 4, 5, 6, 9, 20, 21])
            assert self_bleu(texts, n, references) == pytest.approx(nltk_self_bleu(texts, n, references), abs=1e-12)


def test_self_bleu_of_real_lengths():
    texts = texts_of(random.Random(0), 64, 400, list(range(40, 90)))
    assert self_bleu(texts) == pytest.approx(nltk_self_bleu(texts, 5, None), abs=1e-12)


def test_self_bleu_by_hand():
    # Alike: 1.  Nothing in common: 0.  `a b` against `a c`: 1-grams 1/2, 2-grams 0.1/1.
    assert SelfBLEU()(samples(*["one two three four five six"] * 3)) == {"self-bleu-5": pytest.approx(1)}
    assert SelfBLEU()(samples("a b", "c d")) == {"self-bleu-5": 0}
    assert SelfBLEU(n=2)(samples("a b", "a c")) == {"self-bleu-2": pytest.approx(math.sqrt(0.5 * 0.1))}


@pytest.mark.parametrize("texts", [[""], ["a b c"], ["", ""], ["", "a"], ["   ", "\n"]])
def test_self_bleu_of_next_to_nothing_is_zero(texts):
    assert SelfBLEU()(samples(*texts)) == {"self-bleu-5": 0}


def test_4096_samples_take_no_quadratic_time():
    texts = texts_of(random.Random(0), 4096, 3000, [66])
    started = time.process_time()
    self_bleu(texts)
    assert time.process_time() - started < 2


def test_distinct_and_entropy_by_hand():
    numbers = Distinct()(samples("a b a b", "c c"))
    # Unigrams: 2/4 and 1/2; bigrams: ab ba ab -> 2/3, cc -> 1/1.  Pooled: a2 b2 c2; ab2 ba1 cc1.
    assert numbers == pytest.approx({"distinct-1": 0.5, "entropy-1": math.log(3), "distinct-2": (2 / 3 + 1) / 2,
                                     "entropy-2": 0.5 * math.log(2) + 0.5 * math.log(4)})


def test_texts_too_short_for_an_n_gram_are_left_out():
    numbers = Distinct(ns=[2, 3])(samples("a b", "", "a"))
    assert numbers == {"distinct-2": 1.0, "entropy-2": 0.0, "distinct-3": 0.0, "entropy-3": 0.0}
    assert Distinct()(samples("", "")) == {"distinct-1": 0, "entropy-1": 0, "distinct-2": 0, "entropy-2": 0}


def test_distinct_against_plain_python():
    texts = texts_of(random.Random(5), 50, 20, [0, 1, 5, 30])
    grams = [[tuple(words[i:i + 3]) for i in range(len(words) - 2)] for words in map(str.split, texts)]
    shares = [len(set(each)) / len(each) for each in grams if each]
    assert Distinct(ns=[3])(samples(*texts))["distinct-3"] == pytest.approx(np.mean(shares), rel=1e-12)


def test_length_is_in_characters_of_the_continuation():
    assert Length()(samples("ab", "", "\u00e9\u00e9\u00e9\u00e9")) == {"length": 2.0}


def test_metrics_are_found_by_name():
    assert {"length", "distinct_n", "self_bleu", "parses", "by_code"} <= set(metrics)
    assert metrics.get("self-bleu") is SelfBLEU
