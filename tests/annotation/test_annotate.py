"""Annotation: the same bytes however it is done, bad rows set aside, every kind of input."""

import gzip
import json
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler

import pyarrow
import pyarrow.parquet
import pytest

from apo.annotation import annotate as annotation
from apo.annotation.output import Output
from apo.annotation.request import read
from apo.data.sources.base import sources
from apo.errors import DataError, ScorerError
from apo.schema import DataConfig
from apo.scorers.make import make_scorer

# ---- the same bytes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["parquet", "jsonl", "jsonl.gz"])
def test_one_process_and_two_give_the_same_bytes(annotate, corpus, files, name):
    annotate(f"input={corpus}", f"output=a.{name}", "workers=1")
    annotate(f"input={corpus}", f"output=b.{name}", "workers=2")
    a, b = files(f"a.{name}"), files(f"b.{name}")
    assert a == b and set(a) >= {"", ".rejects.jsonl", ".card.md", ".card.json"}
    assert (".meta.json" in a) == ("jsonl" in name)


@pytest.mark.parametrize("shards, whole", [("parquet", "parquet"), ("jsonl.gz", "jsonl.gz"), ("jsonl", "parquet")])
def test_shards_merge_to_the_bytes_of_the_whole(annotate, corpus, files, shards, whole):
    annotate(f"input={corpus}", f"output=whole.{whole}")
    for number in (1, 2, 3):
        annotate(f"input={corpus}", f"output=s{number}.{shards}", f"shard={number}/3")
    annotate(f"merge=s2.{shards},s3.{shards},s1.{shards}", f"output=merged.{whole}")
    assert files(f"merged.{whole}") == files(f"whole.{whole}")


def test_a_shard_has_every_nth_row(annotate, corpus, tmp_path, rows_of):
    annotate(f"input={corpus}", "output=whole.jsonl")
    annotate(f"input={corpus}", "output=s.jsonl", "shard=2/3")
    whole, shard = (Output(tmp_path / name) for name in ("whole.jsonl", "s.jsonl"))
    assert [entry.row for entry in shard.rejects()] == [entry.row for entry in whole.rejects() if entry.row % 3 == 1]
    kept = [row for row in range(120) if row not in {entry.row for entry in whole.rejects()}]
    documents = dict(zip(kept, rows_of(tmp_path / "whole.jsonl")))
    assert rows_of(tmp_path / "s.jsonl") == [documents[row] for row in kept if row % 3 == 1]
    assert shard.meta()["shard"] == "2/3"


def test_an_input_shorter_than_its_shards(annotate, tmp_path, files):
    (tmp_path / "two.jsonl").write_text('{"text": "One."}\n{"text": "Two!"}\n')
    annotate("input=two.jsonl", "output=whole.parquet")
    for number in (1, 2, 3):
        annotate("input=two.jsonl", f"output=s{number}.parquet", f"shard={number}/3")
    annotate("merge=s1.parquet,s2.parquet,s3.parquet", "output=merged.parquet")
    assert files("merged.parquet") == files("whole.parquet")


def test_row_groups_do_not_follow_parts(annotate, corpus, files, tmp_path, monkeypatch):
    monkeypatch.setattr("apo.annotation.output.GROUP_ROWS", 50)
    annotate(f"input={corpus}", "output=a.parquet")
    monkeypatch.setattr("apo.annotation.parts.PART_S", 1e9)
    monkeypatch.setattr("apo.annotation.annotate.TOGETHER", 10**9)
    annotate(f"input={corpus}", "output=b.parquet")
    assert files("a.parquet") == files("b.parquet")
    assert pyarrow.parquet.ParquetFile(tmp_path / "a.parquet").metadata.num_row_groups == 3


# ---- what comes out --------------------------------------------------------------------------------------------------


def test_phfs_columns_and_where_they_come_from(annotate, corpus, here, tmp_path, rows_of):
    annotate(f"input={corpus}", "output=a.parquet")
    rows = rows_of(tmp_path / "a.parquet")
    assert list(rows[0]) == ["texts", "scores", "avg_score", "num_sents"] and len(rows) == 113
    raw = [json.loads(line)["text"] for line in open(corpus) if '"id"' in line]
    assert ["".join(row["texts"]) for row in rows] == raw
    for row in rows:
        assert row["scores"] == [text.count("!") / len(text) for text in row["texts"]]
        assert row["avg_score"] == sum(row["scores"]) / len(row["scores"]) and row["num_sents"] == len(row["texts"])
    meta = Output(tmp_path / "a.parquet").meta()
    scorer = make_scorer({"name": here})
    assert meta["scorer"] == {"name": here, "kind": "score", "options": {"batched": None}, "places": [],
                              "fingerprint": scorer.fingerprint(), "code": scorer.code()}
    assert meta["segmentation"].startswith("sentence (sentencex ") and meta["counts"]["rejected"] == 7
    assert meta["command"] == f"python scripts/score_dataset.py input={corpus} scorer={here} data.segment_by=sentence"
    fingerprint = sources.get("file")(DataConfig(path=corpus)).fingerprint()
    assert meta["source"] == {"name": "file", "fingerprint": fingerprint}


