"""What a metric of samples is.

    @metrics.register("words")
    @dataclass
    class Words(SampleMetric):
        '''Mean number of words.'''
        longest: bool = False                   # a field is an option: `evaluation.metrics.words.longest=true`

        def __call__(self, samples):
            return {"words": ...}

A metric describes all samples of one scenario together.  Its keys are logged behind `generation/<scenario>/`; which
keys there are depends on the options alone, never on the samples, so that every row of `metrics.jsonl` has them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from apo.registry import Registry

if TYPE_CHECKING:
    from apo.data.records import Sample

metrics = Registry("metric", "apo.metrics")


@dataclass
class SampleMetric:
    """Base class.  Fields of a subclass are its options, checked when the config is composed."""

    name: ClassVar[str] = ""

    def bind(self, corpus: Any) -> "SampleMetric":
        """The metric with what it needs of the training data (`apo.data.corpus.Corpus`; None where there is none).
        Most need nothing."""
        return self

    def __call__(self, samples: "list[Sample]") -> dict[str, float]:
        """Finite numbers by name.  `samples` is not empty."""
        raise NotImplementedError(type(self).__name__)


def scored_text(sample: "Sample") -> str:
    """What the scorer judged: prompt and continuation together where the scenario scores both, else the continuation.

    The evaluation leaves it in `extra["scored_text"]` where it is not the continuation."""
    return sample.extra.get("scored_text", sample.text)
