"""Runs that a run needs: what it starts from, and the reward models among its scorers.  Each is found by its config or
trained first, once for all that ask; or it is named by its directory, and then it must be there.

`init_from: {method: mle}` of a method's config means: the policy that mle leaves on the same task, data, model and seed
at the same scale.  `scorer: {name: reward_model}` without a model means: the reward model of the same task, data and
model at the same scale, of one seed whatever the run's, since a judge is the same for all that are compared.  Such a
run is a run like any other, in its own directory; here it is only found its config.
"""

import json
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

from apo.console import say
from apo.errors import ConfigError, RunError
from apo.identity import RUN_NAME, run_directory
from apo.rundir import RunDirectory, unwritable
from apo.schema import ConditionalConfig, Config, LoraConfig, ModelConfig

FINAL = "final"
REWARD_MODEL = "reward_model"
"""Both the method and the scorer that is what the method leaves."""
OWN = ("training.", "objective.", "callbacks.", "init_from.", "data.filter_threshold", "data.reward_noise",
       "data.conditional_training_config", "evaluation.prefix", "evaluation.banned_tokens")
"""Options that a run beside this one has for itself."""
Train = Callable[[Config], Any]


def start_config(config: Config) -> Config | None:
    """The config of the run that this one starts from; None where it starts from its model, or from a directory."""
    if config.init_from.method is None:
        return None
    start, _ = _beside(config, config.init_from.method, config.init_from.overrides, config.init_from.seed,
                       "init_from.overrides")
    if start.init_from.method == start.method:
        raise ConfigError(f"init_from: {start.method} would start from {start.method}, and that from itself again")
    return start


def _beside(config: Config, method: str, overrides: list[str], seed: int | None,
            option: str) -> tuple[Config, Config]:
    """The config of another method's run beside this one, and the same as its task has it.

    Budget, learning rate and objective are that method's own; everything that is not a method's (task, data, model,
    scorer, seed, evaluation, places) is this run's.  `option`: that holds `overrides`.  Raises ConfigError where they
    are of what is this run's."""
    from apo.config import load_config
    names = [f"task={config.task}", f"method={method}", f"scale={config.scale}"]
    own = [f"plugins=[{','.join(config.plugins)}]"] if config.plugins else []
    own.append(f"data.source={config.data.source}")         # what a task may leave to the user
    if config.data.path:
        own.append(f"data.path={_listed(config.data.path)}")
    made = load_config([*names, *own, *overrides])
    for key in (text.partition("=")[0].lstrip("+~") for text in overrides):
        if not key.startswith(OWN):
            raise ConfigError(f"{option}: {key} is the same for {config.method} and the {method} run beside it, so set "
                              f"it for {config.method}; what {method} may have for itself is {', '.join(OWN)}")
    data = replace(deepcopy(config.data), filter_threshold=made.data.filter_threshold,
                   reward_noise=made.data.reward_noise,
                   conditional_training_config=made.data.conditional_training_config or ConditionalConfig())
    evaluation = replace(deepcopy(config.evaluation), prefix=made.evaluation.prefix,
                         banned_tokens=made.evaluation.banned_tokens)
    return replace(made, data=data, model=_start_model(config.model), scorer=deepcopy(config.scorer),
                   evaluation=evaluation, seed=config.seed if seed is None else seed, output_dir=config.output_dir,
                   cache_dir=config.cache_dir, offline=config.offline, logger=deepcopy(config.logger),
                   group=config.group, tags=config.tags, debug=config.debug), made


def _start_model(model: ModelConfig) -> ModelConfig:
    """A fresh model is trained whole: what is adapted or rounded is what it has become."""
    if model.is_trained:
        return deepcopy(model)
    return replace(deepcopy(model), lora=LoraConfig(), quantization="none")


def _listed(path) -> str:
    from apo.cli import quoted
    return quoted(path) if isinstance(path, str) else f"[{','.join(map(quoted, path))}]"


def start_directory(config: Config) -> Path | None:
    """The run that `init_from.run` names."""
    return None if config.init_from.run is None else where_it_lies(config.init_from.run, config)


def where_it_lies(directory: str, config: Config) -> Path:
    """A run's directory; where it is not there, that of the same name beside the config's own: runs move together."""
    named = Path(directory)
    beside = Path(config.output_dir, *named.parts[-3:])
    return beside if not named.is_dir() and RUN_NAME.fullmatch(directory) and beside.is_dir() else named


def check_start(config: Config) -> None:
    """RunError where the run that `init_from.run` names cannot be started from."""
    directory = start_directory(config)
    if directory is None:
        return
    if not RunDirectory(directory).is_done():
        raise RunError(f"init_from.run: {directory} is not there or not finished; it is to be the directory of a run "
                       "that is, outputs/TASK/METHOD/HASH-sSEED")
    file = directory / FINAL / "config.json"
    classes = json.loads(file.read_text(encoding="utf-8")).get("architectures") if file.is_file() else None
    if any(name.endswith("ForSequenceClassification") for name in classes or ()):
        raise RunError(f"init_from.run: {directory} was trained as a scorer and writes no text; start from the run "
                       "that it started from")


