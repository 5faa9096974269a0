"""The files of a model: where they lie, which of them hold its weights, and what is in those.

Weights that transformers has no class for are read here, and every pickle is: as tensors and plain values, never as
what a pickle may do.
"""

import json
from pathlib import Path
from typing import Any

from apo.errors import ModelError
from apo.lazy import Lazy, torch

hub = Lazy("huggingface_hub")
safetensors = Lazy("safetensors.torch")
BESIDE_WEIGHTS = ["*.json", "*.model", "*.txt", "*.jinja"]
PLACES = (("model.safetensors.index.json", "model.safetensors"), ("pytorch_model.bin.index.json", "pytorch_model.bin"))
"""(index, single file), the first pair that is there."""


def model_place(name: str) -> str:
    """`name`, or `name/final` where it is the directory of a run."""
    final = Path(name) / "final"
    return str(final) if is_model(final) else name


def is_model(path: Path) -> bool:
    """A directory with weights of its own, or with an adapter that names its base."""
    return any((path / file).is_file() for file in ("config.json", "adapter_config.json"))


def snapshot(name: str, revision: str | None = None, local_files_only: bool = False) -> Path:
    """The folder of a hub model, all that is needed of it in it: weights as safetensors if it has them, else as .bin.

    Raises OSError where files are missing, which `local_files_only` does not do by itself: a folder of the cache may
    hold the config alone."""
    def get(*patterns: str) -> Path:
        return Path(hub.snapshot_download(name, revision=revision, local_files_only=local_files_only,
                                          allow_patterns=[*BESIDE_WEIGHTS, *patterns], ignore_patterns=["*/*"]))
    folder = get("*.safetensors")
    if not any(folder.glob("*.safetensors")):
        folder = get("pytorch_model*.bin")
    weight_files(folder)
    return folder


def weight_files(folder: Path) -> list[Path]:
    """Raises FileNotFoundError where there are none, or not all that the index names."""
    for index, single in PLACES:
        if (folder / index).is_file():
            content = json.loads((folder / index).read_text(encoding="utf-8"))
            files = [folder / Path(file).name for file in sorted(set(content["weight_map"].values()))]
        else:
            files = [folder / single] if (folder / single).is_file() else []
        if missing := [file.name for file in files if not file.is_file()]:
            raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}, which its {index} names")
        if files:
            return files
    raise FileNotFoundError(f"{folder} has no weights: neither {PLACES[0][1]} nor {PLACES[1][1]}")


def read_weights(folder: Path) -> dict[str, Any]:
    """All tensors of a model directory, on the CPU.  Raises ModelError."""
    try:
        files, state = weight_files(folder), {}
        for file in files:
            state.update(safetensors.load_file(file) if file.suffix == ".safetensors" else read_pickle(file))
    except Exception as error:      # of many classes; a pickle that holds more than weights is one of them
        raise ModelError(f"{folder} cannot be read as weights: {_first_line(error)}") from error
    return state


def read_pickle(file: Path) -> Any:
    """What torch has saved, as far as it is tensors and plain values."""
    return torch.load(file, map_location="cpu", weights_only=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
