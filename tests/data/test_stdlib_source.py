"""The standard library as a corpus."""

import ast

import pytest

from apo.data.sources.base import sources
from apo.data.sources.stdlib import signatures
from apo.schema import DataConfig


@pytest.fixture(scope="module")
def source():
    return sources.get("stdlib")(DataConfig(source="stdlib", segment_by="line"))


@pytest.fixture(scope="module")
def documents(source):
    return list(source.documents())


def test_it_is_the_same_every_time(source, documents):
    again = list(source.documents())
    assert [(d.origin, d.texts) for d in again] == [(d.origin, d.texts) for d in documents]
    assert source.fingerprint() == source.fingerprint()
    assert [d.origin for d in documents] == sorted(d.origin for d in documents)


def test_it_is_real_code_without_tests_and_tables(source, documents):
    names = {document.origin for document in documents}
    assert {"ast.py", "json/decoder.py"} <= names
    assert not [name for name in names if {"test", "tests", "encodings", "site-packages"} & set(name.split("/"))]
    assert 400 < len(documents) < 900 and 6e6 < sum(len("".join(d.texts)) for d in documents) < 2e7
    assert abs(source.size().documents - len(documents)) < 20


def test_segments_are_lines(documents):
    for document in documents:
        assert all(text.endswith("\n") for text in document.texts[:-1])
        assert not any("\n" in text[:-1] for text in document.texts)
    whole = next(sources.get("stdlib")(DataConfig(source="stdlib")).documents())
    assert whole.texts == ["".join(documents[0].texts)]
    assert all(document.scores is None for document in documents)


CODE = '''\
import x


@decorator
def one(a, b=(1, 2)):
    def inner():
        pass


class C:
    def method(self):
        pass


async def two(a: int,
              b):  # comment
    pass


async def three(
    a,
) -> None:
    return {"def": 1}

def four(): pass
def five(a=lambda: 1):
    pass
"""
def in_text():
"""
'''


def test_prompts_are_top_level_signatures():
    assert list(signatures(CODE)) == ["def one(a, b=(1, 2)):\n", "async def three(\n    a,\n) -> None:\n",
                                      "def five(a=lambda: 1):\n"]


def test_text_that_is_not_python_gives_what_came_before():
    assert list(signatures("def f():\n    pass\n\n'''open")) == ["def f():\n"]
    assert list(signatures("def f(:\n  x\n y\n")) in ([], ["def f(:\n"])
    assert list(signatures("")) == []


def test_prompts_of_the_library_parse(source, documents):
    prompts = source.prompt_sets("".join(d.texts) for d in documents[:60])["functions"]
    assert len(prompts) == len(set(prompts)) > 100
    for prompt in prompts:
        assert prompt.endswith(":\n") and prompt.startswith(("def ", "async def "))
        ast.parse(prompt + "    pass\n")
