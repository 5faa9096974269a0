"""Arguments, from the command line and from files the user named, as settings: one meaning each, in Hydra's grammar.

    scorer=my:fn            ->  ~scorer  ++scorer.name=my:fn
    logger=[wandb]          ->  ++logger.wandb=true
    +training.max_steps=9   ->  ++training.max_steps=9, and the scale's num_tokens gives way
    --task mine.yml         ->  the file's keys, in front of what the command line says itself

Knows no Hydra: how a value is parsed and how YAML is read is handed in by `apo/config.py`.
"""

import dataclasses
import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

from apo.cli import Argument, Request, config_folders, found, names_in, quoted
from apo.errors import ConfigError, nearest
from apo.identity import leaves
from apo.ranges import BUDGETS
from apo.registry import canonical
from apo.schema import LoggerConfig

GROUPS = ("task", "method", "scale", "model")
FILE_GROUPS = ("task", "method", "scale")
"""Groups whose option may be the path of a file, in the order in which files apply."""
SCORERS, HELDOUT = ("scorer", "evaluation.scorer"), "evaluation.heldout_scorers."
"""Options where `=NAME` is short for `.name=NAME`; in the first two it also drops the options of what stood there."""
EXPERIMENT = "experiment"
"""A file of ours in the form of a user's, in front of them all: it names its task, method and scale itself."""
REQUIRED = ("task", "method")
FREE_COMMAS = ("task", "method", "scale", "seed")
"""Options whose commas make several runs without --sweep."""


@dataclass(frozen=True)
class Setting:
    """One option and the values it takes over the jobs, as texts of Hydra's grammar."""

    key: str
    choices: tuple[str, ...] = ()
    origin: str | None = None
    """Where the user wrote it; null for what follows from something else."""
    kind: str = "value"
    """value, group, delete or native (a text for Hydra alone)."""

    @property
    def text(self) -> str:
        """As Hydra is told."""
        if self.kind == "delete":
            return f"~{self.key}"
        return f"{'++' if self.kind == 'value' else ''}{self.key}={','.join(self.choices)}"

    @property
    def swept(self) -> bool:
        return len(self.choices) > 1

    def touches(self, path: str) -> bool:
        """Sets the option, a part of it, or the node it stands in."""
        return self.key == path or self.key.startswith(path + ".") or path.startswith(self.key + ".")


