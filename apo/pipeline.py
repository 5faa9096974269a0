"""Pipelines: runs that follow one another, each started from what earlier ones left.

A *stage* is a task, a method and overrides: an ordinary run, in a directory of its own.  It starts from the policy of
an earlier stage (`init_from.run`) and may have further directories of earlier stages in its options (a reward model as
its scorer).  As a run's directory is a function of its config, all of them are known, and checked, before anything is
trained; a stage that changes gives another name to itself and to those that depend on it, and to no other.  Nothing
else ties stages together: a rerun skips a stage because its run is done, and goes on inside one because that run does.

How a pipeline is written: `apo/pipeline_file.py`; how it is drawn: `apo/pipeline_drawing.py`.
"""

import hashlib
import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

from apo.cli import Argument, Request, config_folders, parse_arguments, quoted
from apo.config import BUDGET_PATHS, make_plan, parse_value, run_directory, to_dict
from apo.console import say
from apo.dry_run import data_size
from apo.errors import ConfigError, Interrupted, RunError, nearest
from apo.identity import HASH_LENGTH, RUN_NAME, leaves, option_class
from apo.pipeline_file import GROUP, HEADS, PREVIOUS, StageFile, read
from apo.registry import canonical
from apo.rundir import RunDirectory, command_line, read_json, unwritable, write_json
from apo.schema import Config
from apo.settings import EXPERIMENT, GROUPS, HELDOUT, SCORERS
from apo.stages import REWARD_MODEL, waiting_for

RECORDS = "pipelines"
"""Folder of what is known of pipelines, beside those of tasks."""
REFUSED = {"method": "the methods of a pipeline stand in its stages", GROUP: "a stage is one run", EXPERIMENT:
           "a published setting is one run, of a task and a method of its own", "plugins": "name it for all stages"}
"""Options that a stage does not have."""
UNKNOWN = Path("unknown")
"""Run directory of a stage whose config is wrong, so that the later ones can be checked all the same."""


@dataclass
class Stage:
    name: str
    config: Config
    start: str | None
    """The stage whose policy it starts from; null for what its method starts from by itself."""
    uses: dict[str, str] = field(default_factory=dict)
    """Option -> the stage whose run directory it holds."""
    own_seed: bool = False

    @property
    def directory(self) -> Path:
        return run_directory(self.config)

    @property
    def needs(self) -> dict[str, str]:
        """What for -> stage."""
        return ({} if self.start is None else {"weights": self.start}) | self.uses


@dataclass
class Pipeline:
    name: str
    stages: list[Stage]
    notes: list[str] = field(default_factory=list)

    @property
    def seed(self) -> int:
        """Of the stages that have none of their own."""
        return next((stage for stage in self.stages if not stage.own_seed), self.stages[-1]).config.seed

    @property
    def record(self) -> Path:
        """`outputs/pipelines/<name>-<8 hex>-s<seed>.json`."""
        said = [[stage.name, RUN_NAME.fullmatch(str(stage.directory))[1]] for stage in self.stages]
        digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:HASH_LENGTH]
        return Path(self.stages[0].config.output_dir, RECORDS, f"{self.name[:100]}-{digest}-s{self.seed}.json")


# ---- from a request to stages ----------------------------------------------------------------------------------------


def make_pipelines(request: Request) -> list[Pipeline]:
    """What `--pipeline` asks for, once for each seed.  Raises ConfigError with the problems of all stages."""
    written = read(request.pipeline, config_folders(request.plugins))
    problems = [*request.problems, *_of_single_runs(request), *written.problems]
    division = Division.of(request.arguments, [stage.name for stage in written.stages], problems)
    made = []
    for seed in division.seeds or [None]:
        for_all = [*division.for_all, *([] if seed is None else [Argument(f"seed={seed}")])]
        composer = Composer(for_all, division.own, request.plugins, written.task)
        for stage in written.stages:
            composer.add(stage)
        problems += composer.told()
        made.append(Pipeline(written.name, composer.stages, list(unused(composer.stages))))
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return made


