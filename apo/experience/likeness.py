"""Which texts say nearly the same: ROUGE-L, the longest common subsequence of words, as self-instruct has it.

    F = 2 LCS(a, b) / (words of a + words of b)

Words that two texts share in any order bound it from above, and an index of words finds those that share enough; only
they are compared.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Letters and digits in rows, without capitals.  A script without blanks between words gives one word a line."""
    return _WORD.findall(text.lower())


def longest_common(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, by whole columns of the table at once as bits of one number (Hyyro
    2004)."""
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(a):
        places[word] |= 1 << place
    everything = (1 << len(a)) - 1
    open_places = everything
    for word in b:
        met = open_places & places.get(word, 0)
        open_places = ((open_places + met) | (open_places - met)) & everything
    return len(a) - open_places.bit_count()


@dataclass
class Texts:
    """Texts that others are compared with."""

    limit: float
    """From which F on two texts are alike."""
    known: list[list[str]] = field(default_factory=list)
    _holding: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    """Word -> the texts that it stands in, and how often."""

    def add(self, text: str) -> None:
        words = words_of(text)
        for word, times in Counter(words).items():
            self._holding[word].append((len(self.known), times))
        self.known.append(words)

    def has_like(self, text: str) -> bool:
        words, shared = words_of(text), Counter()
        for word, times in Counter(words).items():
            for number, there in self._holding.get(word, ()):
                shared[number] += min(times, there)
        return any(2 * longest_common(words, self.known[number]) >= self.limit * (len(words) + len(self.known[number]))
                   for number, common in shared.items()
                   if 2 * common >= self.limit * (len(words) + len(self.known[number])))
