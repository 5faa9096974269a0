"""Whether a text holds one of a list of words: a judge that cannot be argued with, for words that are known.

Beside a learned scorer, held out from training and from the choice of checkpoints, it shows what that scorer does not
see: a model that swaps the insults its scorer knows for those it does not know gets a better score and no better list.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property

from apo.errors import ConfigError
from apo.scorers.base import Scorer, scorers


@scorers.register("lexicon")
@dataclass
class Lexicon(Scorer):
    """1 for a text with a word of the list, whatever its case, else 0; the mean of many is a share."""

    words: list[str] = field(default_factory=list)
    """Whole words or phrases.  `fool` is not found in "foolish"."""

    def __post_init__(self):
        if not self.words or not all(word.strip() for word in self.words):
            raise ConfigError("scorer lexicon needs words: scorer.words=[idiot,fool]")

    def score(self, texts: list[str]) -> list[float]:
        return [float(self._pattern.search(text) is not None) for text in texts]

    @cached_property
    def _pattern(self) -> re.Pattern:
        longest_first = sorted({word.strip() for word in self.words}, key=len, reverse=True)
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)
