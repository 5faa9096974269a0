"""What a run starts from: the run of another method, found by its config or trained first, once for all that ask.

`init_from: {method: mle}` of a method's config means: the policy that mle leaves on the same task, data, model and seed
at the same scale.  That run is a run like any other, in its own directory; here it is only found its config.
"""

from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from apo.console import say
from apo.errors import ConfigError
from apo.identity import run_directory
from apo.schema import ConditionalConfig, Config, LoraConfig, ModelConfig

FINAL = "final"


def start_config(config: Config) -> Config | None:
    """The config of the run that this one starts from; None where it starts from its model.

    Budget, learning rate and objective are the start method's own; everything that is not a method's (task, data,
    model, scorer, seed, evaluation, places) is this run's."""
    if config.init_from.method is None:
        return None
    from apo.config import load_config
    names = [f"task={config.task}", f"method={config.init_from.method}", f"scale={config.scale}"]
    own = [f"plugins=[{','.join(config.plugins)}]"] if config.plugins else []
    if config.data.path:        # what a task may leave to the user
        own.append(f"data.source={config.data.source}")
        own.append(f"data.path={_listed(config.data.path)}")
    start = load_config([*names, *own, *config.init_from.overrides])
    if start.init_from.method == start.method:
        raise ConfigError(f"init_from: {start.method} would start from {start.method}, and that from itself again")
    data = replace(deepcopy(config.data), filter_threshold=start.data.filter_threshold,
                   conditional_training_config=start.data.conditional_training_config or ConditionalConfig())
    evaluation = replace(deepcopy(config.evaluation), prefix=start.evaluation.prefix,
                         banned_tokens=start.evaluation.banned_tokens)
    return replace(start, data=data, model=_start_model(config.model), scorer=deepcopy(config.scorer),
                   evaluation=evaluation, seed=config.seed if config.init_from.seed is None else config.init_from.seed,
                   output_dir=config.output_dir, cache_dir=config.cache_dir, offline=config.offline,
                   logger=deepcopy(config.logger), group=config.group, tags=config.tags, debug=config.debug)


def _start_model(model: ModelConfig) -> ModelConfig:
    """A fresh model is trained whole: what is adapted or rounded is what it has become."""
    if model.is_trained:
        return deepcopy(model)
    return replace(deepcopy(model), lora=LoraConfig(), quantization="none")


def _listed(path) -> str:
    from apo.cli import quoted
    return quoted(path) if isinstance(path, str) else f"[{','.join(map(quoted, path))}]"


def started_from(config: Config) -> dict[str, str]:
    """For a run's identity: the directory of the run it starts from, whose name is a function of its config."""
    start = start_config(config)
    return {} if start is None else {"init_from.run": "/".join(run_directory(start).parts[-3:])}


def start_of(config: Config, train) -> ModelConfig:
    """The model that a run starts from, its start run trained by `train(config)` first if it has to be.  A second
    process that needs the same one waits."""
    start = start_config(config)
    if start is None:
        return config.model
    directory = run_directory(start)
    with waiting_for(directory):
        say(f"{config.method} starts from {directory}")
        train(start)
    return replace(config.model, name=str(directory / FINAL), revision=None, tokenizer=None, from_scratch=False,
                   config={})


@contextmanager
def waiting_for(directory: Path):
    from filelock import FileLock
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.with_name(f".{directory.name}.start.lock")):
        yield
