"""Dialogues with ranked answers: Anthropic's hh-rlhf as it was released, or as PRO and A-LoL keep it.

A released row is `chosen` and `rejected`, two transcripts that differ in the last answer; people preferred the first.
A row of PRO's is `prefix` (the turns, once per answer), `suffix` (the answers) and `reward` (of a reward model, higher
is better): there the rewards say what is better, and not the order in the file, which for much of PRO's data is that of
people and often another.  Rows of both kinds give prompts and answers as plain transcripts.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Iterator

from apo.console import say
from apo.data.dialogue import TAGS, NotADialogue, Turn, from_pro, render, shared_prompt
from apo.data.sources.base import BadRow, CompletionSource, Ranked, numbers_in, sources, text_in, told
from apo.data.sources.hub import FilesOrHub
from apo.errors import DataError
from apo.schema import DataConfig

EQUAL = "equal answers"


@dataclass(slots=True)
class Answered:
    """A row as it stands: a prompt that ends with "Assistant:", and its answers, in the order of the file."""

    prompt: str
    answers: list[str]
    rewards: list[float] | None = None


@sources.register("hh")
class HH(FilesOrHub, CompletionSource):
    """Pairs of answers from Anthropic's hh-rlhf, or ranked ones in PRO's format (`data.path`)."""

    needs_path = ("files of hh-rlhf (chosen, rejected) or of PRO (prefix, suffix, reward), Anthropic/hh-rlhf, or a "
                  "part of it (Anthropic/hh-rlhf/harmless-base)")

    def __init__(self, data: DataConfig):
        super().__init__(data)
        self.read = 0
        self.left_out: Counter[str] = Counter()
        """Reason -> rows, of the last time `rankings` was gone through."""

    def rankings(self) -> Iterator[Ranked]:
        """Without rows that are no dialogue with two different answers to one prompt, which are counted.

        Raises DataError for rows of another shape, and where no row is left.
        """
        self.read, self.left_out = 0, Counter()
        reader = Reader(self.left_out)
        for ranked in told(self.rows(), reader, str(self)):
            self.read += 1
            if ranked is not None:
                yield ranked
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(self.left_out.items()))
        if self.read == self.left_out.total():
            raise DataError(f"{self}: there is nothing to train on; all {self.read:,} rows are left out: {reasons}")
        if reasons:
            say(f"{self}: {self.left_out.total():,} of {self.read:,} rows left out: {reasons}")


class Reader:
    """Rows to `Ranked`, best first; None for a row that is left out, whose reason is counted in `left_out`."""

    def __init__(self, left_out: Counter[str]):
        self.left_out = left_out
        self.scored: bool | None = None
        """Whether the first row had rewards: all have or none has."""

    def __call__(self, row: dict[str, Any], origin: str) -> Ranked | None:
        """Raises BadRow."""
        try:
            answered = read_answers(row)
        except NotADialogue as reason:
            self.left_out[str(reason)] += 1
            return None
        if self.scored is None:
            self.scored = answered.rewards is not None
        if self.scored != (answered.rewards is not None):
            raise BadRow(f'has {"no " if self.scored else ""}"reward", but the first row has '
                         f'{"one" if self.scored else "none"}: rewards for all rows or none')
        ranked = _ranked(answered, origin)
        if len(ranked.completions) < 2:
            self.left_out[EQUAL] += 1
            return None
        return ranked


def read_answers(row: dict[str, Any]) -> Answered:
    """Raises BadRow for a row of another shape, NotADialogue for one that holds no prompt with answers."""
    if "chosen" in row and "rejected" in row:
        return Answered(*shared_prompt(text_in(row[column], column) for column in ("chosen", "rejected")))
    if "prefix" in row and "suffix" in row:
        return _read_pro(row)
    raise BadRow(f'needs "chosen" and "rejected", or "prefix" and "suffix"; it has {", ".join(row)}')


def _read_pro(row: dict[str, Any]) -> Answered:
    prefixes, answers = _list(row, "prefix", "turns"), _list(row, "suffix", "texts")
    rewards = None if row.get("reward") is None else _list(row, "reward", "numbers")
    if len(answers) < 2:
        raise BadRow(f'{len(answers)} {"text" if len(answers) == 1 else "texts"} in "suffix" where two are needed')
    for column, values in (("prefix", prefixes), ("reward", rewards)):
        if values is not None and len(values) != len(answers):
            raise BadRow(f'{len(answers)} texts in "suffix" but {len(values)} in "{column}"')
    prompts = [_prompt(prefix) for prefix in prefixes]
    answers = [f" {text_in(answer, 'suffix')}" for answer in answers]
    if rewards is not None:
        rewards = numbers_in(rewards, "reward")
    if len(set(prompts)) > 1:
        raise NotADialogue("different prompts")
    return Answered(prompts[0], answers, rewards)


def _list(row: dict[str, Any], column: str, what: str) -> list[Any]:
    value = row[column]
    if not isinstance(value, list):
        raise BadRow(f'"{column}" is not a list of {what}')
    return value


def _prompt(prefix: Any) -> str:
    """Ends with the head of the answer's turn."""
    if not isinstance(prefix, list):
        raise BadRow('"prefix" is to hold lists of turns, one list per answer')
    try:
        turns = from_pro([text_in(turn, "prefix") for turn in prefix])
    except ValueError as error:
        raise BadRow(f'"prefix": {error}') from None
    if not turns or turns[-1] != Turn("assistant", ""):
        raise BadRow(f'"prefix" ends without a bare {TAGS["assistant"]}, where the answer goes')
    return render(turns)


def _ranked(answered: Answered, origin: str) -> Ranked:
    """The better the earlier; of answers that are equal but for white space around them only the first."""
    order = list(range(len(answered.answers)))
    if answered.rewards is not None:
        order.sort(key=lambda at: -answered.rewards[at])
    first: dict[str, int] = {}
    for at in order:
        first.setdefault(answered.answers[at].strip(), at)
    kept = list(first.values())
    return Ranked(origin, answered.prompt, [answered.answers[at] for at in kept],
                  None if answered.rewards is None else [answered.rewards[at] for at in kept])
