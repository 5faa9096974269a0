"""From words to a checked `Config`, and into `@hydra.main`.  The only module that knows Hydra and OmegaConf.

Settings are checked here and not by Hydra, because Hydra takes `+training.learnig_rate=1` without a word, reports only
the first error and leaves with 1.  Every key reaches it as `++key=value`, so the three spellings of a typo (`key`,
`+key`, in a file) are one case.  A job is composed once here, with the compose API, to be checked; and once more by
`@hydra.main`, which brings multirun and the launchers.
"""

import functools
import importlib
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterable, Sequence

from apo.check import Checker, Origin, Problem, hints_of, worded
from apo.cli import COMMAND_LINE, CONFIGS, Request, config_folders, parse_arguments, quoted, see_working_directory
from apo.errors import ConfigError, UserError, nearest
from apo.identity import config_hash, leaves, option_class, run_directory, to_dict, to_yaml
from apo.ranges import BUDGETS, disagreements, settled
from apo.schema import Config
from apo.settings import Reader, Setting, batches, jobs, missing_groups, said_of_missing

__all__ = ["Plan", "config_from_file", "config_hash", "enter_hydra", "load_config", "make_plan", "override",
           "run_directory", "to_dict", "to_yaml"]

MICRO_BATCH = "training.per_device_train_batch_size"
BUDGET_PATHS = {f"training.{name}" for name in BUDGETS}
CHOSEN = ("task", "method", "scale")
"""Groups whose chosen name is itself a value of the config."""
HELPERS = ("sizes", "hydra")
"""Nodes of the composed tree that only other files refer to."""


# ---- the Python API --------------------------------------------------------------------------------------------------


def load_config(overrides: Sequence[str]) -> Config:
    """One config from what one would write on the command line: `load_config(["task=pep8", "method=mle"])`.

    Raises ConfigError with every problem there is."""
    plan = make_plan(parse_arguments(overrides))
    if len(plan.configs) != 1:
        raise ConfigError(f"these options make {len(plan.configs)} configs, not one")
    return plan.configs[0]


def config_from_file(path: str | Path, plugins: Iterable[str] | None = None) -> Config:
    """A run's `config.yaml`.  `plugins`: packages to import first; null for those that the file names."""
    tree = read_yaml(Path(path), plain=True)
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: not a config")
    named = tree.get("plugins") or []
    import_plugins(named if plugins is None else plugins)
    config, problems = checked(tree, lambda _: str(path))
    if problems:
        raise ConfigError(problems)
    return config


def override(config: Config, overrides: Sequence[str]) -> Config:
    """The config with options changed (`evaluation.scenarios.functions.num_samples=512`), checked like any other."""
    from omegaconf import OmegaConf
    settings = plain_settings(overrides)
    tree = OmegaConf.create(literal(to_dict(config)))
    apply(tree, settings)
    changed, problems = checked(contained(tree), written_in(settings), micro_by_user(settings))
    if problems:
        raise ConfigError(problems)
    return changed


def settings_of(overrides: Sequence[str], nodes: Iterable[str]) -> list[str]:
    """The overrides with `experiment=NAME` replaced by what that file says of these nodes.  Raises ConfigError."""
    reader = Reader(parse_value, read_yaml)
    arguments = reader.arguments(parse_arguments(overrides))
    if reader.problems:
        raise ConfigError(reader.problems)
    return [each.text for each in arguments if each.origin == COMMAND_LINE or each.key.partition(".")[0] in nodes]


def standalone(cls: type, node: str, overrides: Sequence[str]) -> Any:
    """An instance of an options class that is no part of Config, from overrides below `node`, checked alike."""
    from omegaconf import OmegaConf
    settings, tree, hints = plain_settings(overrides), OmegaConf.create({node: {}}), hints_of(cls)
    apply(tree, settings)
    checker, values = Checker(), contained(tree)[node]
    for key, value in values.items():
        if key not in hints:
            checker.complain(f"{node}.{key}", f"no option of it, which has {', '.join(hints)}.{nearest(key, hints)}")
        else:
            values[key] = checker.leaf(hints[key], value, f"{node}.{key}")
    if checker.problems:
        raise ConfigError(worded(checker.problems, written_in(settings)))
    return cls(**values)


