"""Annotation once more: finished, stopped on the way, or in the way of another's work, which is left alone."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from apo.annotation import annotate as annotation
from apo.errors import RunError


def test_a_finished_output_is_left_alone(annotate, corpus, files, tmp_path, capsys):
    annotate(f"input={corpus}", "output=a.jsonl")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / "a.jsonl.parts").mkdir()        # a kill after the last rename
    capsys.readouterr()
    annotate(f"input={corpus}", "output=a.jsonl", "workers=2")
    assert "a.jsonl is finished; nothing to do" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_the_result_of_another_annotation_is_refused_and_shown(annotate, corpus, here, tmp_path, name, rows_of):
    annotate(f"input={corpus}", f"output={name}")
    before = (tmp_path / name).read_bytes()
    with pytest.raises(RunError, match=r"another annotation.*force=true(.|\n)*segmentation: sentence.*, line here"):
        annotate(f"scorer={here}", "data.segment_by=line", f"input={corpus}", f"output={name}")
    with pytest.raises(RunError, match="shard: None there, 1/2 here"):
        annotate(f"input={corpus}", f"output={name}", "shard=1/2")
    (tmp_path / "other.jsonl").write_text('{"text": "Other."}\n')
    with pytest.raises(RunError, match=r"source.fingerprint(.|\n)*input: .*raw.jsonl there, other.jsonl here"):
        annotate("input=other.jsonl", f"output={name}")
    assert (tmp_path / name).read_bytes() == before
    annotate("input=other.jsonl", f"output={name}", "force=true")
    assert len(rows_of(tmp_path / name)) == 1 and not (tmp_path / f"{name}.rejects.jsonl").exists()


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_file_of_somebody_elses_is_refused(annotate, corpus, tmp_path, name):
    (tmp_path / name).write_text("mine\n")
    with pytest.raises(RunError, match="does not say what it was made from.*force=true"):
        annotate(f"input={corpus}", f"output={name}")
    assert (tmp_path / name).read_text() == "mine\n"


def stopped(monkeypatch, place, after):
    """The function at `place` fails after so many calls, as if the machine had gone off there."""
    function, calls = getattr(annotation, place), []

    def failing(*arguments):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return function(*arguments)
    monkeypatch.setattr(annotation, place, failing)


@pytest.mark.parametrize("place, after", [("fill", 0), ("fill", 5), ("fill", 12), ("_put", 0), ("log", 0)])
def test_it_goes_on_where_it_was(annotate, corpus, files, tmp_path, monkeypatch, capsys, place, after):
    annotate(f"input={corpus}", "output=whole.parquet")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopped(patch, place, after)
        annotate(f"input={corpus}", "output=a.parquet")
    assert (tmp_path / "a.parquet").exists() == (place == "log")
    assert bool(list((tmp_path / "a.parquet.parts").glob("0*"))) == (after > 0 or place != "fill")
    capsys.readouterr()
    annotate(f"input={corpus}", "output=a.parquet", "workers=2")
    assert ("going on from row" in capsys.readouterr().err) == (place == "_put" or after > 0)
    assert files("a.parquet") == files("whole.parquet") and not (tmp_path / "a.parquet.parts").exists()


def test_the_beginning_of_another_annotation_is_refused_and_shown(annotate, corpus, here, tmp_path, monkeypatch, files):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopped(patch, "fill", 5)
        annotate(f"input={corpus}", "output=a.jsonl")
    with pytest.raises(RunError, match=r"beginning of another annotation(.|\n)*segmentation: sentence.*document here"):
        annotate(f"scorer={here}", f"input={corpus}", "output=a.jsonl")
    code = next(tmp_path.glob("bang_*.py"))
    code.write_text(code.read_text() + "\n# changed\n")
    with pytest.raises(RunError, match=r"scorer.code.0: \w+ there, \w+ here"):
        annotate(f"input={corpus}", "output=a.jsonl")
    annotate(f"scorer={here}", f"input={corpus}", "output=a.jsonl", "force=true")
    annotate(f"scorer={here}", f"input={corpus}", "output=b.jsonl")
    assert files("a.jsonl") == files("b.jsonl")


@pytest.fixture
def weighed(tmp_path):
    """`weighed("folder", 2)`: the words that choose a scorer whose weights lie in that folder."""
    from apo.scorers.base import Scorer, scorers

    @scorers.register("weighed")
    @dataclass
    class Weighed(Scorer):
        """Characters, times what the file `weights` says."""

        places = ("weights",)
        weights: str = ""

        def score(self, texts):
            return [len(text) * float(Path(self.weights).read_text()) for text in texts]

        def code(self):
            return {"weights": Path(self.weights).read_text()}

    def words(folder, weight):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "weights").write_text(str(weight))
        return "scorer=weighed", f"scorer.weights={folder}/weights"
    return words


def test_the_same_weights_in_another_folder_are_the_same_scorer(annotate, corpus, weighed, tmp_path, monkeypatch,
                                                                capsys):
    here, there, other = weighed("here", 2), weighed("there", 2), weighed("other", 3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopped(patch, "fill", 5)
        annotate(*here, f"input={corpus}", "output=a.jsonl")
    with pytest.raises(RunError, match="beginning of another annotation.*") as told:
        annotate(*other, f"input={corpus}", "output=a.jsonl")
    assert "scorer.code.weights: 2 there, 3 here" in str(told.value) and "options" not in str(told.value)
    annotate(*there, f"input={corpus}", "output=a.jsonl")
    assert "going on from row" in capsys.readouterr().err
    annotate(*here, f"input={corpus}", "output=a.jsonl")
    assert "a.jsonl is finished; nothing to do" in capsys.readouterr().err
    for number, words in ((1, here), (2, there)):
        annotate(*words, f"input={corpus}", f"output=s{number}.jsonl", f"shard={number}/2")
    annotate("merge=s1.jsonl,s2.jsonl", "output=merged.jsonl")
    assert (tmp_path / "merged.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()


def test_a_part_that_is_gone_is_made_again(annotate, corpus, files, tmp_path, monkeypatch):
    annotate(f"input={corpus}", "output=whole.jsonl")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopped(patch, "fill", 9)
        annotate(f"input={corpus}", "output=a.jsonl")
    sorted((tmp_path / "a.jsonl.parts").glob("0*"))[3].unlink()
    annotate(f"input={corpus}", "output=a.jsonl")
    assert files("a.jsonl") == files("whole.jsonl")


def test_one_process_at_a_time(annotate, corpus, tmp_path):
    (tmp_path / "a.jsonl.parts").mkdir()
    with FileLock(tmp_path / "a.jsonl.parts" / ".lock"), pytest.raises(RunError, match="another process"):
        annotate(f"input={corpus}", "output=a.jsonl")
