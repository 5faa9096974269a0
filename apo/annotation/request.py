"""The command line of annotation: `key=value` words to a job, or every mistake in them at once.

Task, scorer and data options are composed and checked by `apo/config.py`, as for training; what is ours alone (input,
output, workers, shard, merge) is checked here.
"""

import glob
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from apo.annotation.output import FORMATS, Output
from apo.annotation.rows import Shard
from apo.cli import names_in, quoted
from apo.config import load_config
from apo.data.sources.base import Source, sources
from apo.data.sources.file import JSON_LINES, PARQUET, TABLES
from apo.data.sources.text import PATTERN, visible_files
from apo.errors import ConfigError, nearest
from apo.schema import Config, DataConfig
from apo.scorers.base import Scorer
from apo.scorers.make import make_scorer

KEYS = {
    "task": "whose scorer and segmentation to use (pep8, toxicity, pii, ..., or a file)",
    "input": "what to score; a list is written [a,b].  Without it, the task's own data",
    "output": f"where to: {', '.join(FORMATS)}",
    "scorer": "another scorer than the task's: a name, or module:function for your own",
    "workers": "processes.  Default: every core for a scorer in pure Python, else one",
    "shard": "i/n: only every n-th row from the i-th on, for several machines",
    "merge": "outputs of shards, a,b,c, to put together into `output`",
    "force": "true: begin anew, whatever is there",
    "offline": "true: open no connection",
    "plugins": "packages to import first",
    "debug": "true: show tracebacks",
}
NODES = {
    "scorer.x": "an option of the scorer, as in training",
    "data.segment_by": "document, line or sentence (default: the task's)",
    "data.text_column": "the column that holds the text (default: texts or text)",
    "data.source": "how to read the input: file, text, hub or a plug-in's (default: by what it is)",
    "data.split": "of a hub dataset; data.revision and data.streaming too",
    "data.max_documents": "only the first n rows",
}
OF_THE_COMMAND = ("task", "input", "scorer", "plugins")
"""Keys, beside those of nodes, that decide what comes out, and so stand in the metadata."""
ALONE = ("output", "force", "debug")
"""What goes with `merge`."""
TABLES_OF_ROWS = (*JSON_LINES, *TABLES, *PARQUET)
NOTES = ("", ".md", ".json", ".yaml", ".txt")
"""What may lie beside tables in a copy of a dataset."""


@dataclass
class Job:
    """One input, or one shard of it, to score."""

    data: DataConfig
    source: Source
    scorer: Scorer
    output: Output
    command: str
    """What decides the result, in one spelling: without output, workers and shard."""
    workers: int | None = None
    shard: Shard = Shard(1, 1)
    force: bool = False


@dataclass
class Merge:
    """Outputs of shards to put together."""

    shards: list[Output]
    output: Output
    force: bool = False


def help_text(about: str) -> str:
    width = max(map(len, [*KEYS, *NODES]))
    rows = [f"  {key:<{width}}  {line}" for key, line in (*KEYS.items(), *NODES.items())]
    return "\n".join([about.strip(), "", "options, written key=value:", *rows])


def read(words: list[str]) -> Job | Merge:
    """Raises ConfigError with every mistake."""
    given, problems = _given(words)
    output = _output(given, problems)
    force = _switch("force", given, problems)
    if "merge" in given:
        return _merge(given, output, force, problems)
    workers, shard = _workers(given, problems), _shard(given, problems)
    names = _inputs(given.get("input", ""), problems)
    if not names and given.get("task", "custom") == "custom":
        problems.append("input: missing: what to score, such as input=mine.jsonl, input='src/**/*.py' or the name of a "
                        "hub dataset")
    if output is not None and any(Path(name).resolve() == output.path.resolve() for name in names):
        problems.append(f"output: {output.path} is the input")
    config = _config(given, names, problems)
    scorer = _scorer(config, problems) if config else None
    if problems:
        raise ConfigError(problems)
    source = sources.get(config.data.source)(config.data)
    return Job(config.data, source, scorer, output, _command(given), workers, shard, force)


