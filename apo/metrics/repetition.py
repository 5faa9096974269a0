"""Whether samples repeat themselves: n-grams within a sample, and samples that end in a loop.

Self-BLEU says whether samples are like each other; this is about each alone.  Words are what white space separates (as
for every metric of diversity here; the papers count their models' tokens), so a loop of lines of code is one too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apo.errors import ConfigError
from apo.metrics.base import SampleMetric, metrics
from apo.metrics.diversity import distinct_shares, ngrams, tokenise

if TYPE_CHECKING:
    from apo.data.records import Sample


@metrics.register("repetition")
@dataclass
class Repetition(SampleMetric):
    """`seq-rep-<n>`: mean over samples of 1 - unique n-grams / n-grams (Welleck et al. 2020, equation 10; samples
    shorter than n words are left out, 0 where none is as long).

    `loops`: share of samples that end in a phrase of `loop_words` words or more, `loop_times` times in a row (after
    Holtzman et al. 2020, section 5; their script asks for twice with three tokens or more, or more than 50 times with
    one or two, at 200 tokens a sample).  A single word in a loop is a phrase of two words half as often."""

    ns: list[int] = field(default_factory=lambda: [4])
    loop_words: int = 2
    loop_times: int = 3

    def __post_init__(self):
        for name, least in (("loop_words", 1), ("loop_times", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: expected {least} or more, not "
                                  f"{getattr(self, name)}")

    def __call__(self, samples: list[Sample]) -> dict[str, float]:
        texts = [sample.text for sample in samples]
        words, numbers = tokenise(texts), {}
        for n in self.ns:
            shares = distinct_shares(ngrams(words, n))
            numbers[f"seq-rep-{n}"] = float(1 - shares.mean()) if len(shares) else 0.0
        loops = sum(ends_in_loop(text.split(), self.loop_words, self.loop_times) for text in texts)
        return {**numbers, "loops": loops / len(texts)}


def ends_in_loop(words: list[str], least: int, times: int) -> bool:
    """Whether the last words are a phrase of `least` words or more, `times` times in a row."""
    for length in range(least, len(words) // times + 1):
        if words[-1] == words[-1 - length] and words[-times * length:] == words[-length:] * times:
            return True
    return False
