"""Text from weighted rules, for synthetic corpora whose distribution is known: exact probabilities, exact entropy.

    RULES = parse('''
        greeting: Good {time}, {name}. | Hello, {name}.
        time~ morning | evening | night
    ''')
    Grammar(RULES, given={"name"}).expand("greeting", Drawing(rng), {"name": "Ada"})

A rule is a name and alternatives between bars: after a colon all are equally likely, after a tilde those listed first
are likelier (weight 1 / (rank + 4), as in word counts).  `{word}` inside an alternative is another rule, drawn anew at
every place, or a value *given* from outside, such as the name of somebody who has been introduced.  Rules do not refer
to themselves in a circle, so every expansion ends.

All randomness goes through one function, `choose(choice) -> index`.  A `Drawing` draws and adds up the log-probability
of what it drew; a test can put in its place something that walks through every choice there is.  The probability of a
*text* is that of its derivation if no other derivation gives the same text: who writes rules must see to that.
"""

import math
import re
from bisect import bisect_right
from functools import cached_property
from graphlib import TopologicalSorter
from itertools import accumulate
from typing import Callable, Iterable

import numpy as np

RANK_SHIFT = 4
"""Flattens the ranks: of 40 words the first comes up about 9 times as often as the last."""


class Choice:
    """A distribution over the indices 0 ... n-1."""

    def __init__(self, weights: Iterable[float]):
        weights = list(weights)
        total = math.fsum(weights)
        self.probabilities = [weight / total for weight in weights]

    @classmethod
    def even(cls, count: int) -> "Choice":
        return cls([1.0] * count)

    @classmethod
    def ranked(cls, count: int) -> "Choice":
        return cls(1 / (rank + RANK_SHIFT) for rank in range(1, count + 1))

    @cached_property
    def log_probs(self) -> list[float]:
        """Nats."""
        return [math.log(p) if p else -math.inf for p in self.probabilities]

    @cached_property
    def entropy(self) -> float:
        """Nats."""
        return -math.fsum(p * log_p for p, log_p in zip(self.probabilities, self.log_probs) if p)

    @cached_property
    def bounds(self) -> list[float]:
        """Cumulative, without the last: rounding must not leave a gap at the end."""
        return list(accumulate(self.probabilities))[:-1]


Choose = Callable[[Choice], int]


class Drawing:
    """Draws at random; `log_prob` (nats) is of everything drawn so far."""

    def __init__(self, rng: np.random.Generator):
        self.rng, self.log_prob = rng, 0.0

    def __call__(self, choice: Choice) -> int:
        index = bisect_right(choice.bounds, self.rng.random())
        self.log_prob += choice.log_probs[index]
        return index


Rules = dict[str, tuple[Choice, list[str]]]
"""Name -> the distribution over its alternatives, and these."""


def parse(text: str) -> Rules:
    """Rules as in the module's docstring.  A line that does not begin with `name:` or `name~` goes on
    with the rule above."""
    found: dict[str, list[str]] = {}
    ranked: dict[str, bool] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        head = re.match(r"(\w+)([:~])(?= |$)", line)
        if head:
            name, ranked[head[1]] = head[1], head[2] == "~"
            line = line[head.end():]
        found[name] = found.get(name, []) + [part.strip() for part in line.split("|") if part.strip()]
    return {name: ((Choice.ranked if ranked[name] else Choice.even)(len(parts)), parts)
            for name, parts in found.items()}


class Grammar:
    def __init__(self, rules: Rules, given: Iterable[str] = ()):
        """Raises ValueError for a `{word}` that is neither a rule nor given, and for rules that refer to each other in
        a circle: their expansion might not end."""
        self.rules = {name: (choice, [re.split(r"\{(\w+)\}", text) for text in alternatives])
                      for name, (choice, alternatives) in rules.items()}
        known = {*self.rules, *given}
        unknown = {word for _, alternatives in self.rules.values() for parts in alternatives for word in parts[1::2]}
        if unknown - known:
            raise ValueError(f"neither rules nor given: {sorted(unknown - known)}")
        self._entropies: dict[str, float] = {}
        list(TopologicalSorter({name: {word for parts in alternatives for word in parts[1::2] if word in rules}
                                for name, (_, alternatives) in self.rules.items()}).static_order())

    def expand(self, name: str, choose: Choose, given: dict[str, str]) -> str:
        """One text of rule `name`."""
        choice, alternatives = self.rules[name]
        parts = alternatives[choose(choice)]
        return "".join(part if i % 2 == 0 else given[part] if part in given else self.expand(part, choose, given)
                       for i, part in enumerate(parts))

    def entropy(self, name: str) -> float:
        """Of a derivation of rule `name`, nats: that of the choice, and of what the alternatives go on to choose."""
        if name not in self._entropies:
            choice, alternatives = self.rules[name]
            inside = [math.fsum(self.entropy(word) for word in parts[1::2] if word in self.rules)
                      for parts in alternatives]
            self._entropies[name] = choice.entropy + math.fsum(
                p * nats for p, nats in zip(choice.probabilities, inside))
        return self._entropies[name]
