"""Methods at equal distance from where they began: how much reward a nat of KL buys.

A method that moves further earns more and breaks more, so that rewards at the end of training compare learning rates as
much as methods.  Every run has measured both on its way (`generation/<scenario>/reward` or `score`, and `kl_full`), and
between two measurements a line is drawn.  The number at a distance is where that line *first* crosses it: a method is
asked what it has when it gets there, and not for the best of many noisy measurements.  A run that never gets there has
none, and a method has an interval only where all of its seeds have one.

Intervals are Student's t over seeds, differences are paired by seed and corrected (Holm) over the methods compared at
one distance.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Sequence

import numpy as np

from apo.errors import EvaluationError
from apo.metrics.statistics import Interval, t_interval
from apo.report import fairness
from apo.report.comparison import Difference, Method, baseline_label, differences_over_seeds, group
from apo.report.plots import BASELINE, COLOURS, MARKERS, STYLE, write_png
from apo.report.runs import Run, write
from apo.report.tables import Table, difference_in_words, interval_in_words, table_in_markdown
from apo.rundir import RunDirectory

DISTANCES = (1.0, 2.0, 4.0)
AT_THE_END = {"tokens": ("generation/{}/tokens", "{:.0f}"),
              "finished": ("generation/{}/finished", "{:.0%}"), "bits per byte": ("heldout/bits_per_byte", "{:.3f}"),
              "clean": ("heldout/bits_per_byte_clean", "{:.3f}"), "pairs told": ("eval/accuracy", "{:.0%}")}


@dataclass
class Path2D:
    """What one run measured, in the order of its steps."""

    kls: list[float]
    values: list[float]

    def at(self, kl: float) -> float | None:
        """The value where the path first comes to a distance; None where it never does."""
        points = list(zip(self.kls, self.values))
        for (before, low), (after, high) in zip(points, points[1:]):
            if before <= kl <= after and after > before:
                return low + (high - low) * (kl - before) / (after - before)
        return None


@dataclass
class Frontier:
    scenario: str
    kind: str
    """`score`: lower is better; `reward`: higher is."""
    methods: list[Method]
    baseline: str | None
    confidence: float
    distances: Sequence[float]
    paths: dict[str, dict[int, Path2D]]
    """By method and seed."""
    picture: Path | None = None
    factors: list[fairness.Factor] = field(default_factory=list)

    def values(self, label: str, kl: float) -> dict[int, float]:
        """By seed, of those that get there."""
        found = {seed: path.at(kl) for seed, path in self.paths[label].items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def interval(self, label: str, kl: float) -> Interval | None:
        """None where a seed does not get there."""
        found = self.values(label, kl)
        return t_interval(list(found.values()), self.confidence) if len(found) == len(self.paths[label]) else None

    def differences(self, kl: float) -> dict[str, Difference]:
        """To the baseline, of the methods all of whose seeds and the baseline's get there."""
        if self.baseline is None or self.interval(self.baseline, kl) is None:
            return {}
        there = {method.label: self.values(method.label, kl) for method in self.methods}
        whole = {method.label: there[method.label] for method in self.methods
                 if len(there[method.label]) == len(method.runs)}
        return differences_over_seeds(whole, self.baseline, self.confidence)

    def ranked(self, kl: float) -> list[str]:
        """Methods with an interval there, the best mean first."""
        known = {method.label: each.mean for method in self.methods
                 if (each := self.interval(method.label, kl)) is not None}
        return sorted(known, key=lambda label: known[label], reverse=self.kind == "reward")

    def tables(self) -> list[Table]:
        return [self.values_table(), *([self.difference_table()] if self.baseline else []), self.end_table()]

    def values_table(self) -> Table:
        rows = []
        for method in self.methods:
            start = t_interval([path.values[0] for path in self.paths[method.label].values()], self.confidence)
            cells = [self.cell(method, kl) for kl in self.distances]
            ends = [path.kls[-1] for path in self.paths[method.label].values()]
            rows.append([method.label, interval_in_words(start), *cells, f"{np.mean(ends):.1f}",
                         interval_in_words(t_interval([path.values[-1] for path in self.paths[method.label].values()],
                                                      self.confidence))])
        orders = [f"At {kl:g}: {' > '.join(self.ranked(kl))}." for kl in self.distances if self.ranked(kl)]
        better = "higher" if self.kind == "reward" else "lower"
        title = f"{self.scenario}: {self.kind} at a distance from the start [{100 * self.confidence:g} % over seeds]"
        return Table(title, ["method", "start", *(f"KL {kl:g}" for kl in self.distances), "KL at the end",
                                     f"{self.kind} at the end"], rows,
                     [f"{better.capitalize()} is better. " + " ".join(orders)])

    def end_table(self) -> Table:
        """What the runs last measured beside: a reward that is bought with text shows here."""
        from apo.experiment import last_metrics
        shown = {words: (key.format(self.scenario), form) for words, (key, form) in AT_THE_END.items()}
        rows = []
        for method in self.methods:
            last = [last_metrics(RunDirectory(run.directory)) for run in method.runs]
            cells = []
            for key, form in shown.values():
                known = [each[key] for each in last if each.get(key) is not None]
                cells.append(form.format(np.mean(known)) if known else "")
            rows.append([method.label, *cells])
        return Table(f"{self.scenario}: the last measurement, means over seeds", ["method", *shown], rows)

    def cell(self, method: Method, kl: float) -> str:
        if (interval := self.interval(method.label, kl)) is not None:
            return interval_in_words(interval)
        there = len(self.values(method.label, kl))
        return f"{there} of {len(method.runs)} seeds get there" if there else "-"

    def difference_table(self) -> Table:
        found = {kl: self.differences(kl) for kl in self.distances}
        rows = [[method.label, *(cell for kl in self.distances
                                 for cell in difference_in_words(found[kl].get(method.label)))]
                for method in self.methods if method.label != self.baseline]
        header = [cell for kl in self.distances for cell in (f"KL {kl:g}", "p")]
        title = f"{self.scenario}: difference of the {self.kind} to {self.baseline} [{100 * self.confidence:g} %]"
        return Table(title, ["method", *header], rows,
                     ["Paired by seed; p corrected (Holm) over the methods at one distance."])

    def draw(self) -> Any:
        """The matplotlib figure: every run's path, and the method's mean at the distances."""
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(9, 6), dpi=100, facecolor="white", layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.subplots()
            others = [method.label for method in self.methods if method.label != self.baseline]
            for method in self.methods:
                colour, marker = BASELINE
                if method.label != self.baseline:
                    place = others.index(method.label)
                    colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
                for path in self.paths[method.label].values():
                    axes.plot(path.kls, path.values, color=colour, linewidth=0.9, alpha=0.35, marker=".")
                known = {kl: self.interval(method.label, kl) for kl in self.distances}
                means = [(kl, each) for kl, each in known.items() if each is not None]
                arms = [[each.mean - each.low for _, each in means], [each.high - each.mean for _, each in means]]
                bars = axes.errorbar([kl for kl, _ in means], [each.mean for _, each in means], yerr=arms, color=colour,
                                     marker=marker, markersize=8, markeredgecolor="white", linewidth=1.8, capsize=3,
                                     label=method.label)
                bars.lines[0].set_gid(method.label)
            # Far from the start distances differ by orders of magnitude, and near it they matter.
            axes.set_xscale("symlog", linthresh=max(self.distances))
            furthest = max(kl for paths in self.paths.values() for path in paths.values() for kl in path.kls)
            ticks = [0, *self.distances, *(far for far in (10, 30, 100, 300, 1000) if far > 1.5 * self.distances[-1])]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
            axes.set_xlim(0, max(furthest * 1.1, self.distances[-1] * 1.1))
            axes.minorticks_off()
            axes.set(title=f"{self.scenario}: {self.kind} by distance from the start",
                     xlabel="KL(policy || start), nats a sample (linear, then logarithmic)",
                     ylabel=f"{self.kind}; thin: single seeds on their way")
            axes.legend(loc="best")
        return figure

    def save(self, path: Path) -> None:
        """PNG, and the tables as Markdown beside it."""
        write_png(self.draw(), path)
        write(path.with_suffix(".md"), "\n".join(table_in_markdown(table) for table in self.tables()))
        self.picture = path