def test_lines_and_documents(annotate, corpus, here, tmp_path, rows_of):
    annotate(f"scorer={here}", "data.segment_by=line", f"input={corpus}", "output=lines.jsonl")
    annotate(f"scorer={here}", f"input={corpus}", "output=documents.jsonl")
    lines, documents = (rows_of(tmp_path / name) for name in ("lines.jsonl", "documents.jsonl"))
    assert lines[0]["num_lines"] == len(lines[0]["texts"]) and set(documents[0]) == {"texts", "scores", "avg_score"}
    assert ["".join(row["texts"]) for row in lines] == [row["texts"][0] for row in documents]


def test_a_reward_is_turned_into_misalignment(annotate, corpus, here, tmp_path, monkeypatch, rows_of):
    annotate(f"input={corpus}", "output=score.jsonl")
    monkeypatch.setattr("apo.scorers.function.FunctionScorer.kind", "reward")
    annotate(f"input={corpus}", "output=reward.jsonl", "workers=1")
    turned = [[-score for score in row["scores"]] for row in rows_of(tmp_path / "reward.jsonl")]
    assert turned == [row["scores"] for row in rows_of(tmp_path / "score.jsonl")]


def test_bad_rows_are_set_aside_and_counted(annotate, corpus, tmp_path, capsys):
    annotate(f"input={corpus}", "output=a.parquet")
    rejects = [json.loads(line) for line in open(tmp_path / "a.parquet.rejects.jsonl")]
    assert [(reject["row"], reject["origin"]) for reject in rejects] == [
        (row, f"{corpus}, row {row}") for row in (1, 4, 5, 41, 42, 78, 119)]
    for reject, reason in zip(rejects, ['has no column "texts" or "text"', "not JSON", '"text" is the number 3',
                                        "no text", "ValueError: it went boom", "returned nan for text 0",
                                        '"text" is nothing (null)']):
        assert reason in reject["reason"]
    said = capsys.readouterr().err
    assert "113 documents" in said and "7 rows refused (a.parquet.rejects.jsonl)" in said
    assert "7 rows of the input refused" in (tmp_path / "a.parquet.card.md").read_text()


