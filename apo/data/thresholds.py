"""A threshold is a number, or `{percentile: p}` of the training scores; one that leaves nothing is refused."""

import math
from dataclasses import dataclass
from typing import Sequence

import numpy as np

from apo.data.store import TokenStore
from apo.errors import ConfigError, DataError
from apo.schema import DataConfig

Threshold = float | dict[str, float] | None


@dataclass
class ControlTokens:
    """Conditional training: what stands in front of segments."""

    threshold: float
    drop_fraction: float
    aligned_id: int
    misaligned_id: int


@dataclass
class View:
    """What of a store is trained on, and how its documents are set out."""

    eos_id: int
    """Stands before every document."""
    filter_threshold: float | None = None
    """Documents with a mean score above it are left out."""
    control: ControlTokens | None = None
    loss_on_prompts: bool = False
    """Segments without a score are in the loss too."""


def resolve(threshold: Threshold, scores: np.ndarray | None, option: str) -> float | None:
    """A number as it is; `{percentile: p}` becomes the smallest score that at least p % of `scores` do not exceed.

    `scores`: null where they are not known, because the data are streamed.  Raises ConfigError for anything else,
    naming `option`.
    """
    if threshold is None:
        return None
    if isinstance(threshold, dict):
        percentile = threshold.get("percentile")
        if set(threshold) != {"percentile"} or not _is_number(percentile) or not 0 <= percentile <= 100:
            raise ConfigError(f"{option}={threshold}: a percentile is written {{percentile: p}}, p from 0 to 100")
        if scores is None:
            raise ConfigError(f"{option}={threshold}: streamed data have no percentiles, since they are not read "
                              "beforehand; give the number, or data.streaming=false")
        return float(np.percentile(scores, percentile, method="inverted_cdf"))
    if not _is_number(threshold):
        raise ConfigError(f"{option}={threshold}: a threshold is a number or {{percentile: p}}")
    return float(threshold)


def make_view(data: DataConfig, store: TokenStore | None, eos_id: int,
              control_ids: Sequence[int] | None = None) -> View:
    """The view that the data options ask for.

    `store`: the training documents, null for streamed data.  `control_ids`: (aligned, misaligned), needed where
    `conditional_training_config.threshold` is set.  Raises DataError where no document passes the filter, or no
    segment is aligned.
    """
    option = "data.filter_threshold"
    scores_D = None if store is None else store.document_scores_D
    filter_threshold = resolve(data.filter_threshold, scores_D, option)
    _check_leaves_some(scores_D, filter_threshold, option, "training document passes: their mean")
    conditional = data.conditional_training_config
    option = "data.conditional_training_config.threshold"
    scores_S = None if store is None else store.known_scores_S
    threshold = resolve(conditional.threshold, scores_S, option)
    if threshold is None:
        return View(eos_id, filter_threshold, loss_on_prompts=data.loss_on == "all")
    _check_leaves_some(scores_S, threshold, option, "training segment is aligned: their")
    if not 0 <= conditional.drop_token_fraction <= 1:
        raise ConfigError("data.conditional_training_config.drop_token_fraction="
                          f"{conditional.drop_token_fraction}: a fraction lies between 0 and 1")
    return View(eos_id, filter_threshold, ControlTokens(threshold, conditional.drop_token_fraction, *control_ids),
                data.loss_on == "all")


def _check_leaves_some(scores: np.ndarray | None, threshold: float | None, option: str, what: str) -> None:
    if scores is None or threshold is None or (scores <= threshold).any():
        return
    low, middle, high = np.percentile(scores, [0, 50, 100], method="inverted_cdf")
    raise DataError(f"{option}={threshold:g}: no {what} scores lie between {low:.4g} and {high:.4g}. "
                    f"Half of them pass at {middle:.4g}, which is {{percentile: 50}}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
