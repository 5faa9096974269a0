"""What scorers that are transformers have in common: text to logits, truncated, in batches, offline in one line.

Texts are cut to what the model can take, whatever its tokenizer says of itself (one without `model_max_length` does not
cut and the model then fails on long text).  On a CPU one text is read at a time unless asked otherwise: the numbers of
a batch depend, in their last digits, on what else is in it, and a score must not.  It costs a factor of two to three at
the size of BERT (20 tokens a text: 8 texts per CPU second alone, 21 in batches of 8; 60 tokens: 5 and 8).

Nothing waits for a network that is not there: what is in the local cache is used as it is, and before the hub is asked
for the rest one short request finds out whether it answers (its own library tries for about twenty seconds).
"""

import hashlib
import re
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, ClassVar

from apo.errors import ScorerError
from apo.lazy import Lazy, torch
from apo.scorers.base import Scorer, file_sha256

hub = Lazy("huggingface_hub")
transformers = Lazy("transformers")
GPU_BATCH = 64
PATIENCE_S = 5
UNLIMITED = 10 ** 6
"""Positions of a model whose config names none."""


@dataclass
class SequenceScorer(Scorer):
    """Base of scorers that are sequence classifiers: a subclass loads one, and turns its logits into numbers."""

    places: ClassVar[tuple[str, ...]] = ("device",)

    batch_size: int | None = None
    """Texts of about equal length read together, faster and equal but for the last digits.  null: 1 on a CPU, 64 on a
    GPU."""
    max_length: int = 512
    """Tokens read of a text, from its beginning; never more than the model has positions for."""
    device: str | None = None
    """null: the GPU where there is one."""

    def load(self) -> tuple[Any, Any]:
        """(model, tokenizer).  Raises ScorerError."""
        raise NotImplementedError

    def numbers(self, logits_NL: Any) -> list[float]:
        """One number per text from its logits over labels."""
        raise NotImplementedError

    def token_ids(self, texts: list[str], tokenizer: Any, longest: int) -> list[list[int]]:
        """What is read of each text, at most `longest` tokens."""
        return tokenizer(texts, truncation=True, max_length=longest)["input_ids"]

    def logits(self, model: Any, inputs: dict[str, Any]) -> Any:
        """[B, labels] of a batch."""
        return model(**inputs).logits

    def score(self, texts: list[str]) -> list[float]:
        return self.numbers(self._logits(texts)) if texts else []

    def code(self) -> dict[str, str]:
        libraries = {name: metadata.version(name) for name in ("transformers", "tokenizers")}
        return {**super().code(), "sequence": file_sha256(__file__), **libraries}

    def __getstate__(self) -> dict[str, Any]:
        """The options: a process that gets a copy loads the weights itself."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _loaded(self) -> tuple[Any, Any]:
        if "_model" not in self.__dict__:
            with quiet():
                model, tokenizer = self.load()
            device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            if model.config.get_text_config().pad_token_id is None:     # decoders read the last token that is none
                model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
            self._model = model.float().eval().to(device), tokenizer
        return self._model

    def _logits(self, texts: list[str]) -> Any:
        """[N, labels], fp32, on the CPU, in the order of the texts."""
        model, tokenizer = self._loaded()
        longest = min(self.max_length, positions(model), tokenizer.model_max_length)
        ids = self.token_ids(list(texts), tokenizer, longest)
        ids = [some or [tokenizer.pad_token_id] for some in ids]        # an empty text, without [CLS] and the like
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        size = self.batch_size or (1 if model.device.type == "cpu" else GPU_BATCH)
        made = [None] * len(ids)
        with torch.no_grad():
            for start in range(0, len(order), size):
                batch = order[start:start + size]
                inputs = padded([ids[i] for i in batch], tokenizer.pad_token_id, model.device)
                for i, logits_L in zip(batch, self.logits(model, inputs).cpu()):
                    made[i] = logits_L
        return torch.stack(made)


def padded(ids: list[list[int]], pad_id: int, device: Any) -> dict[str, Any]:
    """Rows of one length, padded on the right, and what of them is text."""
    longest = max(map(len, ids))
    return {"input_ids": torch.tensor([row + [pad_id] * (longest - len(row)) for row in ids], device=device),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=device)}


def positions(model: Any) -> int:
    """Tokens the model can take.  RoBERTa and its kin count positions from behind their padding index."""
    limit = getattr(model.config, "max_position_embeddings", None) or UNLIMITED
    table = getattr(getattr(getattr(model, "base_model", None), "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return limit if padding is None else limit - padding - 1


def from_hub(who: str, name: str, get: Callable[..., Any]) -> Any:
    """`get(local_files_only=...)`: from a local directory or the cache, and only then from the hub.

    `who` begins the message of the ScorerError, `name` is what is fetched."""
    try:
        return get(local_files_only=True)
    except (OSError, ValueError) as error:
        if Path(name).is_dir():
            raise ScorerError(f"{who}: {name} cannot be loaded: {first_line(error)}") from error
    if hub.constants.HF_HUB_OFFLINE:
        raise ScorerError(f"{who}: {name} is no local directory and not in the cache, and the run is offline")
    if not answers():
        raise ScorerError(f"{who}: {name} is no local directory and not in the cache, and the hub does not answer")
    try:
        return get(local_files_only=False)
    except (OSError, ValueError) as error:
        raise ScorerError(f"{who}: {name} cannot be loaded: {first_line(error)}") from error


def answers() -> bool:
    """Does the hub answer, within seconds?"""
    try:
        hub.utils.get_session().head(hub.constants.ENDPOINT, timeout=PATIENCE_S)
    except Exception:       # whatever a broken network, proxy or certificate raises
        return False
    return True


@contextmanager
def quiet():
    """transformers prints bars and tables while it loads; what is wrong with weights, we say in a line."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def commit(who: str, name: str, revision: str | None) -> str:
    """Of a hub model, whose config is fetched for it unless the revision is one."""
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    try:
        config = from_hub(who, name, lambda **where: hub.hf_hub_download(name, "config.json", revision=revision,
                                                                         **where))
    except hub.errors.HFValidationError as error:
        raise ScorerError(f"{who}: {name} is neither a directory nor a hub name ({first_line(error)})") from error
    return Path(config).parent.name


def contents(folder: str | Path) -> str:
    """sha256 over names and contents of the files of a local model."""
    total = hashlib.sha256()
    for file in sorted(Path(folder).iterdir()):
        if file.is_file() and not file.name.startswith("."):
            total.update(f"{file.name} {file_hash(file)}\n".encode())
    return total.hexdigest()


def file_hash(path: str | Path) -> str:
    """sha256 of a file that may not fit in memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
