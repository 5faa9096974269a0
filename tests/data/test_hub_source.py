"""Hub datasets, on a local copy with the exact columns of PHF's sets; no network."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from apo.data.sources.base import sources
from apo.errors import ConfigError, DataError
from apo.schema import DataConfig


def rows(start=0, count=20):
    """As in tomekkorbak/detoxify-pile-chunk3-*."""
    return [{"texts": [f"Sentence {i}. ", "Another."], "meta": {"pile_set_name": "Pile-CC"},
             "scores": [i / 10, 0.0], "avg_score": i / 20, "num_sents": 2} for i in range(start, start + count)]


def code_rows():
    """As in kejian/codeparrot-train-more-filter-3.3b-cleaned."""
    return [{"texts": ["x=1\n", "y = 2\n"], "org_text": "x=1\ny = 2\n", "scores": [0.25, 0.0], "avg_score": 0.125,
             "num_lines": 2, "repo_name": "a/b", "path": "c.py", "license": "mit"}] * 20


@pytest.fixture
def local_copy(tmp_path):
    def write(rows, name="set"):
        (tmp_path / name).mkdir()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name / "train-00000-of-00001.parquet")
        return str(tmp_path / name)
    return write


def source(path, **options):
    return sources.get("hub")(DataConfig(source="hub", path=path, **options))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("content", [rows(), code_rows(), [{"text": "a", "score": 1}] * 3])
def test_rows_become_documents(local_copy, streaming, content):
    path = local_copy(content)
    documents = list(source(path, streaming=streaming).documents())
    expected = [(row["texts"], row["scores"]) if "texts" in row else ([row["text"]], [row["score"]])
                for row in content]
    assert [(document.texts, document.scores) for document in documents] == expected
    assert documents[2].origin == f"{path}, row 3"


@pytest.mark.parametrize("streaming", [False, True])
def test_shards_are_read_in_order(local_copy, streaming):
    paths = [local_copy(rows(40, 3), "b"), local_copy(rows(0, 2), "a")]
    documents = list(source(paths, streaming=streaming).documents())
    assert [document.texts[0] for document in documents] == [f"Sentence {i}. " for i in (40, 41, 42, 0, 1)]


def test_a_single_file(local_copy, tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    assert len(list(source(local_copy(rows()) + "/train-00000-of-00001.parquet").documents())) == 20
    assert len(list(source(str(tmp_path / "a.jsonl")).documents())) == 20


@pytest.mark.parametrize("shards", [1, 2])
def test_a_stream_goes_on_where_it_was(local_copy, shards):
    paths = [local_copy(rows(100 * i, 12), f"set{i}") for i in range(shards)]
    for killed_at in (0, 1, 11, 12, 12 * shards):
        stream = source(paths, streaming=True).stream()
        iterator = iter(stream)
        for _ in range(killed_at):
            next(iterator)
        state = json.loads(json.dumps(stream.state_dict()))
        rest = [document.texts for document in iterator]
        resumed = source(paths, streaming=True).stream()
        resumed.load_state_dict(state)
        assert [document.texts for document in resumed] == rest
        assert len(list(resumed)) == len(list(stream)) == 12 * shards


@pytest.mark.parametrize("streaming", [False, True])
def test_mistakes_are_one_line(local_copy, tmp_path, streaming):
    path = local_copy(rows())
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    for wrong, message in [({"split": "trian"}, "trian.*data.split"), ({"text_column": "txt"}, 'no column "txt"'),
                           ({"path": "nobody/nothing"}, "nobody/nothing.*offline=false"),
                           ({"path": str(tmp_path / "empty")}, "doesn't contain any data files"),
                           ({"path": str(tmp_path / "a.txt")}, 'unknown format ".txt"')]:
        with pytest.raises(DataError, match=message) as error:
            list(source(**{"path": path, "streaming": streaming, **wrong}).documents())
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="data.path"):
        source(None)


@pytest.mark.parametrize("raised, advice", [
    ("Dataset 'a/b' is a gated dataset on the Hub. You must be authenticated to access it.", "HF_TOKEN"),
    ("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed.", "Check the name.*HF_TOKEN")])
def test_what_the_hub_refuses(monkeypatch, raised, advice):
    import datasets

    def refuse(*args, **kwargs):
        raise datasets.exceptions.DatasetNotFoundError(raised)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=advice):
        list(source("a/b").documents())


@pytest.mark.parametrize("name, asked, options", [
    ("wikitext", "wikitext", {"data_dir": None}), ("a/b", "a/b", {"data_dir": None}),
    ("a/b/data/rl", "a/b", {"data_dir": "data/rl"}), ("a/b/c/", "a/b", {"data_dir": "c"})])
def test_a_folder_inside_a_dataset(monkeypatch, name, asked, options):
    import datasets
    calls = []

    def load_dataset(name, **options):
        calls.append((name, options))
        return datasets.Dataset.from_list([{"text": "a", "score": 0.5}])
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [document.texts for document in source(name, revision="c0ffee").documents()] == [["a"]]
    assert calls == [(asked, {"split": "train", "streaming": False, "revision": "c0ffee", **options})]


@pytest.mark.parametrize("name", ["/nowhere/set", "./set", "~/nowhere/set"])
def test_a_place_is_no_name_on_the_hub(name):
    with pytest.raises(DataError, match=f"^{name}: there is no such file or folder$"):
        list(source(name).documents())


@pytest.mark.parametrize("streaming", [False, True])
def test_bad_rows_are_named(local_copy, streaming):
    path = local_copy([{"texts": ["a"], "scores": [0.0]}, {"texts": ["a", "b"], "scores": [0.0]},
                       {"texts": ["a"], "scores": [float("nan")]}])
    with pytest.raises(DataError, match=r'row 2: 2 texts but 1 in "scores"'):
        list(source(path, streaming=streaming).documents())
    if streaming:
        with pytest.raises(DataError, match=r'row 2: 2 texts but 1 in "scores"'):
            list(source(path, streaming=True).stream())


def test_the_fingerprint_follows_the_contents(local_copy):
    first, same, other = local_copy(rows(), "a"), local_copy(rows(), "b"), local_copy(rows(1), "c")
    assert source(first).fingerprint() == source(same).fingerprint() != source(other).fingerprint()
    assert source(first, split="test").fingerprint() != source(first).fingerprint()
    assert source("a/b", streaming=True).fingerprint() != source("a/b", streaming=True, revision="1").fingerprint()
    assert source("a/b").size().documents is None
