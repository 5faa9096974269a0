"""How lm-eval asks a model trained here: with what the model saw in front of every document.

lm-eval's own wrapper of a transformers model puts nothing before a context, and end of text before an empty one.  A
model trained here has never seen text without end of text before it, and one of conditional training hardly ever
without a control token: asked plainly, it would be measured on what it does not know, and methods would differ in how
strange the question is to them.  So every context begins as a scenario's prompt does (`apo.evaluation.Template`): end
of text, the control token, the text, and where lines were segments the token before every line of the context.
Continuations are scored as they are: no control token inside, and none of its probability counted.

`AsTrained` is mixed into lm-eval's `HFLM` (in `apo.report.capability`), so that this module needs no lm-eval.
"""

from typing import Any

from apo.errors import EvaluationError
from apo.evaluation import Template


class AsTrained:
    """Overrides what turns text into tokens.  `template` and `banned_ids` (never generated) are set by who makes it."""

    template: Template
    banned_ids: list[int]
    tokenizer: Any
    max_length: int
    """Tokens the model may see at once."""

    def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log p of the continuation, whether it is the greedy one) for every (context, continuation)."""
        encoded = [((context, continuation), *self.pair(context, continuation))
                   for context, continuation in (request.args for request in requests)]
        return self._loglikelihood_tokens(encoded, disable_tqdm=disable_tqdm)

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of both.  lm-eval's rule for the seam: white space that ends the context belongs to the continuation,
        and both are tokenised together; lines before the last are segments of their own where they were in training."""
        done, open_line = self.complete_lines(context)
        kept = open_line.rstrip()
        together = self.plain(open_line + continuation)
        before = len(self.plain(kept))
        return self.fitting(self.template.ids(done) + together[:before], together[before:])

    def complete_lines(self, context: str) -> tuple[str, str]:
        """Of a context: what the template writes line by line, and what may still be continued."""
        cut = context.rfind("\n") + 1 if self.template.by_line else 0
        return context[:cut], context[cut:]

    def fitting(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """A context too long loses its beginning, but for the tokens that every document begins with."""
        start = self.template.ids("")
        room = self.max_length + 1 - len(start) - len(continuation)
        if room < 0:
            raise EvaluationError(f"a continuation of {len(continuation)} tokens does not fit the {self.max_length} "
                                  "that the model may see: capability.max_length=")
        rest = context[len(start):]
        return start + rest[max(len(rest) - room, 0):], continuation

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
        """log p of whole texts, each behind the tokens that a document begins with; one longer than the model may see
        is cut into windows, each after the first behind the last token of the one before (lm-eval's rule)."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
        start, owners, windows = self.template.ids(""), [], []
        for number, (text,) in enumerate(request.args for request in requests):
            parts = [make_disjoint_window(each) for each in get_rolling_token_windows(
                token_list=self.plain(text), prefix_token=start[-1], max_seq_len=self.max_length - len(start) + 1,
                context_len=1)]
            for place, (context, scored) in enumerate(parts):
                windows.append((None, (start[:-1] if place == 0 else []) + list(context), list(scored)))
                owners.append(number)
        found = self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm) if windows else []
        totals = [0.0] * len(requests)
        for number, (logp, _) in zip(owners, found):
            totals[number] += logp
        return totals

    def tok_batch_encode(self, strings: list[str], padding_side: str = "left", left_truncate_len: int | None = None,
                         truncation: bool = False):
        """(ids, attention mask), [B, T] each, of contexts to be continued."""
        import torch
        start, rows = self.template.ids(""), []
        for text in strings:
            rest = self.template.ids(text)[len(start):]
            room = len(rest) if left_truncate_len is None else left_truncate_len - len(start)
            rows.append(start + rest[max(len(rest) - room, 0):])
        length = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = [[pad] * (length - len(row)) + row for row in rows]
        seen = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor(ids), torch.tensor(seen)

    def _model_generate(self, context, max_length: int, stop: list[str], **options):
        if self.banned_ids:
            options["suppress_tokens"] = self.banned_ids
        return super()._model_generate(context, max_length, stop, **options)

    def plain(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
