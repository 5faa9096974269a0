"""Names to classes: the only way from a word in a config to code.

Not `_target_`: a config that was downloaded must not be able to call anything.  A registry fills itself by importing
every module of one package the first time it is asked, so a new objective, scorer, source or metric is a new file and
no edit; a user's own package is imported by the `plugins` option before the first look-up.

    objectives = Registry("objective", "apo.objectives")

    @objectives.register            # under the class's own name; @objectives.register("dpo") for another
    @dataclass
    class DPO(Objective): ...
"""

import importlib
import pkgutil
from typing import Callable, Iterator

from apo.errors import ConfigError, nearest


def canonical(name: str) -> str:
    """Names ignore case, and hyphens count as underscores."""
    return name.replace("-", "_").lower()


class Registry:
    def __init__(self, kind: str, package: str):
        self.kind, self.package = kind, package
        self._classes: dict[str, type] = {}
        self._filled = False

    def register(self, name_or_class: str | type) -> Callable:
        """Decorator.  Two classes under one name are a mistake, except when a module is imported anew."""
        if isinstance(name_or_class, str):
            return lambda cls: self._add(name_or_class, cls)
        return self._add(name_or_class.__name__, name_or_class)

    def _add(self, name: str, cls: type) -> type:
        known = self._classes.get(canonical(name))
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(f'{self.kind} "{name}" is defined twice: in {known.__module__} and in {cls.__module__}')
        cls.name = name
        self._classes[canonical(name)] = cls
        return cls

    def get(self, name: str) -> type:
        self._fill()
        try:
            return self._classes[canonical(name)]
        except KeyError:
            known = ", ".join(self)
            raise ConfigError(f'unknown {self.kind} "{name}".{nearest(canonical(name), self._classes)} '
                              f"There are: {known}") from None

    def __contains__(self, name: str) -> bool:
        self._fill()
        return canonical(name) in self._classes

    def __iter__(self) -> Iterator[str]:
        self._fill()
        return iter(sorted(cls.name for cls in self._classes.values()))

    def _fill(self) -> None:
        if self._filled:
            return
        self._filled = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