def spelled(value: Any) -> str:
    """A value read from YAML as a text of Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{','.join(spelled(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{spelled(item)}" for key, item in value.items()) + "}"
    return repr(value)


def is_file(value: str) -> bool:
    return value.endswith((".yml", ".yaml")) or "/" in value


def _is_named_file(argument: Argument) -> bool:
    return argument.key == EXPERIMENT or argument.key in FILE_GROUPS and is_file(argument.value)


@dataclass
class Reader:
    """Turns a request into settings; what is wrong gathers in `problems`."""

    parse: Callable[[str, str], list[str]]
    """(key, text) -> the values; raises ValueError saying why not."""
    load: Callable[[Path], Any]
    """A YAML file's content; raises ConfigError."""
    problems: list[str] = field(default_factory=list)
    plugins: list[str] = field(default_factory=list)
    unknown_groups: bool = False
    """Nothing can be composed."""
    unread: set[str] = field(default_factory=set)
    """Groups whose file is not there or says nothing: what it would have chosen nobody can name."""

    # ---- files -------------------------------------------------------------------------------------------------------

    def arguments(self, request: Request) -> list[Argument]:
        """The request's arguments with named files replaced by what they say, in front."""
        self.problems += request.problems
        self.plugins += request.plugins
        named = {argument.key: argument.value for argument in request.arguments if _is_named_file(argument)}
        if EXPERIMENT in named:
            named[EXPERIMENT] = self.experiment(named[EXPERIMENT])
        from_files = [line for group in (EXPERIMENT, *FILE_GROUPS) if named.get(group)
                      for line in self.file(group, named[group])]
        return from_files + [argument for argument in request.arguments if not _is_named_file(argument)]

    def experiment(self, name: str) -> str | None:
        """The file of a published setting, ours or a plug-in's."""
        if is_file(name):
            return name
        folders, name = config_folders(self.plugins), canonical(name.strip())
        known = found(EXPERIMENT, folders)
        if name in known:
            return str(next(file for folder in folders if (file := folder / EXPERIMENT / f"{name}.yaml").is_file()))
        hint = "one at a time, please" if "," in name else nearest(name, known).strip()
        self.problems.append(f'unknown experiment "{name}": {hint or "--list shows them"}')
        self.unknown_groups = True
        self.unread.add(EXPERIMENT)
        return None

    def file(self, group: str, name: str) -> list[Argument]:
        tree = self.tree(group, name)
        if tree is None:
            self.unread.add(group)
            return []
        plugins = tree.pop("plugins", None) or []
        self.plugins += names_in(plugins) if isinstance(plugins, str) else [str(plugin) for plugin in plugins]
        if "defaults" in tree:
            self.problems.append(f"{name}: defaults: a file names what it builds on with task:, method: and scale:")
            tree.pop("defaults")
        if group not in tree and group == "task":
            tree["task"] = "custom"
        elif group not in tree and group != EXPERIMENT:
            self.problems.append(f"{name}: does not say which {group} it builds on: add a line `{group}: NAME`")
        return [Argument(f"{path}={spelled(value)}", name) for path, value in leaves(tree)]

    def tree(self, group: str, name: str) -> dict[str, Any] | None:
        if "," in name and not Path(name).exists():
            self.problems.append(f"{group}: files cannot be swept over, run them one by one: {name}")
            return None
        try:
            tree = self.load(Path(name))
        except ConfigError as error:
            self.problems += error.problems
            return None
        if not isinstance(tree, dict):
            self.problems.append(f"{name}: expected options (training:, data:, ...), got {type(tree).__name__}")
            return None
        return tree

    # ---- settings ----------------------------------------------------------------------------------------------------

    def settings(self, arguments: Iterable[Argument], sweep: bool, folders: list[Path],
                 groups: Iterable[str] = GROUPS) -> list[Setting]:
        """Later arguments win over earlier ones of the same key."""
        kept: dict[tuple[str, str], Setting] = {}
        for argument in arguments:
            for setting in self.one(argument, sweep, folders, tuple(groups)):
                if setting.kind == "delete" and setting.origin is None:
                    kept = {at: old for at, old in kept.items() if not old.key.startswith(setting.key + ".")}
                kept.pop((setting.kind, setting.key), None)
                kept[setting.kind, setting.key] = setting
        ours = [setting for setting in kept.values() if setting.kind == "delete" and setting.origin is None]
        rest = [setting for setting in kept.values() if setting not in ours]
        return [*ours, *_spent_otherwise(rest), *_started_otherwise(rest), *rest]

    def one(self, argument: Argument, sweep: bool, folders: list[Path], groups: tuple[str, ...]) -> list[Setting]:
        key, value, origin = argument.key, argument.value, argument.origin
        if key.startswith("~"):
            return [Setting(key[1:], (), origin, "delete")]
        if key.startswith(("hydra.", "hydra/")):
            return [Setting(key, (value,), origin, "native")]
        if "@" in key or "/" in key or not key:
            self.problems.append(f"{argument.text}: not an option; options are written key=value ({origin})")
            return []
        if key.partition(".")[0] == "sizes":
            self.problems.append(f"{key}: what a scale hands to scenarios and methods, no option of a run; set it for "
                                 f"each under evaluation.scenarios.NAME, or training.learning_rate ({origin})")
            return []
        if key == "logger" and not value.startswith("{"):
            return self.loggers(value, origin, sweep)
        if key in groups and not value.startswith("{"):
            return self.group(key, value, origin, folders)
        if key.startswith(HELDOUT) and "." not in key.removeprefix(HELDOUT) or key in SCORERS:
            shorthand = not value.startswith("{") and value not in ("null", "")
        else:
            shorthand = False
        node, key = key, f"{key}.name" if shorthand else key
        choices = self.choices(key, value, origin, sweep)
        if not choices:
            return []
        return [Setting(node, (), None, "delete")] * (shorthand and node in SCORERS) + [Setting(key, choices, origin)]

    def choices(self, key: str, value: str, origin: str, sweep: bool) -> tuple[str, ...]:
        try:
            choices = self.parse(key, value)
        except ValueError as error:
            self.problems.append(f"{key}: {error} ({origin})")
            return ()
        if not choices or key in FREE_COMMAS and not all(choices):
            self.problems.append(f"{key}={value}: an empty sweep, nothing would run ({origin})")
            return ()
        if len(choices) > 1 and not sweep and key not in FREE_COMMAS:
            self.problems.append(f"{key}: {len(choices)} values ({value}): add --sweep to run each of them, or write "
                                 f"{key}=[{value}] for a list ({origin})")
        return tuple(choices)

    def group(self, key: str, value: str, origin: str, folders: list[Path]) -> list[Setting]:
        """A named option of a group.  Hyphens count as underscores."""
        known = found(key, folders)
        if value.startswith("glob("):
            value = ",".join(self.globbed(key, value, list(known)))
        names = [canonical(name) for name in names_in(value)]
        if not names:
            self.problems.append(f"{key}={value}: an empty sweep, nothing would run. There are: {', '.join(known)}")
            return []
        for name in names:
            if name not in known:
                self.unknown_groups = True
                self.problems.append(f'unknown {key} "{name}" ({origin}).{nearest(name, known)} '
                                     f"There are: {', '.join(known)}")
        return [Setting(key, tuple(dict.fromkeys(names)), origin, "group")]

    def globbed(self, key: str, value: str, names: list[str]) -> list[str]:
        from fnmatch import fnmatch
        patterns = names_in(value.removeprefix("glob(").removesuffix(")"))
        return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]

    def loggers(self, value: str, origin: str, sweep: bool) -> list[Setting]:
        """`logger=wandb`, `logger=[wandb,tensorboard]`; `jsonl` is always on, so naming it changes nothing."""
        switches = [field.name for field in dataclasses.fields(LoggerConfig)]
        names = [canonical(name) for name in names_in(value)]
        if len(names) > 1 and not value.startswith("["):
            self.problems.append(f"logger: for several at once write logger=[{','.join(names)}] ({origin})")
        for name in names:
            if name not in (*switches, "jsonl", "null"):
                self.problems.append(f'unknown logger "{name}" ({origin}).{nearest(name, switches)} '
                                     f"There are: {', '.join(switches)}")
        return [Setting(f"logger.{name}", ("true",), origin) for name in names if name in switches]


