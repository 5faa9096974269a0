"""For samples that are Python: whether they parse, and what their style score is made of.

A weak model's violations come mostly from not knowing Python.  Both metrics are there to tell that from style.
"""

import ast
import codeop
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apo.errors import EvaluationError
from apo.metrics.base import SampleMetric, metrics, scored_text

if TYPE_CHECKING:
    from apo.data.records import Sample

CLASSES = ("E1", "E2", "E3", "E4", "E5", "E7", "E9", "W1", "W2", "W3", "W6")
"""pycodestyle's classes: indentation, white space, blank lines, imports, line length, statements, syntax; and, as
warnings, tabs, trailing white space, blank lines at the end, deprecated features.  (W5, line breaks at operators, is
off by default and counted under `other`, as is what a user's scorer calls otherwise.)"""
NOT_PYTHON = ("E9", "E112", "E113")
"""Codes that mean the text is not Python, whatever its style: it does not tokenize, a block is missing, or indented
without reason."""
NOT_STYLE = ("E1", "E9", "W292", "W391")
"""Codes left out of `style`: indentation, which a weak model gets wrong because it has lost the block it is in (E112
and E113 among them); text that does not tokenize; and the end of the text, which is where sampling stopped: no newline
(what a sample cut at the token limit mostly has), or blank lines."""


@metrics.register("parses")
@dataclass
class Parses(SampleMetric):
    """`parses`: share of samples that are a whole Python program.  `parses_prefix`: share of those and of samples that
    are the beginning of one.

    A sample cut at `max_new_tokens` hardly ever parses to its end, so `parses` says as much about the limit as about
    the model.  For `parses_prefix` the last, unfinished line is dropped and the rest may stop where more would have to
    follow: in an open bracket or string, after a colon.  It is the kinder of the two: an empty text and comments pass,
    and so does a string that is never closed.  Judged is what the scorer judged, with the prompt where that counts.
    """

    def __call__(self, samples: "list[Sample]") -> dict[str, float]:
        texts = [scored_text(sample) for sample in samples]
        whole = [parses(text) for text in texts]
        prefix = [is_whole or begins_program(text) for is_whole, text in zip(whole, texts)]
        return {"parses": sum(whole) / len(texts), "parses_prefix": sum(prefix) / len(texts)}


def parses(text: str) -> bool:
    return _syntax_error(text, ast.PyCF_ONLY_AST) is None


def begins_program(text: str) -> bool:
    """Whether the complete lines of `text` parse, or fail only because they end."""
    complete = text[:text.rfind("\n") + 1]
    flags = ast.PyCF_ONLY_AST | codeop.PyCF_ALLOW_INCOMPLETE_INPUT
    problem = _syntax_error(complete, flags)
    return problem is None or problem == "incomplete input"


def _syntax_error(text: str, flags: int) -> str | None:
    """The parser's complaint, or None.  Null bytes, lone surrogates and too deep nesting are complaints too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(text, "<sample>", "exec", flags, dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return getattr(error, "msg", None) or type(error).__name__
    return None


@metrics.register("by_code")
@dataclass
class ByCode(SampleMetric):
    """`by_code/<class>`: mean violations per character by class of pycodestyle's codes; they add up to the mean score.

    Two more lie across the classes.  `by_code/not_python`: the part (of E1 and E9) that no change of style could mend.
    `by_code/style`: the part that a control of style can act on, every code but those that begin with E1, E9, W292 or
    W391; so score = style + E1 + E9 + W292 + W391.  A cut may still leave one violation in it (W291, E225 on the last
    line)."""

    def __call__(self, samples: "list[Sample]") -> dict[str, float]:
        """Raises EvaluationError where the evaluation has no explanation of the scores."""
        if any("explain" not in sample.extra for sample in samples):
            raise EvaluationError('the metric "by_code" needs a scorer that explains its scores by code, such as pep8; '
                                  "with another scorer switch it off: evaluation.metrics.by_code=null")
        every = [by_code(sample.extra["explain"]) for sample in samples]
        return {name: sum(parts[name] for parts in every) / len(every) for name in every[0]}


def by_code(explanation: dict[str, float]) -> dict[str, float]:
    """One sample's parts, under the keys of the metric, which is their mean."""
    parts: Counter[str] = Counter()
    for code, value in explanation.items():
        parts[code[:2] if code[:2] in CLASSES else "other"] += value
        parts["not_python"] += value if code.startswith(NOT_PYTHON) else 0.0
        parts["style"] += value if not code.startswith(NOT_STYLE) else 0.0
    return {f"by_code/{name}": float(parts[name]) for name in (*CLASSES, "other", "not_python", "style")}
