"""The data card: what a scored corpus is like, in numbers that are functions of it alone.

Quantiles are exact at any size: every number is appended to a scratch file, which is sorted on disk (a memory map), so
that memory does not grow with the corpus.
"""

from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Any, Iterable

import numpy as np

from apo.data.records import ScoredText

PERCENTS = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)
AT_ONCE = 65_536
"""Numbers held in memory before they are appended."""
DECADES = 8
"""Rows of a histogram on a logarithmic scale, below which what is smaller is one row."""
WIDTH = 40
"""Characters of the longest bar."""
MEASURED = ("document_scores", "segment_scores", "document_characters", "document_segments", "segment_characters")


class Column:
    """Numbers in a file: appended, and in the end sorted."""

    def __init__(self, path: Path):
        self.path, self.pending = path, array("d")
        path.write_bytes(b"")

    def add(self, numbers: Iterable[float]) -> None:
        self.pending.extend(numbers)
        if len(self.pending) >= AT_ONCE:
            self._append()

    def sorted(self) -> np.ndarray:
        self._append()
        if not self.path.stat().st_size:
            return np.empty(0)
        numbers_N = np.memmap(self.path, np.float64, "r+")
        numbers_N.sort()
        return numbers_N

    def _append(self) -> None:
        with open(self.path, "ab") as file:
            self.pending.tofile(file)
        self.pending = array("d")


class Statistics:
    def __init__(self, folder: Path):
        self.columns = {name: Column(folder / f"{name}.f64") for name in MEASURED}
        self.counts = {"documents": 0, "segments": 0, "characters": 0, "rejected": 0}

    def add(self, document: ScoredText) -> None:
        lengths = list(map(len, document.texts))
        for name, count in (("documents", 1), ("segments", len(lengths)), ("characters", sum(lengths))):
            self.counts[name] += count
        rows = ([document.avg_score], document.scores, [sum(lengths)], [len(lengths)], lengths)
        for column, numbers in zip(self.columns.values(), rows):
            column.add(numbers)

    def card(self) -> dict[str, Any]:
        """Everything the card says, for `json`."""
        made = {}
        for name, column in self.columns.items():
            numbers_N = column.sorted()
            made[name] = {"quantiles": quantiles(numbers_N)}
            if name.endswith("_scores"):
                made[name] |= {"share_zero": share_of_zero(numbers_N), "histogram": histogram(numbers_N)}
        return {"counts": self.counts, **made, "thresholds": thresholds(made)}


def quantiles(sorted_N: np.ndarray) -> dict[str, float]:
    """Percent -> the smallest number that at least so many percent do not exceed, as `{percentile: p}` means it."""
    size = len(sorted_N)
    return {str(percent): float(sorted_N[max(-(-percent * size // 100) - 1, 0)]) for percent in PERCENTS if size}


def share_of_zero(sorted_N: np.ndarray) -> float | None:
    first, last = np.searchsorted(sorted_N, 0.0, "left"), np.searchsorted(sorted_N, 0.0, "right")
    return int(last - first) / len(sorted_N) if len(sorted_N) else None


def histogram(sorted_N: np.ndarray) -> list[tuple[str, int]]:
    """(what, how many): powers of ten where no score is negative, ten equal steps elsewhere."""
    if not len(sorted_N):
        return []
    low, high = float(sorted_N[0]), float(sorted_N[-1])
    if low == high:
        return [(f"{low:g}", len(sorted_N))]
    if low < 0:
        edges = [low + (high - low) * step / 10 for step in range(1, 10)] + [high]
        return _counted(sorted_N, edges, f"{low:.4g} to")
    powers = [float(f"1e{power}") for power in range(-300, 301)]
    top = bisect_left(powers, high)
    edges = powers[top - DECADES + 1:top] + [high]
    zeros = int(np.searchsorted(sorted_N, 0.0, "right"))
    return ([("0", zeros)] if zeros else []) + _counted(sorted_N[zeros:], edges, "up to")


def _counted(sorted_N: np.ndarray, edges: list[float], first: str) -> list[tuple[str, int]]:
    """Numbers up to each edge that lie above the one before; rows in front of the first number are left out."""
    ends = np.searchsorted(sorted_N, edges, "right").tolist()
    names = [f"{first} {edges[0]:.4g}", *(f"{low:.4g} to {high:.4g}" for low, high in zip(edges, edges[1:]))]
    rows = [(name, end - begin) for name, begin, end in zip(names, [0, *ends], ends)]
    while rows and not rows[0][1]:
        rows.pop(0)
    return rows


def thresholds(made: dict[str, Any]) -> dict[str, float | None]:
    """Of the options that use one: what PHF chose, the median document to filter by and the median segment for
    conditional training and unlikelihood (0 where half of the segments or more score 0, as with its PII and PEP8)."""
    documents, segments = (made[name]["quantiles"].get("50") for name in ("document_scores", "segment_scores"))
    return {"data.filter_threshold": documents, "data.conditional_training_config.threshold": segments,
            "objective.score_threshold": segments}


# ---- as text ---------------------------------------------------------------------------------------------------------


def as_text(meta: dict[str, Any], card: dict[str, Any]) -> str:
    scorer, counts = meta["scorer"], card["counts"]
    of_input = f"shard {meta['shard']} of the input" if meta["shard"] else "the input"
    parts = ["# Scored text", f"    {meta['command']}",
             _table(["", ""], [["scorer", f"`{scorer['name']}`"], ["options", f"`{scorer['options']}`"],
                               ["fingerprint", f"`{scorer['fingerprint']}`"], ["segments", meta["segmentation"]],
                               ["source", f"{meta['source']['name']}, `{meta['source']['fingerprint']}`"]]),
             f"{counts['documents']:,} documents, {counts['segments']:,} segments, {counts['characters']:,} "
             f"characters; {counts['rejected']:,} rows of {of_input} refused. A score is misalignment, lower is "
             "better; a document's is the mean of its segments'."]
    if counts["documents"]:
        parts += [_quantile_table(card), _score_section(card, "document"), _score_section(card, "segment"),
                  _threshold_section(card)]
    return "\n\n".join(parts) + "\n"


def _quantile_table(card: dict[str, Any]) -> str:
    heads = {0: "min", 50: "median", 100: "max"}
    rows = [[name.replace("_", " "), *(f"{value:.4g}" for value in card[name]["quantiles"].values())]
            for name in MEASURED]
    return "## Quantiles\n\n" + _table(["", *(heads.get(percent, f"{percent} %") for percent in PERCENTS)], rows)


def _score_section(card: dict[str, Any], what: str) -> str:
    made = card[f"{what}_scores"]
    longest, width = max(count for _, count in made["histogram"]), max(len(name) for name, _ in made["histogram"])
    bars = [f"    {name:>{width}}  {'#' * -(-WIDTH * count // longest):<{WIDTH}}  {count:,}"
            for name, count in made["histogram"]]
    return "\n".join([f"## Scores of {what}s", "", f"{100 * made['share_zero']:.2f} % are 0.", "", *bars])


def _threshold_section(card: dict[str, Any]) -> str:
    rows = [[f"`{option}`", repr(value)] for option, value in card["thresholds"].items()]
    warning = [f"\nEvery {what} scores the same: there is nothing to tell apart." for what in ("document", "segment")
               if len({card[f"{what}_scores"]["quantiles"][end] for end in ("0", "100")}) == 1]
    return "\n".join(["## Thresholds to begin with", "", _table(["option", "value"], rows), *warning, "",
                      "The median document and the median segment of this file, as PHF chose them."])


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
