"""How well scorers agree with labels: area under the ROC curve by file, with a bootstrap interval, and recall.

    python scripts/scorer_quality.py surge_social.jsonl.gz jigsaw.jsonl.gz:toxic
    python scripts/scorer_quality.py data/*.jsonl --scorer profanity_check --scorer "detoxify variant=unbiased"

A file is JSON lines, CSV or Parquet, gzipped or not, with a column `text` and one of labels (`score`, or the one named
behind a colon).  A row is positive where its label is above --positive.  Recall and false alarms are the shares of
positive and negative rows that score above --threshold.  Prints a table in Markdown.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apo.data.sources.base import BadRow
from apo.data.sources.file import rows_of
from apo.errors import ConfigError, DataError, UserError, nearest
from apo.scorers.base import checked
from apo.scorers.make import make_scorer

RESAMPLES = 1000
HEAD = ("scorer", "file", "rows", "positive", "AUC", "95 %", "recall", "false alarms")


@dataclass
class Quality:
    auc: float
    low: float
    high: float
    recall: float
    false_alarms: float


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("files", nargs="+", metavar="FILE[:LABEL]")
    made.add_argument("--scorer", action="append", metavar='"NAME [OPTION=VALUE ...]"', dest="scorers",
                      help="several are compared (default: profanity_check)")
    made.add_argument("--text", default="text", metavar="COLUMN")
    made.add_argument("--positive", type=float, default=0.5, metavar="LABEL", help="a label above it is positive")
    made.add_argument("--threshold", type=float, default=0.5, metavar="SCORE", help="for recall and false alarms")
    return made


def scorer_of(words: str) -> Any:
    """`detoxify variant=unbiased` as a scorer; values are YAML.  Raises ConfigError."""
    name, *options = words.split()
    return make_scorer({"name": name, **{key: _value(value, f'--scorer "{words}": {key}')
                                         for key, _, value in (option.partition("=") for option in options)}})


def _value(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: {text} is not YAML: {getattr(error, 'problem', None) or error}") from None


def labelled(spec: str, text: str, positive: float) -> tuple[list[str], np.ndarray]:
    """Texts of a file, and which of them are positive.  Raises DataError for rows that have no text or no label."""
    name, _, label = spec.partition(":") if not Path(spec).exists() else (spec, "", "")
    label = label or "score"
    texts, labels = [], []
    for origin, row in rows_of(Path(name)):
        if isinstance(row, BadRow):
            raise DataError(f"{origin}: {row}")
        for column in (text, label):
            if row.get(column) is None:
                raise DataError(f'{origin}: no "{column}".{nearest(column, row)}')
        try:
            labels.append(float(row[label]))
        except (TypeError, ValueError):
            raise DataError(f'{origin}: "{label}" holds {row[label]!r}, not a number') from None
        texts.append(str(row[text]))
    positive_N = np.array(labels) > positive
    if positive_N.all() or not positive_N.any():
        which = "positive" if positive_N.all() else "negative"
        raise DataError(f"{name}: all rows are {which} by {label} > {positive}")
    return texts, positive_N


def auc(scores_N: np.ndarray, positive_N: np.ndarray) -> float:
    """Probability that a positive row scores above a negative one, ties counting half."""
    from scipy.stats import rankdata
    positives = int(positive_N.sum())
    ranks = rankdata(scores_N)[positive_N].sum() - positives * (positives + 1) / 2
    return float(ranks / (positives * (len(scores_N) - positives)))


def quality(scores_N: np.ndarray, positive_N: np.ndarray, threshold: float) -> Quality:
    """The interval is a percentile bootstrap over rows, positive and negative ones drawn apart."""
    rng, drawn = np.random.default_rng(0), []
    groups = [np.flatnonzero(positive_N), np.flatnonzero(~positive_N)]
    for _ in range(RESAMPLES):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
        drawn.append(auc(scores_N[rows], positive_N[rows]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Quality(auc(scores_N, positive_N), low, high, *(float((scores_N[group] > threshold).mean())
                                                           for group in groups))


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        files = {spec: labelled(spec, options.text, options.positive) for spec in options.files}
        scorers = {words: scorer_of(words) for words in options.scorers or ["profanity_check"]}
        print("| " + " | ".join(HEAD) + " |\n|---|---|--:|--:|--:|--:|--:|--:|")
        for words, scorer in scorers.items():
            for spec, (texts, positive_N) in files.items():
                scores_N = np.array(checked(scorer, texts)) * (1 if scorer.kind == "score" else -1)
                found = quality(scores_N, positive_N, options.threshold)
                cells = (words, Path(spec).name, f"{len(texts):,}", f"{positive_N.mean():.0%}", f"{found.auc:.3f}",
                         f"{found.low:.3f} to {found.high:.3f}", f"{found.recall:.2f}", f"{found.false_alarms:.2f}")
                print("| " + " | ".join(cells) + " |", flush=True)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