def test_without_bad_rows_there_is_no_rejects_file(annotate, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": "One."}\n')
    annotate("input=a.jsonl", "output=b.jsonl")
    assert not (tmp_path / "b.jsonl.rejects.jsonl").exists() and "refused" not in capsys.readouterr().err
    assert not (tmp_path / "b.jsonl.parts").exists()


class Wrong:
    """Scorers whose results are no scores."""

    name, kind, parallel = "wrong", "score", False

    def __init__(self, result):
        self.result = result

    def score(self, texts):
        return self.result if "bad" in texts[0] else [0.0] * len(texts)

    score_segments = score


@pytest.mark.parametrize("result, reason", [
    ([], "the scorer gave 0 scores for 2 segments"), ([0.0, float("inf")], "segment 2: the scorer gave inf"),
    ([True, 0.0], "segment 1: the scorer gave True")])
def test_what_is_no_score_is_the_rows_fault_alone(result, reason):
    from apo.annotation.rows import judged
    assert judged(Wrong(result), []) == []
    good, bad, last = judged(Wrong(result), [["a", "b"], ["bad", "b"], ["c"]])
    assert good == [0.0, 0.0] and last == [0.0] and bad.startswith(reason)


# ---- every kind of input ---------------------------------------------------------------------------------------------


TEXTS = ["One. Two!", "Three.\n\nFour, five.", "Zürich!"]


def write_inputs(folder):
    table = pyarrow.Table.from_pylist([{"text": text} for text in TEXTS])
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (folder / "a.jsonl").write_text(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    (folder / "a.csv").write_text('id,text\n1,One. Two!\n2,"Three.\n\nFour, five."\n3,Zürich!\n', encoding="utf-8")
    (folder / "dataset").mkdir()
    pyarrow.parquet.write_table(table, folder / "dataset" / "train-00000-of-00001.parquet")
    (folder / "dataset" / "README.md").write_text("# Data\n")
    (folder / "code" / "inner").mkdir(parents=True)
    for number, text in enumerate(TEXTS):
        (folder / "code" / "inner" / f"{number}.py").write_text(text, encoding="utf-8")
    (folder / "parts").mkdir()
    for number, text in enumerate(TEXTS):
        (folder / "parts" / f"{number}.jsonl").write_text(json.dumps({"text": text}) + "\n")


@pytest.mark.parametrize("name, source", [
    ("a.jsonl", "file"), ("a.jsonl.gz", "file"), ("a.parquet", "file"), ("a.csv", "file"), ("dataset", "hub"),
    ("code", "text"), ("code/**/*.py", "text"), ("[code/inner/0.py,code/inner/1.py,code/inner/2.py]", "text"),
    ("parts/*.jsonl", "file"), ("[parts/0.jsonl,parts/1.jsonl,parts/2.jsonl]", "file")])
def test_every_kind_of_input(annotate, tmp_path, name, source, rows_of):
    write_inputs(tmp_path)
    annotate(f"input={name}", "output=out.jsonl")
    assert [row["texts"] for row in rows_of(tmp_path / "out.jsonl")] == [
        ["One. ", "Two!"], ["Three.\n\n", "Four, five."], ["Zürich!"]]
    assert Output(tmp_path / "out.jsonl").meta()["source"]["name"] == source


def test_a_text_file_and_files_that_are_no_text(annotate, tmp_path, rows_of):
    (tmp_path / "a.txt").write_text("One. Two!\n\nThree.\n")
    annotate("input=a.txt", "output=a.jsonl")
    assert [row["texts"] for row in rows_of(tmp_path / "a.jsonl")] == [["One. ", "Two!\n"], ["Three.\n"]]
    write_inputs(tmp_path)
    (tmp_path / "code" / "picture.png").write_bytes(b"\x89PNG")
    annotate("input=code", "output=b.jsonl")
    [reject] = Output(tmp_path / "b.jsonl").rejects()
    assert reject.origin.endswith("picture.png") and "not UTF-8" in reject.reason


@pytest.mark.parametrize("streaming", ["true", "false"])
def test_a_dataset_as_the_hub_has_them(annotate, tmp_path, streaming, rows_of):
    """Scored already, in segments: the segments stay, the scores are made anew."""
    (tmp_path / "set").mkdir()
    rows = [{"texts": [f"Number {i}! ", "B. C."], "scores": [9.0, 9.0], "meta": {"x": 1}} for i in range(5)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "set" / "train-00000-of-00001.parquet")
    annotate("input=set", "output=a.jsonl", f"data.streaming={streaming}", "data.max_documents=4")
    made = rows_of(tmp_path / "a.jsonl")
    assert [row["texts"] for row in made] == [row["texts"] for row in rows[:4]]
    assert made[0]["scores"] == [1 / 10, 0.0]


def test_columns_of_other_names(annotate, tmp_path, rows_of):
    (tmp_path / "a.jsonl").write_text('{"body": "One. Two!", "text": "x"}\n')
    annotate("input=a.jsonl", "output=b.jsonl", "data.text_column=body")
    assert rows_of(tmp_path / "b.jsonl")[0]["texts"] == ["One. ", "Two!"]


def test_a_tasks_own_data_scorer_and_segments(annotate, tmp_path, rows_of):
    annotate("task=pep8", "output=a.jsonl", "data.max_documents=3", "scorer.max_line_length=100")
    made, meta = rows_of(tmp_path / "a.jsonl"), Output(tmp_path / "a.jsonl").meta()
    documents = list(sources.get("stdlib")(DataConfig(source="stdlib", segment_by="line", max_documents=3)).limited())
    scorer = make_scorer({"name": "pep8", "max_line_length": 100})
    assert [row["texts"] for row in made] == [document.texts for document in documents]
    assert [row["scores"] for row in made] == [scorer.score_segments(document.texts) for document in documents]
    assert meta["segmentation"] == "line" and meta["scorer"]["options"]["max_line_length"] == 100
    assert made[0]["num_lines"] == len(made[0]["texts"])


# ---- what cannot come to anything ------------------------------------------------------------------------------------


def test_a_scorer_that_fails_on_everything_stops(annotate, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "Fine."}\n' * 5 + '{"text": "BOOM."}\n' * 30)
    with pytest.raises(ScorerError, match=r"refused 20 rows, one after the other; .*row 25: .*it went boom"):
        annotate("input=a.jsonl", "output=b.jsonl")
    assert not (tmp_path / "b.jsonl").exists()


def test_a_file_without_text_stops_at_its_beginning(annotate, tmp_path, rows_of):
    (tmp_path / "a.jsonl").write_text('{"txt": "Fine."}\n' * 500)
    with pytest.raises(DataError, match='none of the first 20 rows can be used.*row 20: has no column "texts"'):
        annotate("input=a.jsonl", "output=b.jsonl")
    (tmp_path / "a.jsonl").write_text('{"text": "Fine."}\n' + "broken\n" * 500 + '{"text": "Fine."}\n')
    annotate("input=a.jsonl", "output=c.jsonl")
    assert len(rows_of(tmp_path / "c.jsonl")) == 2


@pytest.mark.parametrize("rows, why", [(["{}"] * 3, "none of 3 rows can be used; the first is a.jsonl, row 1"),
                                       ([], "no rows"), ([""], "no rows")])
def test_nothing_usable_is_refused(annotate, tmp_path, rows, why):
    (tmp_path / "a.jsonl").write_text("".join(row + "\n" for row in rows))
    with pytest.raises(DataError, match=why):
        annotate("input=a.jsonl", "output=b.jsonl")
    assert not (tmp_path / "b.jsonl").exists()
    (tmp_path / "a.jsonl").write_text('{"text": "Mended."}\n')     # and nothing is in the way of a better try
    annotate("input=a.jsonl", "output=b.jsonl")


def test_what_cannot_be_merged(annotate, corpus, here, tmp_path):
    for number in (1, 2):
        annotate(f"input={corpus}", f"output=s{number}.jsonl", f"shard={number}/2")
    annotate(f"scorer={here}", f"input={corpus}", "output=other.jsonl", "shard=2/2")
    annotate(f"input={corpus}", "output=whole.jsonl")
    for names, why in [("s1.jsonl", "needs the shards 1/2 to 2/2, each once; these are 1/2"),
                       ("s1.jsonl,s1.jsonl", "needs the shards"), ("s1.jsonl,nope.jsonl", "nope.jsonl: no such file"),
                       ("s1.jsonl,whole.jsonl", "whole.jsonl is not the output of a shard"),
                       (f"s1.jsonl,{corpus}", "raw.jsonl is not the output of a shard"),
                       ("s1.jsonl,other.jsonl", "different annotations(.|\n)*segmentation: sentence")]:
        with pytest.raises(DataError, match=why):
            annotate(f"merge={names}", "output=merged.jsonl")
    lines = (tmp_path / "s2.jsonl").read_text().split("\n")
    (tmp_path / "s2.jsonl").write_text("\n".join(lines[:-3]) + "\n")
    with pytest.raises(DataError, match="s2.jsonl ends before .*s1.jsonl"):
        annotate("merge=s1.jsonl,s2.jsonl", "output=merged.jsonl")
    (tmp_path / "s2.jsonl").write_text("\n".join(lines)[:-99])
    with pytest.raises(DataError, match="s2.jsonl: damaged.*JSON"):
        annotate("merge=s1.jsonl,s2.jsonl", "output=merged.jsonl")
    (tmp_path / "s1.jsonl.rejects.jsonl").unlink()
    with pytest.raises(DataError, match="s1.jsonl.rejects.jsonl has 0 rows"):
        annotate("merge=s1.jsonl,s2.jsonl", "output=merged.jsonl")
    assert not list(tmp_path.glob("merged*"))


# ---- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words, large, expected", [
    (["task=pep8"], True, 3), (["task=pep8"], False, 1), (["task=pep8", "workers=2"], False, 2), ([], True, 1),
    (["workers=2"], False, 2), (["scorer=batcher"], True, 1), (["scorer=batcher", "workers=2"], True, 1)])
