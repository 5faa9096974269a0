"""A composed config against the schema: every problem at once, each with the option, what was given and where.

A plain tree of dicts goes in and a typed `Config` comes out.  Keys are checked against the dataclasses of
`apo/schema.py` and, for `objective`, `scorer` and metrics, against the fields of the class that the name means; values
by pydantic, one option at a time, so that the wording of every message is ours.
"""

import dataclasses
import types
import typing
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Callable, Literal

from apo.errors import UserError, nearest
from apo.identity import defaults_of, leaves, option_class, to_dict
from apo.ranges import RANGES, out_of_range
from apo.schema import Config

MISSING = "???"
"""Hydra's word for a value that a group leaves to the user; here also for one that is wrong."""
RENAMED = {
    "dataset": "data", "dataset.datasets": "data.path", "dataset.is_split_by_sentences": "data.segment_by",
    "dataset.filter_threshold": "data.filter_threshold", "dataset.skip_tokens": "training.tokens_already_seen",
    "dataset.conditional_training_config": "data.conditional_training_config",
    "tokenizer": "model.tokenizer", "tokenizer.path_or_name": "model.tokenizer",
    "generation": "evaluation.scenarios", "generation.scenario_configs": "evaluation.scenarios, a map of names",
    "generation.metrics_configs": "evaluation.metrics, a map of names", "generation.scorer_config": "scorer",
    "generation.every_n_steps": "evaluation.every_n_steps", "generation.batch_size": "evaluation.batch_size",
    "generation.force_call_on": "evaluation.on_steps",
    "kl_gpt3_callback": "callbacks.kl, against a generator, a model or a completions server",
    "model.path_or_name": "model.name", "model.gpt2_config_kwargs": "model.config",
    "model.model_kwargs": "model.config",
    "training.fp16": "training.precision=fp16", "training.bf16": "training.precision=bf16", "training.seed": "seed",
    "training.output_dir": "output_dir", "training.run_name": "name", "training.num_train_steps": "training.max_steps",
    "training.gradient_accumulation_steps": "training.effective_batch_size",
    "run_name": "name", "group_name": "group",
}
"""PHF's names, and other people's, for what stands elsewhere here."""
NEEDLESS = {f"training.{name}" for name in (
    "hub_model_id", "push_to_hub", "hub_strategy", "remove_unused_columns", "save_strategy", "logging_first_step",
    "evaluation_strategy", "report_to", "dataloader_num_workers")}
"""PHF's options of the Trainer that have no use here."""


@dataclass(frozen=True)
class Problem:
    path: str
    """Dotted path of the option."""
    text: str


@dataclass
class Checker:
    """Walks one tree.  `partial`: the tree is only what the user wrote, so nothing can be missing."""

    partial: bool = False
    problems: list[Problem] = field(default_factory=list)

    def complain(self, path: str, text: str) -> None:
        self.problems.append(Problem(path, text))

    def config(self, tree: dict[str, Any]) -> Config:
        """A whole Config; where a value was wrong it holds the default, and `problems` says so."""
        config = self.node(Config, tree, "")
        evaluation = config.evaluation
        config.objective = self.named("objective", config.objective, "objective")
        config.scorer = self.named("scorer", config.scorer, "scorer")
        evaluation.scorer = self.named("scorer", evaluation.scorer, "evaluation.scorer")
        evaluation.heldout_scorers = {name: self.named("scorer", options, f"evaluation.heldout_scorers.{name}")
                                      for name, options in evaluation.heldout_scorers.items()}
        evaluation.metrics = {name: self.options("metric", name, options, f"evaluation.metrics.{name}")
                              for name, options in evaluation.metrics.items()}
        config.callbacks = {name: self.options("callback", name, options, f"callbacks.{name}")
                            for name, options in config.callbacks.items()}
        return config

    def node(self, cls: type, tree: Any, path: str) -> Any:
        """An instance of dataclass `cls` from a mapping."""
        if not isinstance(tree, dict):
            self.complain(path, f"expected a mapping with {', '.join(_names(cls))}; got {shown(tree)}")
            return cls()
        hints, values = hints_of(cls), {}
        for key, value in tree.items():
            at = f"{path}.{key}" if path else str(key)
            if key not in hints:
                self.complain(at, unknown(at, value, [f"{path}.{name}" if path else name for name in hints]))
                continue
            made = self.value(hints[key], value, at, RANGES.get((cls.__name__, key)))
            if made is not MISSING:
                values[key] = made
        return cls(**values)

    def value(self, hint: Any, value: Any, path: str, limits=None) -> Any:
        """The typed value, or MISSING where there is none or it is wrong."""
        if dataclasses.is_dataclass(hint):
            return self.node(hint, value, path)
        if typing.get_origin(hint) is dict and path in MAPS:
            return self.map(typing.get_args(hint)[1], value, path)
        return self.leaf(hint, value, path, limits)

    def map(self, hint: Any, value: Any, path: str) -> Any:
        """Names are free, and null switches an entry off."""
        if not isinstance(value, dict):
            self.complain(path, f"expected a mapping of names; got {shown(value)}")
            return {}
        made = {str(name): self.value(hint, item, f"{path}.{name}") for name, item in value.items() if item is not None}
        return {name: item for name, item in made.items() if item is not MISSING}

    def leaf(self, hint: Any, value: Any, path: str, limits=None) -> Any:
        if value == MISSING:
            if not self.partial:
                self.complain(path, "must be given")
            return MISSING
        try:
            made = adapter(hint).validate_python(relaxed(hint, value))
            if made == {} and keys_named(hint):
                raise ValueError("{} where {percentile: p} is meant")
        except ValueError:
            self.complain(path, f"expected {described(hint)}, got {shown(value)}")
            return MISSING
        wrong = out_of_range(made, limits)
        if wrong:
            self.complain(path, f"{wrong}, got {shown(value)}")
            return MISSING
        return made

    def named(self, kind: str, options: dict[str, Any], path: str) -> dict[str, Any]:
        """An objective or a scorer: the options of the class that `name` means, defaults filled in."""
        options = dict(options)
        name = options.pop("name", None)
        if name is None and not options or self.partial and name is None:
            return {}
        if not isinstance(name, str):
            self.complain(f"{path}.name", "must be given" if name is None else f"expected text, got {shown(name)}")
            return {}
        made = self.options(kind, name, options, path)
        with suppress(UserError):
            name = option_class(kind, name).name or name
        return {"name": name} | made

    def options(self, kind: str, name: str, options: dict[str, Any], path: str) -> dict[str, Any]:
        try:
            cls = option_class(kind, name)
        except UserError as error:
            for text in getattr(error, "problems", [str(error)]):
                self.complain(path if kind in ("metric", "callback") else f"{path}.name", text)
            return {}
        before, hints, values = len(self.problems), hints_of(cls), {}
        for key, value in options.items():
            at = f"{path}.{key}"
            if key not in hints:
                self.complain(at, f'no option of {kind} "{name}", which has {", ".join(hints) or "none"}.'
                                  f"{nearest(key, hints)}")
            elif (made := self.leaf(hints[key], value, at)) is not MISSING:
                values[key] = made
        if len(self.problems) == before:
            self.construct(cls, values, path)
        return defaults_of(cls) | values

    def construct(self, cls: type, values: dict[str, Any], path: str) -> None:
        """What the class itself has to say about its options, in `__post_init__`."""
        try:
            cls(**values)
        except UserError as error:
            for text in getattr(error, "problems", [str(error)]):
                self.complain(path, text)
        except (TypeError, ValueError) as error:
            self.complain(path, str(error))


