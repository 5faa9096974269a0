"""What became of the samples of a run while its reward rose: the numbers that `apo/callbacks/hacking.py` logged, drawn
over the steps, and what it warned of.

Nothing is measured here.  A picture for each run that started from a trained model, a row per scenario: the training
reward with that of every held-out scorer, whose distance is the gap; the KL from the start; length; repetition.  A
dotted line stands where the run was warned of what the panel shows.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apo.report.advantages import end_of, one_line
from apo.report.fairness import shorten
from apo.report.plots import BASELINE, COLOURS, MARKERS, STYLE, write_png
from apo.report.runs import Run, write
from apo.report.tables import Table, table_in_markdown
from apo.rundir import RunDirectory, read_jsonl

PROMPT, TEXT = 30, 60
"""Characters of a sample: the end of the one, the beginning of the other."""
PANELS = {"rewards": "gap/", "distance": "distance", "length": "length", "repetition": "repetition"}
"""By what the kinds of warnings that belong to each begin with."""


@dataclass
class WatchedRun:
    run: Run
    history: list[dict[str, Any]]
    warned: list[dict[str, Any]]

    @property
    def label(self) -> str:
        return f"{self.run.method}/{self.run.directory.name}"

    @property
    def scenarios(self) -> list[str]:
        return [name for name in self.run.trained.evaluation.scenarios if self.curve(f"hacking/{name}/reward")]

    def curve(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of a metric, as far as it is a number."""
        return [(row["step"], row[key]) for row in self.history if row.get(key) is not None]

    def heldout(self, scenario: str) -> list[str]:
        names = self.run.trained.evaluation.heldout_scorers
        return [name for name in names if self.curve(f"hacking/{scenario}/{name}/gap")]

    # ---- words -------------------------------------------------------------------------------------------------------

    def rows(self) -> list[list[str]]:
        return [self.row(scenario) for scenario in self.scenarios]

    def row(self, scenario: str) -> list[str]:
        def last(name: str, form: str) -> str:
            curve = self.curve(f"hacking/{scenario}/{name}")
            return form.format(curve[-1][1]) if curve else ""
        others = [f"{name} {last(f'{name}/reward', '{:+.2f}')}" for name in self.heldout(scenario)]
        told = [f"{row['kind']} at {row['step']}" for row in self.warned if row["scenario"] == scenario]
        return [f"{self.label}, {scenario}", ", ".join(told), last("reward", "{:+.2f}"), ", ".join(others),
                last("length", "{:.2f}"), last("repetition", "{:+.0%}"), last("loops", "{:+.0%}"),
                last("kl_per_token", "{:.2f}")]

    def warnings(self) -> list[Table]:
        """What was said, and the samples it was said of; nothing where nothing was."""
        if not self.warned:
            return []
        rows = [[str(row["step"]), row["scenario"], row["kind"], end_of(one_line(sample["prompt"]), PROMPT),
                 shorten(one_line(sample["text"]), TEXT), f"{sample['score']:.3g}",
                 ", ".join(f"{name} {number:.3g}"
                           for name, number in sample["extra"].get("heldout_scores", {}).items())]
                for row in self.warned for sample in row["samples"]]
        said = [f"Step {row['step']}, {row['scenario']}: since step {row['since']} {row['said']}."
                for row in self.warned]
        return [Table(f"{self.label}: samples that show what was warned of",
                      ["step", "scenario", "kind", "end of the prompt", "text", "scored", "held-out"], rows, said,
                      left=5)]

    # ---- the picture -------------------------------------------------------------------------------------------------

    def draw(self) -> Any:
        """The matplotlib figure.  Every line of a metric carries its name as `gid`, and so do those of warnings."""
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        with matplotlib.rc_context(STYLE | {"font.size": 9}):
            figure = Figure(figsize=(14, 0.7 + 2.9 * len(self.scenarios)), dpi=100, facecolor="white",
                            layout="constrained")
            FigureCanvasAgg(figure)
            for axes, scenario in zip(figure.subplots(len(self.scenarios), len(PANELS), squeeze=False), self.scenarios):
                for panel, each in zip(PANELS, axes):
                    self.panel(each, panel, scenario)
            figure.suptitle(f"{self.run.config.task}: {self.label}, samples against those of the first evaluation",
                            x=0.012, ha="left", fontsize=12, fontweight="bold")
        return figure

    def panel(self, axes: Any, panel: str, scenario: str) -> None:
        at, names = f"hacking/{scenario}", self.heldout(scenario)
        lines, title, ylabel = {
            "rewards": ({"reward": f"{at}/reward", **{name: f"{at}/{name}/reward" for name in names}},
                        "reward" + " and held-out" * bool(names), "change, standard deviations"),
            "distance": ({"KL": f"generation/{scenario}/kl_full"}, "KL from the start", "nats a sample"),
            "length": ({"length": f"{at}/length"}, "length", "times the first samples'"),
            "repetition": ({"repeated 4-grams": f"{at}/repetition", "ends in a loop": f"{at}/loops"}, "repetition",
                           "change of the share")}[panel]
        for number, (name, key) in enumerate(lines.items()):
            colour, marker = BASELINE if not number else (COLOURS[number - 1], MARKERS[number - 1])
            curve = self.curve(key)
            line, = axes.plot([step for step, _ in curve], [value for _, value in curve], color=colour, marker=marker,
                              markersize=4, linewidth=1.6, label=name)
            line.set_gid(name)
        for row in self.warned:
            if row["scenario"] == scenario and row["kind"].startswith(PANELS[panel]):
                axes.axvline(row["step"], color=COLOURS[1], linestyle=":", linewidth=1.4).set_gid("warned")
        axes.set(title=f"{scenario}: {title}", xlabel="step", ylabel=ylabel)
        if len(lines) > 1:
            axes.legend(fontsize=8)


@dataclass
class WatchedRuns:
    """Those that were watched among the runs that were named."""

    runs: list[WatchedRun]
    pictures: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, runs: list[Run]) -> "WatchedRuns":
        """A second look (`--also`) at a model is of the same training, and is no line of its own."""
        found = [WatchedRun(run, run.history(), read_jsonl(RunDirectory(run.directory).hacking_file))
                 for run in runs if not run.variant and not run.bare]
        return cls([each for each in found if each.scenarios])

    def table(self) -> Table:
        header = ["run, scenario", "warned of", "reward", "held-out", "length", "repetition", "loops", "KL a token"]
        return Table("While training: samples at the end against those of the first evaluation", header,
                     [row for each in self.runs for row in each.rows()],
                     ["Reward and held-out: change in standard deviations of the first samples. Length: times theirs. "
                      "Repetition, loops: change of the share of repeated 4-grams, and of samples that end in a loop. "
                      "KL a token: nats from the start."], split=4, left=2)

    def tables(self) -> list[Table]:
        """A line for each run; of a single one the samples of its warnings too, which every run has beside its
        picture."""
        return [self.table(), *(self.runs[0].warnings() if len(self.runs) == 1 else [])]

    def save(self) -> None:
        """Each run's picture, and its tables as Markdown, into its own directory."""
        for each in self.runs:
            path = each.run.directory / "hacking.png"
            write_png(each.draw(), path)
            write(path.with_suffix(".md"), "\n".join(map(table_in_markdown, WatchedRuns([each]).tables())))
            self.pictures.append(path)
