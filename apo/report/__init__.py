"""From run directories to a comparison a person can read: evaluation, intervals, fairness, tables, one picture.

    from apo import report
    comparison = report.compare(["outputs/pep8/mle/...", "outputs/pep8/conditional/..."], "mle", "comparison.png")
    report.show(comparison)

Nothing of it is imported while a model trains, and matplotlib and rich only where they draw.
"""

import os
from pathlib import Path
from typing import Any, Iterable

from apo.console import say
from apo.report.runs import Run

SHOWN_SCENARIO = "functions"
"""The scenario whose samples are printed side by side; the first one where a task has none of that name."""


def compare(run_dirs: Iterable[str | Path], baseline: str | None = None, out: str | Path | None = None, *,
            allow: Iterable[str] = (), **options: Any):
    """Evaluates every run (or reads its evaluation.json), and writes the picture and its tables beside each other.

    Args:
        run_dirs: run directories or folders that hold some.
        baseline: a method's name or a run; None takes `mle`, else the first method.
        out: path of the PNG; the tables go to the same name with .md.  None writes `comparison.png` into the folder
            that holds all runs.
        allow: keys that may differ although they are not the method.
        options: `seed` of the samples, the same for all runs, `force`, and `capability`.

    Raises EvaluationError for an unfair comparison, before anything is sampled where the configs already show it.
    """
    from apo.report.select import select
    return compare_runs(select(map(str, run_dirs)), baseline, out, allow=allow, **options)


def compare_runs(runs: list[Run], baseline: str | None = None, out: str | Path | None = None, *,
                 allow: Iterable[str] = (), seed: int = 0, force: bool = False, capability: Any = None):
    """`compare` for runs that `select` has opened, overridden or made of bare models.

    `capability`: `apo.report.capability.Capability`, benchmarks to measure beside; None for none."""
    from apo.report.capability import Harness
    from apo.report.comparison import build
    from apo.report.rescore import Rescorer
    allow = tuple(allow)
    check_configs(runs, baseline, allow)
    rescorer, harness = Rescorer(seed, force, allow), Harness(capability, force) if capability else None
    if harness:
        harness.prepare(runs)
    evaluated = [(run, rescorer.evaluate(run)) for run in runs]
    if harness:
        evaluated = [(run, harness.evaluate(run, evaluation)) for run, evaluation in evaluated]
    comparison = build(evaluated, baseline, allow)
    write_report(comparison, Path(out) if out else default_output(runs))
    return comparison


def compare_reward_models(runs: list[Run], out: str | Path | None = None, *, allow: Iterable[str] = (),
                          force: bool = False):
    """Reward models on the held-out pairs of their data, with a picture of how well they are calibrated.

    `out`: as for `compare`; None writes `reward_models.png` into the folder that holds all runs."""
    from apo.report.reward_models import RewardModels
    found = RewardModels.of(runs, force, allow)
    found.save(Path(out) if out else default_output(runs).with_name("reward_models.png"))
    return found


def read_advantages(runs: list[Run]):
    """What the runs on advantages among these were given before their first step; runs of other methods have no part
    in it.  RunError for a damaged file."""
    from apo.report.advantages import WeighedRuns
    return WeighedRuns.of(runs)


def read_hacking(runs: list[Run]):
    """What became of the samples of runs that started from a trained model; other runs have no part in it.  RunError
    for a damaged file."""
    from apo.report.hacking import WatchedRuns
    return WatchedRuns.of(runs)


def check_configs(runs: list[Run], baseline: str | None, allow: Iterable[str]) -> None:
    """Refuses an unfair comparison by what is known before any sampling."""
    from apo.report.comparison import baseline_label, group
    from apo.report.fairness import differences, refuse
    methods = group([(run, {}) for run in runs])
    baseline_label(methods, baseline)
    refuse(differences({each.label: list(zip(each.runs, each.evaluations)) for each in methods}, allow))


def write_report(comparison: Any, path: Path) -> None:
    from apo.report.plots import save
    from apo.report.runs import write
    from apo.report.tables import markdown
    save(comparison, path)
    write(path.with_suffix(".md"), markdown(comparison))
    comparison.picture = path


def default_output(runs: list[Run]) -> Path:
    directories = {str(run.directory) for run in runs}
    if len(directories) == 1:
        return Path(directories.pop()) / "evaluation.png"
    return Path(os.path.commonpath([os.path.abspath(each) for each in directories])) / "comparison.png"


def show(comparison: Any, samples: int = 3) -> None:
    """Prints the tables, `samples` prompts with what each model made of them, and where the picture is."""
    from apo.report import tables
    out = tables.console()
    tables.show(comparison, out)
    if samples and comparison.scenarios:
        scenario = SHOWN_SCENARIO if SHOWN_SCENARIO in comparison.scenarios else next(iter(comparison.scenarios))
        tables.show_samples(comparison, scenario, samples, out)
    say_where(comparison.picture)


def show_reward_models(found: Any) -> None:
    from apo.report import tables
    tables.show_tables([found.table()])
    say_where(found.picture)


def show_of_runs(found: Any) -> None:
    """Of `read_advantages` or `read_hacking`: draws each run's picture into its directory, and prints the tables;
    nothing where there is no such run."""
    from apo.report import tables
    if not found.runs:
        return
    found.save()
    tables.show_tables(found.tables())
    for picture in found.pictures:
        say_where(picture)


def say_where(picture: Path | None) -> None:
    if picture:
        say(f"picture: {picture}\ntables:  {picture.with_suffix('.md')}")
