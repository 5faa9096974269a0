"""What the policy said of every completion as its stage began: computed once, kept on disk, shared by all that ask.

The reference of a preference method is the policy before its first step, and the completions are fixed.  So nothing
but one number per completion is needed of it: no second model, no adapters to switch off, and what one method or seed
has computed the next one finds.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from apo.cache import Cache
from apo.console import progress
from apo.errors import ModelError
from apo.models.adapters import OURS
from apo.rollouts.generate import evaluating

if TYPE_CHECKING:
    from apo.data.ranked import RankedRows
    from apo.models.policy import Policy

FILE, FORMAT = "logps.npy", 2
"""Of what is cached; counted up when its shape changes."""
SCALING = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
"""Of an adapter's options, those that change what its weights do."""
PASSING = ("_name_or_path", "transformers_version", "dtype", "use_cache")
"""Of a model's config: where it lies and how it is used, not what it computes."""


def weights_digest(policy: "Policy") -> str:
    """sha256 over the model's config and names, types, shapes and bytes of its weights: what it computes.  An adapter
    that nothing has trained yet computes nothing; of another, how its weights are scaled is not among them."""
    config = {key: value for key, value in policy.model.config.to_dict().items() if key not in PASSING}
    idle = policy.adapter_is_new
    if not idle:
        config["adapter"] = {name: getattr(policy.model.peft_config[OURS], name) for name in SCALING}
    total = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(policy.model.state_dict().items()):
        if idle and ".lora_" in name:
            continue
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def reference_logps(policy: "Policy", rows: "RankedRows", key: dict, cache: Cache, precision: str,
                    batch_size: int) -> np.ndarray:
    """float64: summed log p of each completion of `rows.documents()`, NaN where there is none.

    Args:
        key: what decides store and rows, and the policy's weights (corpus, split, tokenizer, weights).
        precision: fp32 or bf16, that of training.
        batch_size: rows at once; changes no number by more than rounding.
    Raises ModelError for a log-probability that is no number.
    """

    def build(folder: Path) -> None:
        np.save(folder / FILE, _computed(policy, rows, precision, batch_size))

    key = {**key, "format": FORMAT, "shape": rows.documents().shape, "precision": precision,
           "device": policy.device.type, "max_length": rows.max_length,
           "end": rows.end_id, "documents": hashlib.sha256(rows.documents().tobytes()).hexdigest()}
    return np.load(cache.get("reference", key, build) / FILE)


@torch.no_grad()
def _computed(policy: "Policy", rows: "RankedRows", precision: str, batch_size: int) -> np.ndarray:
    documents_QN = rows.documents()
    longest = np.argsort(rows.completion_lengths_D[documents_QN].sum(1) + rows.prompt_lengths_D[documents_QN[:, 0]])
    place = {int(first): row for row, first in enumerate(documents_QN[:, 0])}
    logps_QN = np.full(documents_QN.shape, np.nan)
    autocast = torch.autocast(policy.device.type, torch.bfloat16, enabled=precision == "bf16")
    with evaluating(policy), autocast, progress("reference log-probabilities", len(documents_QN)) as bar:
        for start in range(0, len(documents_QN), batch_size):
            batch, documents_RN = rows.batch(documents_QN[longest[start:start + batch_size]])
            logps_RN = policy.completion_stats(batch.to(policy.device)).logps_RN.cpu().double().numpy()
            logps_QN[[place[int(first)] for first in documents_RN[:, 0]]] = logps_RN
            bar.advance(len(batch))
    present_QN = documents_QN >= 0
    if not np.isfinite(logps_QN[present_QN]).all():
        raise ModelError("the reference gives a completion a log-probability that is no number")
    return np.where(present_QN, logps_QN, np.nan)
