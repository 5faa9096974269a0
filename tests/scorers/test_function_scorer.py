"""A user's own function as a scorer: found, called the way it is annotated, and blamed by name when it fails."""

import sys
import textwrap

import pytest

from apo.errors import ConfigError, ScorerError
from apo.scorers.base import checked
from apo.scorers.make import make_scorer


@pytest.fixture
def module(tmp_path, monkeypatch):
    """`module(source)` writes a fresh module into the current folder and gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    written = []

    def write(source: str) -> str:
        name = f"user_scorer_{len(written)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("signature", ["texts: list[str]) -> list[float]", "texts: 'Sequence[str]')",
                                       "texts: Iterable[str], factor: int = 1)"])
def test_a_function_of_a_list_is_called_once(module, signature):
    name = module(f"""
        from typing import Iterable, Sequence
        CALLS = []
        def score({signature}:
            CALLS.append(texts)
            return [len(text) for text in texts]
        """)
    scorer = make_scorer({"name": f"{name}:score"})
    assert checked(scorer, ["a", "", "abc"]) == [1.0, 0.0, 3.0]
    assert sys.modules[name].CALLS == [["a", "", "abc"]]
    assert checked(scorer, []) == []


@pytest.mark.parametrize("signature", ["text: str) -> float", "text)", "text: 'str', factor: float = 1.0)",
                                       "text: str | None)", "text: Unknown)"])
def test_a_function_of_a_text_is_called_per_text(module, signature):
    name = module(f"""
        from __future__ import annotations
        def score({signature}:
            return float(text.count('!'))
        """)
    assert checked(make_scorer({"name": f"{name}:score"}), ["a", "", "!!"]) == [0.0, 0.0, 2.0]


def test_the_option_overrides_the_annotation(module):
    name = module("""
        def many(texts):
            return [len(text) for text in texts]
        def one(text: list[str]):
            return len(text)
        """)
    assert checked(make_scorer({"name": f"{name}:many", "batched": True}), ["a", "ab"]) == [1.0, 2.0]
    assert checked(make_scorer({"name": f"{name}:one", "batched": False}), ["a", "ab"]) == [1.0, 2.0]


def test_anything_callable_will_do(module):
    name = module("""
        class Counter:
            def __call__(self, texts: list[str]):
                return [text.count("!") for text in texts]
        count = Counter()
        shorter = len
        """)
    assert checked(make_scorer({"name": f"{name}:count"}), ["!", ""]) == [1.0, 0.0]
    assert checked(make_scorer({"name": f"{name}:shorter"}), ["!", ""]) == [1.0, 0.0]


FAULTY = """
    def one(text: str):
        return [1.0, 2.0]
    def nan(text: str):
        return float("nan") if text == "bad" else 0.0
    def words(text: str):
        return "0.5"
    def short(texts: list[str]):
        return [0.0]
    def raises(text: str):
        return 1 / len(text)
    def raises_in_a_list(texts: list[str]):
        return [1 / len(text) for text in texts]
    def raises_on_long_lists(texts: list[str]):
        assert len(texts) < 2, "too many"
        return [0.0]
    number = 3
    """


@pytest.mark.parametrize(("function", "message"), [
    ("one", r"returned \[1.0, 2.0\] for one text; .*scorer.batched=true"),
    ("nan", r"returned nan for text 0 \('bad'\)|text 1"),
    ("words", r"returned '0.5' for text 0"),
    ("short", r"returned 1 numbers for 3 texts"),
    ("raises", r"failed on text 2 \(''\): ZeroDivisionError: .*division by zero"),
    ("raises_in_a_list", r"failed on text 2 \(''\): ZeroDivisionError"),
    ("raises_on_long_lists", r"failed on a list of texts \(on none of them alone\): AssertionError: too many"),
    ("number", r'has no function "number"'),
    ("raise_", r'has no function "raise_". Did you mean "raises"\?')])
def test_every_fault_is_one_message(module, function, message):
    name = module(FAULTY)
    with pytest.raises(ScorerError, match=message):
        checked(make_scorer({"name": f"{name}:{function}"}), ["fine", "bad", ""])


def test_the_module_is_imported_only_when_it_is_used(module):
    name = module("raise OSError('no weights')")
    scorer = make_scorer({"name": f"{name}:score"})
    with pytest.raises(ScorerError, match="fails when it is imported: OSError: no weights"):
        scorer.score(["a"])


def test_missing_modules(module):
    with pytest.raises(ScorerError, match='there is no module "nowhere_to_be_found" in .* or among the installed'):
        make_scorer({"name": "nowhere_to_be_found:f"}).score(["a"])
    with pytest.raises(ScorerError, match='its module needs "nowhere_to_be_found", which is not installed'):
        make_scorer({"name": module("import nowhere_to_be_found") + ":f"}).score(["a"])


@pytest.mark.parametrize("name", ["os:system", "subprocess:getoutput", "os.path:getsize", "builtins:eval"])
def test_the_standard_library_holds_no_scorers(name):
    with pytest.raises(ConfigError, match="standard library"):
        make_scorer({"name": name})


def test_the_fingerprint_follows_the_source(module, tmp_path):
    name = module("def score(text: str):\n    return 0.0\n")

    def fingerprint(**options) -> str:
        return make_scorer({"name": f"{name}:score", **options}).fingerprint()

    before = fingerprint()
    assert before == fingerprint() != fingerprint(batched=False)
    (tmp_path / f"{name}.py").write_text("def score(text: str):\n    return 1.0\n")
    assert fingerprint() != before


def test_the_fingerprint_covers_the_module_that_defines_the_function(module, tmp_path):
    inner = module("def score(text: str):\n    return 0.0\n")
    outer = module(f"from {inner} import score\n")
    before = make_scorer({"name": f"{outer}:score"}).fingerprint()
    (tmp_path / f"{inner}.py").write_text("def score(text: str):\n    return 1.0\n")
    assert make_scorer({"name": f"{outer}:score"}).fingerprint() != before
