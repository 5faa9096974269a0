"""From a request to pipelines whose stages have configs, or to everything that is wrong with any of them, at once.

Stages are composed in their order, since a later one's config has the run directories of earlier ones; of a stage that
is wrong, the later ones are told a directory that does not exist, so that they can be checked all the same.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Iterable, Iterator

from apo.cli import Argument, Request, config_folders, parse_arguments, quoted
from apo.config import BUDGET_PATHS, make_plan, run_directory, to_dict
from apo.dry_run import data_size
from apo.errors import ConfigError
from apo.identity import leaves, option_class
from apo.pipelines.file import PREVIOUS, StageFile, read
from apo.pipelines.options import Division, single
from apo.pipelines.stages import Pipeline, Stage
from apo.registry import canonical
from apo.schema import Config
from apo.settings import HELDOUT, SCORERS
from apo.stages import REWARD_MODEL

UNKNOWN = Path("unknown")
"""Run directory of a stage whose config is wrong."""


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