def reward_model_configs(config: Config) -> dict[str, Config]:
    """The configs of the runs whose reward models the config's scorers are, by the option that names each: those
    without a model.  Raises ConfigError for one that would need itself."""
    return {path: _reward_model_config(config, path, node) for path, node in _unnamed(config).items()}


def _reward_models(config: Config) -> dict[str, dict[str, Any]]:
    """Nodes of scorers `reward_model`, by their option."""
    evaluation = config.evaluation
    nodes = {"scorer": config.scorer, "evaluation.scorer": evaluation.scorer}
    nodes |= {f"evaluation.heldout_scorers.{name}": node for name, node in evaluation.heldout_scorers.items()}
    return {path: node for path, node in nodes.items() if node.get("name") == REWARD_MODEL}


def _unnamed(config: Config) -> dict[str, dict[str, Any]]:
    """Those that name no model."""
    return {path: node for path, node in _reward_models(config).items() if not node.get("model")}


def _reward_model_config(config: Config, path: str, node: dict[str, Any]) -> Config:
    """It judges nothing by itself: for a `scorer` that is such a reward model it has the task's own, and no other."""
    try:
        made, own = _beside(config, REWARD_MODEL, node["overrides"], node["seed"], f"{path}.overrides")
    except ConfigError as error:
        raise ConfigError(f"{path}.model: none is given, and none can be trained on this task: {problem}"
                          for problem in error.problems) from error
    unnamed, evaluation = _unnamed(made), made.evaluation
    if "scorer" in unnamed:
        made.scorer = own.scorer
    if "evaluation.scorer" in unnamed:
        evaluation.scorer = {}
    evaluation.heldout_scorers = {name: each for name, each in evaluation.heldout_scorers.items()
                                  if f"evaluation.heldout_scorers.{name}" not in unnamed}
    if _unnamed(made):
        raise ConfigError(f"{path}.model: none is given, and one trained on task {config.task} would need itself, "
                          "since the task names it as its own scorer: name another scorer there, or a model here")
    return made


def with_reward_models(config: Config, train: Train | None = None) -> Config:
    """The config with every reward model among its scorers named by the directory of its run, which is trained by
    `train(config)` first if it has to be; with None it must be there, or RunError says so."""
    named = deepcopy(config)
    nodes = _reward_models(named)
    for node in nodes.values():
        if node.get("model"):
            node["model"] = str(where_it_lies(node["model"], config))
    for path, needed in reward_model_configs(config).items():
        nodes[path]["model"] = str(_made(needed, f"{path} is the reward model", train))
    return named


def started_from(config: Config) -> dict[str, str]:
    """For a run's identity: the directories of the runs it needs, whose names are functions of their configs."""
    start = start_config(config)
    needed = ({} if start is None else {"init_from.run": start}) | {
        f"{path}.run": each for path, each in reward_model_configs(config).items()}
    directories = {name: run_directory(each) for name, each in needed.items()}
    if config.init_from.run is not None:
        directories["init_from.run"] = Path(config.init_from.run)
    return {name: "/".join(directory.parts[-3:]) for name, directory in directories.items()}


def start_of(config: Config, train: Train | None) -> ModelConfig:
    """The model that a run starts from; `train` as in `with_reward_models`."""
    start = start_config(config)
    if start is not None:
        directory = _made(start, f"{config.method} starts from", train)
    elif (directory := start_directory(config)) is None:
        return config.model
    else:
        check_start(config)
        if train is not None:
            say(f"{config.method} starts from {directory}")
    return replace(config.model, name=str(directory / FINAL), revision=None, tokenizer=None, from_scratch=False,
                   config={})


def _made(needed: Config, what: str, train: Train | None) -> Path:
    """The directory of a finished run.  A second process that needs the same one waits."""
    directory = run_directory(needed)
    if train is None:
        if not RunDirectory(directory).is_done():
            raise RunError(f"{what} {directory}, which is not there or not finished, and nothing is trained here: run "
                           f"train.py --task {needed.task} --method {needed.method} as that run was or would be")
        return directory
    with waiting_for(directory):
        say(f"{what} {directory}")
        train(needed)
    return directory


@contextmanager
def waiting_for(directory: Path):
    """Holds what processes that need the same run wait for: one of them trains it."""
    from filelock import FileLock, Timeout
    lock = FileLock(directory.with_name(f".{directory.name}.start.lock"))
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another process is at {directory}: waiting for it")
            lock.acquire()
    except OSError as error:
        raise unwritable(directory, error) from error
    try:
        yield
    finally:
        lock.release()
