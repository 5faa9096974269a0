"""A pipeline as text: its stages from top to bottom, an arrow for what each hands on, and what is still to be paid."""

from typing import Iterator

from apo.console import duration
from apo.dry_run import Cost, cost, needed_runs
from apo.identity import run_directory
from apo.pipelines.stages import Pipeline, Stage
from apo.rundir import RunDirectory
from apo.schema import Config

ENDLESS = 8
"""Runs that are needed by one that is needed by one, ...: no more are followed."""


def drawing(pipeline: Pipeline) -> str:
    first, stages = pipeline.stages[0].config, pipeline.stages
    lines = [f"pipeline {pipeline.name}: {len(stages)} stage{'s' * (len(stages) > 1)}, scale {first.scale}, seed "
             f"{pipeline.seed}, in {first.output_dir}", ""]
    width = max(len(stage.name) for stage in stages)
    for number, stage in enumerate(stages, start=1):
        what = f"{stage.config.task} {stage.config.method}: {state(stage.config)}"
        lines.append(f"{number:>2}  {stage.name:<{width}}  {what}")
        lines += [f"    {line}" for line in (*about(stage), *arrows(stage, stages)) if line]
    return "\n".join([*lines, "", total(pipeline)])


def state(config: Config) -> str:
    run = RunDirectory(run_directory(config))
    if run.is_done():
        return "finished" if not config.force else "finished, to be trained anew (force)"
    status = run.status()
    return f"begun, step {status['step']} of {status['max_steps']}" if status.get("step") else "to be trained"


def about(stage: Stage) -> Iterator[str]:
    known = cost(stage.config)
    yield str(stage.directory)
    yield ", ".join([
        parameters(known),
        f"{known.steps:,} steps" if known.steps else "steps follow from the data",
        *([f"about {known.memory / 2**30:.2f} GiB"] if known.memory else []),
        *([f"about {duration(known.seconds)}"] if known.seconds is not None else [])])
    for why, other in needed_runs(stage.config).items():
        yield f"{why}: {run_directory(other)} ({state(other)})"


def parameters(known: Cost) -> str:
    if known.shape is None:
        return f"parameters unknown ({known.why})"
    adapter = known.shape.trained != known.shape.parameters
    return f"{known.shape.parameters:,} parameters" + (f" and {known.shape.trained:,} of an adapter" if adapter else "")


def arrows(stage: Stage, stages: list[Stage]) -> list[str]:
    given = [(what, other.name) for other in stages for what, name in other.needs.items() if name == stage.name]
    width = max((len(what) for what, _ in given), default=0)
    return [f"+-- {what} {'-' * (width - len(what))}--> {name}" for what, name in given]


def total(pipeline: Pipeline) -> str:
    """Of what is not finished, runs that stages train beside them included."""
    left = {run_directory(config): config for stage in pipeline.stages for config in with_needed(stage.config)
            if config.force or not RunDirectory(run_directory(config)).is_done()}
    if not left:
        return "all finished: nothing to train"
    seconds = [cost(config).seconds for config in left.values()]
    known = [each for each in seconds if each is not None]
    text = f"{len(left)} run{'s' * (len(left) > 1)} to train"
    if known:
        text += f": about {duration(sum(known))} on this machine, without evaluation and generation"
    if unknown := len(seconds) - len(known):
        text += f"; of {unknown} it is not known beforehand how long"
    return text


def with_needed(config: Config, depth: int = 0) -> Iterator[Config]:
    """The run, and every one that it trains first."""
    yield config
    for other in needed_runs(config).values() if depth < ENDLESS else ():
        yield from with_needed(other, depth + 1)
