"""What a user can cause: one class per kind, one message each that names the file, key or row and what to do.

The entry points print `message` and leave with `exit_code`, without a traceback unless `debug=true`.  Anything that
is not a `UserError` is our bug and keeps its traceback.
"""

from difflib import get_close_matches
from typing import Iterable


class UserError(Exception):
    """A mistake outside our code.  `str(error)` is the whole message, fit for a terminal."""

    exit_code = 2


class ConfigError(UserError):
    """One or more things wrong with the configuration; all of them are in `problems` and shown together."""

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        count = len(self.problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} in the configuration:\n{lines}")


class DataError(UserError):
    """A data file or dataset that cannot be trained on: names the file and the row."""


class ModelError(UserError):
    """A model or tokenizer that cannot be loaded or used as asked."""


class ScorerError(UserError):
    """A scorer that cannot be loaded, or that returned something that is not a finite number per text."""


class RunError(UserError):
    """A run directory that is owned by another process, belongs to another config, or cannot be written."""


class CheckpointError(RunError):
    """No usable checkpoint where one is needed."""


class EvaluationError(UserError):
    """An evaluation or comparison that cannot be made, or would not be fair."""


class ServerError(UserError):
    """A server that text is asked of and that does not answer, or not with what was asked for."""


class OutOfMemory(UserError):
    """The smallest micro-batch does not fit."""

    exit_code = 3


class NonFiniteLoss(UserError):
    """Loss or gradient became NaN or infinite; the optimiser has not stepped."""

    exit_code = 3


class Interrupted(UserError):
    """A signal asked the run to stop; it has saved.  `exit_code` is 128 + the signal's number."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.exit_code = 128 + signum


def nearest(word: str, candidates: Iterable[str]) -> str:
    """` Did you mean "x"?` for the nearest candidate, or an empty string where nothing is near."""
    close = get_close_matches(word, list(candidates), n=1, cutoff=0.5)
    return f' Did you mean "{close[0]}"?' if close else ""
