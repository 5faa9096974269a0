"""Dialogues: hh-rlhf's transcripts, PRO's lists of turns, the messages of chat templates, and the ways between them.

    transcript   "\\n\\nHuman: Hi.\\n\\nAssistant: Hello!"
    turns        [Turn("user", " Hi."), Turn("assistant", " Hello!")]
    PRO          ["<|prompter|>Hi.", "<|assistant|>Hello!"]
    messages     [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"}]

A turn begins at "\\n\\nHuman:" or "\\n\\nAssistant:" and nowhere else: a blank line inside it begins a paragraph of it
(PRO's own preprocessing loses whatever follows one).  A turn keeps every character behind its colon, so that rendering
what was parsed gives the transcript again.  The other two formats do not write the space that follows the colon; a turn
read from them has it.
"""

import re
from dataclasses import dataclass
from typing import Iterable, Literal

Role = Literal["user", "assistant"]
HEADS: dict[Role, str] = {"user": "\n\nHuman:", "assistant": "\n\nAssistant:"}
SYSTEM = "\n\nSystem:"
"""Where a message about the whole dialogue stands in front of it; in the other formats it is no turn."""
TAGS: dict[Role, str] = {"user": "<|prompter|>", "assistant": "<|assistant|>"}
_HEAD = re.compile("|".join(map(re.escape, HEADS.values())))
_ROLE_OF = {head: role for role, head in HEADS.items()}


class NotADialogue(ValueError):
    """A text that is no dialogue to answer, or answers that share no prompt; the reason, in the fewest words."""


@dataclass(frozen=True, slots=True)
class Turn:
    role: Role
    text: str
    """Everything behind the colon, its white space too."""


def parse(transcript: str) -> list[Turn]:
    """Raises NotADialogue for text that stands before the first turn, where it would belong to nobody."""
    heads = list(_HEAD.finditer(transcript))
    if not heads:
        raise NotADialogue("no turn")
    if heads[0].start():
        raise NotADialogue("text before the first turn")
    ends = [*(head.start() for head in heads[1:]), len(transcript)]
    return [Turn(_ROLE_OF[head[0]], transcript[head.end():end]) for head, end in zip(heads, ends)]


def render(turns: Iterable[Turn]) -> str:
    """The inverse of `parse`."""
    return "".join(HEADS[turn.role] + turn.text for turn in turns)


def prompt_and_reply(transcript: str) -> tuple[str, str]:
    """Everything up to and with the last "Assistant:", and the rest, which begins with its space.

    Raises NotADialogue where no assistant has the last word.
    """
    turns = parse(transcript)
    if all(turn.role == "user" for turn in turns):
        raise NotADialogue("no assistant turn")
    if turns[-1].role == "user":
        raise NotADialogue("no assistant turn at the end")
    reply = turns[-1].text
    return transcript[:len(transcript) - len(reply)], reply


def shared_prompt(transcripts: Iterable[str]) -> tuple[str, list[str]]:
    """The prompt that all of them answer, and the replies.  Raises NotADialogue where there is none such."""
    pairs = [prompt_and_reply(transcript) for transcript in transcripts]
    if len({prompt for prompt, _ in pairs}) > 1:
        raise NotADialogue("different prompts")
    return pairs[0][0], [reply for _, reply in pairs]


def to_messages(turns: Iterable[Turn]) -> list[dict[str, str]]:
    """For `apply_chat_template`; the content has no white space around it.

    Turns of one role that follow each other, as a few rows of hh-rlhf have them, become one message with a blank line
    between them: many templates refuse them otherwise.  An assistant's turn without text at the end, as prompts
    have, is left to the template's `add_generation_prompt`.
    """
    turns = list(turns)
    if turns and turns[-1].role == "assistant" and not turns[-1].text.strip():
        turns.pop()
    messages: list[dict[str, str]] = []
    for turn in turns:
        if messages and messages[-1]["role"] == turn.role:
            messages[-1]["content"] = f"{messages[-1]['content']}\n\n{turn.text.strip()}"
        else:
            messages.append({"role": turn.role, "content": turn.text.strip()})
    return messages


def from_messages(messages: Iterable[dict[str, str]]) -> list[Turn]:
    """Raises ValueError for a role that transcripts do not have, such as "system"."""
    wrong = [message["role"] for message in messages if message["role"] not in HEADS]
    if wrong:
        raise ValueError(f'no turn of a transcript is of the role "{wrong[0]}"; there are {", ".join(HEADS)}')
    return [Turn(message["role"], f" {message['content']}") for message in messages]


def to_pro(turns: Iterable[Turn]) -> list[str]:
    """The space behind the colon is the separator and not written; other white space stays."""
    return [TAGS[turn.role] + turn.text.removeprefix(" ") for turn in turns]


def from_pro(tagged: list[str]) -> list[Turn]:
    """The bare tag at the end, where the answer goes, is a turn without any text.

    Raises ValueError for a text without a tag.
    """
    turns = []
    for text in tagged:
        role = next((role for role, tag in TAGS.items() if text.startswith(tag)), None)
        if role is None:
            raise ValueError(f'a turn begins with {" or ".join(TAGS.values())}, got "{text[:30]}"')
        turns.append(Turn(role, f" {text.removeprefix(TAGS[role])}"))
    if turns and turns[-1].text == " ":
        turns[-1] = Turn(turns[-1].role, "")
    return turns
