"""What a judge is asked, as text with places: `{{ prompt }}`.

Places are filled by plain replacement, all in one pass: nothing is evaluated, and what is put in is never looked into,
so that a text with `{{ response }}` in it stays what it is.
"""

import re
from pathlib import Path
from typing import Iterable, Mapping

from apo.errors import EvaluationError, nearest

PLACE = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")


def fill(template: str, values: Mapping[str, str]) -> str:
    return PLACE.sub(lambda place: values[place[1]], template)


def places_of(template: str, known: Iterable[str], source: str) -> list[str]:
    """The names in double braces, as often as they come.  Raises EvaluationError for one that is not known; `source` is
    what it calls the template."""
    found, known = PLACE.findall(template), list(known)
    for place in found:
        if place not in known:
            raise EvaluationError(f"{source}: nothing is called {{{{ {place} }}}}; there are {', '.join(known)}."
                                  f"{nearest(place, known)}")
    return found


def read_template(path: Path) -> str:
    """Raises EvaluationError for a file that is not there or not text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "not text in UTF-8"
        raise EvaluationError(f"{path}: the judge's template cannot be read: {reason}.") from None
