"""The command line's options of a pipeline, by whom they are for: `STAGE.key=value` is of one stage, others are of all.

A stage is one run, so what makes several of one (a sweep, another pipeline) is said to be wrong here; of a seed with
several values come several pipelines.
"""

from dataclasses import dataclass, field, replace
from typing import Iterable

from apo.cli import Argument
from apo.config import parse_value
from apo.errors import nearest
from apo.pipelines.file import GROUP, HEADS
from apo.settings import EXPERIMENT, GROUPS

REFUSED = {"method": "the methods of a pipeline stand in its stages", GROUP: "a stage is one run", EXPERIMENT:
           "a published setting is one run, of a task and a method of its own", "plugins": "name it for all stages"}
"""Options that a stage does not have."""


@dataclass
class Division:
    """The command line's options, by whom they are for."""

    for_all: list[Argument] = field(default_factory=list)
    own: dict[str, list[Argument]] = field(default_factory=dict)
    seeds: list[str] = field(default_factory=list)
    """As texts of Hydra's grammar; none where the command line says none."""

    @classmethod
    def of(cls, arguments: Iterable[Argument], names: list[str], problems: list[str]) -> "Division":
        """`STAGE.key=value` is of one stage.  What is wrong goes to `problems`."""
        made = cls(own={name: [] for name in names})
        for argument in arguments:
            sign, head, rest = parted(argument.text)
            second = rest.partition("=")[0].partition(".")[0]
            if argument.key == "seed":
                made.seeds = list(dict.fromkeys(values(argument))) or [argument.value]
            elif head in made.own:
                made.own[head] += single([replace(argument, text=f"{sign}{rest}")], problems, f"{head}.")
            elif head not in HEADS and second in HEADS:
                problems.append(f'{argument.key.lstrip("~")}: no stage "{head}".{nearest(head, names)} '
                                f"Stages: {', '.join(names)} ({argument.origin})")
            elif argument.key != GROUP:
                made.for_all += single([argument], problems)
        return made


def parted(text: str) -> tuple[str, str, str]:
    """`~ppo.data.path=x` as its sign, its first name and the rest; no rest where the key has no dot."""
    bare = text.strip().lstrip("+~")
    key = bare.partition("=")[0]
    head = key.partition(".")[0].strip()
    return text.strip()[:-len(bare) or None], head, bare[len(head) + 1:] if "." in key else ""


def values(argument: Argument) -> list[str]:
    try:
        return parse_value(argument.key, argument.value)
    except ValueError:          # said where the stage is composed
        return [argument.value]


def single(arguments: Iterable[Argument], problems: list[str], prefix: str = "") -> list[Argument]:
    """Those that a stage may have, with one value each; of the others something is said."""
    kept = []
    for argument in arguments:
        key, at = argument.key, f"{prefix}{argument.key}"
        if not key and prefix:
            problems.append(f"{prefix[:-1]}: options of a stage are written {prefix}key=value ({argument.origin})")
        elif key in REFUSED:
            problems.append(f"{at}: {REFUSED[key]} ({argument.origin})")
        elif key.startswith(("hydra.", "hydra/")):
            problems.append(f"{at}: stages follow one another in one process, which Hydra does not run")
        elif not key.startswith("~") and len(several := values(argument)) > 1:
            instead = "" if key in (*GROUPS, "seed") else f", or write {key}=[{argument.value}] for a list"
            problems.append(f"{at}: {len(several)} values ({argument.value}), and a pipeline does not sweep: run it "
                            f"once for each{instead} ({argument.origin})")
            kept.append(replace(argument, text=f"{key}={several[0]}"))
        else:
            kept.append(argument)
    return kept
