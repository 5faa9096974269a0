"""Questions of Stack Exchange with answers ranked by votes, or pairs of a better and a worse answer.

A file holds rows of one kind: questions with their answers (raw, in HTML, or prepared, in Markdown, by
`scripts/prepare_stack_exchange.py`), or pairs with the columns of the hub's `lvwerra/stack-exchange-paired`
(`question`, `response_j` the better, `response_k` the worse), of which only the order is known.  That dataset has a
folder for each stage, `data/finetune`, `data/reward`, `data/rl` and `data/evaluation`, which is named behind its name.
"""

import hashlib
from typing import Any, Iterator

from apo.data.sources.base import CompletionSource, Ranked, sources, text_at, told
from apo.data.sources.hub import FilesOrHub
from apo.data.stack_exchange import read_question, version
from apo.errors import DataError

PAIR = ("response_j", "response_k")


@sources.register("stack_exchange")
class StackExchange(FilesOrHub, CompletionSource):
    """Stack Exchange questions (`data.path`) with their answers, or pairs of them."""

    needs_path = ("questions with answers as JSON lines, made by scripts/prepare_stack_exchange.py, or pairs with "
                  "question, response_j and response_k, such as lvwerra/stack-exchange-paired/data/rl")

    def rankings(self) -> Iterator[Ranked]:
        """Questions with an answer, or pairs, in the order of the files; answers that say nothing are left out."""
        found = False
        for name in self.names:
            for ranked in told(self.rows_in(name), _read):
                if ranked.completions:
                    found = True
                    yield ranked
        if not found:
            raise DataError(f"{self}: no question has an answer; there is nothing to train on")

    def fingerprint(self) -> str:
        """As of any files or hub datasets, and what makes Markdown of HTML."""
        return hashlib.sha256(f"{version()}\n{super().fingerprint()}".encode()).hexdigest()


def _read(row: dict[str, Any], origin: str) -> Ranked:
    """Raises BadRow."""
    if set(PAIR) & set(row):
        question, *answers = (text_at(row, column).strip() for column in ("question", *PAIR))
        return Ranked(origin, prompt(question), [f" {answer}" for answer in answers] if all(answers) else [])
    question = read_question(row, site="")
    ranked = question.ranked()
    return Ranked(origin, prompt(question.text), [f" {answer.text}" for answer in ranked],
                  [float(answer.score) for answer in ranked])


def prompt(question: str) -> str:
    """StackLLaMA's, with the space behind "Answer:" left to the answer."""
    return f"Question: {question}\n\nAnswer:"
