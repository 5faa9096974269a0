"""Profanity: the probability by alt-profanity-check, a linear model over words whose weights are in the package.

It needs no download, and that is what it is for.  It sees words, so it sees profanity and open insults and not hate
that is put politely, and it takes an insult it has not met in training for clean (docs/tasks/toxicity.md has numbers).

The library reads its two model files with joblib, that is with pickle, from its own installed package: as trustworthy
as the package's code, which runs anyway.  We read no such file ourselves; their sha256 are in the fingerprint.
"""

import importlib.util
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from apo.errors import ScorerError
from apo.lazy import Lazy
from apo.scorers.base import Scorer, file_sha256, scorers

profanity_check = Lazy("profanity_check")
MODEL_FILES = ("data/model.joblib", "data/vectorizer.joblib")


@scorers.register("profanity_check")
@dataclass
class ProfanityCheck(Scorer):
    """Probability of profanity, 0 to 1.  A call costs 5 ms beside 15 us a text, so texts are best given many at a time:
    a corpus is, since segments are judged without their context."""

    def score(self, texts: list[str]) -> list[float]:
        if not texts:           # the library raises
            return []
        _package()
        return profanity_check.predict_prob(list(texts)).tolist()

    def code(self) -> dict[str, str]:
        """The model, and the versions of what computes with it."""
        folder = _package()
        return {**super().code(), **{file: file_sha256(folder / file) for file in MODEL_FILES},
                **{name: metadata.version(name) for name in ("alt-profanity-check", "scikit-learn")}}


def _package() -> Path:
    """The installed package's folder.  Raises ScorerError where there is none."""
    found = importlib.util.find_spec("profanity_check")
    if found is None:
        raise ScorerError("scorer profanity_check needs a package: pip install alt-profanity-check==1.9.1")
    return Path(found.origin).parent
