"""Heavy libraries, imported at first use.

The config is checked, with every objective's and scorer's options, before anything slow is loaded: `import torch`
alone costs more than the whole check.  So the modules that *declare* options write `from apo.lazy import torch`
and pay only when a tensor is touched.  Code that runs after the config is valid imports the real thing.
"""

import importlib


class Lazy:
    """A stand-in for a module that imports it at the first attribute access."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str):
        return getattr(importlib.import_module(self._name), attribute)

    def __repr__(self) -> str:
        return f"<lazy module {self._name}>"


torch = Lazy("torch")
