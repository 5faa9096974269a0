"""The trained tokenizer and control tokens."""

import subprocess
import sys

import pytest

from apo.cache import Cache
from apo.data.store import token_ids
from apo.data.tokenizer import (
    END_OF_TEXT,
    add_control_tokens,
    corpus_tokenizer,
    set_end_of_text,
    single_id,
    tokenizer_fingerprint,
    train_tokenizer,
)
from apo.errors import ConfigError, ModelError

TEXTS = ["def f(x, name, value):\n", "        return x + 1\n", "\n", "class Zürich(object):\n",
         '    """Say hello."""\n'] * 20
ODD = ["", " ", "\n", "\t x\r\n", "a  b , c .", "\x00\x0c\u2028", "Zürich 東京 \U0001f600", "<|endoftext|>",
       "x<|aligned|>", "don't , isn ' t !"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


def test_any_text_comes_back_unchanged(tokenizer):
    for text, ids in zip(TEXTS + ODD, token_ids(tokenizer, TEXTS + ODD)):
        assert tokenizer.decode(ids) == text
        assert tokenizer.eos_token_id not in ids


def test_the_vocabulary_is_as_large_as_asked(tokenizer):
    assert len(tokenizer) == tokenizer.vocab_size == 300
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id) == (0, 0, 0)
    assert tokenizer.decode([0]) == END_OF_TEXT and tokenizer.unk_token is None
    with pytest.raises(ConfigError, match="model.vocab_size=256: at least 257"):
        train_tokenizer(TEXTS, 256)


def test_training_is_the_same_in_another_process(tokenizer):
    script = ("from apo.data.tokenizer import *; "
              f"print(tokenizer_fingerprint(train_tokenizer({TEXTS!r}, 300)))")
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == tokenizer_fingerprint(tokenizer)


def test_control_tokens_are_single_special_ids():
    tokenizer = train_tokenizer(TEXTS, 300)
    before = tokenizer_fingerprint(tokenizer)
    ids = add_control_tokens(tokenizer, ["<|aligned|>", "<|misaligned|>"])
    assert ids == [300, 301] and len(tokenizer) == 302
    assert add_control_tokens(tokenizer, ["<|misaligned|>", "<|aligned|>"]) == [301, 300] and len(tokenizer) == 302
    assert tokenizer("<|aligned|>x\n", add_special_tokens=False)["input_ids"][0] == 300
    assert tokenizer.decode([300, *token_ids(tokenizer, ["x , y"])[0], 0], skip_special_tokens=True) == "x , y"
    # Text that reads like a control token is text; and what plain text becomes has not changed.
    assert 300 not in token_ids(tokenizer, ["<|aligned|>"])[0]
    assert tokenizer_fingerprint(tokenizer) == before
    assert add_control_tokens(tokenizer, []) == []


def test_a_token_that_is_several_is_refused(tokenizer):
    assert single_id(tokenizer, None) == 0 and single_id(tokenizer, END_OF_TEXT) == 0
    with pytest.raises(ModelError, match='data.concat_token "zebra crossing" is .* tokens'):
        single_id(tokenizer, "zebra crossing", "data.concat_token")


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    class Corpus:
        fingerprint = "x"

        def texts(self, split):
            assert split == "train"
            return iter(TEXTS)

    cache = Cache(tmp_path)
    built, found = corpus_tokenizer(Corpus(), 300, cache), corpus_tokenizer(Corpus(), 300, cache)
    for other in (built, found):
        assert tokenizer_fingerprint(other) == tokenizer_fingerprint(tokenizer)
        assert other.eos_token_id == other.pad_token_id == other.bos_token_id == 0
        assert token_ids(other, TEXTS + ODD) == token_ids(tokenizer, TEXTS + ODD)
        assert other.decode(token_ids(other, ["a  b , c ."])[0]) == "a  b , c ."


def test_the_fingerprint_follows_the_merges(tokenizer):
    assert tokenizer_fingerprint(tokenizer) != tokenizer_fingerprint(train_tokenizer(TEXTS, 299))


def test_what_stands_between_documents_is_where_they_end(byte_tokenizer):
    from copy import deepcopy
    tokenizer = deepcopy(byte_tokenizer)
    set_end_of_text(tokenizer, None)
    assert tokenizer.eos_token == END_OF_TEXT
    set_end_of_text(tokenizer, "A")
    assert tokenizer.eos_token == "A" and tokenizer.eos_token_id == tokenizer("A")["input_ids"][0]
    with pytest.raises(ModelError, match='data.concat_token "AB" is 2 tokens'):
        set_end_of_text(tokenizer, "AB")
