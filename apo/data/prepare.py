"""From the data options to a scored corpus, read as a whole or streamed."""

from apo.cache import Cache
from apo.data.corpus import Corpus, prepare_corpus
from apo.data.scoring import SegmentScorer
from apo.data.streaming import StreamedCorpus, prepare_stream
from apo.errors import ConfigError
from apo.schema import DataConfig


def prepare(data: DataConfig, scorer: SegmentScorer | None, cache: Cache) -> Corpus | StreamedCorpus:
    """The scored corpus of the data options, from the cache or built now.

    Raises DataError for data that cannot be used, ScorerError for scores that are not numbers.
    """
    if not 0 <= data.eval_fraction < 1:
        raise ConfigError(f"data.eval_fraction={data.eval_fraction} must be at least 0 and less than 1")
    return (prepare_stream if data.streaming else prepare_corpus)(data, scorer, cache)
