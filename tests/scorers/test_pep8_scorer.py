"""The pep8 scorer counts what pycodestyle counts, whatever the text, whoever's machine."""

import io
import json
import pickle
import random
import subprocess
import sys
import sysconfig
import tokenize
from collections import Counter
from pathlib import Path

import pycodestyle
import pytest

from apo.errors import ConfigError
from apo.scorers.make import make_scorer
from apo.scorers.pep8 import PEP8Scorer

STDLIB = Path(sysconfig.get_paths()["stdlib"])
MESSY = "import os,sys\ndef f( x ):\n  return x+ 1 \nx = f(1) ; y = 2\n"


def codes(text: str, **options) -> Counter:
    return Counter(violation.code for violation in PEP8Scorer(**options).violations(text))


def reference_count(text: str) -> int:
    """pycodestyle through its front door."""
    guide = pycodestyle.StyleGuide(quiet=2)
    return guide.input_file("x.py", lines=io.StringIO(text, newline=None).readlines())


def source(name: str) -> str:
    with tokenize.open(STDLIB / name) as file:
        return file.read()


@pytest.mark.parametrize("name", ["textwrap.py", "bisect.py", "this.py", "colorsys.py"])
def test_the_count_is_that_of_the_library(name):
    text = source(name)
    assert PEP8Scorer().score([text]) == [reference_count(text) / len(text)]


@pytest.mark.parametrize("step", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_standard_library_figures(shared_data, step):
    rows = json.loads(shared_data("pep8/stdlib_pep8.json").read_text())
    if sys.version_info[:3] != (3, 11, 7):
        pytest.skip("the figures are of CPython 3.11.7's standard library")
    rows = [row for row in rows if step == 1 or row["chars"] < 20_000][::step]
    texts = [source(row["path"]) for row in rows]
    assert [len(text) for text in texts] == [row["chars"] for row in rows]
    assert PEP8Scorer().score(texts) == pytest.approx([row["score"] for row in rows], abs=5.1e-7)


def test_every_code_of_a_messy_text():
    assert codes(MESSY) == {"E401": 1, "E231": 1, "E302": 1, "E201": 1, "E202": 1, "E111": 1, "E225": 1, "W291": 1,
                            "E305": 1, "E203": 1, "E702": 1}
    assert PEP8Scorer().score([MESSY, ""]) == [11 / len(MESSY), 0.0]


def test_explanation_adds_up_to_the_score():
    scorer = PEP8Scorer()
    (parts, empty), (score, _) = scorer.explain([MESSY, ""]), scorer.score([MESSY, ""])
    assert sum(parts.values()) == pytest.approx(score, rel=1e-12)
    assert parts["W291"] == 1 / len(MESSY)
    assert empty == {}


def test_lines_are_scored_in_the_context_of_their_document():
    lines = MESSY.splitlines(keepends=True)
    scores = PEP8Scorer().score_segments(lines)
    # The first line: E401, E231.  Alone, the third would be an unexpected indentation; here it is a body's.
    assert scores == [2 / len(lines[0]), 3 / len(lines[1]), 3 / len(lines[2]), 3 / len(lines[3])]
    total = sum(score * len(line) for score, line in zip(scores, lines))
    assert total == pytest.approx(PEP8Scorer().score([MESSY])[0] * len(MESSY))


def test_violations_behind_the_end_count_for_the_last_line():
    lines = ["x = (1,\n", "     2\n", ""]
    assert PEP8Scorer().score_segments(lines) == [0.0, 1 / 7, 0.0]


def test_segments_need_not_be_lines():
    text = "x = 1 \ny=2\n"
    whole, parts = PEP8Scorer().violations(text), PEP8Scorer().score_segments(["x = ", "1 \ny", "=2\n"])
    assert [(v.code, v.offset) for v in whole] == [("W291", 5), ("E225", 8)]
    assert parts == [0.0, 1 / 4, 1 / 3]


@pytest.mark.parametrize("ending", ["\r\n", "\r"])
def test_line_endings_do_not_matter(ending):
    lines = [line.replace("\n", ending) for line in MESSY.splitlines(keepends=True)]
    assert codes("".join(lines)) == codes(MESSY)
    assert [score * len(line) for score, line in zip(PEP8Scorer().score_segments(lines), lines)] \
        == pytest.approx([2, 3, 3, 3])


@pytest.mark.parametrize(("text", "expected"), [
    ("x = (1,\n", {"E901": 1}),
    ("def f():\n    '''never closed\n", {"E901": 1}),
    ("if x:\n        y = 1\n    z = 2\n", {"E117": 1, "E901": 1}),
    ("if x:\ny = 1\n", {"E112": 1}),
    ("x = = 1\n", {}),
    ("x = 1", {"W292": 1}),
    # On this pycodestyle itself fails, with an IndexError.
    ('r """', {"E901": 1, "W292": 1})])
def test_text_that_is_not_python(text, expected):
    assert codes(text) == expected


def test_a_failure_inside_pycodestyle_is_one_violation_on_the_line_it_had_reached(monkeypatch):
    def fails(self):
        if self.line_number == 2:
            raise IndexError
        return checked_by_the_library(self)

    checked_by_the_library = pycodestyle.Checker.check_logical
    monkeypatch.setattr(pycodestyle.Checker, "check_logical", fails)
    assert PEP8Scorer().score_segments(["x = 1 \n", "y = 2\n", "z = 3\n"]) == [1 / 7, 1 / 6, 0.0]


def test_no_text_raises():
    alphabet = "\0\f\r\n\n\n\t \\\"'#()[]{}:,=+-*.;lOif 0x1_\u2028\ufeff\ud800\u00e9"
    draw, scorer, clean = random.Random(0), PEP8Scorer(), source("textwrap.py")
    for _ in range(1500):
        start = draw.randrange(len(clean))
        text = list(clean[start:start + draw.randrange(200)])
        for _ in range(draw.randrange(12)):
            text.insert(draw.randrange(len(text) + 1), draw.choice(alphabet))
        cuts = sorted(draw.randrange(len(text) + 1) for _ in range(3))
        segments = ["".join(text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)])]
        total = scorer.score(["".join(text)])[0] * len(text)
        parts = sum(score * len(part) for score, part in zip(scorer.score_segments(segments), segments))
        assert parts == pytest.approx(total, abs=1e-9)


