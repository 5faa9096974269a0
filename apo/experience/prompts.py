"""What the policy writes behind: every training prompt once, in the tokens that other methods train on.

Of a task of prompts with completions, its prompts; of one that has only text, beginnings of training documents, those
that `apo/sampled.py` continues.  Beside each, what the data have there: the best completion, or how the document goes
on.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from apo.data.store import TokenStore, token_ids
from apo.errors import DataError
from apo.sampled import beginnings, ids_of


@dataclass(slots=True)
class Prompt:
    ids: list[int]
    """The end of text before it among them."""
    text: str
    given: list[int]
    """Tokens of the data's best completion, with its end of text where it has one; none where it does not fit behind
    the prompt."""


@dataclass
class Prompts:
    found: list[Prompt]
    too_long: int
    """Left out, since what is to be written does not fit behind them."""

    def __len__(self) -> int:
        return len(self.found)

    @property
    def mean_length(self) -> float:
        """Tokens."""
        return float(np.mean([len(prompt.ids) for prompt in self.found]))


def prompts_of(corpus: Any, store: TokenStore, tokenizer: Any, end_id: int, *, room: int, new_tokens: int, count: int,
               seed: int) -> Prompts:
    """Args:
        corpus: `apo.data.corpus.Corpus`; its training documents are `store`.
        room: tokens of prompt and completion together, at most.
        new_tokens: that are written at most.
        count: beginnings of a task that has only text.
    Raises DataError where no prompt leaves room.
    """
    every = (_own(corpus, store, end_id, room) if store.of_completions
             else _begun(corpus, tokenizer, count, seed, new_tokens))
    found = [prompt for prompt in every if len(prompt.ids) + new_tokens <= room]
    if not found:
        raise DataError(f"no prompt leaves room for rollout.max_new_tokens={new_tokens} within data.block_size={room} "
                        "tokens: lower the one or raise the other")
    return Prompts(found, len(every) - len(found))


def _own(corpus: Any, store: TokenStore, end_id: int, room: int) -> list[Prompt]:
    texts = {}
    for document in corpus.documents("train"):
        texts.setdefault(document.standing.group, document.texts[0])
    groups, best = np.unique(store.document_groups_D, return_index=True)
    made = []
    for group, document in zip(groups.tolist(), best.tolist()):
        first = store.document_segments_D1[document]
        begin, middle, end = store.segment_starts_S1[first:first + 3]
        fits = 1 + end - begin <= room
        made.append(Prompt([end_id, *store.tokens_N[begin:middle].tolist()], texts[group],
                           store.tokens_N[middle:end].tolist() if fits else []))
    return made


def _begun(corpus: Any, tokenizer: Any, count: int, seed: int, new_tokens: int) -> list[Prompt]:
    made = []
    for each in beginnings(corpus, count, seed):
        rest = token_ids(tokenizer, ["".join(each.rest)])[0]
        given = rest[:new_tokens] if len(rest) >= new_tokens else [*rest, tokenizer.eos_token_id]
        made.append(Prompt(ids_of(tokenizer, each), each.prompt, given))
    return made
