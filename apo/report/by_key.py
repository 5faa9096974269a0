"""Methods at each value of one option: what they last measured, over seeds.  Noise, a size, a learning rate.

At one value of the option the runs of a table must be alike in all but their methods (`fairness`); the option itself,
and what follows from it, differs between the tables and not within one.  What runs measured at their end is read, and
nothing sampled.  Intervals are Student's t over seeds; differences to the baseline are paired by seed and corrected
(Holm) over the methods at one value.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Sequence

import numpy as np

from apo.errors import EvaluationError, nearest
from apo.identity import leaves, to_dict
from apo.metrics.statistics import Interval, t_interval
from apo.report import fairness
from apo.report.comparison import Difference, Method, baseline_label, differences_over_seeds, group
from apo.report.plots import BASELINE, COLOURS, MARKERS, STYLE, write_png
from apo.report.runs import Run, write
from apo.report.tables import Table, difference_in_words, interval_in_words, table_in_markdown

BESIDE = ("tokens", "finished", "distinct-2", "kl_full", "heldout/bits_per_byte")


@dataclass
class Level:
    """The runs with one value of the option."""

    value: Any
    methods: list[Method]
    baseline: str | None
    measured: dict[str, dict[int, float]]
    """Score or reward by method and seed."""
    factors: list[fairness.Factor]

    def interval(self, label: str, confidence: float) -> Interval | None:
        return t_interval(list(self.measured[label].values()), confidence) if label in self.measured else None

    def differences(self, confidence: float) -> dict[str, Difference]:
        """To the baseline, of methods that share two seeds with it or more."""
        return differences_over_seeds(self.measured, self.baseline, confidence)


@dataclass
class ByKey:
    key: str
    scenario: str
    kind: str
    """`score`: lower is better; `reward`: higher is."""
    levels: list[Level]
    confidence: float
    beside: Sequence[str]
    picture: Path | None = None
    labels: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.labels = list(dict.fromkeys(method.label for level in self.levels for method in level.methods))

    @property
    def heads(self) -> list[str]:
        name = self.key.rsplit(".", 1)[-1]
        return [f"{name} {level.value}" for level in self.levels]

    def tables(self) -> list[Table]:
        differences = [self.difference_table()] if any(level.baseline for level in self.levels) else []
        return [self.values_table(), *differences, *(self.beside_table(level) for level in self.levels)]

    def values_table(self) -> Table:
        rows = []
        for label in self.labels:
            known = [level.interval(label, self.confidence) for level in self.levels]
            rows.append([label, *(interval_in_words(each) if each else "" for each in known)])
        better = "higher" if self.kind == "reward" else "lower"
        return Table(f"{self.scenario}: {self.kind} by {self.key} [{100 * self.confidence:g} % over seeds]",
                     ["method", *self.heads], rows, [f"{better.capitalize()} is better."])

    def difference_table(self) -> Table:
        found = [level.differences(self.confidence) for level in self.levels]
        baselines = {level.baseline for level in self.levels}
        rows = [[label, *(cell for each in found for cell in difference_in_words(each.get(label)))]
                for label in self.labels if label not in baselines]
        title = (f"{self.scenario}: difference of the {self.kind} to {', '.join(filter(None, baselines))} "
                 f"[{100 * self.confidence:g} %]")
        return Table(title, ["method", *(cell for head in self.heads for cell in (head, "p"))], rows,
                     ["Paired by seed; p corrected (Holm) over the methods at one value."])

    def beside_table(self, level: Level) -> Table:
        """What a reward was bought with, and sizes of the data; means over seeds."""
        rows = []
        for method in level.methods:
            known = [known_of(run, self.scenario) for run in method.runs]
            cells = [[each[name] for each in known if each.get(name) is not None] for name in self.beside]
            rows.append([method.label, *(f"{np.mean(values):.3g}" if values else "" for values in cells)])
        return Table(f"{self.scenario}, {self.key} {level.value}: the last measurement, means over seeds",
                     ["method", *self.beside], rows)

    def draw(self) -> Any:
        """The matplotlib figure: one panel, a group of intervals at each value."""
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(max(7, 3.2 * len(self.levels)), 5.5), dpi=100, facecolor="white",
                            layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.subplots()
            baselines = {level.baseline for level in self.levels}
            others = [label for label in self.labels if label not in baselines]
            for place, label in enumerate(self.labels):
                colour, marker = BASELINE
                if label not in baselines:
                    number = others.index(label)
                    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]
                known = [(number, each) for number, level in enumerate(self.levels)
                         if (each := level.interval(label, self.confidence)) is not None]
                across = [number + 0.8 * ((place + 0.5) / len(self.labels) - 0.5) for number, _ in known]
                for x, (number, _) in zip(across, known):
                    own = list(self.levels[number].measured[label].values())
                    axes.plot([x] * len(own), own, linestyle="none", marker=".", color=colour, alpha=0.4)
                bars = axes.errorbar(across, [each.mean for _, each in known],
                                     yerr=[[each.mean - each.low for _, each in known],
                                           [each.high - each.mean for _, each in known]],
                                     color=colour, marker=marker, linestyle="none", capsize=2, markersize=7,
                                     markeredgecolor="white", label=label)
                bars.lines[0].set_gid(label)
            axes.set_xticks(range(len(self.levels)), [str(level.value) for level in self.levels])
            axes.set(title=f"{self.scenario}: {self.kind} by {self.key}", xlabel=self.key,
                     ylabel=f"{self.kind}; dots: seeds")
            figure.legend(loc="outside right center")
        return figure

    def save(self, path: Path) -> None:
        """PNG, and the tables as Markdown beside it."""
        write_png(self.draw(), path)
        write(path.with_suffix(".md"), "\n".join(table_in_markdown(table) for table in self.tables()))
        self.picture = path


def build(runs: Iterable[Run], key: str, scenario: str | None = None, baseline: str | None = None,
          allow: Iterable[str] = (), beside: Sequence[str] = BESIDE) -> ByKey:
    """Raises EvaluationError for a key that is none, unfair company, and runs without the scenario's score."""
    by_value: dict[Any, list[Run]] = {}
    for run in runs:
        options = dict(leaves(to_dict(run.trained or run.config)))
        if key not in options:
            raise EvaluationError(f"--by {key}: no such option in {run.directory}.{nearest(key, options)}")
        by_value.setdefault(options[key], []).append(run)
    first = next(iter(by_value.values()))[0].config.evaluation
    scenario = scenario or first.best or next(iter(first.scenarios), None)
    kinds = {kind for group_ in by_value.values() for run in group_ for kind in ("reward", "score")
             if kind in known_of(run, scenario)}
    if len(kinds) != 1:
        raise EvaluationError(f'scenario "{scenario}": the runs have no one score or reward of it; there are: '
                              f"{', '.join(first.scenarios)}")
    kind = kinds.pop()
    levels = [level(value, by_value[value], scenario, kind, baseline, allow) for value in in_order(by_value)]
    return ByKey(key, scenario, kind, levels, first.confidence, beside)


