"""Rewards by rule, for what a model writes after the prompts of synthetic corpora of prompts with completions.

A text is prompt and completion joined.  A text in which no prompt ends has
the lowest reward there is.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from apo.data.sources import stdlib
from apo.data.synthetic import grammar, hh_rule, hh_words, language, signs, stack_exchange, toxicity_words
from apo.scorers.base import Scorer, file_sha256, scorers


@scorers.register("hh_rule")
@dataclass
class HHRule(Scorer):
    """Of a dialogue of `synthetic_hh` with a reply, -2 ... 3: how good the reply is (`apo/data/synthetic/hh_rule.py`).

    The prompt goes up to the last "Assistant:" at the beginning of a paragraph: dialogues have several.  A model that
    goes on with a dialogue of its own is judged by that one's last reply, so let sampling end where it begins to
    (`stop_strings` with "\\n\\nHuman:").  What follows a further "Human:" does not count.
    """

    kind: ClassVar[Literal["score", "reward"]] = "reward"
    reads_prompt: ClassVar[bool] = True

    def score(self, texts: list[str]) -> list[float]:
        return [self._score(*text.rpartition(hh_rule.ASSISTANT)) for text in texts]

    def _score(self, before: str, marker: str, reply: str) -> float:
        return hh_rule.reward(before + marker, reply.partition(hh_rule.HUMAN)[0]) if marker else hh_rule.LOWEST

    def code(self) -> dict[str, str]:
        """The rule and its words."""
        modules = (hh_rule, hh_words, signs, toxicity_words)
        return {**super().code(), **{module.__name__: file_sha256(module.__file__) for module in modules}}


@scorers.register("stack_exchange_rule")
@dataclass
class StackExchangeRule(Scorer):
    """Of a question of `synthetic_stack_exchange` with an answer, -1 ... 5: how near the answer is to the docstring
    (`apo/data/synthetic/stack_exchange.py`).

    The prompt goes up to the first "Answer:" at the beginning of a paragraph, for it has one; a model cannot ask itself
    another question and answer that.  What follows a further "Question:" does not count.
    """

    kind: ClassVar[Literal["score", "reward"]] = "reward"
    reads_prompt: ClassVar[bool] = True

    def score(self, texts: list[str]) -> list[float]:
        return [self._score(*text.partition(stack_exchange.ANSWER)) for text in texts]

    def _score(self, before: str, marker: str, answer: str) -> float:
        if not marker:
            return stack_exchange.LOWEST
        return stack_exchange.reward(before, answer.partition(f"\n\n{stack_exchange.QUESTION}")[0])

    def code(self) -> dict[str, str]:
        """The rule, and the docstrings of the interpreter that runs."""
        modules = (signs, stdlib, stack_exchange)
        return {**super().code(), "docstrings": stack_exchange.fingerprint(),
                **{module.__name__: file_sha256(module.__file__) for module in modules}}


@scorers.register("language_rule")
@dataclass
class LanguageRule(Scorer):
    """Of a question of `synthetic_language` with an answer: 1 if the language has that answer to it, else 0.  An answer
    that was cut off is none."""

    kind: ClassVar[Literal["score", "reward"]] = "reward"
    reads_prompt: ClassVar[bool] = True

    def score(self, texts: list[str]) -> list[float]:
        return [float(language.LANGUAGE.log_prob(text) > -math.inf) for text in texts]

    def code(self) -> dict[str, str]:
        """The rule and its words."""
        return {**super().code(), **{module.__name__: file_sha256(module.__file__) for module in (grammar, language)}}
