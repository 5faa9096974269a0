"""Stage after stage up to the first that fails, the record that other tools find the pipeline by, and the table at the
end."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable

from apo.console import say
from apo.errors import Interrupted, RunError
from apo.pipelines.stages import Pipeline, Stage
from apo.rundir import RunDirectory, command_line, read_json, unwritable, write_json
from apo.schema import Config
from apo.stages import waiting_for


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