def _of_single_runs(request: Request) -> Iterator[str]:
    for flag in request.native:
        if flag.startswith("-"):
            yield f"{flag}: not with --pipeline; --dry-run draws one, and each stage's config.yaml is in its directory"
    if "sweep" in request.modes:
        yield "--sweep: not with --pipeline, of which only --seed may have several values"


@dataclass
class Division:
    """The command line's options, by whom they are for."""

    for_all: list[Argument] = field(default_factory=list)
    own: dict[str, list[Argument]] = field(default_factory=dict)
    seeds: list[str] = field(default_factory=list)
    """As texts of Hydra's grammar; none where the command line says none."""

    @classmethod
    def of(cls, arguments: Iterable[Argument], names: list[str], problems: list[str]) -> "Division":
        """`STAGE.key=value` is of one stage.  What is wrong goes to `problems`."""
        made = cls(own={name: [] for name in names})
        for argument in arguments:
            sign, head, rest = parted(argument.text)
            second = rest.partition("=")[0].partition(".")[0]
            if argument.key == "seed":
                made.seeds = list(dict.fromkeys(values(argument))) or [argument.value]
            elif head in made.own:
                made.own[head] += single([replace(argument, text=f"{sign}{rest}")], problems, f"{head}.")
            elif head not in HEADS and second in HEADS:
                problems.append(f'{argument.key.lstrip("~")}: no stage "{head}".{nearest(head, names)} '
                                f"Stages: {', '.join(names)} ({argument.origin})")
            elif argument.key != GROUP:
                made.for_all += single([argument], problems)
        return made


def parted(text: str) -> tuple[str, str, str]:
    """`~ppo.data.path=x` as its sign, its first name and the rest; no rest where the key has no dot."""
    bare = text.strip().lstrip("+~")
    key = bare.partition("=")[0]
    head = key.partition(".")[0].strip()
    return text.strip()[:-len(bare) or None], head, bare[len(head) + 1:] if "." in key else ""


def values(argument: Argument) -> list[str]:
    try:
        return parse_value(argument.key, argument.value)
    except ValueError:          # said where the stage is composed
        return [argument.value]


def single(arguments: Iterable[Argument], problems: list[str], prefix: str = "") -> list[Argument]:
    """Those that a stage may have, with one value each; of the others something is said."""
    kept = []
    for argument in arguments:
        key, at = argument.key, f"{prefix}{argument.key}"
        if not key and prefix:
            problems.append(f"{prefix[:-1]}: options of a stage are written {prefix}key=value ({argument.origin})")
        elif key in REFUSED:
            problems.append(f"{at}: {REFUSED[key]} ({argument.origin})")
        elif key.startswith(("hydra.", "hydra/")):
            problems.append(f"{at}: stages follow one another in one process, which Hydra does not run")
        elif not key.startswith("~") and len(several := values(argument)) > 1:
            instead = "" if key in (*GROUPS, "seed") else f", or write {key}=[{argument.value}] for a list"
            problems.append(f"{at}: {len(several)} values ({argument.value}), and a pipeline does not sweep: run it "
                            f"once for each{instead} ({argument.origin})")
            kept.append(replace(argument, text=f"{key}={several[0]}"))
        else:
            kept.append(argument)
    return kept


