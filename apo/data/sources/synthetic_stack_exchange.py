"""Questions about functions of the standard library, made from a seed, with answers of known worth.

What is true of a function is its docstring; answers are that text, whole or damaged: cut off, with words missing or
swapped, shouted, or the text of another function; or no answer but a rebuff.  A rule says what an answer is worth
(`apo/data/synthetic/stack_exchange.py`), on the scale of log2(1 + votes), and judges any text: what a trained model
writes can be judged as the corpus was (scorer `stack_exchange_rule`).  Answers to one question differ in reward.
"""

import hashlib
from pathlib import Path
from typing import Callable, Iterator

import numpy as np

from apo.data.sources import stdlib
from apo.data.sources.base import CompletionSource, Ranked, sources
from apo.data.synthetic import signs, stack_exchange
from apo.data.synthetic.stack_exchange import ANSWER, QUESTION, Function, functions
from apo.errors import ConfigError
from apo.schema import DataConfig
from apo.seeds import stream

QUESTIONS = ("What does {0} do?", "What is {0} for?", "Can somebody explain {0} to me?", "When would I use {0}?",
             "I found {0} in a program. What does it do?", "How does {0} work?", "What happens when I call {0}?",
             "What do I get from {0}?", "I am new to Python. What does {0} do?", "Please explain {0} in a few words.")
REBUFFS = ("Just google it.", "Read the manual.", "Look it up in a search engine.", "This is a duplicate.",
           "We do not do your homework.", "Read the docs, it is all there.")
MAX_ANSWERS, MAX_TRIES = 5, 60
Damage = Callable[[np.random.Generator, Function], str]


@sources.register("synthetic_stack_exchange")
class SyntheticStackExchange(CompletionSource):
    """Questions about the standard library from a seed (`data.synthetic`), with two to five ranked answers each."""

    def __init__(self, data: DataConfig):
        super().__init__(data)
        if data.path:
            raise ConfigError(f"synthetic_stack_exchange makes its own text; to read {self} name the source that reads "
                              "it (data.source)")

    def rankings(self) -> Iterator[Ranked]:
        """Question i depends on seed and i, and on the interpreter's library."""
        seed, table = self.data.synthetic.seed, list(functions().values())
        for i in range(self.data.synthetic.num_documents):
            rng = stream(seed, "synthetic_stack_exchange", i)
            function = table[rng.integers(len(table))]
            yield ranked(rng, function, f"synthetic question {i}")

    def fingerprint(self) -> str:
        """Over seed and number of questions, the table of functions, and our code."""
        total = hashlib.sha256(f"{self.data.synthetic} {stack_exchange.fingerprint()}\n".encode())
        for file in (stdlib.__file__, signs.__file__, stack_exchange.__file__, __file__):
            total.update(Path(file).read_bytes())
        return total.hexdigest()


def ranked(rng: np.random.Generator, function: Function, origin: str) -> Ranked:
    question = QUESTIONS[rng.integers(len(QUESTIONS))].format(function.signature)
    prompt, wanted = f"{QUESTION} {question}{ANSWER}", int(rng.integers(2, MAX_ANSWERS + 1))
    found: dict[float, str] = {}
    for kind in kinds(rng):
        answer = " " + KINDS[kind][1](rng, function)
        found.setdefault(stack_exchange.reward(prompt, answer), answer)
        if len(found) == wanted:
            break
    best_first = sorted(found.items(), reverse=True)
    return Ranked(origin, prompt, [answer for _, answer in best_first], [reward for reward, _ in best_first])


def kinds(rng: np.random.Generator) -> Iterator[str]:
    """The first two differ; then more, for an answer with a reward that another one has is left out."""
    weights = np.array([weight for weight, _ in KINDS.values()])
    weights = weights / weights.sum()
    yield from rng.choice(list(KINDS), 2, replace=False, p=weights)
    yield from rng.choice(list(KINDS), MAX_TRIES, p=weights)


# ---- kinds of answers ------------------------------------------------------------------------------------------------


def whole(rng: np.random.Generator, function: Function) -> str:
    return function.text


def cut(rng: np.random.Generator, function: Function) -> str:
    """The first quarter to nine tenths; half of them in the middle of a sentence, half with a full stop."""
    words = function.text.split()
    kept = " ".join(words[:max(2, int(rng.uniform(0.25, 0.9) * len(words)))])
    return kept if rng.random() < 0.5 else kept.rstrip(".,;:") + "."


def dropped(rng: np.random.Generator, function: Function) -> str:
    """Without some of the words, a tenth to a half; the last stays."""
    words, share = function.text.split(), rng.uniform(0.1, 0.5)
    return " ".join([word for word in words[:-1] if rng.random() >= share] + words[-1:])


def swapped(rng: np.random.Generator, function: Function) -> str:
    """Some neighbours have changed places; the last word stays."""
    words, share = function.text.split(), rng.uniform(0.1, 0.5)
    for i in range(len(words) - 2):
        if rng.random() < share:
            words[i], words[i + 1] = words[i + 1], words[i]
    return " ".join(words)


def other(rng: np.random.Generator, function: Function) -> str:
    """What is true of another function."""
    table = list(functions().values())
    return next(each.text for i in iter(lambda: rng.integers(len(table)), None)
                if (each := table[i]).name != function.name)


def shouted(rng: np.random.Generator, function: Function) -> str:
    text = function.text if rng.random() < 0.5 else cut(rng, function)
    return text.upper().rstrip(".") + "!"


def rebuff(rng: np.random.Generator, function: Function) -> str:
    """Alone, or before an answer."""
    said = REBUFFS[rng.integers(len(REBUFFS))]
    return said if rng.random() < 0.4 else f"{said} {(whole, cut, dropped)[rng.integers(3)](rng, function)}"


KINDS: dict[str, tuple[float, Damage]] = {
    "whole": (0.26, whole), "cut": (0.18, cut), "dropped": (0.14, dropped), "swapped": (0.12, swapped),
    "other": (0.12, other), "shouted": (0.08, shouted), "rebuff": (0.10, rebuff)}
"""Kind of answer -> weight, and what makes it."""