MAPS = ("evaluation.scenarios", "evaluation.metrics", "evaluation.heldout_scorers", "callbacks")


# ---- types -----------------------------------------------------------------------------------------------------------


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """Types of a dataclass's fields, in their order."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError:
        hints = {}
    return {field.name: hints.get(field.name, Any) for field in dataclasses.fields(cls) if field.init}


def _names(cls: type) -> list[str]:
    return list(hints_of(cls))


@cache
def adapter(hint: Any):
    from pydantic import ConfigDict, TypeAdapter
    return TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True))


def members(hint: Any) -> tuple:
    """The alternatives of a union, or the type alone."""
    if typing.get_origin(hint) is typing.Annotated:
        return members(typing.get_args(hint)[0])
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def relaxed(hint: Any, value: Any) -> Any:
    """What a person may write beside the exact type: 1e4 for a whole number, 2024 for a text."""
    kinds = members(hint)
    if isinstance(value, bool):
        return value
    if isinstance(value, float) and int in kinds and float not in kinds and value.is_integer():
        return int(value)
    if isinstance(value, (int, float)) and str in kinds and not {int, float} & set(kinds):
        return str(value)
    if isinstance(value, list) and (of := [kind for kind in kinds if typing.get_origin(kind) is list]):
        return [relaxed(typing.get_args(of[0])[0], item) for item in value]
    return value


def keys_named(hint: Any) -> bool:
    """The mapping that this type allows has keys of given names."""
    inside = [typing.get_args(kind) for kind in members(hint) if typing.get_origin(kind) is dict]
    return any(typing.get_origin(kinds[0]) is Literal for kinds in inside)


WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "null"}


def described(hint: Any) -> str:
    """`a number, {percentile: a number} or null`."""
    words = [_word(kind) for kind in members(hint)]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _word(kind: Any) -> str:
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return " or ".join(str(value) for value in inside)
    if origin in (list, tuple):
        return f"a list [{described(inside[0])}, ...]"
    if origin is dict and typing.get_origin(inside[0]) is Literal:
        return "{" + ", ".join(f"{key}: {described(inside[1])}" for key in typing.get_args(inside[0])) + "}"
    return WORDS.get(kind, "a mapping" if origin is dict or kind is dict else getattr(kind, "__name__", str(kind)))


def shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---- names -----------------------------------------------------------------------------------------------------------


@cache
def all_paths() -> tuple[str, ...]:
    """Every option of the schema and every node above it."""
    paths = [path for path, _ in leaves(to_dict(Config()))]
    nodes = {path.rsplit(".", count)[0] for path in paths for count in range(1, path.count(".") + 1)}
    return (*sorted(nodes), *paths)


def unknown(path: str, value: Any, siblings: list[str]) -> str:
    """What to say of an option that does not exist."""
    if path in RENAMED:
        inside = [key for key in value if f"{path}.{key}" in RENAMED] if isinstance(value, dict) else []
        parts = "; ".join(f"{key}: {RENAMED[f'{path}.{key}']}" for key in inside)
        return f"no such option: here it is {RENAMED[path]}" + (f" ({parts})" if parts else "")
    if path in NEEDLESS:
        return "no such option: not needed here, leave it out"
    last = path.rpartition(".")[2]
    same = [known for known in all_paths() if known.rpartition(".")[2] == last]
    if same:
        return f'no such option. Did you mean "{same[0]}"?'
    return f"no such option.{nearest(path, siblings) or nearest(path, all_paths())}"


Origin = Callable[[str], str | None]
"""Where the value of an option was written, for messages."""


def worded(problems: list[Problem], origin: Origin) -> list[str]:
    """Lines for ConfigError, each once."""
    lines = []
    for problem in problems:
        where = origin(problem.path)
        lines.append(f"{problem.path}: {problem.text}" + (f" ({where})" if where else ""))
    return list(dict.fromkeys(lines))
