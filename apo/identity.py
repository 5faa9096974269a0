"""What names a run: its directory is a function of the config, not of the clock.

Only what differs from the defaults is hashed, so an option added later with a default renames no old run; number
spelling and the order of overrides do not matter, because the checked values are hashed and not their text.
"""

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any, Iterator

from apo.schema import NOT_IDENTITY, Config, ScenarioConfig

HASH_LENGTH = 8
RUN_NAME = re.compile(rf"(?:.*/)?([^/]+/[^/]+/[0-9a-f]{{{HASH_LENGTH}}})-s(\d+)/?")
"""Path of a run's directory: task, method and hash, and the seed."""


def to_dict(config: Config) -> dict[str, Any]:
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    """Reads back to the same config; a number keeps its type."""
    import yaml
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=120)


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths and values; an empty mapping is a leaf."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from leaves(value, path + ".")
        else:
            yield path, value


def defaults_of(cls: type) -> dict[str, Any]:
    """Default values of a dataclass's fields, nested ones as dicts."""
    values = {}
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            values[field.name] = field.default_factory()
    return {name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
            for name, value in values.items()}


def option_class(kind: str, name: str) -> type:
    """The dataclass whose fields are the options of an objective, a scorer, a metric or a callback.

    Raises ConfigError for an unknown name."""
    if kind == "objective":
        from apo.objectives.base import objectives
        return objectives.get(name)
    if kind == "scorer":
        from apo.scorers.make import scorer_class
        return scorer_class(name)
    if kind == "callback":
        from apo.callbacks.base import callbacks
        return callbacks.get(name)
    from apo.metrics.base import metrics
    return metrics.get(name)


def view_of(config: Config) -> str:
    """The view of the data that the config's objective trains on.  Raises ConfigError for one that cannot be made."""
    options = {key: value for key, value in config.objective.items() if key != "name"}
    return option_class("objective", config.objective.get("name") or "mle")(**options).needs.view


def changes(config: Config) -> dict[str, Any]:
    """Every leaf that differs from its default, by dotted path.  Entries of maps always show, by name at least."""
    tree = to_dict(config)
    flat = dict(leaves(tree))
    base = dict(leaves(to_dict(Config())))
    evaluation = tree["evaluation"]
    named = {"objective": tree["objective"], "scorer": tree["scorer"], "evaluation.scorer": evaluation["scorer"]}
    named |= {f"evaluation.heldout_scorers.{name}": node for name, node in evaluation["heldout_scorers"].items()}
    for path, node in named.items():
        if node.get("name"):
            kind = "objective" if path == "objective" else "scorer"
            base |= dict(leaves(defaults_of(option_class(kind, node["name"])), f"{path}."))
    for kind, path, node in (("metric", "evaluation.metrics", evaluation["metrics"]),
                             ("callback", "callbacks", tree["callbacks"])):
        for name in node:
            flat |= {f"{path}.{name}": {}}
            base |= dict(leaves(defaults_of(option_class(kind, name)), f"{path}.{name}."))
    for name in evaluation["scenarios"]:
        prefix = f"evaluation.scenarios.{name}"
        flat |= {prefix: {}}
        base |= dict(leaves(defaults_of(ScenarioConfig), prefix + "."))
    return {path: value for path, value in flat.items() if path not in base or base[path] != value}


def identity(config: Config) -> dict[str, Any]:
    """`changes` without what does not make a run another run: paths, loggers, micro-batch, ..."""
    return {path: placeless(value, config.seed) for path, value in changes(config).items()
            if not any(path == outside or path.startswith(outside + ".") for outside in NOT_IDENTITY)}


def placeless(value: Any, seed: int) -> Any:
    """The directory of a run, named as the start of this one or as its reward model, without the place where it lies.
    Nor its seed where that is this run's own: runs of all seeds that start each from its like are one config."""
    named = RUN_NAME.fullmatch(value) if isinstance(value, str) else None
    if named is None:
        return value
    return named[1] if int(named[2]) == seed else f"{named[1]}-s{named[2]}"


def config_hash(config: Config) -> str:
    """8 hex digits."""
    text = json.dumps(_canonical(identity(config)), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def _canonical(value: Any) -> Any:
    """One spelling per number: 3.0 is 3."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def run_directory(config: Config) -> Path:
    """`outputs/<task>/<method>/<hash>-s<seed>`."""
    return Path(config.output_dir) / config.task / config.method / f"{config_hash(config)}-s{config.seed}"
