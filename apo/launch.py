"""`python train.py ...`: from the command line to finished runs, and an exit code.

The config of every job is checked before anything slow is imported and before anything is written.  A failing run of a
multirun does not stop the others; a signal does.
"""

import gc
import importlib
import os
import select
import sys
import tempfile
import traceback
from contextlib import contextmanager, suppress
from typing import Any, Callable, Sequence

from apo.cli import Request, help_text, list_lines, parse_arguments
from apo.console import say
from apo.errors import Interrupted, UserError
from apo.schema import Config

EXPERIMENT = "apo.experiment"
QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0",
         "WANDB_ERROR_REPORTING": "false", "GRADIO_ANALYTICS_ENABLED": "False", "VLLM_NO_USAGE_STATS": "1"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""W&B is told by its logger: with WANDB_MODE set, transformers prints a line to stdout when it is imported."""
BUG = 1
"""Exit code of an error that is not the user's."""

planned = 0
"""Runs of this command."""
finished: dict[str, Any] = {}
"""Outcome or error of every run of this process, by run directory."""


def main(argv: Sequence[str] | None = None) -> int:
    request = parse_arguments(sys.argv[1:] if argv is None else argv)
    try:
        code = answer(request)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not nobody_reads(sys.stdout):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UserError as error:
        return report(error, request.debug)
    except KeyboardInterrupt:
        say("interrupted")
        return 130


def nobody_reads(stream: Any) -> bool:
    """`python train.py --list | head`: whoever read has had enough, which is no error.  Another pipe that broke is."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def answer(request: Request) -> int:
    if "help" in request.modes:
        print(help_text(request.plugins))  # noqa: T201
        return 0
    if "list" in request.modes:
        print("\n".join(list_lines(request.plugins)))  # noqa: T201
        return 0
    if request.pipeline is not None:
        return run_pipelines(request)
    from apo.config import enter_hydra, make_plan
    plan = make_plan(request)
    for note in plan.notes:
        say(f"note: {note}")
    set_environment(any(config.offline for config in plan.configs))
    if "dry_run" in request.modes:
        for config in plan.configs:
            experiment().dry_run(config)
        return 0
    if request.only_shows:
        enter_hydra([*request.native, *plan.batches[0]], job)
        return 0
    return run(plan, request)


def run(plan, request: Request) -> int:
    from apo.config import enter_hydra
    global planned
    planned = len(plan.configs)
    finished.clear()
    flags = ["-m"] if plan.multirun else []
    with sweep_folder(plan, request) as folder:
        for batch in plan.batches:
            # A launcher that breaks (a worker killed) makes Hydra leave; what its runs came to is in their directories.
            with suppress(SystemExit):
                enter_hydra([*flags, *batch, *folder], job)
    results = [(config, result_of(config)) for config in plan.configs]
    if plan.multirun:
        experiment().summary(results)
    return max((exit_code(result) for _, result in results), default=0)


@contextmanager
def sweep_folder(plan, request: Request):
    """Where Hydra may put what it insists on writing for a multirun (`multirun.yaml`, a launcher's own logs).

    A temporary folder, unless the user names one or jobs may run on other machines."""
    given = {argument.key: argument.value for argument in request.arguments}
    if not plan.multirun or "hydra.sweep.dir" in given:
        yield []
    elif "submitit" in given.get("hydra/launcher", ""):
        yield [f"hydra.sweep.dir={plan.configs[0].output_dir}/.submitit"]
    else:
        with tempfile.TemporaryDirectory(prefix="apo-sweep-") as folder:
            yield [f"hydra.sweep.dir={folder}"]


def run_pipelines(request: Request) -> int:
    """One after the other, which are those of several seeds; a signal ends all of them, another failure its own."""
    from apo.pipelines.composing import make_pipelines
    from apo.pipelines.running import run as run_stages
    pipelines = make_pipelines(request)
    for note in dict.fromkeys(note for each in pipelines for note in each.notes):
        say(f"note: {note}")
    set_environment(any(stage.config.offline for each in pipelines for stage in each.stages))
    if "dry_run" in request.modes:
        from apo.pipelines.drawing import drawing
        print("\n\n".join(drawing(each) for each in pipelines))  # noqa: T201
        return 0
    results: list[Any] = []
    for pipeline in pipelines:
        results += run_stages(pipeline, experiment().train, lambda task: attempt(task, request.debug))
        if any(isinstance(result, Interrupted) for result in results):
            break
    return max(exit_code(result) for result in results)


def attempt(task: Callable[[], Any], debug: bool) -> Any:
    """What comes of it, or the error, which has been reported."""
    try:
        return task()
    except UserError as error:
        report(error, debug)
        return forgetful(error)
    except Exception as error:
        traceback.print_exc()
        return forgetful(error)
    finally:
        gc.collect()


def job(composed: Any) -> None:
    """One run, under Hydra.  Never raises, so that the others of a multirun go on."""
    from apo.config import from_hydra, run_directory
    config = attempt(lambda: from_hydra(composed), debug=True)
    if isinstance(config, Exception):
        finished[""] = config
        return
    where = str(run_directory(config))

    def one() -> Any:
        set_environment(config.offline)
        if planned > 1:
            say(f"[{len(finished) + 1}/{planned}] {where}")
        if any(isinstance(result, Interrupted) for result in finished.values()):
            raise UserError("not started: an earlier run was interrupted")
        return experiment().train(config)
    finished[where] = attempt(one, config.debug)


def forgetful(result: Any) -> Any:
    """An error without its traceback, whose frames would keep a model in memory while the next run starts."""
    if isinstance(result, Exception):
        result.__traceback__ = result.__context__ = result.__cause__ = None
    return result


def result_of(config: Config) -> Any:
    """Outcome or error of a run.  One that a launcher ran in another process speaks through its status.json."""
    from apo.config import run_directory
    where = run_directory(config)
    if str(where) in finished:
        return finished[str(where)]
    from apo.rundir import read_json
    status = read_json(where / "status.json") or {"state": "never started", "message": "see the output above"}
    if status["state"] == "done":
        return None
    return UserError(f"{status['state']}: {status.get('message') or 'see the output above'}")


def exit_code(result: Any) -> int:
    if isinstance(result, Exception):
        return result.exit_code if isinstance(result, UserError) else BUG
    return 0


def report(error: UserError, debug: bool) -> int:
    """The message, or with `debug` the traceback."""
    if debug:
        traceback.print_exception(error)
    else:
        say(str(error))
    return error.exit_code


def set_environment(offline: bool) -> None:
    """Before anything that opens connections is imported.  A user's own word on telemetry stands."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if offline:
        os.environ.update(OFFLINE)


def experiment():
    """`train(config)`, `dry_run(config)`, `summary(results)`; seconds of imports, so only once the config is valid."""
    return importlib.import_module(EXPERIMENT)
