"""The command line before Hydra sees it: our flags, `--help` and `--list`.

    --task pep8 --method mle,awr --offline training.learning_rate=1e-3
becomes
    task=pep8 method=mle,awr offline=true training.learning_rate=1e-3

Nothing here imports Hydra, YAML or a model, so that `--help` costs no more than the interpreter: what it lists is
found by reading the first comment of every file in `configs/task`, `configs/method` and their like.
"""

import importlib.util
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, Iterator

from apo.errors import ConfigError, nearest
from apo.registry import canonical

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
COMMAND_LINE = "command line"

LISTED = {"task": "tasks", "method": "methods", "scale": "scales", "pipeline": "pipelines"}
"""Groups that --help and --list show."""
MANY = {"experiment": "experiments", "model": "models"}
"""Groups that --list shows and --help, which is one page, does not."""

NODES = {
    "training": "budget, batch size, learning rate, schedule, precision (names of transformers' TrainingArguments)",
    "objective": "the method's own options: alpha, beta, score_threshold, ...",
    "data": "source, path, columns, block_size, filter_threshold, conditional_training_config",
    "model": "a fresh model's architecture and size, or a name on the hub: model=hub model.name=gpt2",
    "init_from": "what training starts from: the policy that another method leaves on the same task, or a run",
    "rollout": "how a method that learns from its own samples writes them: prompts, generations, epochs, lengths",
    "scorer": "what judges text: scorer=pep8, or your own, scorer=module:function",
    "evaluation": "scenarios, metrics, what judges samples, how often, how many held-out tokens",
    "callbacks": "what else is measured while training, by name",
    "logger": "logger=wandb, logger=[wandb,tensorboard]; JSONL is always written",
}
"""The public nodes of the config; `seed`, `output_dir` and their like have flags."""

VALUES = {
    "task": ("NAME|FILE", "what is trained on and judged"),
    "method": ("NAME|FILE", "how"),
    "scale": ("NAME", "size of everything (demo)"),
    "experiment": ("NAME", "a published setting: task, method, scale and every option of it (--list)"),
    "pipeline": ("NAME|FILE|A,B", "stages, each a run that starts from an earlier one (docs/pipelines.md)"),
    "seed": ("N", "of data order, initialisation, sampling and dropout (1)"),
    "output_dir": ("DIR", "where run directories go (outputs)"),
    "cache_dir": ("DIR", "scored and tokenised data, shareable ($APO_CACHE, else ~/.cache/apo)"),
    "name": ("TEXT", "of the run, for loggers"),
    "group": ("TEXT", "of runs, for loggers"),
    "tags": ("A,B", "for loggers"),
    "plugins": ("A,B", "packages to import first; their configs/ folder is searched as well"),
}
SWITCHES = {
    "offline": "never open a connection",
    "force": "begin a finished or different run anew; what was there is moved aside",
    "debug": "show tracebacks",
}
MODES = {
    "dry_run": "print the resolved config, sizes, steps and estimates, and stop",
    "sweep": "let commas make several runs in any option, not only in task, method, seed and scale",
    "list": "tasks, methods, scales, pipelines, experiments and models, one per line",
    "help": "this page",
}
OVERRIDE = "--override"
LITERAL = ("output_dir", "cache_dir", "name", "group")
"""Flags whose value is text as it stands, commas and all."""
NATIVE = {"-m": 0, "--multirun": 0, "--resolve": 0, "--cfg": 1, "-c": 1, "--package": 1, "-p": 1, "--info": "?",
          "-i": "?", "--hydra-help": 0, "--version": 0}
"""Hydra's own flags, handed on, with the number of values each takes."""
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


@dataclass(frozen=True)
class Argument:
    """One `key=value`, and where it was written."""

    text: str
    origin: str = COMMAND_LINE

    @property
    def key(self) -> str:
        return self.text.partition("=")[0].strip().lstrip("+")

    @property
    def value(self) -> str:
        return self.text.partition("=")[2].strip()


@dataclass
class Request:
    """What the command line asks for."""

    arguments: list[Argument] = field(default_factory=list)
    plugins: list[str] = field(default_factory=list)
    modes: set[str] = field(default_factory=set)
    native: list[str] = field(default_factory=list)
    """Flags for Hydra."""
    problems: list[str] = field(default_factory=list)

    @property
    def pipeline(self) -> str | None:
        """What --pipeline names, the last word of several."""
        return next((argument.value for argument in reversed(self.arguments) if argument.key == "pipeline"), None)

    @property
    def multirun(self) -> bool:
        return "-m" in self.native or "--multirun" in self.native

    @property
    def only_shows(self) -> bool:
        """Hydra is to print something, not to run."""
        return any(flag not in ("-m", "--multirun") for flag in self.native)

    @property
    def debug(self) -> bool:
        return any(argument.key == "debug" and argument.value.lower() == "true" for argument in self.arguments)


