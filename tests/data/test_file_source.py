"""The user's own files: every format read alike, every mistake named with file and row."""

import csv
import gzip
import io
import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from apo.data.sources.base import lines, sources
from apo.errors import ConfigError, DataError
from apo.schema import DataConfig

ROWS = [{"text": "one, \"two\"\nthree", "score": 0.5}, {"text": "Zürich\u2028\f x", "score": -1.0},
        {"text": " ", "score": 0.0}]


def read(path, **options):
    return list(sources.get("file")(DataConfig(path=path, **options)).documents())


def refused(path, **options):
    with pytest.raises(DataError) as error:
        read(path, **options)
    return str(error.value)


def write_csv(path, rows, delimiter=","):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz", "a.csv", "a.csv.gz", "a.tsv",
                                  "a.parquet"])
def test_every_format_gives_the_same_documents(tmp_path, rows_file, name):
    path = tmp_path / name
    if "json" in name:
        rows_file(name, ROWS)
    elif name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        write_csv(path, ROWS, "\t" if "tsv" in name else ",")
    documents = read(str(path))
    assert [(document.texts, document.scores) for document in documents] == [
        ([row["text"]], [row["score"]]) for row in ROWS]
    assert documents[0].origin.startswith(f"{path}, ")


def test_segments_with_scores(rows_file):
    [document] = read(rows_file("a.jsonl", [{"texts": ["a ", "b"], "scores": [0, 1], "avg_score": 0.5}]))
    assert (document.texts, document.scores) == (["a ", "b"], [0.0, 1.0])


def test_columns_of_other_names(rows_file):
    path = rows_file("a.jsonl", [{"body": "x", "text": "y", "toxicity": 1, "score": 2}])
    [document] = read(path, text_column="body", score_column="toxicity")
    assert (document.texts, document.scores) == (["x"], [1.0])


def test_text_without_scores_is_left_to_the_scorer(rows_file):
    path = rows_file("a.jsonl", [{"text": "a\nb"}, "", {"text": "c\n"}])
    assert [document.scores for document in read(path)] == [None, None]
    assert [document.texts for document in read(path, segment_by="line")] == [["a\n", "b"], ["c\n"]]
    assert [document.origin for document in read(path)] == [f"{path}, row 1", f"{path}, row 3"]


def test_a_text_cut_into_lines_needs_new_scores(rows_file):
    [document] = read(rows_file("a.jsonl", [{"text": "a\nb", "score": 1}]), segment_by="line")
    assert document.scores is None


def test_lines_end_at_newlines_only():
    for text in ("", "a", "a\n", "\n\na\x0cb\u2028c\r\nd", "a\n\n"):
        assert "".join(lines(text)) == text
    assert lines("a\x0cb\u2028c\r\nd") == ["a\x0cb\u2028c\r\n", "d"]


def test_several_files_in_order(rows_file):
    paths = [rows_file(name, [{"text": name, "score": 0}]) for name in ("b.jsonl", "a.jsonl.gz")]
    assert [document.texts for document in read(paths)] == [["b.jsonl"], ["a.jsonl.gz"]]


def test_the_fingerprint_follows_contents_not_places(rows_file, tmp_path):
    def fingerprint(*paths):
        return sources.get("file")(DataConfig(path=list(paths))).fingerprint()

    a, b = (rows_file(name, [{"text": name}]) for name in ("a.jsonl", "b.jsonl"))
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes((tmp_path / "a.jsonl").read_bytes())
    assert fingerprint(a) == fingerprint(str(copy)) != fingerprint(b)
    assert fingerprint(a, b) != fingerprint(b, a)


