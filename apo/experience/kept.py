"""A round on disk: written whole before its first minibatch is served, and read again by a run that goes on inside it.

`round-000012.safetensors` holds all that training needs, `round-000012.jsonl` what a person reads: prompt, text, reward
and its parts.  The numbers are kept for as long as a checkpoint may ask for them, the samples for good.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from apo.disk import write_atomic
from apo.errors import RunError

NAME = "round-{:06d}"


@dataclass
class Kept:
    """C completions, P rows of N completions, T columns."""

    key: str
    """What the round was made from; another key is another round."""
    prompt_ids: list[list[int]]
    """Of every prompt of the round."""
    completion_ids: list[list[int]]
    prompts_C: np.ndarray
    """int64: the prompt of each completion, a place in `prompt_ids`."""
    scores_C: np.ndarray
    """float64: rewards."""
    rows_PN: np.ndarray
    tokens: dict[str, torch.Tensor]
    """[C, T] fp32 by the name they have in a batch (`old_logps`, `advantages`, ...)."""
    ref_logps_C: torch.Tensor | None
    state: dict[str, Any]
    """What the objective carries into the next round."""
    metrics: dict[str, list] = field(default_factory=dict)
    """State of `apo.metrics.running.Running`."""
    made_by: str = ""
    """The objective whose lesson it is; "" of rounds written before that was kept."""

    def save(self, folder: Path, number: int, samples: list[dict[str, Any]]) -> None:
        tensors = {f"tokens.{name}": tensor.contiguous() for name, tensor in self.tokens.items()}
        for name, lists in (("prompts", self.prompt_ids), ("completions", self.completion_ids)):
            tensors[f"{name}.ids"] = torch.tensor([token for ids in lists for token in ids], dtype=torch.int32)
            tensors[f"{name}.lengths"] = torch.tensor([len(ids) for ids in lists])
        tensors |= {"prompts_C": torch.from_numpy(self.prompts_C), "scores_C": torch.from_numpy(self.scores_C),
                    "rows_PN": torch.from_numpy(self.rows_PN)}
        if self.ref_logps_C is not None:
            tensors["ref_logps_C"] = self.ref_logps_C
        described = {"key": self.key, "state": json.dumps(self.state), "metrics": json.dumps(self.metrics),
                     "made_by": self.made_by}
        name = NAME.format(number)
        write_atomic(folder / f"{name}.jsonl",
                     "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples))
        write_atomic(folder / f"{name}.safetensors", save(tensors, described))


def load(folder: Path, number: int) -> Kept | None:
    """None where there is no such round.  Raises RunError for a damaged one."""
    path = folder / f"{NAME.format(number)}.safetensors"
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            described, found = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
        prompt_ids, completion_ids = (_lists(found[f"{name}.ids"], found[f"{name}.lengths"])
                                      for name in ("prompts", "completions"))
        tokens = {name.removeprefix("tokens."): tensor for name, tensor in found.items() if name.startswith("tokens.")}
        return Kept(described["key"], prompt_ids, completion_ids, found["prompts_C"].numpy(), found["scores_C"].numpy(),
                    found["rows_PN"].numpy(), tokens, found.get("ref_logps_C"), json.loads(described["state"]),
                    json.loads(described["metrics"]), described.get("made_by", ""))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}), and a run that goes on inside this round cannot do without it; "
                       "begin it anew with force=true") from None


def newest(folder: Path) -> int | None:
    """The last round whose numbers are kept."""
    return max(_numbers(folder), default=None)


def forget(folder: Path, before: int) -> None:
    """The numbers of earlier rounds; samples stay."""
    for number, path in _numbers(folder).items():
        if number < before:
            path.unlink()


def _numbers(folder: Path) -> dict[int, Path]:
    """The files of all rounds whose numbers are kept."""
    paths = folder.glob(NAME.format(0).replace("000000", "*") + ".safetensors")
    return {int(path.stem.rpartition("-")[2]): path for path in paths}


def _lists(flat: torch.Tensor, lengths: torch.Tensor) -> list[list[int]]:
    return [part.tolist() for part in flat.split(lengths.tolist())]
