"""What is written of a pipeline, read: a file of stages, or a list of methods on the command line.

    task: hh                          # where the command line names none
    stages:
      sft: {method: mle}
      reward_model: {method: reward_model}
      ppo: {method: ppo, from: sft, uses: {scorer.model: reward_model}, overrides: [objective.beta=0.1]}

The order of the file is the order of the stages, and each may need earlier ones alone, so there is nothing to sort and
no circle that could be composed.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator

from apo.cli import COMMAND_LINE, found, names_in
from apo.config import read_yaml
from apo.errors import ConfigError, nearest
from apo.registry import canonical
from apo.schema import Config
from apo.settings import EXPERIMENT, is_file

GROUP = "pipeline"
ALIASES = {"sft": "mle"}
"""Names of methods in a list: what people call the first stage."""
PREVIOUS = object()
"""`from` left out: the nearest earlier stage that leaves a policy."""
HEADS = {field.name for field in dataclasses.fields(Config)} | {"sizes", "hydra", GROUP, EXPERIMENT}
"""First names of options, which are no names of stages: `NAME.key=value` is an option of stage NAME."""
KEYS = {"task": str, "method": str, "from": str, "overrides": list, "uses": dict}
"""Of a stage."""


@dataclass
class StageFile:
    """A stage as it is written."""

    name: str
    method: str
    origin: str
    """Where."""
    task: str | None = None
    start: Any = PREVIOUS
    """Name of the stage that it starts from; null for what its method starts from."""
    overrides: list[str] = field(default_factory=list)
    uses: dict[str, str] = field(default_factory=dict)

    @property
    def needs(self) -> dict[str, str]:
        """Key -> the stage it names."""
        return ({"from": self.start} if isinstance(self.start, str) else {}) | {
            f"uses.{option}": name for option, name in self.uses.items()}


@dataclass
class PipelineFile:
    name: str
    stages: list[StageFile]
    task: str | None = None
    problems: list[str] = field(default_factory=list)


def read(named: str, folders: list[Path]) -> PipelineFile:
    """The pipeline of a name, a path or a list of methods.  Raises ConfigError where there is none."""
    known = found(GROUP, folders)
    if "," in named and not Path(named).exists():
        return listed(named)
    if is_file(named):
        return of_file(Path(named), named)
    if canonical(named) in known:
        file = next(file for folder in folders if (file := folder / GROUP / f"{canonical(named)}.yaml").is_file())
        return of_file(file, str(file))
    if canonical(named) in ALIASES or canonical(named) in found("method", folders):
        return listed(named)
    raise ConfigError(f'unknown pipeline "{named}".{nearest(canonical(named), known)} There are: {", ".join(known)}; '
                      "or name a file, or the methods of the stages: --pipeline sft,dpo")


def listed(words: str) -> PipelineFile:
    """`sft,spin,dpo,spin`: each from the one before it, later ones of a name numbered."""
    bases, stages = [], []
    for word in names_in(words):
        bases.append(canonical(Path(word).stem if is_file(word) else word))
        times = bases.count(bases[-1])
        name = bases[-1] if times == 1 else f"{bases[-1]}_{times}"
        stages.append(StageFile(name, ALIASES.get(bases[-1], word), COMMAND_LINE))
    if not stages:
        raise ConfigError(f"--pipeline {words}: no method is named")
    problems = [f"--pipeline {words}: {stage.name}: {problem}" for stage in stages
                for problem in _name_problems(stage.name)]
    return PipelineFile("-".join(bases), stages, problems=problems)


def of_file(path: Path, origin: str) -> PipelineFile:
    tree = read_yaml(path)
    if not isinstance(tree, dict) or not isinstance(tree.get("stages"), dict) or not tree["stages"]:
        raise ConfigError(f"{origin}: no pipeline: expected `stages:` with a name and a method for each")
    made = PipelineFile(path.stem, [], tree.get("task"))
    made.problems += [f"{origin}: {key}: no key of a pipeline, which has task and stages."
                      f"{nearest(str(key), ('task', 'stages'))}" for key in tree if key not in ("task", "stages")]
    if not isinstance(made.task, str | None):
        made.problems.append(f"{origin}: task: expected the name of a task, got {made.task!r}")
        made.task = None
    for name, body in tree["stages"].items():
        problems = [*_name_problems(str(name)), *_body_problems(body)]
        made.problems += [f"{name}: {problem} ({origin})" for problem in problems]
        made.stages.append(_stage(str(name), body if isinstance(body, dict) else {}, origin))
    made.problems += [f"{problem} ({origin})" for problem in references(made.stages)]
    return made


def _name_problems(name: str) -> Iterator[str]:
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        yield "not a name for a stage, which has letters, digits and underscores"
    elif name in HEADS:
        yield f"not a name for a stage: {name}.key=value is an option of all of them"


def _body_problems(body: Any) -> Iterator[str]:
    if not isinstance(body, dict):
        yield f"expected a mapping with {', '.join(KEYS)}, got {body!r}"
        return
    for key, value in body.items():
        if key not in KEYS:
            yield f"{key}: no key of a stage, which has {', '.join(KEYS)}.{nearest(str(key), KEYS)}"
        elif not isinstance(value, KEYS[key]) and not (value is None and key != "method"):
            yield f"{key}: expected {WORDS[key]}, got {value!r}"
    if "method" not in body:
        yield "method: must be given"
    inside = [*(body.get("overrides") or []), *(body["uses"].values() if isinstance(body.get("uses"), dict) else [])]
    yield from (f"expected text, got {item!r}" for item in inside if not isinstance(item, str))


WORDS = {"task": "the name of a task", "method": "the name of a method", "from": "the name of an earlier stage or null",
         "overrides": "a list [key=value, ...]", "uses": "a mapping {option: name of an earlier stage}"}


def _stage(name: str, body: dict[str, Any], origin: str) -> StageFile:
    """What of the body has the right type."""
    right = {key: value for key, value in body.items() if key in KEYS and isinstance(value, KEYS[key])}
    uses = {str(option): stage for option, stage in right.get("uses", {}).items() if isinstance(stage, str)}
    start = right.get("from") if "from" in body else PREVIOUS
    return StageFile(name, right.get("method", "???"), origin, right.get("task"), start,
                     [text for text in right.get("overrides", []) if isinstance(text, str)], uses)


def references(stages: list[StageFile]) -> Iterator[str]:
    """Names of stages that are not those of earlier ones."""
    place = {stage.name: number for number, stage in enumerate(stages)}
    for number, stage in enumerate(stages):
        for key, name in stage.needs.items():
            if name not in place:
                yield f'{stage.name}: {key}: no stage "{name}".{nearest(name, place)} Earlier ones: ' + (
                    ", ".join(list(place)[:number]) or "none")
            elif name == stage.name:
                yield f"{stage.name}: {key}: a stage cannot need itself"
            elif place[name] > number and stage.name in reached(name, stages):
                yield f"{stage.name}: {key}: {name} needs {stage.name} itself: a circle"
            elif place[name] > number:
                yield f"{stage.name}: {key}: {name} stands behind it; a stage needs earlier ones alone"


def reached(name: str, stages: list[StageFile]) -> set[str]:
    """Every stage that this one needs, by way of others too."""
    needs = {stage.name: set(stage.needs.values()) for stage in stages}
    found, left = set(), [name]
    while left:
        new = needs.get(left.pop(), set()) - found
        found |= new
        left += new
    return found
