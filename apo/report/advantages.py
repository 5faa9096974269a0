"""What methods on advantages weigh their completions by: how good V is beside a constant, what it leaves out, and how
much of that a plain threshold on the reward would do as well.

Nothing is measured here.  A run wrote its numbers before its first step (`advantages.json`, `apo/advantages.py`), and
these are their tables and their picture, beside those of the samples: whoever sees that such a method is better, or is
not, asks next whether its weights had anything to say.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from apo.advantages import FILE, PERCENTILES
from apo.errors import RunError
from apo.report.fairness import shorten
from apo.report.plots import COLOURS, INK, STYLE, write_png
from apo.report.runs import Run, write
from apo.report.tables import Table, printable, table_in_markdown

NUMBERS = ("completions", "good", "dropped", "effective_share", "same_as_threshold", "fit/epochs", "fit/error",
           "fit/constant_error")
PARTS = {"percentiles/V/good": dict, "percentiles/R/good": dict, "percentiles/A/good": dict, "advantage_above_0": dict,
         "fit/error_by_epoch": list, "fit/targets": list, "fit/predictions": list, "examples/top": list,
         "examples/bottom": list}
"""What is not there in a file that is not what a run wrote."""
EXAMPLES = 3
PROMPT, COMPLETION = 36, 40
"""Characters of an example: the end of the one, the beginning of the other."""
LEAST_SPREAD = 0.1
"""Of the rewards' range, on the axis of V: a V that is all but constant shall look it, and not fill the panel with the
noise of its last digits."""
LINE = {"color": "#888888", "linestyle": "--", "linewidth": 1.2}


@dataclass
class Weighed:
    """A run, and what stands in its `advantages.json`."""

    run: Run
    found: dict[str, Any]
    label: str = ""

    @property
    def fit(self) -> dict[str, Any]:
        return self.found["fit"]

    @property
    def which(self) -> str:
        """Prompts that V's error is known of: whether it is one of training, the run's options say."""
        from apo.experiment import make_objective
        value = make_objective(self.run.trained, None).needs.prompt_value
        return "prompts of its fit" if value and value.selection == "training" else "prompts left out of its fit"

    def row(self) -> list[str]:
        found, fit = self.found, self.fit
        there = [fit["heldout_error"], fit["heldout_constant_error"]] if "heldout_error" in fit else []
        return [self.label, f"{found['good']:,}", percent(found["dropped"]), percent(found["effective_share"]),
                percent(found["same_as_threshold"]), f"{fit['error']:.4g}", f"{fit['constant_error']:.4g}",
                explained(fit["error"], fit["constant_error"], fit["targets"]),
                *(f"{error:.4g}" for error in there), *([] if there else ["", ""]),
                explained(*there, fit["heldout_targets"]) if there else ""]

    def percentiles(self) -> Table:
        counts = {"good": self.found["good"], "bad": self.found["completions"] - self.found["good"]}
        rows = [[f"{name}, {kind}", f"{counts[kind]:,}", *(f"{numbers[str(each)]:.3g}" for each in PERCENTILES)]
                for name, kinds in self.found["percentiles"].items() for kind, numbers in kinds.items()]
        above = ", ".join(f"{percent(share)} of the {kind}" for kind, share in self.found["advantage_above_0"].items())
        return Table(f"{self.label}: percentiles of V, R and A = R - V",
                     ["", "completions", "least", *(f"{each} %" for each in PERCENTILES[1:-1]), "greatest"], rows,
                     [f"Good: no completion of its prompt is better. A is above 0: {above}."])

    def examples(self) -> Table:
        rows = [[word, end_of(one_line(each["prompt"]), PROMPT), shorten(one_line(each["completion"]), COMPLETION),
                 *(f"{each[name]:.3f}" for name in "ARV")]
                for word, end in (("highest", "top"), ("lowest", "bottom"))
                for each in self.found["examples"][end][:EXAMPLES]]
        return Table(f"{self.label}: good completions with the highest and the lowest A",
                     ["A", "end of the prompt", "completion", "A", "R", "V"], rows, left=3)

    # ---- the picture -------------------------------------------------------------------------------------------------

    def draw(self) -> Any:
        """The matplotlib figure.  The lower panels are left out where the file has nothing for them: one that was
        written before a run kept single completions."""
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        panels = [self.draw_fit, self.draw_epochs]
        if "histogram" in self.found and "points" in self.found:
            panels += [self.draw_distributions, self.draw_kept]
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(12, 0.6 + 2.1 * len(panels)), dpi=100, facecolor="white", layout="constrained")
            FigureCanvasAgg(figure)
            for axes, panel in zip(figure.subplots(len(panels) // 2, 2).flat, panels):
                panel(axes)
            share = explained(self.fit["error"], self.fit["constant_error"], self.fit["targets"])
            said = f"V explains {share} of the rewards' variance" if share else "all rewards are equal"
            figure.suptitle(f"{self.run.config.task}: {self.label}, {said} on {self.which}", x=0.012, ha="left",
                            fontsize=13, fontweight="bold")
        return figure

    def draw_fit(self, axes: Any) -> None:
        """Rewards are noisy, and a regression bends to their mean: not even a perfect V lies on the dotted line."""
        fit = self.fit
        constant = float(np.mean(fit["targets"]))
        axes.axline((constant, constant), slope=1, color="#888888", linestyle=":", linewidth=1.2,
                    label="V = reward")
        axes.axhline(constant, **LINE, label="the constant")
        axes.plot(fit["targets"], fit["predictions"], color=COLOURS[0], **dots(len(fit["targets"])), label="a prompt")
        axes.set(title=f"Error of V {fit['error']:.4g}, of the constant {fit['constant_error']:.4g}",
                 xlabel=f"reward earned behind {self.which}", ylabel="V's prediction",
                 ylim=spread([*fit["predictions"], constant], LEAST_SPREAD * reach(fit["targets"])))
        legend_above(axes, loc="upper left", ncols=3)

    def draw_epochs(self, axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator
        curve, chosen = self.fit["error_by_epoch"], self.fit["epochs"]
        axes.axhline(self.fit["constant_error"], **LINE, label="the constant")
        axes.plot(curve, color=COLOURS[0], linewidth=1.8, marker="o", markersize=3.5)
        axes.plot([chosen], [curve[chosen]], color=COLOURS[1], marker="D", markersize=9, markeredgecolor="white",
                  linestyle="", label=f"chosen: {chosen} epoch{'s' * (chosen != 1)}")
        axes.set(title=f"Error by epoch, on {self.which}", xlabel="epochs of fitting V", ylabel="mean squared error")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.ticklabel_format(axis="y", useOffset=False)
        legend_above(axes, loc="upper right", ncols=2)

    def draw_distributions(self, axes: Any) -> None:
        histogram = self.found["histogram"]
        for kind, colour in (("bad", COLOURS[1]), ("good", COLOURS[0])):
            counts = np.array(histogram[kind])
            if not counts.sum():
                continue
            shares = counts / counts.sum()
            axes.stairs(shares, histogram["edges"], fill=True, color=colour, alpha=0.3)
            axes.stairs(shares, histogram["edges"], color=colour, linewidth=1.4, label=f"{kind} ({counts.sum():,})")
        axes.axvline(0, color=INK, linewidth=1.4)
        axes.set(title=f"Advantages: {percent(self.found['dropped'])} of the good completions are left out",
                 xlabel="A = R - V", ylabel="share of completions")
        legend_above(axes, loc="upper left", ncols=2)

    def draw_kept(self, axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator
        points = {name: np.array(numbers) for name, numbers in self.found["points"].items()}
        rewards, values, kept = points["R"], points["V"], points["kept"].astype(bool)
        axes.axline((values.mean(), values.mean()), slope=1, **LINE, label="R = V")
        for mask, word, colour, marker in ((kept, "kept", COLOURS[0], "o"), (~kept, "left out", COLOURS[1], "^")):
            if mask.any():
                axes.plot(values[mask], rewards[mask], color=colour, **dots(len(kept), marker), label=word)
        many = f" ({len(rewards):,} of {self.found['good']:,})" if len(rewards) < self.found["good"] else ""
        axes.set(title=f"Good completions{many}", xlabel="V of the prompt", ylabel="R, the completion's reward",
                 xlim=spread(values, LEAST_SPREAD * reach(rewards)),
                 ylim=spread([*rewards, values.mean()], LEAST_SPREAD * reach(rewards)))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.ticklabel_format(axis="x", useOffset=False)
        legend_above(axes, loc="upper left", ncols=3)


@dataclass
class WeighedRuns:
    """The runs on advantages among those that were named."""

    runs: list[Weighed]
    pictures: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, runs: list[Run]) -> "WeighedRuns":
        """A second look (`--also`) at a model has its first one's advantages, and is no line of its own."""
        found = [(run, read(run.directory / FILE)) for run in runs if not run.variant]
        weighed = [Weighed(run, each) for run, each in found if each is not None]
        for each in weighed:
            each.label = f"{each.run.method}/{each.run.directory.name}"
        return cls(weighed)

    def table(self) -> Table:
        header = ["run", "good", "left out", "effective share", "as a threshold", "error of V", "of a constant",
                  "explained", "held out: error of V", "its constant", "explained there"]
        which = " or ".join(dict.fromkeys(each.which for each in self.runs))
        return Table("Advantages, before the first step", header, [each.row() for each in self.runs],
                     ["Left out: share of good completions that are never served, or weigh nothing. Effective share: "
                      "(sum w)^2 / (n sum w^2) over what is served, w how often each is times its weight in the loss. "
                      "As a threshold: share of the good completions with A above 0 that are also among as many with "
                      "the highest rewards.",
                      f"Error: mean squared, against single rewards, on {which}, and on held-out prompts. Explained: "
                      "1 - error of V / error of a constant, the mean reward; empty where all rewards are equal."],
                     split=5)

    def tables(self) -> list[Table]:
        """A line for each run; of a single one the percentiles and examples too, which every run has beside its
        picture."""
        return [self.table(), *(table for each in self.runs[:1] if len(self.runs) == 1
                                for table in (each.percentiles(), each.examples()))]

    def save(self) -> None:
        """Each run's picture, and its tables as Markdown, into its own directory."""
        for each in self.runs:
            path = each.run.directory / "advantages.png"
            write_png(each.draw(), path)
            write(path.with_suffix(".md"), "\n".join(map(table_in_markdown, WeighedRuns([each]).tables())))
            self.pictures.append(path)