@pytest.mark.parametrize("row, message", [
    ({"text": "a", "score": float("nan")}, '"score" holds nan: scores must be finite'),
    ({"text": "a", "score": float("inf")}, '"score" holds inf: scores must be finite'),
    ({"text": "a", "score": "high"}, '"score" holds the text "high" where a number is needed'),
    ({"text": "a", "score": True}, '"score" holds the truth value True where a number is needed'),
    ({"text": "a", "score": None}, '"score" holds nothing (null) where a number is needed'),
    ({"text": None, "score": 1}, '"text" is nothing (null), not text or a list of texts'),
    ({"text": ["a", 3], "score": [1, 2]}, '"text" holds the number 3 where text is needed'),
    ({"text": ["a", "b"], "score": [1]}, '2 texts but 1 in "score"'),
    ({"text": ["a", "b"], "score": 1}, '"score" is the number 1; with a list of texts it must be a list of as many'),
    ({"text": "a"}, 'no "score"; the row has "text"'),
    ({"txt": "a", "score": 1}, 'no "text"; the row has "txt", "score"'),
    ('{"text": "a", "score": 1', "not JSON (Expecting ',' delimiter at character 25)"),
    ("[1, 2]", "a JSON list, not an object {...}"),
    ('{"text": "\\ud800", "score": 1}', "half a surrogate pair at character 0: not valid Unicode"),
])
def test_a_bad_row_is_named(rows_file, row, message):
    row = row if isinstance(row, str) else json.dumps(row)
    path = rows_file("a.jsonl", [{"text": "fine", "score": 1}, row, {"text": "fine", "score": 1}])
    said = refused(path)
    assert f"{path}, row 2: " in said and message in said


def test_several_bad_rows_are_shown_together(rows_file):
    path = rows_file("a.jsonl", [{"text": "a", "score": 1}, *[{"text": "a", "score": "x"}] * 9])
    said = refused(path)
    assert said.startswith("the first 5 rows that cannot be used:") and said.count("\n") == 5
    assert "row 2:" in said and "row 6:" in said and "row 7:" not in said


def test_a_score_that_comes_late(rows_file):
    assert 'row 2: has "score", but the first row has none' in refused(
        rows_file("a.jsonl", [{"text": "a"}, {"text": "a", "score": 1}]))


def test_missing_columns(rows_file):
    path = rows_file("a.jsonl", [{"content": "a", "score": 1}])
    said = refused(path)
    assert path in said and 'has no column "texts" or "text"' in said and '"content", "score"' in said
    assert "data.text_column" in said
    assert 'has no column "contnt" (data.text_column). Did you mean "content"?' in refused(path, text_column="contnt")
    assert 'has no column "sc0re" (data.score_column). Did you mean "score"?' in refused(
        path, text_column="content", score_column="sc0re")


@pytest.mark.parametrize("name, content, message", [
    ("a.jsonl", b"", "no rows"),
    ("a.csv", b"text,score\n", "no rows"),
    ("a.jsonl", b"[\n{}\n]", "one JSON array"),
    ("a.jsonl", b'{"text": "\xff"}\n', "not UTF-8 (byte 0xff)"),
    ("a.jsonl.gz", b"plain text\n", "not a whole gzip file"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 999, mtime=0)[:-20], "not a whole gzip file"),
    ("a.parquet", b"text\n", "not a Parquet file"),
    ("a.txt", b"text\n", 'unknown format ".txt"'),
    ("a.parquet.gz", b"text\n", 'unknown format ".parquet.gz"'),
    ("a.csv", b"text,score\na,1\nb\n", "line 3: fewer cells than the header has"),
    ("a.csv", b"text,score\na,1,2\n", "line 2: 1 more cell than the header has"),
    ("a.csv", b"text,score\na,x\n", 'line 2: "score" holds the text "x" where a number is needed'),
    ("a.csv", b"text,score\na,\n", 'line 2: "score" holds an empty text where a number is needed'),
    ("a.csv", b"text,score\na,nan\n", 'line 2: "score" holds nan'),
])
def test_a_file_that_is_not_what_it_says(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    said = refused(str(tmp_path / name))
    assert str(tmp_path / name) in said and message in said


def test_a_file_that_is_not_there(tmp_path, rows_file):
    rows_file("mine.jsonl", [{"text": "a"}])
    assert 'no such file. Did you mean "mine.jsonl"?' in refused(str(tmp_path / "mien.jsonl"))
    assert "there is no folder" in refused(str(tmp_path / "no" / "mine.jsonl"))
    assert "is a folder" in refused(str(tmp_path))
    with pytest.raises(ConfigError, match="data.path"):
        read(None)


def test_size(rows_file, tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert sources.get("file")(DataConfig(path=str(path))).size().documents == 3
    size = sources.get("file")(DataConfig(path=rows_file("a.jsonl", ROWS))).size()
    assert size.documents is None and size.bytes > 50


def test_the_source_of_the_docs_page_works():
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    try:
        exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], {"__name__": "haiku"})
        source = sources.get("haiku")(DataConfig(source="haiku"))
        assert len(next(source.documents()).texts) == 3 and source.fingerprint() and source.size().documents is None
    finally:
        sources._classes.pop("haiku", None)
