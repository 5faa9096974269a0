"""Questions of Stack Exchange with answers ranked by votes, or pairs of a better and a worse answer.

A file holds rows of one kind: questions with their answers (raw, in HTML, or prepared, in Markdown, by
`scripts/prepare_stack_exchange.py`), or pairs with the columns of the hub's stack-exchange-paired (`question`,
`response_j` the better, `response_k` the worse), of which only the order is known.
"""

import hashlib
from typing import Any, Iterator

from apo.data.sources.base import CompletionSource, Ranked, sources, text_at, told
from apo.data.sources.file import OfFiles, rows_of
from apo.data.stack_exchange import read_question, version
from apo.errors import DataError

PAIR = ("response_j", "response_k")


@sources.register("stack_exchange")
class StackExchange(OfFiles, CompletionSource):
    """Stack Exchange questions (`data.path`) with their answers, or pairs of them."""

    needs_path = ("questions with answers as JSON lines, made by scripts/prepare_stack_exchange.py, or pairs with "
                  "question, response_j and response_k")

    def rankings(self) -> Iterator[Ranked]:
        """Questions with an answer, or pairs, in the order of the files; answers that say nothing are left out."""
        found = False
        for path in self.paths:
            for ranked in told(rows_of(path), _read):
                if ranked.completions:
                    found = True
                    yield ranked
        if not found:
            raise DataError(f"{self}: no question has an answer; there is nothing to train on")

    def fingerprint(self) -> str:
        """Over the contents of the files, and what makes Markdown of HTML."""
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
