"""What an attack found, as curves over rounds: a table, one picture with every model in it, the prompts that did it.

An interval is Student's t over the trials of one model.  It says how well this attack tells these very models apart,
and nothing about another training run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apo.metrics import statistics
from apo.metrics.statistics import Interval
from apo.red_team.attack import DROPPED, Target
from apo.red_team.settings import Settings
from apo.report import plots, tables
from apo.report.tables import Table

QUANTITIES = {"best": "best", "best_10": "best 10", "best_100": "best 100", "round": "round mean"}
"""What is measured after every round: column of a table."""
IN_WORDS = {"best": "best prompt so far", "best_10": "mean of the 10 best so far",
            "best_100": "mean of the 100 best so far", "round": "mean of the round's own prompts"}
TEXT = 44
"""Characters of a prompt or continuation in a table."""


@dataclass
class Model:
    label: str
    directory: Path
    result: dict[str, Any]

    def trials(self, quantity: str, number: int) -> list[float | None]:
        """Of round `number` (from 0), one per trial; None where nothing had been measured."""
        return [curves[quantity][number] for curves in self.result["curves"]]


@dataclass
class Curves:
    task: str
    kind: str
    """Of the scorer; a reward is shown with its sign turned, so that higher is worse for the model in either case."""
    adversary: str
    settings: Settings
    confidence: float
    models: list[Model]
    baseline: str | None = None
    picture: Path | None = None

    @classmethod
    def of(cls, targets: list[Target], models: list[Model], adversary: str,
           baseline: str | None = None) -> "Curves":
        target = targets[0]
        config = target.run.config
        ordered = sorted(models, key=lambda model: model.label != baseline)
        return cls(config.task, target.scorer.kind, adversary, target.settings, config.evaluation.confidence,
                   ordered, baseline)

    @property
    def measure(self) -> str:
        return "score" if self.kind == "score" else "minus reward"

    def interval(self, model: Model, quantity: str, number: int = -1) -> Interval | None:
        """Over trials; None where no trial has measured anything."""
        values = [value for value in model.trials(quantity, number) if value is not None]
        return statistics.t_interval(values, self.confidence) if values else None

    def difference(self, model: Model, quantity: str) -> Interval | None:
        """To the baseline after the last round, paired by trial: both began with the same pool and seeds."""
        base = next(each for each in self.models if each.label == self.baseline)
        pairs = [(ours, theirs) for ours, theirs in zip(model.trials(quantity, -1), base.trials(quantity, -1))
                 if ours is not None and theirs is not None]
        return statistics.paired_t(*zip(*pairs), self.confidence)[0] if pairs else None

    def save(self, path: Path) -> None:
        """The picture, and every table beside it as Markdown."""
        from apo.report.runs import write
        plots.write_png(draw(self), path)
        made = [*final_tables(self), rounds_table(self), prompts_table(self)]
        write(path.with_suffix(".md"), "\n".join(map(tables.table_in_markdown, made)))
        self.picture = path


# ---- tables ----------------------------------------------------------------------------------------------------------


def show(curves: Curves, prompts: int = 3) -> None:
    """Prints the tables, `prompts` of the best prompts of each model, and where everything is."""
    from rich.text import Text

    from apo.console import say
    out = tables.console()
    for table in [*final_tables(curves), *([prompts_table(curves, prompts)] if prompts else [])]:
        out.print(Text(table.title, style="bold"))
        out.print(tables.drawn(table))
        for note in filter(None, table.notes):
            out.print(Text(note, style="dim"))
        out.print()
    for model in curves.models:
        say(f"{model.label}: {model.directory}")
    if curves.picture:
        say(f"picture: {curves.picture}\ntables:  {curves.picture.with_suffix('.md')}")


def final_tables(curves: Curves) -> list[Table]:
    """Where each model stands after the last round, and how far that is from the baseline."""
    settings, percent = curves.settings, f"{100 * curves.confidence:g} %"
    rows = [[model.label, *(words(curves.interval(model, name)) for name in QUANTITIES)] for model in curves.models]
    title = (f"{curves.task}, red teaming: {curves.measure} after {settings.rounds} rounds in {settings.trials} "
             "trials, lower is more robust")
    notes = ["Mean over the best prompt, the 10 and the 100 best of all rounds, and the prompts of the last round.",
             f"Adversary {curves.adversary}; {settings.continuations} continuations a prompt. {percent} t intervals "
             "over trials: they say nothing about another training run.",
             f"Candidates: {'; '.join(map(counts_in_words, curves.models))}."]
    found = [Table(title, ["model", *QUANTITIES.values()], rows, notes)]
    if curves.baseline and len(curves.models) > 1:
        others = [model for model in curves.models if model.label != curves.baseline]
        rows = [[model.label, *(words(curves.difference(model, name), signed=True) for name in QUANTITIES)]
                for model in others]
        found.append(Table(f"Minus {curves.baseline}, paired by trial", ["model", *QUANTITIES.values()], rows,
                           [f"{percent} intervals, not corrected for their number."]))
    return found


def rounds_table(curves: Curves) -> Table:
    rows = [[model.label, str(number + 1), *(words(curves.interval(model, name, number)) for name in QUANTITIES)]
            for model in curves.models for number in range(curves.settings.rounds)]
    return Table("Round by round", ["model", "round", *QUANTITIES.values()], rows)


def prompts_table(curves: Curves, number: int = 10) -> Table:
    """Mean score of the continuations and score of the prompt alone, which may be most of it."""
    rows = [[model.label, short(row["prompt"]), short(row["worst"]["text"]), f"{row['score']:.4g}",
             f"{row['own_score']:.4g}"]
            for model in curves.models for row in model.result["best_prompts"][:number]]
    return Table("Prompts that brought out the most", ["model", "prompt", "worst continuation", curves.measure,
                                                       "prompt alone"], rows, left=3)


def counts_in_words(model: Model) -> str:
    """`mle 250 measured, 2 duplicate, 1 too long`; what does not occur is left out."""
    counts = model.result["counts"]
    return f"{model.label} " + ", ".join(f"{counts[name]} {name}" for name in ("measured", *DROPPED)
                                         if counts[name] or name == "measured")


def words(interval: Interval | None, signed: bool = False) -> str:
    return "" if interval is None else tables.interval_in_words(interval, signed)


def short(text: str) -> str:
    """On one line, cut."""
    line = tables.printable(text).replace("\n", "\\n")
    return line if len(line) <= TEXT else line[:TEXT - 3] + "..."


# ---- the picture -----------------------------------------------------------------------------------------------------


def draw(curves: Curves) -> Any:
    """The matplotlib figure: a panel per quantity, a line per model with its label as `gid`, the interval a band."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    settings = curves.settings
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(12, 8.6), dpi=100, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, 2)
        for panel, (quantity, title) in zip(axes.flat, IN_WORDS.items()):
            lines(panel, curves, quantity)
            panel.set(title=title, xlabel="round", ylabel=curves.measure)
        figure.suptitle(f"{curves.task}: red teaming, adversary {curves.adversary}; mean and "
                        f"{100 * curves.confidence:g} % interval over {settings.trials} trials, lower is more robust",
                        x=0.012, ha="left", fontsize=13, fontweight="bold")
        handles, names = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 6))
    return figure


def lines(axes: Any, curves: Curves, quantity: str) -> None:
    import math

    from matplotlib.ticker import MaxNLocator
    for model, (colour, marker) in zip(curves.models, looks(curves)):
        found = {number + 1: interval for number in range(curves.settings.rounds)
                 if (interval := curves.interval(model, quantity, number)) is not None}
        line, = axes.plot(list(found), [each.mean for each in found.values()], color=colour, marker=marker,
                          markersize=5.5, markeredgecolor="white", linewidth=1.8, label=model.label)
        line.set_gid(model.label)
        sure = {number: each for number, each in found.items() if math.isfinite(each.high - each.low)}
        if sure:
            axes.fill_between(list(sure), [each.low for each in sure.values()], [each.high for each in sure.values()],
                              color=colour, alpha=0.16, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def looks(curves: Curves) -> list[tuple[str, str]]:
    """Colour and marker of every model: the baseline dark, the others in their order."""
    others = list(zip(plots.COLOURS, plots.MARKERS))
    dark = [plots.BASELINE] if curves.baseline else []
    return [*dark, *(others[n % len(others)] for n in range(len(curves.models) - len(dark)))]
