"""One picture of a comparison: what a method's score costs in capability, and how the score came about.

A row per scenario.  Left, score against bits per byte of clean held-out text at the end (or, where every run has it,
against the KL to a reference), one point per method; right, score over training tokens.  Colours are Okabe and Ito's,
which colour-blind readers can tell apart, each with a marker of its own; twelve inches at 100 dots make it readable at
1200 pixels.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from apo.errors import RunError
from apo.metrics import statistics
from apo.metrics.statistics import Interval
from apo.report.comparison import Comparison, Method

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C8C00"]
MARKERS = ["s", "^", "D", "v", "P", "X", "p", "*"]
BASELINE = ("#3B3B3B", "o")
INK, FAINT = "#333333", "#E4E4E4"
STYLE = {"font.size": 10.5, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
         "axes.edgecolor": "#888888", "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
         "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
         "grid.color": FAINT, "grid.linewidth": 0.8, "axes.axisbelow": True, "legend.frameon": False}
MOST_SCENARIOS = 4
MARGIN = 0.15
"""Of the range after step 0, above and below the curves: with an untrained model's score in it they would be flat."""


def draw(comparison: Comparison) -> Any:
    """The matplotlib figure.  Every artist of a method carries its label as `gid`."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    scenarios = list(comparison.scenarios)[:MOST_SCENARIOS]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 1.3 + 4.1 * len(scenarios)), dpi=100, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(scenarios), 2, squeeze=False)
        for (left, right), scenario in zip(axes, scenarios):
            frontier(left, comparison, scenario)
            curves(right, comparison, scenario)
        figure.suptitle(title(comparison), x=0.012, ha="left", fontsize=13, fontweight="bold")
        handles, names = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 6))
    return figure


def save(comparison: Comparison, path: Path) -> None:
    write_png(draw(comparison), path)


def write_png(figure: Any, path: Path) -> None:
    """Writes the figure aside, then renames it.  RunError where it cannot be written."""
    import matplotlib
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(STYLE):
            figure.savefig(temporary, format="png", metadata={"Software": None})
        temporary.replace(path)
    except OSError as problem:
        raise RunError(f"cannot write {path}: {problem.strerror or problem}") from None


def looks(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Colour and marker of every method: the baseline dark, the others in the order of the table."""
    others = [method.label for method in comparison.methods if method.label != comparison.baseline]
    found = {label: (COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)]) for n, label in enumerate(others)}
    return found | ({comparison.baseline: BASELINE} if comparison.baseline else {})


def frontier(axes: Any, comparison: Comparison, scenario: str) -> None:
    reference = next(iter(comparison.divergences()), None)
    for method in comparison.methods:
        capability = method.heldout("bits_per_byte_clean")
        if reference is not None:
            capability = method.measured(comparison.divergences()[reference])
        if not capability:
            continue
        colour, marker = looks(comparison)[method.label]
        score = comparison.row(scenario, method.label).score
        across = statistics.t_interval(capability, comparison.confidence)
        bars = axes.errorbar([across.mean], [score.mean], xerr=arms(across), yerr=arms(score), fmt=marker,
                             color=colour, markersize=9, markeredgecolor="white", elinewidth=1.6, capsize=3,
                             label=method.label)
        bars.lines[0].set_gid(method.label)
    lower = "lower" if comparison.kind == "score" else "upper"
    axes.set(title=f"{scenario}: {comparison.kind} and capability ({lower} left is better)",
             xlabel=f"KL({reference} || model), nats per text" if reference else "bits per byte of clean held-out text",
             ylabel=f"{comparison.kind}, {interval_words(comparison)}")


def arms(interval: Interval) -> list[list[float]] | None:
    """Lengths of the error bar below and above; None where one value gives no interval."""
    if not np.isfinite(interval.high - interval.low):
        return None
    return [[interval.mean - interval.low], [interval.high - interval.mean]]


def interval_words(comparison: Comparison) -> str:
    over = "seeds" if max(len(method.runs) for method in comparison.methods) > 1 else "samples"
    return f"{100 * comparison.confidence:g} % interval over {over}"


def curves(axes: Any, comparison: Comparison, scenario: str) -> None:
    """Mean over seeds against training tokens; the band reaches from the lowest to the highest seed.  A variant has no
    curve: while it trained, it was sampled otherwise."""
    after_start: list[float] = []
    for method in comparison.methods:
        if method.runs[0].variant:
            continue
        tokens, low, mean, high = band(method, f"generation/{scenario}/{comparison.kind}")
        if not len(tokens):
            continue
        colour, marker = looks(comparison)[method.label]
        line, = axes.plot(tokens, mean, color=colour, marker=marker, markersize=4.5, linewidth=1.8)
        line.set_gid(method.label)
        if len(method.runs) > 1:
            axes.fill_between(tokens, low, high, color=colour, alpha=0.16, linewidth=0)
        after_start += [*low[tokens > 0], *high[tokens > 0]]
    if after_start:
        lowest, highest = min(after_start), max(after_start)
        margin = MARGIN * (highest - lowest or abs(highest) or 1.0)
        axes.set_ylim(max(lowest - margin, 0.0) if lowest >= 0 else lowest - margin, highest + margin)
    from matplotlib.ticker import EngFormatter
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    several = any(len(method.runs) > 1 for method in comparison.methods)
    axes.set(title=f"{scenario}: {comparison.kind} over training", xlabel="training tokens",
             ylabel=f"{comparison.kind}, mean and range over seeds" if several else comparison.kind)


def band(method: Method, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training tokens, and lowest, mean and highest score over the seeds measured there (all seeds or not at all)."""
    scores: dict[int, list[float]] = defaultdict(list)
    for run in method.runs:
        by_tokens = {int(row["num_tokens"]): row[key] for row in run.history() if key in row and "num_tokens" in row}
        for tokens, score in by_tokens.items():
            scores[tokens].append(score)
    points = sorted((tokens, values) for tokens, values in scores.items() if len(values) == len(method.runs))
    return (np.array([tokens for tokens, _ in points]), np.array([min(values) for _, values in points]),
            np.array([np.mean(values) for _, values in points]), np.array([max(values) for _, values in points]))


def title(comparison: Comparison) -> str:
    """`pep8: mle, conditional; 3.9M weights, 4.0M training tokens, seeds 1-3`."""
    parts = [f"{metric(each(comparison, 'parameters'))} weights"]
    tokens = [count for method in comparison.methods for count in method.tokens_trained()]
    if tokens:
        parts.append(f"{metric(float(np.mean(tokens)))} training tokens")
    seeds = sorted({seed for method in comparison.methods for seed in method.seeds})
    parts.append(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}")
    return f"{comparison.task}: {', '.join(parts)}"


def each(comparison: Comparison, key: str) -> float:
    return float(np.mean([evaluation[key] for method in comparison.methods for evaluation in method.evaluations]))


def metric(number: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