def build(runs: Iterable[Run], scenario: str | None = None, distances: Sequence[float] = DISTANCES,
          baseline: str | None = None, allow: Iterable[str] = ()) -> Frontier:
    """Raises EvaluationError for unfair company, and for runs that did not measure their distance."""
    methods = group([(run, {}) for run in runs])
    label = baseline_label(methods, baseline)
    methods.sort(key=lambda method: method.label != label)
    factors = fairness.differences({method.label: [(run, {}) for run in method.runs] for method in methods}, allow)
    fairness.refuse(factors)
    config = methods[0].runs[0].config
    scenario = scenario or config.evaluation.best or next(iter(config.evaluation.scenarios), None)
    kinds = {kind for method in methods for run in method.runs for row in run.history() for kind in ("reward", "score")
             if f"generation/{scenario}/{kind}" in row}
    if len(kinds) != 1:
        raise EvaluationError(f'scenario "{scenario}": the runs have no one score or reward of it; there are: '
                              f"{', '.join(config.evaluation.scenarios)}")
    kind = kinds.pop()
    paths = {method.label: {run.seed: path_of(run, scenario, kind) for run in method.runs} for method in methods}
    return Frontier(scenario, kind, methods, label, config.evaluation.confidence, distances, paths, factors=factors)


def path_of(run: Run, scenario: str, kind: str) -> Path2D:
    """Raises EvaluationError for a run that did not measure how far it moved."""
    rows = [row for row in run.history() if row.get(f"generation/{scenario}/kl_full") is not None]
    if len(rows) < 2:
        raise EvaluationError(f"{run.directory} did not measure its distance from the start on {scenario} "
                              "(generation/.../kl_full) twice or more: it began with nothing, or was evaluated once. "
                              "Leave it out, or train it with evaluation.on_steps=[...] and evaluation.kl_from_start")
    if rows[0]["step"] > 0:
        raise EvaluationError(f"{run.directory} was first evaluated after step {rows[0]['step']}, so what it had at a "
                              "smaller distance is not known. Leave it out, or train it with evaluation.at_start=true")
    return Path2D([row[f"generation/{scenario}/kl_full"] for row in rows],
                  [row[f"generation/{scenario}/{kind}"] for row in rows])