def _spent_otherwise(settings: list[Setting]) -> Iterator[Setting]:
    """Where the user names one budget, those that a scale or a task names are switched off."""
    paths = {f"training.{name}" for name in BUDGETS}
    written = {setting.key: setting for setting in settings if setting.key in paths}
    if sum(setting.choices != ("null",) for setting in written.values()) == 1:
        yield from (Setting(path, ("null",)) for path in sorted(paths - set(written)))


def _started_otherwise(settings: list[Setting]) -> Iterator[Setting]:
    """Where the user names the run to start from, the method that would be trained for that gives way."""
    values = {setting.key: setting.choices for setting in settings if setting.kind == "value"}
    if values.get("init_from.run", ("null",)) != ("null",):
        unset = {"init_from.method": "null", "init_from.seed": "null", "init_from.overrides": "[]"}
        yield from (Setting(path, (text,)) for path, text in unset.items() if path not in values)


def missing_groups(settings: list[Setting]) -> list[str]:
    return [group for group in REQUIRED if not any(setting.key == group for setting in settings)]


def said_of_missing(groups: list[str], unread: set[str], folders: list[Path]) -> list[str]:
    """Nothing of a group whose own file, or whose experiment, could not be read: that has been said."""
    return [f"no {group} chosen: --{group} with one of {', '.join(found(group, folders))}"
            for group in groups if not unread & {group, EXPERIMENT}]


# ---- jobs ------------------------------------------------------------------------------------------------------------


def jobs(settings: list[Setting]) -> Iterator[list[Setting]]:
    """Every combination of choices, each as settings of one choice."""
    options = [[replace(setting, choices=(choice,)) for choice in setting.choices] or [setting] for setting in settings]
    for combination in itertools.product(*options):
        yield list(combination)


def batches(settings: list[Setting], lacks: Callable[[str, list[str]], set[str]]) -> Iterator[list[Setting]]:
    """The settings, divided so that a method runs once without the swept options it does not have.

    `lacks(method, keys)` says which of the swept `objective.*` keys the method has no use for.  A key that every
    method lacks is left in, to be reported as the mistake it is."""
    methods = next((setting for setting in settings if setting.key == "method"), None)
    swept = [setting.key for setting in settings if setting.swept and setting.key.startswith("objective.")]
    if methods is None or not methods.swept or not swept:
        yield settings
        return
    lacking = {method: lacks(method, swept) for method in methods.choices}
    everywhere = set.intersection(*lacking.values())
    divided: dict[frozenset, list[str]] = {}
    for method, keys in lacking.items():
        divided.setdefault(frozenset(keys - everywhere), []).append(method)
    for keys, names in divided.items():
        yield [replace(setting, choices=tuple(names)) if setting is methods else setting
               for setting in settings if setting.key not in keys]
