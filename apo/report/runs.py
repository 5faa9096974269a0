"""What `evaluate.py`, `chat.py` and the tables know about a run: its directory, read once and never trusted blindly.

A *run* is a directory that holds `config.yaml`.  Anything else that transformers can load (a directory with
`config.json`, a hub name) is a *bare model*: it gets a directory of its own below `<output_dir>/<task>/models/`,
with a config, so that from then on it is a run like the others, except that nobody knows how it was trained.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable

from apo.disk import write_atomic
from apo.errors import EvaluationError, RunError
from apo.identity import config_hash
from apo.models.files import is_model
from apo.rundir import read_json, read_jsonl
from apo.schema import Config

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass
class Run:
    directory: Path
    config: Config
    model: str
    """What to load: the path of `final/`, or a bare model's directory or hub name."""
    manifest: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    bare: bool = False
    trained: Config | None = None
    """As in config.yaml, before overrides: the data it has seen and how they were scored."""
    variant: str = ""
    """Overrides that make this a second look at the same model ("conditional, sampled after the bad token")."""

    @property
    def method(self) -> str:
        return self.manifest.get("label") or self.config.method

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def config_hash(self) -> str:
        """Of everything that makes a run another run, but the seed."""
        return config_hash(self.trained or self.config)

    @property
    def evaluation_path(self) -> Path:
        return self.directory / f"evaluation{self.suffix}.json"

    @property
    def suffix(self) -> str:
        return "-" + re.sub(r"[^\w.=]+", "-", self.variant).strip("-") if self.variant else ""

    def samples_path(self, scenario: str) -> Path:
        return self.directory / "samples" / f"evaluation{self.suffix}-{scenario}.jsonl"

    def history(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, training and evaluation, in order."""
        return read_jsonl(self.directory / "metrics.jsonl")

    def tokens_trained(self) -> int | None:
        seen = [row["num_tokens"] for row in self.history() if "num_tokens" in row]
        return int(max(seen)) if seen else None


def open_run(directory: Path, load_config) -> Run:
    """`load_config(path)` turns `config.yaml` into a Config.  RunError where there is no finished model."""
    config = load_config(directory / "config.yaml")
    run = Run(directory, config, model=str(directory / "final"), trained=config,
              manifest=read_json(directory / "manifest.json") or {},
              status=read_json(directory / "status.json") or {})
    if "bare_model" in run.manifest:
        run.model, run.bare = run.manifest["bare_model"], True
    elif not is_model(directory / "final"):
        raise RunError(f"{directory} has no final model yet: its state is {state_in_words(run.status)}. "
                       "Run its train.py command again to finish it, or leave it out.")
    return run


def state_in_words(status: dict[str, Any]) -> str:
    if "state" not in status:
        return "unknown (no status.json)"
    steps = f", step {status['step']} of {status['max_steps']}" if status.get("max_steps") else ""
    message = f" ({status['message']})" if status.get("message") else ""
    return f'"{status["state"]}"{steps}{message}'


def runs_below(directory: Path) -> list[Path]:
    """Run directories under an outer one such as `outputs/pep8`, so that a sweep can be named by its folder."""
    return sorted(path.parent for path in directory.rglob("config.yaml") if (path.parent / "manifest.json").is_file()
                  and not any(part.startswith("old-") for part in path.relative_to(directory).parts))


def kind_of(name: str) -> str:
    """`run`, `folder` (of runs), `pipeline` (its record), `model`, `published` or `hub`; EvaluationError for what is
    none of them."""
    path = Path(name)
    if is_published(name):
        return "published"
    if (path / "config.yaml").is_file():
        return "run"
    if is_model(path):
        return "model"
    if path.is_dir():
        return "folder"
    if stages_in(path):
        return "pipeline"
    if path.exists() or not HUB_NAME.fullmatch(name) or name.startswith((".", "/")):
        raise EvaluationError(f'"{name}" is neither a run directory (one with config.yaml), nor a model directory '
                              "(one with config.json or adapter_config.json), nor the name of a model on the hub.")
    return "hub"


def is_published(name: str) -> bool:
    """A model of a paper, `<paper>/<task>/<method>`: a file of that name in configs/model."""
    from apo.cli import found
    return name.count("/") == 2 and name in found("model")


def run_directories(names: Iterable[str]) -> list[tuple[str, str]]:
    """Every name as (kind, name), folders replaced by the runs inside and `RUN/final` by its run, without doubles."""
    found: dict[str, str] = {}
    for name in names:
        kind = kind_of(name)
        if kind == "folder":
            inside = runs_below(Path(name)) or stages_below(Path(name))
            if not inside:
                raise EvaluationError(f"{name} holds no run: no folder in it has a config.yaml and a manifest.json.")
            found |= {str(path): "run" for path in inside}
        elif kind == "pipeline":
            found |= {str(path): "run" for path in stages_in(Path(name))}
        elif kind == "model" and Path(name).name == "final" and (Path(name).parent / "config.yaml").is_file():
            found[str(Path(name).parent)] = "run"
        else:
            found[name if kind in ("hub", "published") else os.path.normpath(name)] = kind
    return [(kind, name) for name, kind in found.items()]


def stages_below(folder: Path) -> list[Path]:
    """Finished runs of every pipeline with a record in the folder."""
    return list(dict.fromkeys(run for record in sorted(folder.glob("*.json")) for run in stages_in(record)))


def stages_in(record: Path) -> list[Path]:
    """Finished runs of a pipeline's record, in order; [] of any other file."""
    if record.suffix != ".json" or not record.is_file():
        return []
    try:
        stages = read_json(record)["stages"]
        runs = [record.parent.parent / stage["run"] for stage in stages]
    except (RunError, KeyError, TypeError):
        return []
    return [run for run in runs if (run / "config.yaml").is_file() and (run / "final").is_dir()]


def write(path: Path, text: str) -> None:
    """`write_atomic`; RunError where it cannot be written."""
    try:
        write_atomic(path, text)
    except OSError as problem:
        raise RunError(f"cannot write {path}: {problem.strerror or problem}") from None
