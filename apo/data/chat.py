"""Prompts and completions in the words of a tokenizer's own chat template (`data.chat_template=tokenizer`).

Records stay plain transcripts, which is what scorers and metrics read and what samples are written as.  The template
comes in where text becomes tokens and nowhere else: in the store, and in front of what is sampled.

The template's special tokens are tokens; text of a message that looks like one stays text, as everywhere.  The token
that begins a text (`bos_token`) is left out, since rows have the end-of-text token in front of every prompt.  A turn of
the assistant must end in that same token, for there sampling stops.
"""

import re
from typing import TYPE_CHECKING, Any

from apo.cache import digest
from apo.data.dialogue import HEADS, SYSTEM, NotADialogue, parse, to_messages
from apo.errors import DataError, ModelError
from apo.schema import DataConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pieces = list[str]
"""A text in parts: those in odd places look like special tokens and are none."""
MARK = "\ue000{}\ue001"
MARKED = re.compile("\ue000(\\d+)\ue001")
PROBE = "\n\nHuman: Hi\n\nAssistant:"


def chat_of(data: DataConfig, tokenizer: "PreTrainedTokenizerBase") -> "Chat | None":
    """What the data options ask for; None for plain transcripts.  Raises ModelError as `Chat` does."""
    return Chat(tokenizer) if data.chat_template == "tokenizer" else None


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
    """Raises ModelError for a tokenizer without a template, and for a template whose turns do not end in the
    end-of-text token."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase"):
        self.tokenizer, self.end = tokenizer, tokenizer.eos_token
        if not tokenizer.chat_template:
            raise ModelError("data.chat_template=tokenizer: the tokenizer has no chat template; name one that has "
                             "(model.tokenizer), or set data.chat_template=plain")
        self.template = tokenizer.get_chat_template()
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
            raise DataError(f"data.chat_template=tokenizer: the template does not write what it asks for in front of "
                            f"an answer, the answer and {self.end} one after another; the prompt is "
                            f"{_quoted(transcript)}")
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
            raise DataError(f"data.chat_template=tokenizer: a chat template cannot write the prompt "
                            f"{_quoted(transcript)}: {reason}") from None

    def _marked(self, messages: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[str]]:
        """The messages with a mark in the place of each text that is not to become a special token, and these texts."""
        known: list[str] = []

        def mark(found: re.Match[str]) -> str:
            known.append(found[0])
            return MARK.format(len(known) - 1)
        return [{**message, "content": self._special.sub(mark, message["content"])} for message in messages], known

    def _rendered(self, messages: list[dict[str, str]], transcript: str, **options: Any) -> str:
        from jinja2 import TemplateError
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, **options)
        except (TemplateError, ValueError) as error:
            raise DataError(f"data.chat_template=tokenizer: the template refuses the prompt {_quoted(transcript)}: "
                            f"{error}") from None
        return text.removeprefix(self.tokenizer.bos_token or "")

    def _pieces(self, text: str, known: list[str]) -> Pieces:
        return [known[int(part)] if place % 2 else part for place, part in enumerate(MARKED.split(text))]

    def _check(self) -> None:
        said = MARK.format(0)
        messages = [*messages_of(PROBE), {"role": "assistant", "content": said}]
        behind = self._rendered(messages, PROBE).rpartition(said)[2]
        if behind.strip() != self.end:
            raise ModelError(f'data.chat_template=tokenizer: the template ends a turn with "{behind.strip()}", and '
                             f'documents end with "{self.end}": name the token of the template with data.concat_token')


def _quoted(text: str, length: int = 60) -> str:
    return repr(text if len(text) <= length else text[:length] + "...")