def test_long_runs_of_blanks_take_no_quadratic_time():
    short, long = "x =" + " " * 900 + "1\n", "x =" + " " * 60_000 + "1\n"
    assert codes(long) == codes(short) == {"E222": 1, "E501": 1}


def test_a_persons_own_pycodestyle_settings_have_no_influence(tmp_path):
    (tmp_path / "pycodestyle").write_text("[pycodestyle]\nmax-line-length = 5\nignore = W291\n")
    (tmp_path / "setup.cfg").write_text("[pycodestyle]\nmax-line-length = 5\n")
    script = f"from apo.scorers.pep8 import PEP8Scorer; print(PEP8Scorer().score([{MESSY!r}])[0] * {len(MESSY)})"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60,
                          env={"XDG_CONFIG_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])})
    assert float(done.stdout) == 11, done.stderr


def test_nothing_is_printed_and_numbers_repeat(capfd):
    scorer = PEP8Scorer()
    assert scorer.score([MESSY, "x=1\n", MESSY]) == scorer.score([MESSY, "x=1\n", MESSY])
    assert capfd.readouterr() == ("", "")


def test_options():
    assert codes(MESSY, select=["E2"]).keys() == {"E201", "E202", "E203", "E225", "E231"}
    assert codes(MESSY, select=["E2"], ignore=["E20"]).keys() == {"E225", "E231"}
    assert "W291" not in codes(MESSY, ignore=["W"])
    assert codes("x = 1 +2*3\n") == {"E225": 1}
    assert codes("x = 1 +2*3\n", ignore=[]) == {"E225": 1, "E226": 1}
    assert codes("x = 1234567\n", max_line_length=10) == {"E501": 1}


def test_a_code_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="E5O1"):
        make_scorer({"name": "pep8", "ignore": ["E501", "E5O1"]})


def test_a_copy_in_another_process_scores_the_same():
    scorer = PEP8Scorer()
    scorer.score([MESSY])
    assert scorer.parallel
    assert pickle.loads(pickle.dumps(scorer)).score([MESSY]) == scorer.score([MESSY])  # noqa: S301 (our own bytes)


def test_the_fingerprint_covers_options_and_library(monkeypatch):
    default = PEP8Scorer().fingerprint()
    assert default == PEP8Scorer().fingerprint()
    assert default != PEP8Scorer(max_line_length=100).fingerprint()
    monkeypatch.setattr(pycodestyle, "__version__", "0")
    assert default != PEP8Scorer().fingerprint()
