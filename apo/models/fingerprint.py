"""What a model is, by the files it is made of: results that are kept say which model they are of."""

import hashlib
from pathlib import Path
from typing import Iterable

from apo.errors import ModelError

WEIGHTS = ("*.safetensors", "*.bin", "config.json", "tokenizer.json", "adapter_config.json", "adapter_base.json")


def model_fingerprint(model: str, revision: str | None = None) -> str:
    """sha256 of the files that make the model; for a hub model its commit, as far as it is known without network.

    Raises ModelError for what can be neither."""
    if Path(model).is_dir():
        return file_digest(path for pattern in WEIGHTS for path in sorted(Path(model).glob(pattern)))
    from huggingface_hub import errors, try_to_load_from_cache
    try:
        cached = try_to_load_from_cache(model, "config.json", revision=revision)
    except errors.HFValidationError:
        raise ModelError(f"{model} is neither a directory nor the name of a model of the hub") from None
    return f"{model}@{Path(cached).parent.name if isinstance(cached, str) else revision or 'main'}"


def file_digest(paths: Iterable[Path]) -> str:
    """Over names and contents.  Raises ModelError for a file that cannot be read."""
    total = hashlib.sha256()
    for path in paths:
        try:
            total.update(path.name.encode())
            with open(path, "rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as problem:
            raise ModelError(f"{path} cannot be read: {problem.strerror}") from None
    return total.hexdigest()