@dataclass
class Composer:
    """Composes stage after stage, since a later one's config has the directories of earlier ones."""

    for_all: list[Argument]
    own: dict[str, list[Argument]]
    plugins: list[str]
    task: str | None
    """Where neither a stage nor the command line names one."""
    stages: list[Stage] = field(default_factory=list)
    directories: dict[str, Path] = field(default_factory=dict)
    writers: list[str] = field(default_factory=list)
    """Stages that leave a policy."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """(stage, problem)."""

    def add(self, written: StageFile) -> None:
        start = (self.writers or [None])[-1] if written.start is PREVIOUS else written.start
        uses = {option: name for option, name in written.uses.items() if name in self.directories}
        try:
            config = self.composed(written, start, uses)
            data_size(config)
            self.stages.append(Stage(written.name, config, start, uses, self.has_seed(written)))
            found = self.disagreements(self.stages[-1])
        except ConfigError as error:
            config, found = None, error.problems
        self.problems += [(written.name, problem) for problem in found]
        self.directories[written.name] = UNKNOWN if config is None else run_directory(config)
        if canonical(written.method) != REWARD_MODEL if config is None else leaves_policy(config):
            self.writers.append(written.name)

    def composed(self, written: StageFile, start: str | None, uses: dict[str, str]) -> Config:
        """The command line wins over the file, but for a seed that a stage has there: `--seed` is of all the others."""
        asked, told = parse_arguments(written.overrides), []
        overrides = single([replace(each, origin=written.origin) for each in asked.arguments], told)
        for_all = [each for each in self.for_all if not (self.has_seed(written) and _of(each, "seed"))]
        layers = [[*self.used(uses, written.origin), *overrides], for_all, self.own[written.name]]
        weights = []
        if start is not None:
            weights = [Argument(f"init_from.run={quoted(str(self.directories.get(start, UNKNOWN)))}", written.origin)]
            told += [f"{each.key}: it starts from stage {start}; with `from: null`, in a file, options may say from "
                     f"what ({each.origin})" for layer in layers for each in layer if _of(each, "init_from")]
            layers = [[each for each in layer if not _of(each, "init_from")] for layer in layers]
        arguments = [*self.task_of(written), Argument(f"method={written.method}", written.origin), *layered(layers),
                     *weights]
        plan = make_plan(Request(arguments, [*self.plugins, *asked.plugins], problems=[*asked.problems, *told]))
        return plan.configs[0]

    def has_seed(self, written: StageFile) -> bool:
        return any(_of(each, "seed") for each in [*parse_arguments(written.overrides).arguments,
                                                  *self.own[written.name]])

    def task_of(self, written: StageFile) -> list[Argument]:
        """The nearest word on it: the command line's for the stage, the stage's, the command line's, the pipeline's."""
        default, named = ([] if task is None else [Argument(f"task={task}", written.origin)]
                          for task in (self.task, written.task))
        said, own = ([each for each in layer if _of(each, "task")] for layer in (self.for_all, self.own[written.name]))
        return [*default, *said, *named, *own][-1:]

    def used(self, uses: dict[str, str], origin: str) -> Iterator[Argument]:
        """The run directories of earlier stages as options.  A scorer that has one is a reward model."""
        for option, name in uses.items():
            if node := _scorer_of(option):
                yield Argument(f"{node}={REWARD_MODEL}", origin)
            yield Argument(f"{option}={quoted(str(self.directories[name]))}", origin)

    def disagreements(self, stage: Stage) -> Iterator[str]:
        """Between what is asked of earlier stages and what they leave, or what options say."""
        found = dict(leaves(to_dict(stage.config)))
        if stage.start in self.directories and stage.start not in self.writers:
            yield f"from: {stage.start} leaves no policy to start from; what it leaves is named under uses"
        for option, name in stage.uses.items():
            if found.get(option) != str(self.directories[name]):
                yield (f"uses.{option}: is the run of stage {name}, and something else makes it "
                       f"{found.get(option)!r}: leave one out")
            if _scorer_of(option) and name in self.writers:
                yield f"uses.{option}: {name} leaves a policy, which judges nothing; a reward model does"

    def told(self) -> list[str]:
        """Problems behind the names of their stages, one of several stages once."""
        stages: dict[str, list[str]] = {}
        for stage, problem in self.problems:
            stages.setdefault(problem, []).append(stage)
        return [f"{', '.join(dict.fromkeys(names))}: {problem}" for problem, names in stages.items()]


def _of(argument: Argument, head: str) -> bool:
    return argument.key.lstrip("~").partition(".")[0] == head


def _scorer_of(option: str) -> str | None:
    """The scorer that an option is the model of."""
    node, _, last = option.rpartition(".")
    return node if last == "model" and (node in SCORERS or node.startswith(HELDOUT)) else None


def layered(layers: Iterable[list[Argument]]) -> list[Argument]:
    """The layers in order, later ones winning, without their tasks; a budget takes the place of an earlier layer's."""
    made: list[Argument] = []
    for layer in layers:
        if any(argument.key in BUDGET_PATHS for argument in layer):
            made = [argument for argument in made if argument.key not in BUDGET_PATHS]
        made += [argument for argument in layer if not _of(argument, "task")]
    return made


