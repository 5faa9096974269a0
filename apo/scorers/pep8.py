"""PEP 8: violations that pycodestyle finds, per character of text.

The count is pycodestyle's own, whole (PHF scores with a plain style guide: every default check, every repeat
counted), so the library's checker runs unchanged; what is ours is the way around it.

* The options are built from the library's defaults and ours, never through `StyleGuide`, which would also read
  `~/.config/pycodestyle` of whoever runs it.  A score is then the same on every machine.
* Texts stay in memory and nothing is printed: a small report object takes the place of the one that writes.
* Lines end where Python's tokenizer says they end (\\n, \\r\\n, \\r), not where `str.splitlines` does (form feeds and
  Unicode separators too): the result is that of checking a file with this content.
* Text from a weak model can be anything.  Code that does not tokenize is E901, as pycodestyle reports it.  Where the
  checker itself fails (it indexes past odd tokens), what it has found so far counts, and an E901 on the line it had
  reached unless there is one: such text is never better than broken code, and no text can stop a run.
* Some of its patterns take quadratic time in a run of blanks between two tokens (100,000 of them: three minutes).
  Such runs are cut to 1,000, which changes no count: a run is one violation however long it is.
* pycodestyle does not parse: code that tokenizes but has no meaning (`x = = 1`) gets only its style violations.  The
  share of samples that parse is a metric of its own (`parses`).
"""

import io
import re
import sys
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Callable, ClassVar, NamedTuple

import pycodestyle

from apo.errors import ConfigError
from apo.scorers.base import Scorer, scorers

CODE_PREFIX = re.compile(r"[EW]\d{0,3}")
MAX_BLANKS = 1000
LONG_BLANKS = re.compile(rf"(?<=\S)([^\S\r\n]{{{MAX_BLANKS}}})[^\S\r\n]+")


class Violation(NamedTuple):
    code: str
    offset: int
    """Character of the text it is reported at; the last one where pycodestyle points behind the end."""


@scorers.register("pep8")
@dataclass
class PEP8Scorer(Scorer):
    """Violations per character.  The empty text scores 0."""

    parallel: ClassVar[bool] = True

    select: list[str] | None = None
    """Count only codes that begin with one of these (`E5`, `W291`).  null: all."""
    ignore: list[str] | None = None
    """Do not count codes that begin with one of these.  null: pycodestyle's default list of disputed checks (E121 E123
    E126 E226 E24 E704 W503 W504), or nothing where `select` is given; `[]` for nothing."""
    max_line_length: int = 79

    def __post_init__(self):
        wrong = [code for code in [*(self.select or ()), *(self.ignore or ())] if not CODE_PREFIX.fullmatch(code)]
        if wrong:
            raise ConfigError(f'scorer.select/ignore: "{code}" is not the beginning of a pycodestyle code such as E501 '
                              "or W6" for code in wrong)

    def score(self, texts: list[str]) -> list[float]:
        return [len(self.violations(text)) / len(text) if text else 0.0 for text in texts]

    def score_segments(self, segments: list[str]) -> list[float]:
        """The document is checked once; a violation counts for the segment that holds the character it is reported at.

        For lines: violations on the line / characters of the line, its newline included."""
        ends = list(accumulate(map(len, segments)))
        counts = Counter(bisect_right(ends, violation.offset) for violation in self.violations("".join(segments)))
        return [counts[i] / len(segment) if segment else 0.0 for i, segment in enumerate(segments)]

    def explain(self, texts: list[str]) -> list[dict[str, float]]:
        """Violations per character by code, `{"E501": 0.002, ...}`; they add up to the score."""
        counts = [Counter(violation.code for violation in self.violations(text)) for text in texts]
        return [{code: count / len(text) for code, count in sorted(counter.items())}
                for text, counter in zip(texts, counts)]

    def violations(self, text: str) -> list[Violation]:
        """Every violation that counts, in the order found.  Never raises."""
        report = _Report(self._guide.ignore_code)
        lines = io.StringIO(LONG_BLANKS.sub(r"\1", text), newline=None).readlines()
        checker = pycodestyle.Checker(lines=lines, options=self._guide.options, report=report)
        try:
            checker.check_all()
        except Exception:  # whatever goes wrong inside says that the text is odd, not that the program is
            if "E901" not in (code for code, _, _ in report.errors):
                report.error(checker.line_number, 0, "E901 pycodestyle failed", None)
        if not report.errors:
            return []
        starts = list(accumulate(map(len, io.StringIO(text, newline="").readlines()), initial=0))[:-1]
        return [Violation(code, _offset(row, column, starts, len(text))) for code, row, column in report.errors]

    def code(self) -> dict[str, str]:
        """The checks come with pycodestyle, the tokens with the interpreter (3.12 sees inside f-strings)."""
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        return {**super().code(), "pycodestyle": pycodestyle.__version__, "python": python}

    @cached_property
    def _guide(self) -> pycodestyle.StyleGuide:
        return _Guide(self.select, self.ignore, self.max_line_length)


def _offset(row: int, column: int, starts: list[int], length: int) -> int:
    """The character at `row` (from 1) and `column` (from 0), moved onto its line where pycodestyle points beside it."""
    line = min(max(row, 1), len(starts)) - 1
    end = starts[line + 1] if line + 1 < len(starts) else length
    return min(starts[line] + max(column, 0), end - 1)


class _Guide(pycodestyle.StyleGuide):
    """A style guide from the library's defaults and ours alone; the parent's own constructor reads files."""

    def __init__(self, select: list[str] | None, ignore: list[str] | None, max_line_length: int):
        if ignore is None:
            ignore = [] if select else pycodestyle.DEFAULT_IGNORE.split(",")
        self.select, self.ignore, self._ignored = tuple(select or ("",)), tuple(ignore), {}
        self.options, _ = pycodestyle.get_parser().parse_args([])
        self.options.max_line_length = max_line_length
        self.options.report = None
        for kind, argument in (("physical", "physical_line"), ("logical", "logical_line"), ("ast", "tree")):
            setattr(self.options, f"{kind}_checks", self.get_checks(argument))

    def ignore_code(self, code: str) -> bool:
        """Whether a violation does not count.  Codes are also asked about in the short form (`E1`) that a check's
        docstring may hold; one that is the beginning of a selected code is kept."""
        if code not in self._ignored:
            selected = code.startswith(self.select) or any(prefix.startswith(code) for prefix in self.select)
            self._ignored[code] = not selected or code.startswith(self.ignore)
        return self._ignored[code]


class _Report:
    """What the checker reports to: keeps (code, row, column) and prints nothing."""

    def __init__(self, ignore_code: Callable[[str], bool]):
        self.ignore_code, self.errors = ignore_code, []

    def error(self, line_number: int, offset: int, text: str, check: Callable | None) -> None:
        code = text[:4]
        if not self.ignore_code(code):
            self.errors.append((code, line_number, offset))

    def init_file(self, filename, lines, expected, line_offset) -> None:
        pass

    def increment_logical_line(self) -> None:
        pass

    def get_file_results(self) -> int:
        return len(self.errors)
