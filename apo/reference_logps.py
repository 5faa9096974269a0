"""What the policy said of every completion as its stage began: computed once, kept on disk, shared by all that ask.

The reference of a preference method is the policy before its first step, and the completions are fixed.  So nothing
but one number per completion, or per token, is needed of it: no second model, no adapters to switch off, and what one
method or seed has computed the next one finds.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Callable

import numpy as np
import torch

from apo.cache import Cache
from apo.console import progress
from apo.errors import ModelError
from apo.models.adapters import OURS
from apo.models.policy import evaluating

if TYPE_CHECKING:
    from apo.data.completions import CompletionBatch
    from apo.data.ranked import RankedRows
    from apo.data.scored import ScoredRows
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
        documents_QN = rows.documents()
        place = {int(first): row for row, first in enumerate(documents_QN[:, 0])}
        logps_QN = np.full(documents_QN.shape, np.nan)

        def ask(batch: "CompletionBatch", documents_RN: np.ndarray) -> None:
            logps_RN = policy.completion_stats(batch).logps_RN.cpu().double().numpy()
            logps_QN[[place[int(first)] for first in documents_RN[:, 0]]] = logps_RN

        _each(policy, rows, precision, batch_size, ask)
        np.save(folder / FILE, np.where(documents_QN >= 0, _numbers(logps_QN, documents_QN >= 0), np.nan))

    return np.load(cache.get("reference", _key(policy, rows, key, precision), build) / FILE)


def reference_token_logps(policy: "Policy", rows: "ScoredRows", key: dict, cache: Cache, precision: str,
                          batch_size: int) -> np.ndarray:
    """float32: log p of each token of `rows.documents()` on its place in the store, NaN elsewhere; arguments as for
    `reference_logps`."""

    def build(folder: Path) -> None:
        logps_N = np.full(rows.store.num_tokens, np.nan, np.float32)

        def ask(batch: "CompletionBatch", documents_RN: np.ndarray) -> None:
            # A row each, as training has them: in bf16 a shared prompt is rounded otherwise, and the ratio of the first
            # step would not be 1.
            batch, documents_RN = batch.unshared(), documents_RN.reshape(-1, 1)
            logps_RT = policy.completion_tokens(batch).logps_BT.cpu().numpy()
            rows.token_logps(batch.to("cpu"), documents_RN, logps_RT, into_N=logps_N)

        _each(policy, rows, precision, batch_size, ask)
        np.save(folder / FILE, _numbers(logps_N, rows.asked_N()))

    key = {**_key(policy, rows, key, precision), "each": "token, a row each"}
    return np.load(cache.get("reference", key, build) / FILE)


def _key(policy: "Policy", rows: "RankedRows", key: dict, precision: str) -> dict:
    return {**key, "format": FORMAT, "shape": rows.documents().shape, "precision": precision,
            "device": policy.device.type, "max_length": rows.max_length,
            "end": rows.end_id, "documents": hashlib.sha256(rows.documents().tobytes()).hexdigest()}


@torch.no_grad()
def _each(policy: "Policy", rows: "RankedRows", precision: str, batch_size: int,
          ask: "Callable[[CompletionBatch, np.ndarray], None]") -> None:
    """`ask(batch, documents)` for all of `rows.documents()`, rows of like length together, where the policy is."""
    documents_QN = rows.documents()
    longest = np.argsort(rows.completion_lengths_D[documents_QN].sum(1) + rows.prompt_lengths_D[documents_QN[:, 0]])
    autocast = torch.autocast(policy.device.type, torch.bfloat16, enabled=precision == "bf16")
    with evaluating(policy), autocast, progress("reference log-probabilities", len(documents_QN)) as bar:
        for start in range(0, len(documents_QN), batch_size):
            batch, documents_RN = rows.batch(documents_QN[longest[start:start + batch_size]])
            ask(batch.to(policy.device), documents_RN)
            bar.advance(len(batch))


def _numbers(logps: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Raises ModelError where a log-probability that was asked for is none."""
    if not np.isfinite(logps[present]).all():
        raise ModelError("the reference gives a completion a log-probability that is no number")
    return logps
