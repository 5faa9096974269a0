"""Dialogues: transcripts there and back to the character, and the two other formats."""

import gzip
import json

import pytest

from apo.data.dialogue import (
    NotADialogue,
    Turn,
    from_messages,
    from_pro,
    parse,
    prompt_and_reply,
    render,
    shared_prompt,
    to_messages,
    to_pro,
)

LETTER = "\n\nHuman: Write a letter.\n\nAssistant: Dear Bob,\n\nI am fine.\n\nYours" \
    "\n\nHuman: Thanks!\n\nAssistant: Any time."


def test_a_blank_line_inside_a_turn_stays_in_it():
    assert parse(LETTER) == [Turn("user", " Write a letter."), Turn("assistant", " Dear Bob,\n\nI am fine.\n\nYours"),
                             Turn("user", " Thanks!"), Turn("assistant", " Any time.")]


@pytest.mark.parametrize("transcript", [
    LETTER,
    "\n\nHuman:no space\n\nAssistant:  two, and behind \n",
    "\n\nHuman:\n\nAssistant:\n\nAssistant: ",
    "\n\nHuman: \n\n\n\nAssistant:\t\u2028x\r\n",
    "\n\nAssistant: I begin.\n\n Human: not a turn, nor is\nHuman: this\n\nhuman: or this\n\nHuman : or this",
])
def test_what_is_parsed_renders_to_itself(transcript):
    assert render(parse(transcript)) == transcript


def test_only_the_heads_begin_turns():
    text = "\n\nHuman: a\n\n Human: b\nAssistant: c Human: d\n\nhuman: e\n\nHuman : f\n\nHumanity: g"
    assert [turn.role for turn in parse(text)] == ["user"]
    assert [turn.text for turn in parse("\n\n\n\nHuman: a"[2:])] == [" a"]


@pytest.mark.parametrize("text, reason", [
    ("", "no turn"), ("Once upon a time", "no turn"), ("Human: a\n\nAssistant: b", "text before the first turn"),
    ("\n\n\nHuman: a", "text before the first turn")])
def test_text_that_is_no_dialogue(text, reason):
    with pytest.raises(NotADialogue, match=f"^{reason}$"):
        parse(text)


def test_prompt_and_reply():
    prompt, reply = prompt_and_reply(LETTER)
    assert prompt.endswith(" Thanks!\n\nAssistant:") and reply == " Any time." and prompt + reply == LETTER
    assert prompt_and_reply("\n\nHuman: a\n\nAssistant:") == ("\n\nHuman: a\n\nAssistant:", "")
    assert prompt_and_reply("\n\nAssistant: a\n\nb") == ("\n\nAssistant:", " a\n\nb")


def test_pairs_have_one_prompt():
    prompt = "\n\nHuman: a\n\nAssistant:"
    assert shared_prompt([f"{prompt} b", f"{prompt} c\n\nd"]) == (prompt, [" b", " c\n\nd"])
    for pair, reason in [((f"{prompt} b", "\n\nHuman: A\n\nAssistant: b"), "different prompts"),
                         ((f"{prompt} b", f"{prompt} b\n\nAssistant: c"), "different prompts"),
                         ((f"{prompt} b", "\n\nHuman: a"), "no assistant turn"),
                         ((f"{prompt} b\n\nHuman: c", f"{prompt} b"), "no assistant turn at the end")]:
        with pytest.raises(NotADialogue, match=f"^{reason}$"):
            shared_prompt(pair)


def test_messages():
    messages = to_messages(parse(LETTER))
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
    assert messages[1]["content"] == "Dear Bob,\n\nI am fine.\n\nYours"
    assert render(from_messages(messages)) == LETTER
    with pytest.raises(ValueError, match='role "system"'):
        from_messages([{"role": "system", "content": "Be kind."}])


def test_messages_alternate_and_leave_the_answer_to_the_template():
    text = "\n\nHuman: a\n\nHuman: b \n\nAssistant: c\n\nAssistant: d\n\nHuman: e\n\nAssistant:"
    assert [(message["role"], message["content"]) for message in to_messages(parse(text))] == [
        ("user", "a\n\nb"), ("assistant", "c\n\nd"), ("user", "e")]
    assert to_messages([]) == []


def test_turns_of_pro():
    tagged = ["<|prompter|>a", "<|assistant|> b ", "<|prompter|>", "<|assistant|>"]
    turns = from_pro(tagged)
    assert render(turns) == "\n\nHuman: a\n\nAssistant:  b \n\nHuman: \n\nAssistant:" and to_pro(turns) == tagged
    assert to_messages(from_pro(["<|prompter|>a", "<|assistant|>"])) == [{"role": "user", "content": "a"}]
    assert to_pro(parse(LETTER))[1] == "<|assistant|>Dear Bob,\n\nI am fine.\n\nYours"
    with pytest.raises(ValueError, match="a turn begins with"):
        from_pro(["<|prompter|>a", "b"])


@pytest.mark.parametrize("name, count, odd, spread", [
    ("harmless_base", 1871, {"different prompts": 3}, 0.05), ("helpful_base_from_pro", 1876, {}, 0),
    ("helpful_online_from_pro", 908, {}, 0)])
def test_hh_rlhf_there_and_back(shared_data, name, count, odd, spread):
    """Every transcript to the character; how many pairs share a prompt; how many transcripts have a turn with several
    paragraphs (none of those rebuilt from PRO's files, which lost them)."""
    with gzip.open(shared_data(f"hh/{name}.jsonl.gz"), "rt", encoding="utf-8") as file:
        pairs = [(row["chosen"], row["rejected"]) for row in map(json.loads, file)]
    transcripts = [transcript for pair in pairs for transcript in pair]
    assert len(pairs) == count and all(render(parse(transcript)) == transcript for transcript in transcripts)
    reasons = {}
    for pair in pairs:
        try:
            prompt, replies = shared_prompt(pair)
        except NotADialogue as reason:
            reasons[str(reason)] = reasons.get(str(reason), 0) + 1
        else:
            assert [prompt + reply for reply in replies] == list(pair)
            assert prompt == prompt.rstrip() and all(reply.startswith(" ") for reply in replies)
    assert reasons == odd
    several = sum(any("\n\n" in turn.text for turn in parse(transcript)) for transcript in transcripts)
    assert several > spread * len(transcripts) if spread else several == 0
