"""Plain text and source files: what is a document, and what cannot be read."""

import gzip

import pytest

from apo.data.sources.base import sources
from apo.errors import ConfigError, DataError
from apo.schema import DataConfig


def source(path, **options):
    return sources.get("text")(DataConfig(source="text", path=path, **options))


def texts(path, **options):
    return [document.texts for document in source(path, **options).documents()]


@pytest.fixture
def folder(tmp_path):
    for name, content in {"b/two.py": b"x = 1\n\ny = 2\n", "b/a.txt": b"one\n\ntwo\n", "c.py": "ö\r\n".encode(),
                          ".git/config": b"hidden", "__pycache__/c.pyc": b"\xff", "b/.hidden": b"hidden"}.items():
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_bytes(content)
    return tmp_path / "src"


def test_a_folder_holds_a_document_per_file(folder):
    documents = list(source(str(folder)).documents())
    assert [document.texts for document in documents] == [["one\n\ntwo\n"], ["x = 1\n\ny = 2\n"], ["ö\r\n"]]
    assert documents[0].origin == str(folder / "b/a.txt")
    assert source(str(folder)).size().documents == 3


def test_a_pattern_holds_a_document_per_file(folder):
    assert texts(f"{folder}/**/*.py") == [["x = 1\n\ny = 2\n"], ["ö\r\n"]]
    assert texts(str(folder / "c.py"), segment_by="line") == [["ö\r\n"]]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_text_file_holds_documents_between_blank_lines(tmp_path, name):
    content = "\ufeff\none\nstill one\n \t\n\ntwo\n\n\nthree".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    documents = list(source(str(tmp_path / name)).documents())
    assert [document.texts for document in documents] == [["one\nstill one\n"], ["two\n"], ["three"]]
    assert [document.origin.rpartition(", ")[2] for document in documents] == ["line 2", "line 6", "line 9"]
    assert source(str(tmp_path / name)).size().documents is None


def test_segments_of_a_block(tmp_path):
    (tmp_path / "a.txt").write_text("One. Two.\nThree.\n\nFour.\n")
    assert texts(str(tmp_path / "a.txt"), segment_by="sentence") == [["One. ", "Two.\n", "Three.\n"], ["Four.\n"]]


def test_several_in_order(folder):
    assert texts([str(folder / "c.py"), str(folder / "b")]) == [["ö\r\n"], ["one\n\ntwo\n"], ["x = 1\n\ny = 2\n"]]


def test_the_fingerprint_follows_contents_and_cutting(folder, tmp_path):
    (tmp_path / "copy.txt").write_bytes((folder / "b/a.txt").read_bytes())
    whole, cut = source(str(folder / "b/*.txt")).fingerprint(), source(str(folder / "b/a.txt")).fingerprint()
    assert whole != cut == source(str(tmp_path / "copy.txt")).fingerprint()
    (folder / "b/a.txt").write_text("other")
    assert source(str(folder / "b/a.txt")).fingerprint() != cut


def test_what_is_not_utf8_is_named(folder, tmp_path):
    (folder / "d.py").write_bytes(b"\xe4")
    with pytest.raises(DataError, match=r"d\.py: not UTF-8 \(byte 0xe4\)"):
        texts(str(folder))
    (tmp_path / "a.txt").write_bytes(b"fine\n\n\xe4\n\nfine\n")
    with pytest.raises(DataError, match=r"a\.txt, line 3: not UTF-8"):
        texts(str(tmp_path / "a.txt"))


def test_what_is_not_there(folder, tmp_path):
    with pytest.raises(DataError, match=r'no such file\. Did you mean "c\.py"'):
        texts(str(folder / "cc.py"))
    with pytest.raises(DataError, match="no files"):
        texts(str(folder / "*.rs"))
    (tmp_path / "a.txt.gz").write_bytes(b"plain\n")
    with pytest.raises(DataError, match="not a whole gzip file"):
        texts(str(tmp_path / "a.txt.gz"))
    with pytest.raises(ConfigError, match="data.path"):
        source(None)