def read(path: Path) -> dict[str, Any] | None:
    """None where there is no file.  RunError for one that is not what a run wrote."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        wrong = next((f"{key} is missing or no number" for key in NUMBERS
                      if not isinstance(inside(found, key), int | float)), None) or next(
            (f"{key} is missing or empty" for key, kind in PARTS.items()
             if not isinstance(inside(found, key), kind) or not inside(found, key)), None)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as problem:
        wrong = str(problem)
    if wrong:
        raise RunError(f"{path} is damaged ({wrong}). Delete it, and the run is evaluated without it; training the run "
                       "anew (force=true) writes it again.")
    return found


def inside(found: Any, key: str) -> Any:
    """`fit/error` -> found["fit"]["error"]; None where there is none."""
    for part in key.split("/"):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def explained(error: float, constant: float, targets: list[float]) -> str:
    """Empty where all rewards are equal and the ratio is one of rounding errors."""
    return f"{100 * (1 - error / constant):.1f}%" if constant and np.ptp(targets) else ""


def percent(share: float) -> str:
    """Empty for what nothing is a share of."""
    return f"{share:.0%}" if np.isfinite(share) else ""


def one_line(text: str) -> str:
    return " ".join(printable(text).split())


def end_of(text: str, limit: int) -> str:
    return text if len(text) <= limit else "..." + text[len(text) - limit + 3:]


def reach(numbers: Any) -> float:
    return float(np.max(numbers) - np.min(numbers)) or 1.0


def spread(numbers: Any, least: float) -> tuple[float, float]:
    """Limits of an axis: the numbers with a margin, `least` apart or more."""
    low, high = float(np.min(numbers)), float(np.max(numbers))
    margin = max(0.06 * (high - low), (least - (high - low)) / 2)
    return low - margin, high + margin


def legend_above(axes: Any, loc: str, ncols: int, share: float = 0.14) -> None:
    """Over the data, with room made for it; lines that cross the whole panel stop behind it."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + share * (high - low))
    axes.legend(loc=loc, ncols=ncols, frameon=True, facecolor="white", edgecolor="none", framealpha=1)


def dots(count: int, marker: str = "o") -> dict[str, Any]:
    """Fainter and smaller the more there are."""
    return {"linestyle": "", "marker": marker, "markersize": 6 if count < 200 else 3.5, "markeredgewidth": 0,
            "alpha": 0.75 if count < 200 else 0.4}
