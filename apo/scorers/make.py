"""From a config's `scorer` node to a scorer: a registered one by its name, or a user's own `module:function`."""

import dataclasses
from typing import Any

from apo.errors import ConfigError, nearest
from apo.scorers.base import Scorer, scorers
from apo.scorers.function import function_scorer


def scorer_class(name: str) -> type[Scorer]:
    """The class whose fields are the options of scorer `name`: a registered one, or a user's `module:function`.

    Raises ConfigError for a name that is neither.  A user's module is imported only when the scorer is first used."""
    if ":" in name:
        return function_scorer(name)
    return scorers.get(name)


def make_scorers(nodes: dict[str, dict[str, Any]]) -> dict[str, Scorer]:
    """Scorers by what they are for, from config nodes; empty ones are left out, and equal ones are one scorer, so that
    no model is loaded twice."""
    made: dict[str, Scorer] = {}
    for options in filter(None, nodes.values()):
        key = repr(sorted(options.items()))
        made[key] = made.get(key) or make_scorer(options)
    return {role: made[repr(sorted(options.items()))] for role, options in nodes.items() if options}


def make_scorer(options: dict[str, Any]) -> Scorer:
    """A scorer from a config node `{"name": ..., option: ...}`.  Raises ConfigError for a wrong name or option."""
    options = dict(options)
    name = options.pop("name", None)
    if not name:
        raise ConfigError('scorer.name is missing: the name of a scorer, or "module:function" for your own')
    cls = scorer_class(name)
    known = [field.name for field in dataclasses.fields(cls)]
    unknown = [key for key in options if key not in known]
    if unknown:
        raise ConfigError(f'scorer "{name}" has no option "{key}".{nearest(key, known)}' for key in unknown)
    return cls(**options)
