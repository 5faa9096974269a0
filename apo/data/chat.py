"""Prompts and completions in the words of a chat template: the tokenizer's own (`data.chat_template=tokenizer`), or one
in a file (`data.chat_template=configs/chat/qlora_hh.jinja`).

Records stay plain transcripts, which is what scorers and metrics read and what samples are written as.  The template
comes in where text becomes tokens and nowhere else: in the store, and in front of what is sampled.

The template's special tokens are tokens; text of a message that looks like one stays text, as everywhere.  The token
that begins a text (`bos_token`) is left out, since rows have the end-of-text token in front of every prompt.  A turn of
the assistant must end in that same token, for there sampling stops.

A file is rendered by `apply_chat_template`, in transformers' sandbox, as a tokenizer's template is.  No text may be
lost on the way: every message has to stand in what is rendered, in its order, and an answer right behind what asks for
it.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from apo.cache import digest
from apo.data.dialogue import HEADS, SYSTEM, NotADialogue, parse, to_messages
from apo.errors import DataError, ModelError, nearest
from apo.schema import DataConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pieces = list[str]
"""A text in parts: those in odd places look like special tokens and are none."""
MARK = "\ue000{}\ue001"
MARKED = re.compile("\ue000(\\d+)\ue001")
PROBE = [{"role": role, "content": MARK.format(number)}
         for number, role in enumerate(("user", "assistant", "user", "assistant"))]
NOT_FILES = ("plain", "tokenizer")
ROOT = Path(__file__).resolve().parent.parent.parent


def chat_of(data: DataConfig, tokenizer: "PreTrainedTokenizerBase") -> "Chat | None":
    """What the data options ask for; None for plain transcripts.  Raises ModelError as `Chat` does."""
    return chat_in(data.chat_template, tokenizer)


def chat_in(form: str, tokenizer: "PreTrainedTokenizerBase") -> "Chat | None":
    """`form`: a value of `data.chat_template`."""
    return None if form == "plain" else Chat(tokenizer, form)


def template_file(form: str) -> Path:
    """Where a file that is named lies: below the working directory, else below the project (`configs/chat`)."""
    given = Path(form).expanduser()
    return given if given.is_file() or not (ROOT / form).is_file() else ROOT / form


def read_template(form: str) -> str:
    """Raises ModelError for a file that is not there or not text."""
    path = template_file(form)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        others = [*NOT_FILES, *(str(other) for folder in {path.parent, ROOT / "configs" / "chat"} if folder.is_dir()
                                for other in folder.iterdir() if other.suffix == path.suffix)]
        raise ModelError(f"expected plain, tokenizer or a file with a chat template; there is no file {form}."
                         f"{nearest(form, others)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{form}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def template_problem(form: str) -> str:
    """What is wrong with the template in a file, as far as no tokenizer is needed to see it; "" for nothing."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    stand_in = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>")
    try:
        template = read_template(form)
        return lost_text(lambda messages, **options: rendered(stand_in, template, messages, **options))
    except (ModelError, DataError) as error:
        return str(error)


def rendered(tokenizer: "PreTrainedTokenizerBase", template: str, messages: list[dict[str, str]],
             **options: Any) -> str:
    """Without the token that begins a text.  Raises DataError for what the template refuses."""
    from jinja2 import TemplateError
    try:
        text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **options)
    except (TemplateError, ValueError, TypeError) as error:
        raise DataError(f"{type(error).__name__}: {error}" if not isinstance(error, TemplateError) else str(error)
                        ) from None
    return text.removeprefix(tokenizer.bos_token or "")


def lost_text(render: Callable[..., str]) -> str:
    """What a template does to the text of a dialogue that it ought not; "" for nothing."""
    said = [message["content"] for message in PROBE]
    asked, whole = render(PROBE[:-1], add_generation_prompt=True), render(PROBE)
    if not in_order(said[:-1], asked) or not in_order(said, whole):
        return "the template drops text: not every message of a dialogue stands in what it writes, in its order"
    if not whole.startswith(asked) or not whole.removeprefix(asked).lstrip().startswith(said[-1]):
        return "the template does not write an answer right behind what it asks for it with (add_generation_prompt)"
    return ""


def in_order(parts: list[str], text: str) -> bool:
    at = 0
    for part in parts:
        found = text.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return True


def chat_key(data: DataConfig, tokenizer: "PreTrainedTokenizerBase") -> dict[str, str]:
    """For the names of what is cached: nothing for plain transcripts."""
    chat = chat_of(data, tokenizer)
    return {} if chat is None else {"chat_template": chat.fingerprint()}


def messages_of(transcript: str) -> list[dict[str, str]]:
    """The turns of a prompt, a system message in front of them if there is one.  A prompt that is no transcript is what
    the user says.  Raises NotADialogue where there is nothing to answer, or an answer has begun."""
    messages, body = [], transcript
    if transcript.startswith(SYSTEM):
        end = min((at for head in HEADS.values() if (at := transcript.find(head)) >= 0), default=len(transcript))
        messages, body = [{"role": "system", "content": transcript[len(SYSTEM):end].strip()}], transcript[end:]
    try:
        turns = to_messages(parse(body))
    except NotADialogue:
        turns = [{"role": "user", "content": body.strip()}] if body.strip() else []
    if not turns or turns[-1]["role"] != "user":
        raise NotADialogue("nobody asks anything at its end")
    return messages + turns