def plain_settings(overrides: Sequence[str]) -> list[Setting]:
    """Of options that have one value each and choose no file.  Raises ConfigError."""
    reader = Reader(parse_value, read_yaml)
    settings = reader.settings(reader.arguments(parse_arguments(overrides)), True, [CONFIGS], groups=())
    problems = reader.problems + [f"{setting.key}: one value, please" for setting in settings if setting.swept]
    if problems:
        raise ConfigError(problems)
    return settings


# ---- from a request to jobs ------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """What a valid command line means: the config of every job, and what to tell Hydra to get them."""

    configs: list[Config]
    batches: list[list[str]]
    """Arguments of one `@hydra.main` each; more than one only where methods do not share a swept option."""
    multirun: bool
    notes: list[str]


def make_plan(request: Request) -> Plan:
    """Raises ConfigError with the problems of all jobs."""
    reader = Reader(parse_value, read_yaml)
    arguments = reader.arguments(request)
    plugins = list(dict.fromkeys(reader.plugins))
    folders = config_folders(plugins)
    import_plugins(plugins)
    settings = reader.settings(arguments, request.multirun or "sweep" in request.modes, folders)
    if plugins:
        settings.append(Setting("plugins", (f"[{','.join(quoted(name) for name in plugins)}]",)))
    missing = missing_groups(settings)
    if missing or reader.unknown_groups:
        said = said_of_missing(missing, reader.unread, folders)
        raise ConfigError(dict.fromkeys(reader.problems + said + checked_alone(settings)))
    return _planned(settings, request, folders, reader.problems)


def _planned(settings: list[Setting], request: Request, folders: list[Path], problems: list[str]) -> Plan:
    configs, arguments = [], []
    lacks = functools.partial(lacking, settings, folders)
    divided = list(batches(settings, lacks))
    for batch in divided:
        for job in jobs(batch):
            config, found = check_job(job, folders)
            problems = problems + found
            configs.append(config)
        arguments.append([setting.text for setting in batch] + search_path(folders))
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return Plan(configs, arguments, request.multirun or any(setting.swept for setting in settings),
                notes_on(settings, divided))


def notes_on(settings: list[Setting], divided: list[list[Setting]]) -> list[str]:
    notes = []
    for batch in divided:
        gone = {setting.key for setting in settings} - {setting.key for setting in batch}
        methods = next((setting.choices for setting in batch if setting.key == "method"), ())
        notes += [f"{key} is no option of {', '.join(methods)}: run without it" for key in sorted(gone)]
    return notes


def lacking(settings: list[Setting], folders: list[Path], method: str, keys: list[str]) -> set[str]:
    """Those of the `objective.*` keys that are no options of the method's objective."""
    groups = [replace(setting, choices=(method if setting.key == "method" else setting.choices[0],))
              for setting in settings if setting.kind == "group"]
    tree = composed(tuple(setting.text for setting in groups), tuple(folders))[0]
    cls = option_class("objective", tree.objective.name)
    return {key for key in keys if key.split(".")[1] not in cls.__dataclass_fields__}


def check_job(job: list[Setting], folders: list[Path]) -> tuple[Config | None, list[str]]:
    groups = tuple(setting.text for setting in job if setting.kind == "group")
    tree, choices = composed(groups, tuple(folders))
    tree = tree.copy()
    if list(tree.get("plugins") or []):
        return None, ["plugins: only the command line or a file that you name may ask for them, not a task, method "
                      f"or scale: {', '.join(tree.plugins)}"]
    try:
        apply(tree, job)
        plain = contained(tree) | {name: choices[name] for name in CHOSEN}
    except ConfigError as error:
        return None, error.problems
    return checked(plain, written_in(job, choices, folders), micro_by_user(job))