def level(value: Any, runs: list[Run], scenario: str, kind: str, baseline: str | None, allow: Iterable[str]) -> Level:
    methods = group([(run, {}) for run in runs])
    label = baseline_label(methods, baseline)
    methods.sort(key=lambda method: method.label != label)
    factors = fairness.differences({method.label: [(run, {}) for run in method.runs] for method in methods}, allow)
    fairness.refuse(factors)
    measured = {}
    for method in methods:
        known = {run.seed: known_of(run, scenario).get(kind) for run in method.runs}
        if missing := [str(run.directory) for run in method.runs if known[run.seed] is None]:
            raise EvaluationError(f"{', '.join(missing)} did not measure generation/{scenario}/{kind}. Leave it out.")
        measured[method.label] = known
    return Level(value, methods, label, measured, factors)


def in_order(values: Iterable[Any]) -> list[Any]:
    """Numbers by size, anything else by its name behind them."""
    def place(value: Any) -> tuple:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return (0, value, "") if number else (1, 0, str(value))
    return sorted(values, key=place)


def known_of(run: Run, scenario: str) -> dict[str, float]:
    """What a run last measured, the scenario's metrics by their own names, and the sizes of its data."""
    last: dict[str, float] = {}
    for row in run.history():
        last |= {name: value for name, value in row.items() if value is not None}
    own = f"generation/{scenario}/"
    return (run.manifest.get("sizes") or {}) | last | {name.removeprefix(own): value for name, value in last.items()
                                                       if name.startswith(own)}
