"""A user's own function as a scorer: `scorer=my_package.my_module:my_function`, no file of ours edited.

    def shouting(text: str) -> float: ...                       # called once per text
    def shouting(texts: list[str]) -> list[float]: ...          # called once per list

Which of the two it is, the annotation of its first parameter says: a list, Sequence or other collection is a list of
texts, anything else (no annotation, too) is one text.  `scorer.batched=true` or `false` overrides that.  Trying it out
instead would be a guess: many functions accept a list where they mean a string and return a wrong number.

The module is looked for as `python -m` would, in the current folder first, and imported when the scorer is first used.
Modules of the standard library are refused: no function there is a scorer, and a config from elsewhere must not be able
to hand text to `os:system`.  The numbers are misalignment, lower is better.
"""

import dataclasses
import importlib
import inspect
import re
import sys
import typing
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Iterable

from apo.errors import ConfigError, ScorerError, nearest
from apo.scorers.base import Scorer, check_numbers, file_sha256, quoted

NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclasses.dataclass
class FunctionScorer(Scorer):
    """`name` is the function's `module:function`."""

    batched: bool | None = None
    """Whether the function takes a list of texts.  null: as the annotation of its first parameter says."""

    def score(self, texts: list[str]) -> list[float]:
        """Raises ScorerError for a function that is missing, fails, or returns anything but a finite number per text;
        the message names the index of the text."""
        if not self._takes_a_list:
            return [self._score_one(index, text) for index, text in enumerate(texts)]
        if not texts:
            return []
        try:
            numbers = self._function(list(texts))
        except Exception as error:
            raise self._failure(error, self._culprit(texts)) from error
        return check_numbers(self.name, numbers, texts, "text")

    def code(self) -> dict[str, str]:
        """The files of the module named and of the module that defines the function (one may re-export the other's).
        What these import is not covered: put what decides the score into one file, or raise a version in it."""
        files = {getattr(sys.modules[module], "__file__", None)
                 for module in (self._module, inspect.unwrap(self._function).__module__ or self._module)}
        return {str(i): file_sha256(file) for i, file in enumerate(sorted(filter(None, files)))}

    def __reduce__(self):
        """A process that gets a copy makes the class and imports the function itself."""
        return _made, (self.name, dataclasses.asdict(self))

    @property
    def _module(self) -> str:
        return self.name.partition(":")[0]

    @cached_property
    def _function(self) -> Callable[..., Any]:
        module, _, name = self.name.partition(":")
        found = getattr(import_module(self.name, module), name, None)
        if not callable(found):
            names = [key for key, value in vars(sys.modules[module]).items() if callable(value)]
            raise ScorerError(f'scorer "{self.name}": {module} ({sys.modules[module].__file__}) has no function '
                              f'"{name}".{nearest(name, names)}')
        return found

    @cached_property
    def _takes_a_list(self) -> bool:
        return takes_a_list(self._function) if self.batched is None else self.batched

    def _score_one(self, index: int, text: str) -> float:
        try:
            number = self._function(text)
        except Exception as error:
            raise self._failure(error, (index, text)) from error
        if hasattr(number, "__len__") and not isinstance(number, (str, bytes)):
            raise ScorerError(f'scorer "{self.name}" returned {quoted(number)} for one text; a function of a list of '
                              "texts annotates its parameter as list[str], or is named with scorer.batched=true")
        return check_numbers(self.name, [number], [text], "text")[0]

    def _culprit(self, texts: list[str]) -> tuple[int, str] | None:
        """The first text on which a function of a list fails alone, if there is one."""
        for index, text in enumerate(texts):
            try:
                self._function([text])
            except Exception:
                return index, text
        return None

    def _failure(self, error: Exception, culprit: tuple[int, str] | None) -> ScorerError:
        where = f"text {culprit[0]} ({quoted(culprit[1])})" if culprit else "a list of texts (on none of them alone)"
        return ScorerError(f'scorer "{self.name}" failed on {where}: {type(error).__name__}: {error}. '
                           "debug=true shows where")


def function_scorer(name: str) -> type[FunctionScorer]:
    """The class for one function, so that its `name` is the class's own as with registered scorers.

    Raises ConfigError for a name that is not `module:function` or that lies in the standard library."""
    if not NAME.fullmatch(name):
        raise ConfigError(f'scorer "{name}": a scorer of your own is named "module:function", such as '
                          "my_package.my_module:my_function")
    if name.partition(":")[0].partition(".")[0] in sys.stdlib_module_names:
        raise ConfigError(f'scorer "{name}" lies in the standard library, where there are no scorers; name a module of '
                          "your own")
    return dataclasses.dataclass(type("FunctionScorer", (FunctionScorer,), {"name": name, "__module__": __name__}))


def _made(name: str, options: dict[str, Any]) -> FunctionScorer:
    return function_scorer(name)(**options)


def import_module(scorer: str, module: str) -> Any:
    """The user's module.  Raises ScorerError where it is missing or fails while it is imported."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            raise ScorerError(f'scorer "{scorer}": there is no module "{error.name}" in {here} or among the installed '
                              "packages") from error
        raise ScorerError(f'scorer "{scorer}": its module needs "{error.name}", which is not installed') from error
    except Exception as error:
        raise ScorerError(f'scorer "{scorer}": its module fails when it is imported: {type(error).__name__}: {error}. '
                          "debug=true shows where") from error


def takes_a_list(function: Callable[..., Any]) -> bool:
    """Whether the first parameter is annotated as a list, Sequence or other collection of texts."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except (TypeError, ValueError, NameError):
        return False
    annotation = next((parameter.annotation for parameter in signature.parameters.values()), str)
    kind = typing.get_origin(annotation) or annotation
    return isinstance(kind, type) and issubclass(kind, Iterable) and not issubclass(kind, str)