def quoted(text: str) -> str:
    """The text as a quoted string of Hydra's grammar: a backslash escapes only in front of a quote."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"


def parse_arguments(argv: Iterable[str]) -> Request:
    """Never raises: what is wrong is in `problems`, to be reported with everything else that is."""
    request, words = Request(), list(argv)
    while words:
        word = words.pop(0)
        if word.startswith("-") and word != "-":
            _flag(word, words, request)
        elif word.startswith("~") or "=" in word:
            _argument(word, request)
        else:
            request.problems.append(f'"{word}": options are written key=value{_flag_hint(word)}')
    return request


def _argument(text: str, request: Request) -> None:
    argument = Argument(text)
    if argument.key == "plugins":
        request.plugins += names_in(argument.value)
    else:
        request.arguments.append(argument)


def names_in(value: str) -> list[str]:
    """`a,b`, `[a, b]` or `['a']` as a list."""
    names = (name.strip().strip("'\"") for name in value.strip().strip("[]").split(","))
    return [name for name in names if name]


def _flag(word: str, words: list[str], request: Request) -> None:
    flag, equals, value = word.partition("=")
    name = canonical(flag.lstrip("-"))
    if flag == "-h":
        request.modes.add("help")
    elif flag in NATIVE:
        _native(word, flag, words, request)
    elif flag.startswith("--") and name in MODES:
        request.modes.add(name)
    elif flag.startswith("--") and name in SWITCHES:
        request.arguments.append(Argument(f"{name}={value or 'true'}"))
    elif flag.startswith("--") and name in VALUES or flag == OVERRIDE:
        if not equals:
            if not words or words[0].startswith("--"):
                request.problems.append(f"{flag} needs a value")
                return
            value = words.pop(0)
        _argument(value if flag == OVERRIDE else _as_override(name, value), request)
    else:
        request.problems.append(f'unknown flag "{flag}".{nearest(flag.replace("_", "-"), all_flags())} '
                                "(--help lists them; options are written key=value)")
        if not equals and words and not words[0].startswith(("-", "~", "+")) and "=" not in words[0]:
            words.pop(0)


def _native(word: str, flag: str, words: list[str], request: Request) -> None:
    request.native.append(word)
    count = NATIVE[flag]
    takes = "=" not in word and words and (count == 1 or count == "?" and words[0] in INFO)
    if takes:
        request.native.append(words.pop(0))


def _as_override(name: str, value: str) -> str:
    if name in LITERAL:
        return f"{name}={quoted(value)}"
    if name == "tags":
        return f"tags=[{','.join(quoted(tag) for tag in names_in(value))}]"
    return f"{name}={value}"


def dashed(name: str) -> str:
    return "--" + name.replace("_", "-")


def all_flags() -> list[str]:
    return [dashed(name) for name in (*VALUES, *SWITCHES, *MODES)] + [OVERRIDE, *NATIVE]


def _flag_hint(word: str) -> str:
    return f" (or {dashed(word)} VALUE)" if word in VALUES else ""


# ---- plug-ins and what there is --------------------------------------------------------------------------------------


def see_working_directory() -> None:
    """A user's own modules are found where the command is given, after everything that is installed."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())


def config_folders(plugins: Iterable[str]) -> list[Path]:
    """Ours, and `configs/` of every plug-in that has one.  Imports at most a plug-in's parent packages.

    Raises ConfigError for a package that is not there."""
    see_working_directory()
    folders = [CONFIGS]
    for name in plugins:
        try:
            found = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise ConfigError(f'plugins: there is no package "{name}", neither installed nor in {os.getcwd()}')
        places = found.submodule_search_locations or []
        folders += [folder for folder in (Path(place) / "configs" for place in places) if folder.is_dir()]
    return folders


def found(group: str, folders: Iterable[Path] = (CONFIGS,)) -> dict[str, str]:
    """Every option of a group with its line, by name."""
    files = {file.relative_to(folder / group).with_suffix("").as_posix(): file
             for folder in folders for file in (folder / group).rglob("*.yaml")}
    return {name: first_comment(files[name]) for name in sorted(files)}


def first_comment(file: Path) -> str:
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("#") and "@package" not in line:
                return line.lstrip("# ").strip()
            if line.strip() and not line.startswith("#"):
                break
    return ""


def list_lines(plugins: Iterable[str] = ()) -> Iterator[str]:
    """`task=pep8<TAB>what it is`."""
    folders = config_folders(plugins)
    for group in (*LISTED, *MANY):
        for name, line in found(group, folders).items():
            yield f"{group}={name}\t{line}"


def help_text(plugins: Iterable[str] = ()) -> str:
    folders = config_folders(plugins)
    parts = [HEAD, _table("flags:", _flag_rows())]
    parts += [_table(f"{title}:", found(group, folders).items()) for group, title in LISTED.items()]
    parts += [_table("options, written node.name=value (docs/config.md; --cfg job prints all):", NODES.items()), TAIL]
    return "\n".join(parts)


def _flag_rows() -> Iterator[tuple[str, str]]:
    for name, (placeholder, line) in VALUES.items():
        yield f"{dashed(name)} {placeholder}", line
    yield f"{OVERRIDE} KEY=VALUE ...", "the same as KEY=VALUE alone"
    for name, line in (*SWITCHES.items(), *MODES.items()):
        yield dashed(name), line


def _table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {line}".rstrip() for name, line in rows), ""])


HEAD = """\
Train a language model on scored text, so that it scores better.

usage: python train.py --task TASK --method METHOD [flags] [node.option=value ...]
       python train.py --task TASK --pipeline NAME|METHOD,METHOD,... [flags] [[stage.]node.option=value ...]
"""

TAIL = """\
Commas in task, method, seed or scale make several runs.  Hydra's -m, --cfg job, --resolve and --info work.

examples:
  python train.py --task pep8 --method conditional
  python train.py --task pep8 --method mle,conditional --seed 1,2,3
  python train.py --task pep8 --method awr objective.beta=0.1,1 --sweep
  python train.py --task custom --method filtering data.path=mine.jsonl scorer=my_module:my_function
  python train.py --task my_task.yml --method conditional --scale smoke --dry-run
  python train.py --task hh --pipeline sft,dpo,kto dpo.objective.beta=0.3 --dry-run"""
