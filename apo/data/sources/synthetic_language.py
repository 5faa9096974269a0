"""Questions with one answer each, drawn from a language whose conditional entropy is known exactly
(`apo/data/synthetic/language.py`).

Data that are nothing but samples of their distribution: what a method that imitates them is aiming at, and how far it
is from that, can be told to the nat (`callbacks.kl.reference=generator`).
"""

import hashlib
from pathlib import Path
from typing import Iterator

from apo.data.sources.base import CompletionSource, Ranked, sources
from apo.data.synthetic import grammar, language
from apo.data.synthetic.language import LANGUAGE, Language
from apo.errors import ConfigError
from apo.schema import DataConfig
from apo.seeds import stream


@sources.register("synthetic_language")
class SyntheticLanguage(CompletionSource):
    """Questions from a seed (`data.synthetic`), with one answer each, of reward 1."""

    def __init__(self, data: DataConfig):
        super().__init__(data)
        if data.path:
            raise ConfigError(f"synthetic_language makes its own text; to read {self} name the source that reads it "
                              "(data.source)")

    def rankings(self) -> Iterator[Ranked]:
        """Question i depends on seed and i alone."""
        seed = self.data.synthetic.seed
        for i in range(self.data.synthetic.num_documents):
            made = LANGUAGE.draw(stream(seed, "synthetic_language", i), i).document
            yield Ranked(made.origin, made.texts[0], [made.texts[1]], [1.0])

    @property
    def generator(self) -> Language:
        return LANGUAGE

    def fingerprint(self) -> str:
        """Over seed and number of questions and the code and words that make them."""
        total = hashlib.sha256(f"{self.data.synthetic}\n".encode())
        for file in (grammar.__file__, language.__file__, __file__):
            total.update(Path(file).read_bytes())
        return total.hexdigest()
