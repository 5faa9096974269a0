"""A corpus with bad rows in it, a scorer in a module of the user's own, and the command in this process."""

import gzip
import json
import random

import pyarrow.parquet
import pytest

SCORER = '''
import os, time

def score(text: str) -> float:
    """Exclamation marks per character.  Refuses some text; takes its time where the environment says so."""
    time.sleep(float(os.environ.get("SLEEP_S", 0)))
    if "BOOM" in text:
        raise ValueError("it went boom")
    if "NAN" in text:
        return float("nan")
    return text.count("!") / len(text)
'''
WORDS = "the cat sat on a mat and Dr. Smith did not like it at all \u2028 ö".split(" ")
BAD_ROWS = [{"no_text": 1}, "{not json", {"text": 3}, {"text": ""}, {"text": "BOOM here"}, {"text": "NAN here. Fine."},
            {"text": None}]


def row(number: int) -> dict:
    rng = random.Random(number)
    count = rng.randrange(1, 6)
    ends = [rng.choice([". ", "! ", "!! ", "?\n"]) for _ in range(count)]
    return {"id": number, "text": "".join(" ".join(rng.choices(WORDS, k=rng.randrange(3, 12))).capitalize() + end
                                          for end in ends), "score": None}


@pytest.fixture
def corpus(tmp_path):
    """120 rows, the first of them bad and six others too."""
    rows = [row(number) for number in range(113)]
    for place, bad in zip((0, 3, 4, 40, 41, 77, 118), BAD_ROWS):
        rows.insert(place, bad)
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in rows)
    (tmp_path / "raw.jsonl").write_text(text)
    return str(tmp_path / "raw.jsonl")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The user's folder, with a scorer; chunks and parts small enough for a small corpus to have many."""
    name = f"bang_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SCORER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("apo.annotation.annotate.TOGETHER", 500)
    monkeypatch.setattr("apo.annotation.annotate.APART", 400)
    monkeypatch.setattr("apo.annotation.parts.PART_S", 0)
    return f"{name}:score"


@pytest.fixture
def annotate(here):
    """`annotate("input=...", "output=...")` with the scorer above, by sentences, unless the words say otherwise."""
    from apo.annotation.annotate import run
    from apo.annotation.request import read

    def command(*words):
        usual = [] if any(word.startswith(("merge=", "task=", "scorer=")) for word in words) else [
            f"scorer={here}", "data.segment_by=sentence"]
        run(read([*usual, *words]))
    return command


@pytest.fixture
def files(tmp_path):
    """`files("a.parquet")`: the bytes of everything an output consists of, but its log, by suffix."""

    def found(name):
        return {path.name.removeprefix(name): path.read_bytes() for path in tmp_path.glob(f"{name}*")
                if path.is_file() and not path.name.endswith(".log.jsonl")}
    return found


@pytest.fixture
def rows_of():
    """`rows_of(path)`: the rows of an annotation's result."""

    def read(path):
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path).to_pylist()
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8", newline="\n") as lines:
            return [json.loads(line) for line in lines]
    return read