def test_how_many_processes(corpus, here, monkeypatch, capsys, words, large, expected):
    from apo.scorers.base import Scorer, scorers

    @scorers.register("batcher")
    @dataclass
    class Batcher(Scorer):
        """Does its own batching."""

    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    monkeypatch.setattr("apo.annotation.annotate.PAYS_FROM", 1 if large else 10**9)
    try:
        named = any(word.startswith(("task", "scorer")) for word in words)
        job = read([*words, *([] if named else [f"scorer={here}"]), f"input={corpus}", "output=a.jsonl"])
        assert annotation.processes(job) == expected
    finally:
        scorers._classes.pop("batcher")
    assert ("batches by itself" in capsys.readouterr().err) == (words == ["scorer=batcher", "workers=2"])


def test_a_function_reaches_another_process(here):
    scorer = make_scorer({"name": here, "batched": False})
    assert scorer.score(["a!"]) == [0.5]        # the module that it keeps cannot be copied
    copy = ForkingPickler.loads(ForkingPickler.dumps(scorer))
    assert copy.name == here and copy.batched is False and copy.score(["a!"]) == [0.5]
    assert copy.fingerprint() == scorer.fingerprint()


# ---- trained on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
@pytest.mark.parametrize("source", ["file", "hub"])
def test_the_result_is_read_as_data(annotate, corpus, tmp_path, name, source, rows_of):
    annotate(f"input={corpus}", f"output={name}")
    documents = sources.get(source)(DataConfig(source=source, path=str(tmp_path / name))).documents()
    assert [(document.texts, document.scores) for document in documents] == [
        (row["texts"], row["scores"]) for row in rows_of(tmp_path / name)]