def leaves_policy(config: Config) -> bool:
    return option_class("objective", config.objective["name"]).writes_text


def unused(stages: list[Stage]) -> Iterator[str]:
    needed = {name for stage in stages for name in stage.needs.values()}
    for stage in stages[:-1]:
        if stage.name not in needed and not leaves_policy(stage.config):
            yield f"no later stage uses what {stage.name} leaves; a file says which does (uses, docs/pipelines.md)"


# ---- running ---------------------------------------------------------------------------------------------------------


def run(pipeline: Pipeline, train: Callable[[Config], Any], attempt: Callable[[Callable[[], Any]], Any]) -> list[Any]:
    """Trains stage after stage, up to the first that fails, and ends in a table.

    Args:
        attempt: runs what it is given, and returns what comes of it or the error that comes.
    Returns outcomes and the error."""
    results: dict[str, Any] = {}
    for number, stage in enumerate(pipeline.stages, start=1):
        write_record(pipeline, results, stage)

        def trained(stage=stage):
            with waiting_for(stage.directory):
                return train(stage.config)
        say(f"[{number}/{len(pipeline.stages)}] {stage.name}: {stage.directory}")
        results[stage.name] = attempt(trained)
        if isinstance(results[stage.name], Exception):
            break
    show(pipeline, results)
    write_record(pipeline, results)
    return list(results.values())


def state_of(stage: Stage, results: dict[str, Any]) -> str:
    """done, failed, preempted, running or not started; of a stage that was not tried, as its run has been left."""
    result = results.get(stage.name)
    if isinstance(result, Exception):
        return "preempted" if isinstance(result, Interrupted) else "failed"
    if result is not None:
        return "done"
    return RunDirectory(stage.directory).status()["state"].replace("created", "not started")


def write_record(pipeline: Pipeline, results: dict[str, Any], now: Stage | None = None) -> None:
    """What other tools find a pipeline by: its stages, their runs, named from the folder of all outputs, and how they
    stand.  Without times, so that a pipeline that is done writes nothing."""
    path = pipeline.record
    try:
        states = [state_of(stage, results) for stage in pipeline.stages]
        states = ["running" if stage is now and state != "done" else state
                  for stage, state in zip(pipeline.stages, states)]
        whole = next((state for state in ("failed", "preempted", "running", "not started") if state in states), "done")
        record = {"pipeline": pipeline.name, "command": command_line(), "seed": pipeline.seed, "state": whole,
                  "stages": [_recorded(stage, path.parent.parent, state)
                             for stage, state in zip(pipeline.stages, states)]}
        with suppress(RunError):                # a damaged one is written anew
            if read_json(path) == record:
                return
        write_json(path, record)
    except OSError as error:
        raise unwritable(path, error) from error


def _recorded(stage: Stage, root: Path, state: str) -> dict[str, Any]:
    return {"name": stage.name, "task": stage.config.task, "method": stage.config.method,
            "run": os.path.relpath(stage.directory, root), "from": stage.start, "uses": stage.uses, "state": state}


def show(pipeline: Pipeline, results: dict[str, Any]) -> None:
    """The table at the end: every stage, and what stopped the one that failed."""
    from rich.console import Console
    from rich.table import Table

    from apo.experiment import RunOutcome, last_metrics, score_of, seconds_of
    table = Table("stage", "task", "method", "state", "seconds", "score or reward", "run directory", box=None,
                  pad_edge=False)
    for stage in pipeline.stages:
        done, place, state = results.get(stage.name), RunDirectory(stage.directory), state_of(stage, results)
        if isinstance(done, RunOutcome) and not done.fresh:
            state = "done before"
        measured = score_of(stage.config, last_metrics(place)) if state.startswith("done") else "-"
        table.add_row(stage.name, stage.config.task, stage.config.method, state, seconds_of(place), measured,
                      str(stage.directory))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    for name, result in results.items():
        if isinstance(result, Exception):
            say(f"{name}: {result}\nthe same command goes on from there")
