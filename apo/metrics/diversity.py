"""How varied a set of samples is: length, distinct n-grams, entropy, Self-BLEU.

A method that lowers the score by always writing the same harmless thing shows here.  Names and definitions are PHF's;
words are what white space separates.  All counting is numpy over one array of n-gram numbers (`ngrams`), since the
obvious Self-BLEU compares every pair of samples in Python: exact here and linear, 4,096 samples in under a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from apo.lazy import Lazy
from apo.metrics.base import SampleMetric, metrics

if TYPE_CHECKING:
    import numpy as np

    from apo.data.records import Sample
else:
    np = Lazy("numpy")

EPSILON = 0.1
"""Self-BLEU: the count that stands for no match (smoothing method 1 of Chen and Cherry 2014, nltk's value)."""


@metrics.register("length")
@dataclass
class Length(SampleMetric):
    """Mean length of the continuations in characters."""

    def __call__(self, samples: list[Sample]) -> dict[str, float]:
        return {"length": sum(len(sample.text) for sample in samples) / len(samples)}


@metrics.register("distinct_n")
@dataclass
class Distinct(SampleMetric):
    """`distinct-n`: mean over samples of unique n-grams / n-grams; `entropy-n`: entropy (nats) of the n-gram counts of
    all samples pooled.  Samples shorter than n words have no n-gram and are left out; 0 where none has one."""

    ns: list[int] = field(default_factory=lambda: [1, 2])

    def __call__(self, samples: list[Sample]) -> dict[str, float]:
        words = tokenise([sample.text for sample in samples])
        numbers = {}
        for n in self.ns:
            grams = ngrams(words, n)
            shares = distinct_shares(grams)
            numbers[f"distinct-{n}"] = float(shares.mean()) if len(shares) else 0.0
            numbers[f"entropy-{n}"] = _entropy(grams)
        return numbers


@metrics.register("self_bleu")
@dataclass
class SelfBLEU(SampleMetric):
    """Mean BLEU of every sample against the others: 1 where all are alike.  0 for a single sample."""

    n: int = 5
    """Longest n-gram; all lengths up to it weigh the same."""
    references: int | None = None
    """Compare with the first so many others only (PHF: 200).  null: with all."""

    def __call__(self, samples: list[Sample]) -> dict[str, float]:
        scores = self_bleu([sample.text for sample in samples], self.n, self.references)
        return {f"self-bleu-{self.n}": float(scores.mean())}


class Words(NamedTuple):
    """Texts as numbers, one after the other: word w is token `tokens[w]` of text `texts[w]`."""

    tokens_W: np.ndarray
    texts_W: np.ndarray
    lengths_T: np.ndarray


class Grams(NamedTuple):
    """The n-grams of texts: gram g is number `ids[g]` (dense, from 0) and stands in text `texts[g]` (ascending)."""

    ids_G: np.ndarray
    texts_G: np.ndarray
    lengths_T: np.ndarray


def tokenise(texts: list[str]) -> Words:
    split = [text.split() for text in texts]
    numbers: dict[str, int] = {}
    tokens = np.fromiter((numbers.setdefault(word, len(numbers)) for words in split for word in words), np.int64)
    lengths = np.array([len(words) for words in split], np.int64)
    return Words(tokens, np.repeat(np.arange(len(texts)), lengths), lengths)


def ngrams(words: Words, n: int) -> Grams:
    """An n-gram is numbered from its first n - 1 words' number and its last word, so numbers never overflow."""
    ids = words.tokens_W
    for k in range(1, n):
        ids = np.unique(ids[:-1] * len(words.tokens_W) + words.tokens_W[k:], return_inverse=True)[1]
    starts = slice(0, max(len(words.tokens_W) - n + 1, 0))
    inside = words.texts_W[starts] == words.texts_W[n - 1:]
    return Grams(ids[starts][inside], words.texts_W[starts][inside], words.lengths_T)


def counts_by_text(grams: Grams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(text, gram, count) of every n-gram of every text, sorted by gram, then text."""
    num_texts = max(len(grams.lengths_T), 1)
    keys, counts = np.unique(grams.ids_G * num_texts + grams.texts_G, return_counts=True)
    return keys % num_texts, keys // num_texts, counts


def distinct_shares(grams: Grams) -> np.ndarray:
    """Unique n-grams / n-grams of every text that has one."""
    num_texts = len(grams.lengths_T)
    total = np.bincount(grams.texts_G, minlength=num_texts)
    unique = np.bincount(counts_by_text(grams)[0], minlength=num_texts)
    return unique[total > 0] / total[total > 0]


def _entropy(grams: Grams) -> float:
    counts = np.unique(grams.ids_G, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum()) if len(counts) else 0.0


def self_bleu(texts: list[str], n: int = 5, references: int | None = None) -> np.ndarray:
    """BLEU of every text against the (first `references`) others, [texts]: nltk's sentence_bleu with smoothing method
    1 and equal weights, to rounding.

    With R references, texts up to number R see the first R + 1 without themselves, the later ones the first R."""
    num_texts = len(texts)
    if references is None or references >= num_texts - 1:
        return _self_bleu(tokenise(texts), n, num_texts)
    words = tokenise(texts)
    late = np.arange(num_texts) > references
    return np.where(late, _self_bleu(words, n, references), _self_bleu(words, n, references + 1))


def _self_bleu(words: Words, n: int, num_references: int) -> np.ndarray:
    """Every text against those numbered below `num_references`, itself left out where it is one of them."""
    lengths_T = words.lengths_T
    logs_T, first_matches_T = np.zeros(len(lengths_T)), None
    for k in range(1, n + 1):
        matches_T = _clipped_matches(ngrams(words, k), num_references)
        first_matches_T = matches_T if first_matches_T is None else first_matches_T
        precisions_T = np.where(matches_T > 0, matches_T, EPSILON) / np.maximum(lengths_T - k + 1, 1)
        logs_T += np.log(precisions_T) / n
    closest_T = _closest_lengths(lengths_T, num_references)
    log_penalties_T = np.minimum(1 - closest_T / np.maximum(lengths_T, 1), 0)
    return np.where(first_matches_T > 0, np.exp(logs_T + log_penalties_T), 0.0)


def _clipped_matches(grams: Grams, num_references: int) -> np.ndarray:
    """For every text the sum over its n-grams of min(count, largest count in any other reference), [texts].

    The largest count in *others* is the largest of all, or the second largest for the text that holds the largest: two
    numbers per n-gram instead of a comparison per pair of texts."""
    texts, ids, counts = counts_by_text(grams)
    if not len(ids):
        return np.zeros(len(grams.lengths_T), np.int64)
    is_reference = texts < num_references
    order = np.lexsort((-counts[is_reference], ids[is_reference]))
    ranked_ids, ranked_texts, ranked_counts = (x[is_reference][order] for x in (ids, texts, counts))
    first = np.flatnonzero(np.diff(ranked_ids, prepend=-1))
    second = np.minimum(first + 1, len(ranked_ids) - 1)
    has_second = (second > first) & (ranked_ids[second] == ranked_ids[first])
    largest, holder, next_largest = (np.zeros(ids[-1] + 1, np.int64) for _ in range(3))
    largest[ranked_ids[first]] = ranked_counts[first]
    holder[ranked_ids[first]] = ranked_texts[first]
    next_largest[ranked_ids[first]] = np.where(has_second, ranked_counts[second], 0)
    elsewhere = np.where(holder[ids] == texts, next_largest[ids], largest[ids])
    return np.bincount(texts, np.minimum(counts, elsewhere), len(grams.lengths_T)).astype(np.int64)


def _closest_lengths(lengths_T: np.ndarray, num_references: int) -> np.ndarray:
    """Length of the other reference that is closest in length, the shorter of two as close, [texts]."""
    lengths, counts = np.unique(lengths_T[:num_references], return_counts=True)
    if not len(lengths):
        return np.zeros_like(lengths_T)
    is_reference = np.arange(len(lengths_T)) < num_references
    below = np.searchsorted(lengths, lengths_T, side="left") - 1
    above = np.searchsorted(lengths, lengths_T, side="right")
    same = above - below - 1 > 0
    others = np.where(same, counts[np.minimum(below + 1, len(lengths) - 1)] - is_reference, 0)
    far = np.int64(2) ** 40
    shorter = np.where(below >= 0, lengths[np.maximum(below, 0)], -far)
    longer = np.where(above < len(lengths), lengths[np.minimum(above, len(lengths) - 1)], far)
    nearest = np.where(lengths_T - shorter <= longer - lengths_T, shorter, longer)
    return np.where(others > 0, lengths_T, nearest)
