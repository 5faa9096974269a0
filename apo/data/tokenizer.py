"""The small tokenizer of smoke and demo scale, and the control tokens any tokenizer is given."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable

from apo.cache import Cache, digest
from apo.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
"""Begin, end and padding in one, as in GPT-2.  Id 0."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Byte-level BPE with `vocab_size` tokens, the end-of-text token included: fewer where the texts are too small.

    The same texts give the same tokenizer.  Every text has a tokenisation (nothing is unknown), and decoding gives it
    back unchanged.  Raises ConfigError where `vocab_size` does not hold all bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size <= len(alphabet):
        raise ConfigError(f"model.vocab_size={vocab_size}: at least {len(alphabet) + 1} are needed, all bytes and the "
                          "end-of-text token")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet,
                                  show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT,
                                   pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False)


def corpus_tokenizer(corpus: Any, vocab_size: int, cache: Cache) -> "PreTrainedTokenizerFast":
    """`train_tokenizer` on the training documents' segments, made once."""
    from tokenizers import __version__
    from transformers import PreTrainedTokenizerFast

    from apo.console import say

    def build(folder: Path) -> None:
        say(f"training a tokenizer of {vocab_size} tokens")
        train_tokenizer(corpus.texts("train"), vocab_size).save_pretrained(folder)

    key = {"corpus": corpus.fingerprint, "vocab_size": vocab_size, "tokenizers": __version__}
    return PreTrainedTokenizerFast.from_pretrained(cache.get("tokenizer", key, build))


def add_control_tokens(tokenizer: "PreTrainedTokenizerBase", tokens: list[str]) -> list[int]:
    """Append special tokens, each one id; returns the ids.  A token the tokenizer has already keeps its id."""
    from tokenizers import AddedToken
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
    return [single_id(tokenizer, token) for token in tokens]


def set_end_of_text(tokenizer: "PreTrainedTokenizerBase", token: str | None) -> None:
    """What stands between documents is where a document ends: `data.concat_token`, null for the tokenizer's own.  With
    it sampling begins, and there it stops.  Raises ModelError where it is not one token."""
    single_id(tokenizer, token, "data.concat_token")
    if token is not None:
        tokenizer.eos_token = token


def single_id(tokenizer: "PreTrainedTokenizerBase", token: str | None, option: str = "control token") -> int:
    """The id of a token that must be one; null stands for the tokenizer's end-of-text token.  Raises ModelError."""
    if token is None:
        if tokenizer.eos_token_id is None:
            raise ModelError("the tokenizer has no end-of-text token: name the token that stands between documents "
                             "with data.concat_token")
        return tokenizer.eos_token_id
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ModelError(f'{option} "{token}" is {len(ids)} tokens to this tokenizer, and must be one')
    return ids[0]


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """sha256 over what decides how plain text is tokenised: special tokens stay out, so that adding control tokens
    does not change it."""
    import json
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return digest({"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()})
    content = json.loads(backend.to_str())
    content["added_tokens"] = [token for token in content.get("added_tokens", []) if not token["special"]]
    for passing in ("padding", "truncation", "post_processor"):
        content.pop(passing, None)
    return digest(content)
