"""A training objective on held-out prompts with completions: its loss, its own metrics and, where it compares pairs,
how often it tells the better of two and how sure it is of that.

One function for the evaluations of a run and for `evaluate.py`, so that both say the same of one model.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from apo.metrics import running
from apo.metrics.preference import calibration_curve, pair_accuracy
from apo.models.policy import evaluating
from apo.objectives.base import tell_of_step

if TYPE_CHECKING:
    from apo.data.ranked import RankedRows
    from apo.models.policy import Policy


@dataclass
class Measured:
    metrics: dict[str, float]
    margins_P: np.ndarray | None = None
    """Of pairs, in the order of their documents; None where the objective compares no pairs."""
    prompts_P: np.ndarray | None = None
    """The number of each pair's prompt."""


def measure_items(policy: "Policy", objective: Any, rows: "RankedRows", items_P: np.ndarray, *, batch_size: int,
                  precision: str, confidence: float, bar: Any) -> Measured:
    """Args:
        rows: of the held-out documents, with reference log-probabilities where the objective needs them.
        items_P: numbers of the items to measure on.
        precision: fp32 or bf16.
        confidence: of the interval of the accuracy.
        bar: an object with `advance(items)`.
    """
    total, items, metrics, margins, documents = 0.0, 0, running.Running(), [], []
    autocast = torch.autocast(policy.device.type, torch.bfloat16, enabled=precision == "bf16")
    with evaluating(policy), torch.no_grad(), autocast:
        parts = [rows.batch(rows.items.documents_PN[items_P[start:start + batch_size]])
                 for start in range(0, len(items_P), batch_size)]
        tell_of_step(objective, policy, [batch for batch, _ in parts])
        for batch, documents_RN in parts:
            loss = objective.compute_loss(policy, batch.to(policy.device))
            total, items = total + float(loss.total), items + objective.count_items(batch)
            metrics.add(loss.metrics)
            if loss.margins_R is not None:
                margins.append(loss.margins_R.double().cpu().numpy())
                documents.append(documents_RN)
            bar.advance(len(batch))
    measured = Measured({"loss": total / items} | metrics.read())
    if margins:
        documents_P2, margins_P = np.concatenate(documents), np.concatenate(margins)
        order_P = np.lexsort(documents_P2.T[::-1])
        measured.margins_P = margins_P[order_P]
        measured.prompts_P = rows.store.document_groups_D[documents_P2[order_P, 0]]
        measured.metrics |= of_pairs(measured.margins_P, measured.prompts_P, confidence)
    return measured


def of_pairs(margins_P: np.ndarray, prompts_P: np.ndarray, confidence: float) -> dict[str, float]:
    accuracy = pair_accuracy(margins_P, prompts_P, confidence)
    return {"accuracy": accuracy.mean, "accuracy/low": accuracy.low, "accuracy/high": accuracy.high,
            "calibration_error": calibration_curve(margins_P).expected_error,
            "pairs": len(margins_P), "prompts": len(np.unique(prompts_P))}