def checked(tree: dict[str, Any], origin: Origin, by_user: bool = False) -> tuple[Config | None, list[str]]:
    """The config, or every problem of the tree."""
    checker = Checker()
    config = checker.config({key: value for key, value in tree.items() if key not in HELPERS})
    config = settled(config, by_user)
    wrong = {problem.path for problem in checker.problems}
    if wrong & BUDGET_PATHS:
        wrong |= BUDGET_PATHS
    checker.problems += [Problem(path, text) for path, text in disagreements(config) if path not in wrong]
    return (None, worded(checker.problems, origin)) if checker.problems else (config, [])


def checked_alone(settings: list[Setting]) -> list[str]:
    """Problems of what the user wrote, where it cannot be composed because a task or method is missing."""
    from omegaconf import OmegaConf
    tree = OmegaConf.create(to_dict(replace(Config(), objective={})))
    values = [setting for setting in settings if setting.kind == "value"]
    checker = Checker(partial=True)
    for job in jobs(values):
        apply(tree, job)
        checker.config(contained(tree))
    return worded(checker.problems, written_in(settings))


def micro_by_user(settings: Iterable[Setting]) -> bool:
    return any(setting.key == MICRO_BATCH for setting in settings)


def written_in(settings: Sequence[Setting], choices: dict[str, str] | None = None,
               folders: Sequence[Path] = ()) -> Origin:
    """Where the last word on an option was written."""
    def origin(path: str) -> str | None:
        for setting in reversed(settings):
            if setting.kind == "value" and setting.touches(path):
                return setting.origin
        for group, name in reversed((choices or {}).items()):
            for file in (folder / group / f"{name}.yaml" for folder in folders):
                if file.exists() and _says(file, path, prefix="model." if group == "model" else ""):
                    return str(file)
        return None
    return origin


def _says(file: Path, path: str, prefix: str) -> bool:
    tree = read_yaml(file)
    return isinstance(tree, dict) and any(f"{prefix}{key}" == path or f"{prefix}{key}".startswith(path + ".")
                                          or path.startswith(f"{prefix}{key}.") for key, _ in leaves(tree))


# ---- plug-ins --------------------------------------------------------------------------------------------------------


def import_plugins(names: Iterable[str]) -> None:
    see_working_directory()
    for name in names:
        try:
            importlib.import_module(name)
        except UserError:
            raise
        except Exception as error:
            raise ConfigError(f'plugins: importing "{name}" failed: {type(error).__name__}: {error}') from error


# ---- Hydra and OmegaConf ---------------------------------------------------------------------------------------------


def read_yaml(path: Path, plain: bool = False) -> Any:
    """Containers.  What people write is read by OmegaConf, since PyYAML takes 1e-4 for a text and the same key twice;
    `plain`: what `to_yaml` wrote, by PyYAML, so that a text stays the text it is."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError, safe_load
    try:
        if plain:
            return safe_load(path.read_text(encoding="utf-8"))
        return OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except (YAMLError, OmegaConfBaseException) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not YAML: {getattr(error, 'problem', None) or error}") from None


def parse_value(key: str, text: str) -> list[str]:
    """The values of `key=text`, each as a text of Hydra's grammar.  Raises ValueError."""
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException
    try:
        parsed = parser().parse_override(f"++{key}={text}")
    except HydraException as error:
        if "empty choice" in str(error):
            return []
        if text[:1] in "[{\"'" and text:
            raise ValueError(f"{text} is neither a list, a mapping nor a quoted text of Hydra's grammar") from None
        return [quoted(text)]
    if not parsed.is_sweep_override():
        return [text]
    if isinstance(parsed.value(), Glob) or not parsed.is_discrete_sweep():
        raise ValueError(f"{text} is no list of values")
    return list(parsed.sweep_string_iterator())


@functools.cache
def parser():
    from hydra.core.override_parser.overrides_parser import OverridesParser
    return OverridesParser.create()