def _given(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The last word on each key, and what is no option."""
    given, problems = {}, []
    known = [*KEYS, *(key for key in NODES if key != "scorer.x"), "data.revision", "data.streaming"]
    for word in words:
        key, equals, value = word.partition("=")
        key = key.strip().lstrip("-+")
        if not equals:
            problems.append(f'"{word}": options are written key=value' + (f" ({key}=...)" if key in KEYS else ""))
        elif key == "data.path":
            problems.append("data.path: written input=... here")
        elif key not in KEYS and not key.startswith(("scorer.", "data.")):
            problems.append(f"{key}: no such option.{nearest(key, known)} (--help lists them)")
        else:
            given[key] = value.strip()
    return given, problems


def _output(given: dict[str, str], problems: list[str]) -> Output | None:
    name = given.get("output")
    if not name:
        problems.append(f"output: missing: where to write, a file that ends in {', '.join(FORMATS)}")
    elif not name.lower().endswith(FORMATS):
        problems.append(f"output: {name}: the format is told by the ending, one of {', '.join(FORMATS)}")
    else:
        return Output(Path(name).expanduser())
    return None


def _switch(key: str, given: dict[str, str], problems: list[str]) -> bool:
    value = given.get(key, "false").lower()
    if value not in ("true", "false"):
        problems.append(f"{key}: expected true or false, got '{value}'")
    return value == "true"


def _workers(given: dict[str, str], problems: list[str]) -> int | None:
    value = given.get("workers")
    if value is None:
        return None
    if not value.isdecimal() or int(value) < 1:
        problems.append(f"workers: expected a whole number from 1 on, got '{value}'")
        return None
    return int(value)


def _shard(given: dict[str, str], problems: list[str]) -> Shard:
    value = given.get("shard", "1/1")
    found = re.fullmatch(r"(\d+)/(\d+)", value)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        problems.append(f"shard: expected i/n with i from 1 to n, such as 1/3, got '{value}'")
        return Shard(1, 1)
    return Shard(int(found[1]), int(found[2]))


def _merge(given: dict[str, str], output: Output | None, force: bool, problems: list[str]) -> Merge:
    problems += [f"{key}: no option of merge, which puts together what is scored already"
                 for key in given if key not in (*ALONE, "merge")]
    names = names_in(given["merge"])
    if not names:
        problems.append("merge: name the outputs of all shards: merge=a.parquet,b.parquet")
    if output is not None and any(Path(name).resolve() == output.path.resolve() for name in names):
        problems.append(f"output: {output.path} is one of the shards")
    if problems:
        raise ConfigError(problems)
    return Merge([Output(Path(name).expanduser()) for name in names], output, force)


# ---- the input -------------------------------------------------------------------------------------------------------


def _inputs(value: str, problems: list[str]) -> list[str]:
    """The names in `input`, patterns of tables replaced by what they find."""
    names = names_in(value) if value.startswith("[") else [value] if value else []
    found = []
    for name in names:
        pattern = PATTERN & set(name) and not Path(name).exists() and _is_table(name)
        matches = sorted(glob.glob(str(Path(name).expanduser()), recursive=True)) if pattern else [name]
        if not matches:
            problems.append(f"input: no file matches {name}")
        found += matches
    return found


def _is_table(name: str) -> bool:
    return name.lower().removesuffix(".gz").endswith(TABLES_OF_ROWS)


def source_of(name: str) -> str:
    """The source that reads an input: by its suffix or, for a folder, by what lies in it."""
    path = Path(name).expanduser()
    if path.is_dir():
        return "hub" if _is_dataset(path) else "text"
    if _is_table(name):
        return "file"
    is_path = path.is_file() or name.startswith((".", "/", "~")) or path.suffix and path.parent.is_dir()
    return "text" if is_path or PATTERN & set(name) else "hub"


def _is_dataset(folder: Path) -> bool:
    """Tables and nothing else but notes: a local copy of a hub dataset, and not source code that has a table too."""
    files = visible_files(folder)
    tables = [file for file in files if _is_table(file.name) and file.suffix != ".json"]
    return bool(tables) and all(file in tables or file.suffix.lower() in NOTES for file in files)


# ---- task, scorer and data -------------------------------------------------------------------------------------------


def _config(given: dict[str, str], names: list[str], problems: list[str]) -> Config | None:
    nodes = [f"{key}={value}" for key, value in given.items() if key in ("scorer", "offline", "plugins") or "." in key]
    words = [f"task={given.get('task', 'custom')}", "method=mle"]
    if names:
        kinds = list(dict.fromkeys(map(source_of, names)))
        if len(kinds) > 1 and "data.source" not in given:
            problems.append(f"input: {', '.join(names)} are of different kinds ({', '.join(kinds)}); score them one by "
                            "one, or say how to read them with data.source")
        words += [f"data.source={kinds[0]}", f"data.path=[{','.join(map(quoted, names))}]", "data.max_documents=null"]
    elif given.get("task", "custom") == "custom":
        words.append("data.source=stdlib")      # the missing input is complained of already
    try:
        return load_config([*words, *nodes])
    except ConfigError as error:
        problems += error.problems
        return None


def _scorer(config: Config, problems: list[str]) -> Scorer | None:
    if config.scorer:
        return make_scorer(config.scorer)
    problems.append("scorer: missing: a task that has one (task=pep8), a scorer by its name (scorer=pep8), or a "
                    "function of your own (scorer=my_module:my_function)")
    return None


def _command(given: dict[str, str]) -> str:
    return shlex.join(["python", "scripts/score_dataset.py", *_deciding(given)])


def _deciding(given: dict[str, str]) -> Iterator[str]:
    order = [*OF_THE_COMMAND, *sorted(key for key in given if "." in key)]
    return (f"{key}={given[key]}" for key in order if key in given)