def reply_to(transcript: str, said: str) -> str:
    """What the assistant says, as it stands behind a prompt."""
    asked = transcript.startswith((SYSTEM, *HEADS.values())) and not transcript.endswith(HEADS["assistant"])
    return f"{HEADS['assistant'] if asked else ''} {said.strip()}" if said.strip() else ""


class Chat:
    """`form`: tokenizer, or the path of a template.

    Raises ModelError for a tokenizer without a template, for a file without one, and for a template that drops text or
    whose turns do not end in the end-of-text token."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", form: str = "tokenizer"):
        self.tokenizer, self.end, self.form = tokenizer, tokenizer.eos_token, form
        if form == "tokenizer" and not tokenizer.chat_template:
            raise ModelError("data.chat_template=tokenizer: the tokenizer has no chat template; name one that has "
                             "(model.tokenizer) or a file, or set data.chat_template=plain")
        try:
            self.template = tokenizer.get_chat_template() if form == "tokenizer" else read_template(form)
        except ModelError as error:
            raise ModelError(f"data.chat_template={form}: {error}") from None
        self.space_is_given = adds_space(tokenizer)
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._special = re.compile("|".join([MARKED.pattern, *map(re.escape, sorted(special, key=len, reverse=True))]))
        self._check()

    def fingerprint(self) -> str:
        """Over the template and the special tokens that stand in it."""
        added = {token: number for token, number in self.tokenizer.get_added_vocab().items() if token in self.template}
        return digest({"template": self.template, "tokens": added, "begin": self.tokenizer.bos_token, "end": self.end})

    def prompt(self, transcript: str) -> Pieces:
        """Everything up to where the assistant is to speak.  Raises DataError."""
        marked, known = self._marked(self._messages(transcript))
        return self._pieces(self._rendered(marked, transcript, add_generation_prompt=True), known)

    def document(self, texts: list[str]) -> list[Pieces]:
        """Of prompt and completion, without the end of the completion.  Raises DataError."""
        transcript, completion = texts
        said = completion.removeprefix(HEADS["assistant"]).strip()
        marked, known = self._marked([*self._messages(transcript), {"role": "assistant", "content": said}])
        before = self._rendered(marked[:-1], transcript, add_generation_prompt=True)
        whole = self._rendered(marked, transcript)
        inside, end, behind = whole.removeprefix(before).rpartition(self.end)
        if not whole.startswith(before) or not end or behind.strip():
            raise DataError(f"data.chat_template={self.form}: the template does not write what it asks for in front "
                            f"of an answer, the answer and {self.end} one after another; the prompt is "
                            f"{_quoted(transcript)}")
        inside = inside.removeprefix(" ") if self.space_is_given else inside
        return [self._pieces(before, known), self._pieces(inside, known)]

    def ids(self, texts: list[Pieces]) -> list[list[int]]:
        """Token ids of each, in two calls of the tokenizer for all."""
        told = iter(self._tokenised([piece for pieces in texts for piece in pieces[::2]], False))
        as_text = iter(self._tokenised([piece for pieces in texts for piece in pieces[1::2]], True))
        return [[token for place in range(len(pieces)) for token in next(as_text if place % 2 else told)]
                for pieces in texts]

    def _tokenised(self, texts: list[str], split: bool) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, split_special_tokens=split,
                              verbose=False)["input_ids"] if texts else []

    def _messages(self, transcript: str) -> list[dict[str, str]]:
        try:
            return messages_of(transcript)
        except NotADialogue as reason:
            raise DataError(f"data.chat_template={self.form}: a chat template cannot write the prompt "
                            f"{_quoted(transcript)}: {reason}") from None

    def _marked(self, messages: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[str]]:
        """The messages with a mark in the place of each text that is not to become a special token, and these texts."""
        known: list[str] = []

        def mark(found: re.Match[str]) -> str:
            known.append(found[0])
            return MARK.format(len(known) - 1)
        return [{**message, "content": self._special.sub(mark, message["content"])} for message in messages], known

    def _rendered(self, messages: list[dict[str, str]], transcript: str, **options: Any) -> str:
        try:
            text = rendered(self.tokenizer, self.template, messages, **options)
        except DataError as error:
            raise DataError(f"data.chat_template={self.form}: the template refuses the prompt {_quoted(transcript)}: "
                            f"{error}") from None
        if not in_order([message["content"] for message in messages], text):
            raise DataError(f"data.chat_template={self.form}: the template drops text of the prompt "
                            f"{_quoted(transcript)}")
        return text

    def _pieces(self, text: str, known: list[str]) -> Pieces:
        return [known[int(part)] if place % 2 else part for place, part in enumerate(MARKED.split(text))]

    def _check(self) -> None:
        messages = [PROBE[0], PROBE[-1]]
        behind = self._rendered(messages, "Hi").rpartition(messages[-1]["content"])[2]
        if behind.strip() != self.end:
            raise ModelError(f'data.chat_template={self.form}: the template ends a turn with "{behind.strip()}", and '
                             f'documents end with "{self.end}": name the token of the template with data.concat_token')


def adds_space(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a text that is tokenised by itself gets the space in front of it that it would have inside another
    (SentencePiece).  An answer is; with a space of its own it would begin with two."""
    pieces = tokenizer.tokenize("a")
    return bool(pieces) and pieces[0].startswith("\u2581")


def _quoted(text: str, length: int = 60) -> str:
    return repr(text if len(text) <= length else text[:length] + "...")
