"""Examples of judging, made of answers that people have ranked: what a policy learns from before it judges itself.

An example is the very question that a judge is asked about an answer, and a reply that `Rubric.read` reads (the EFT
data of Yuan et al. 2024).  Marks follow from the ranks, in replies that say the mark and nothing else; or a model
writes the replies, and those are kept whose marks have the order that people gave.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from apo.data.sources.base import Ranked
from apo.errors import DataError
from apo.judges.rubric import Rubric
from apo.judges.rubric_judge import Ask, Writer
from apo.seeds import stream


@dataclass(frozen=True, slots=True)
class Example:
    question: str
    reply: str
    mark: float
    rank: int
    """How many answers to the prompt are better."""

    def row(self) -> dict[str, Any]:
        """As `data.source=completions` reads it."""
        return {"prompt": self.question, "completion": self.reply, "label": True, "mark": self.mark, "rank": self.rank}


def ranks_of(ranked: Ranked) -> list[int]:
    """Of answers whose order alone is known, their places."""
    rewards = ranked.rewards or [-float(place) for place in range(len(ranked.completions))]
    return [sum(other > reward for other in rewards) for reward in rewards]


def has_order(ranked: Ranked) -> bool:
    return len(set(ranks_of(ranked))) > 1


def by_rank(rubric: Rubric, ranked: Ranked) -> list[Example]:
    """The best answer has the highest mark, the worst the lowest, and those between lie evenly between them, in whole
    points where the rubric has some."""
    ranks, points = ranks_of(ranked), rubric.high - rubric.low
    levels = sorted(set(ranks))
    marks = {rank: points * (1 - place / (len(levels) - 1)) for place, rank in enumerate(levels)}
    return [_said(rubric, ranked, place, rubric.low + (round(marks[rank]) if points >= 1 else marks[rank]), rank)
            for place, rank in enumerate(ranks)]


def by_reward(rubric: Rubric, ranked: Ranked) -> list[Example]:
    """Marks that people gave themselves, on the rubric's scale.  Raises DataError for others."""
    if ranked.rewards is None or not all(rubric.low <= reward <= rubric.high for reward in ranked.rewards):
        raise DataError(f"{ranked.origin}: marks are to be its rewards, and they are not all from {rubric.low:g} to "
                        f"{rubric.high:g}: {ranked.rewards}")
    return [_said(rubric, ranked, place, reward, rank)
            for place, (reward, rank) in enumerate(zip(ranked.rewards, ranks_of(ranked)))]


def _said(rubric: Rubric, ranked: Ranked, place: int, mark: float, rank: int) -> Example:
    return Example(rubric.ask(ranked.prompt, ranked.completions[place]), rubric.say(mark), mark, rank)


@dataclass
class Agreement:
    """Of every two answers to a prompt that people ranked differently, in each draw."""

    right: int = 0
    """The better one has the higher mark."""
    tied: int = 0
    wrong: int = 0
    unread: int = 0
    """One of the marks could not be read."""

    def add(self, better: float | None, worse: float | None) -> None:
        name = ("unread" if better is None or worse is None else
                "right" if better > worse else "tied" if better == worse else "wrong")
        setattr(self, name, getattr(self, name) + 1)

    @property
    def share(self) -> float | None:
        """Right ones, and half of those tied, of all that could be read."""
        read = self.right + self.tied + self.wrong
        return (self.right + self.tied / 2) / read if read else None


def by_writer(rubric: Rubric, writer: Writer, rankings: list[Ranked],
              draws: int) -> tuple[list[list[Example]], Agreement]:
    """Of each ranking the replies of the first of so many draws of which all can be read and every better answer has
    the higher mark; none where no draw is like that.  Raises what the writer raises."""
    times = draws if writer.varies else 1
    asks = [Ask(ranked.prompt, text, number) for ranked in rankings for text in ranked.completions
            for number in range(times)]
    replies = iter(writer.write(rubric, asks))
    found, agreement = [], Agreement()
    for ranked in rankings:
        of_text = [[next(replies) for _ in range(times)] for _ in ranked.completions]
        drawn = [_agreeing(rubric, ranked, list(draw), agreement) for draw in zip(*of_text)]
        found.append(next(filter(None, drawn), []))
    return found, agreement


def _agreeing(rubric: Rubric, ranked: Ranked, replies: list[str | None], agreement: Agreement) -> list[Example]:
    """Adds to the agreement.  Nothing where it is not whole."""
    marks = [None if reply is None else rubric.read(reply) for reply in replies]
    ranks, own = ranks_of(ranked), Agreement()
    for one, of_one in enumerate(ranks):
        for other, of_other in enumerate(ranks):
            if of_one < of_other:
                own.add(marks[one], marks[other])
                agreement.add(marks[one], marks[other])
    if own.tied or own.wrong or own.unread:
        return []
    return [Example(rubric.ask(ranked.prompt, text), reply, mark, rank)
            for text, reply, mark, rank in zip(ranked.completions, replies, marks, ranks)]


def balanced(examples: list[Example], seed: int) -> list[Example]:
    """The most frequent mark as often as the next most frequent, by a draw: the paper's judge gave a 4 too often."""
    (most, count), (_, second) = (Counter(each.mark for each in examples).most_common(2) + [(None, None)] * 2)[:2]
    if second is None or count == second:
        return examples
    places = [place for place, each in enumerate(examples) if each.mark == most]
    dropped = {places[i] for i in stream(seed, "balance").permutation(count)[second:]}
    return [each for place, each in enumerate(examples) if place not in dropped]
