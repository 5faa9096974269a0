"""Questions of Stack Exchange with answers ranked by votes, or pairs of a better and a worse answer.

A file holds rows of one kind: questions with their answers (raw, in HTML, or prepared, in Markdown, by
`scripts/prepare_stack_exchange.py`), or pairs with the columns of the hub's stack-exchange-paired (`question`,
`response_j` the better, `response_k` the worse), of which only the order is known.
"""

import hashlib
from pathlib import Path
from typing import Any, Iterator

from apo.data.sources.base import CompletionSource, Ranked, Size, sources, text_at, told
from apo.data.sources.file import checked_path, content_hash, rows_of
from apo.data.stack_exchange import read_question, version
from apo.errors import DataError
from apo.schema import DataConfig

PAIR = ("response_j", "response_k")


@sources.register("stack_exchange")
class StackExchange(CompletionSource):
    """Stack Exchange questions (`data.path`) with their answers, or pairs of them."""

    needs_path = ("questions with answers as JSON lines, made by scripts/prepare_stack_exchange.py, or pairs with "
                  "question, response_j and response_k")

    def __init__(self, data: DataConfig):
        super().__init__(data)
        self.paths = [Path(path).expanduser() for path in ([data.path] if isinstance(data.path, str) else data.path)]

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
        """Over the contents of the files, in order, and what makes Markdown of HTML."""
        parts = [version(), *(content_hash(path) for path in self.paths)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def size(self) -> Size:
        return Size(None, sum(checked_path(path).stat().st_size for path in self.paths))


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