def apply(tree, settings: Iterable[Setting]) -> None:
    """What Hydra does with value overrides, on a composed tree, in place.  Raises ConfigError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    OmegaConf.set_struct(tree, False)
    for setting in settings:
        try:
            if setting.kind == "delete":
                _delete(tree, setting)
            elif setting.kind == "value":
                value = parser().parse_override(setting.text).value()
                OmegaConf.update(tree, setting.key, value, merge=True, force_add=True)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{setting.key}: {_first_line(error)} ({setting.origin})") from None


def _delete(tree, setting: Setting) -> None:
    from omegaconf import OmegaConf
    parent, _, last = setting.key.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    if node is None or last not in node:
        raise ConfigError(f"~{setting.key}: there is nothing of that name to delete.{nearest(last, node or ())}")
    del node[last]
    if not parent or setting.origin is None:    # a node of the schema is emptied, not missing
        node[last] = {}


def contained(tree) -> dict[str, Any]:
    """Plain containers, references resolved."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    try:
        return OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'config'}: {_first_line(error)}") from None


def literal(value: Any) -> Any:
    """The containers with every `${` as a text and not a reference."""
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [literal(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def version_base() -> str | None:
    """Asked for on 1.3, where leaving it out warns; deprecated from 1.4."""
    import hydra
    return "1.3" if tuple(int(part) for part in hydra.__version__.split(".")[:2]) < (1, 4) else None


def store_schema() -> None:
    """The schema's defaults as plain values: the first entry of train.yaml."""
    from hydra.core.config_store import ConfigStore
    tree = {key: value for key, value in to_dict(Config()).items() if key not in CHOSEN}
    ConfigStore.instance().store(name="schema", node=tree)


def search_path(folders: Sequence[Path]) -> list[str]:
    """Hydra's argument for the folders beside ours."""
    places = ",".join(quoted(f"file://{folder.resolve()}") for folder in folders if folder != CONFIGS)
    return [f"hydra.searchpath=[{places}]"] if places else []


@functools.lru_cache(maxsize=256)
def composed(groups: tuple[str, ...], folders: tuple[Path, ...]) -> tuple[Any, dict[str, str]]:
    """The tree of these group choices before any value is set, and the choices.  Raises ConfigError."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    store_schema()
    try:
        with _beside_running_hydra(), initialize_config_dir(config_dir=str(CONFIGS), version_base=version_base(),
                                                            job_name="train"):
            tree = compose("train", [*groups, *search_path(folders)], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error).strip()) from None
    choices = {group: name for group, name in tree.hydra.runtime.choices.items()
               if isinstance(name, str) and not group.startswith("hydra/")}
    OmegaConf.set_struct(tree, False)
    for name in (*CHOSEN, "hydra"):
        del tree[name]
    return tree, choices


@contextmanager
def _beside_running_hydra():
    """Inside a job the one Hydra is that of `@hydra.main`; a run that starts from another composes that one's config
    there."""
    from hydra.core.global_hydra import GlobalHydra
    running = GlobalHydra.instance()
    before = running.hydra
    running.clear()
    try:
        yield
    finally:
        running.hydra = before


@contextmanager
def _arguments(words: list[str]):
    """`@hydra.main` reads sys.argv."""
    before = sys.argv
    sys.argv = [before[0], *words]
    try:
        yield
    finally:
        sys.argv = before


def enter_hydra(words: list[str], task: Callable[[Any], Any]) -> None:
    """Runs `task` on what Hydra composes from these arguments.  `task` is importable: launchers pickle its name."""
    import hydra
    store_schema()
    with _arguments(words):
        hydra.main(config_path=str(CONFIGS), config_name="train", version_base=version_base())(task)()


def from_hydra(composed_by_hydra) -> Config:
    """The config of the job that Hydra is running."""
    from hydra.core.hydra_config import HydraConfig
    choices = HydraConfig.get().runtime.choices
    plain = contained(composed_by_hydra) | {name: choices[name] for name in CHOSEN}
    import_plugins(plain["plugins"])
    config, problems = checked(plain, lambda _: None)
    if problems:
        raise ConfigError(problems)
    return config
