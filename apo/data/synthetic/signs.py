"""What the rules that judge completions look at, whatever the text is about."""

import re

WORD = re.compile(r"[^\W_](?:\w*[^\W_])?(?:'\w+)?")
END = re.compile(r"[.!?][\"')]*\s*\Z")


def words(text: str) -> list[str]:
    return WORD.findall(text)


def triples(found: list[str]) -> list[tuple[str, ...]]:
    """Sequences of three words; a text that is shorter is one sequence."""
    return list(zip(found, found[1:], found[2:])) or [tuple(found)]


def repeated(found: list[str]) -> float:
    """Share of the three-word sequences that came before."""
    threes = triples(found)
    return 1 - len(set(threes)) / len(threes)


def ends(text: str) -> bool:
    """As a sentence does."""
    return END.search(text) is not None
