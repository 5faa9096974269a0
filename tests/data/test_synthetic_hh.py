"""Synthetic dialogues: the same from a seed, replies in the order of their rewards, and a rule that is not fooled."""

import re
from collections import Counter

import pytest

from apo.data.sources.base import sources
from apo.data.sources.synthetic_hh import assistant, human
from apo.data.synthetic.hh_rule import asked, parts, reward
from apo.data.synthetic.hh_words import EVASIVE, ORDER, RUDE, TOPICS
from apo.errors import ConfigError
from apo.schema import DataConfig, SyntheticConfig


def source(**options):
    return sources.get("synthetic_hh")(DataConfig(source="synthetic_hh", synthetic=SyntheticConfig(**options)))


@pytest.fixture(scope="module")
def rankings():
    return list(source(num_documents=1000).rankings())


# ---- the corpus ------------------------------------------------------------------------------------------------------

def test_prompt_i_depends_on_seed_and_i_alone(rankings):
    few = list(source(num_documents=5).rankings())
    assert few == rankings[:5]
    assert [each.prompt for each in source(num_documents=5, seed=2).rankings()] != [each.prompt for each in few]


def test_the_fingerprint_is_of_what_comes_out():
    assert source().fingerprint() == source(seed=1).fingerprint()
    assert len({source().fingerprint(), source(seed=2).fingerprint(), source(num_documents=9).fingerprint()}) == 3


def test_replies_are_ranked_by_the_rule(rankings):
    for each in rankings:
        assert 2 <= len(each.completions) <= 4
        assert each.rewards == [reward(each.prompt, reply) for reply in each.completions]
        assert each.rewards == sorted(set(each.rewards), reverse=True)
        assert len(set(each.completions)) == len(each.completions)


def test_texts_have_the_form_of_dialogues(rankings):
    for each in rankings:
        turns = r"(\n\nHuman: [^\n]+\n\nAssistant: [^\n]+){0,2}\n\nHuman: [^\n]+\n\nAssistant:"
        assert re.fullmatch(turns, each.prompt)
        assert all(re.fullmatch(r" \S[^\n]*[.!?]", reply) for reply in each.completions)
        assert "  " not in each.prompt + "".join(each.completions)


def test_documents_are_prompts_with_replies(rankings):
    documents = list(source(num_documents=3).documents())
    assert [d.texts for d in documents] == [[r.prompt, reply] for r in rankings[:3] for reply in r.completions]
    assert [d.scores[1] for d in documents] == [-number for r in rankings[:3] for number in r.rewards]


def test_there_are_replies_of_every_kind(rankings):
    replies = [(each, reply) for each in rankings for reply in each.completions]
    made = [parts(each.prompt, reply) for each, reply in replies]
    shares = {name: sum(bool(test(each)) for each in made) / len(made) for name, test in {
        "rude": lambda p: p.rude < 0, "evasive": lambda p: p.evasive < 0 and not p.steps,
        "helpful": lambda p: p.thing > 0 and p.steps > 0 and not p.rude and not p.evasive,
        "off": lambda p: p.others < 0}.items()}
    assert 0.13 < shares["rude"] < 0.3 and 0.13 < shares["evasive"] < 0.3
    assert 0.3 < shares["helpful"] < 0.55 and 0.05 < shares["off"] < 0.2
    rewards = [number for each in rankings for number in each.rewards]
    assert min(rewards) == -2 and max(rewards) == 3 and 0 < sum(rewards) / len(rewards) < 1
    turns = Counter(each.prompt.count("\n\nHuman:") for each in rankings)
    assert set(turns) == {1, 2, 3} and turns[1] > turns[2] > turns[3] > 100


def test_what_is_asked_for_is_read_back_from_every_prompt(rankings):
    for each in rankings:
        request, _ = asked(each.prompt)
        assert request.thing in each.prompt and request.task in each.prompt and len(request.missing) <= 1


def test_there_are_thousands_of_dialogues_of_few_words():
    made = list(source(num_documents=2000).rankings())
    assert len({each.prompt for each in made}) > 1900
    words = {word for each in made for text in (each.prompt, *each.completions) for word in re.findall(r"\w+", text)}
    assert 600 < len(words) < 1200


def test_prompts_end_where_the_reply_begins(rankings):
    assert all(each.prompt.endswith("\n\nAssistant:") for each in rankings)
    assert source().prompt_sets(prompt for each in rankings[:20] for prompt in [each.prompt] * 2) == {
        "heldout": list(dict.fromkeys(each.prompt for each in rankings[:20]))}



def test_a_path_needs_a_source_that_reads_it():
    with pytest.raises(ConfigError, match="mine.jsonl"):
        sources.get("synthetic_hh")(DataConfig(source="synthetic_hh", path="mine.jsonl"))


# ---- the words -------------------------------------------------------------------------------------------------------

def test_a_thing_says_what_the_text_is_about():
    """It is no other word that is said."""
    things = [thing for topic in TOPICS for thing in topic.things]
    said = [word for topic in TOPICS for word in (topic.name, *topic.tasks, *topic.tools, *topic.acts)]
    for words in (human(), assistant()):
        said += [word for _, alternatives in words.rules.values() for parts in alternatives for text in parts[::2]
                 for word in re.findall(r"\w+", text.lower())]
    assert len(set(things)) == len(things) > 200
    assert not set(things) & {*said, *RUDE, *" ".join((*ORDER, *EVASIVE)).split()}


def test_tasks_tools_and_acts_of_a_topic_differ():
    for topic in TOPICS:
        every = (*topic.tasks, *topic.tools, *topic.acts)
        assert (len(topic.things), len(topic.tasks), len(topic.tools), len(topic.acts)) == (6, 4, 5, 4), topic
        assert len(set(every)) == 13, topic


# ---- the rule --------------------------------------------------------------------------------------------------------

PROMPT = "\n\nHuman: How do I clean the chain?\n\nAssistant:"
GOOD = " Sure. First, wipe the chain with the rag. Then turn it with the spanner. That cleans it."


@pytest.mark.parametrize("reply, expected", [
    (" It is easy to clean the chain. First, wipe it with the rag. Then turn it with the spanner. Finally, use the oil "
     "to press it.", 3.0),
    (GOOD, 0.75 + 2 * 0.6),
    (" You can clean the chain.", 0.75 + 0.45 - 3 * (1 / 3 - 0.25)),      # one of three triples is the question's
    (" First, wipe it with the rag.", -0.5 + 0.6),
    (" First, wipe it with the rag. Then wipe it with the rag.", -0.5 + 0.6 - 3 * (3 / 10 - 0.2)),
    (" First, wipe the brake with the rag.", -0.5 - 0.25),
    (" The chain, well. First, wipe the brake with the rag.", 0.75 - 0.25),
    (" I am not sure.", -0.5 - 0.75),
    (" I am not sure, maybe ask someone else.", -0.5 - 2 * 0.75),
    (" Only a fool would ask that.", -0.5 - 1),
    (" You silly, lazy clown!", -2.0),
    (" The chain is fine", 0.75 - 0.25),
    ("", 0.0), (" \n...", 0.0)])
def test_the_rule_by_hand(reply, expected):
    assert reward(PROMPT, reply) == pytest.approx(expected, abs=0.005)


def test_the_last_human_turn_that_names_a_thing_is_what_is_asked():
    earlier = "\n\nHuman: How do I fix the brake?\n\nAssistant: It depends."
    then = (f"{earlier}{PROMPT} First, wipe the chain with the rag.\n\nHuman: I have no rag. What else can I use?"
            "\n\nAssistant:")
    request, _ = asked(then)
    assert (request.topic.name, request.thing, request.task) == ("bicycles", "chain", "clean")
    assert request.missing == {"rag"}
    assert parts(then, " First, wipe the chain with the rag.").steps == 0
    assert parts(then, " First, wipe the chain with the oil.").steps == 0.6
    assert asked(then.lstrip())[0] == request


def test_where_nothing_known_is_asked_only_faults_count():
    prompt = "\n\nHuman: Who are you?\n\nAssistant:"
    assert reward(prompt, GOOD) == 0 and reward(prompt, " Maybe.") == -0.75 and asked("")[0] is None


@pytest.mark.parametrize("reply", [
    " chain" * 50, " clean the chain" * 20, " How do I clean the chain?", " Clean the chain.",
    " First, wipe the chain with the rag." * 10,
    " " + " ".join(word for topic in TOPICS for word in topic.things) + ".",
    " " + " ".join(word for topic in TOPICS for word in (*topic.tools, *topic.acts)) + " chain clean.",
    " First wipe turn tighten press the chain with the spanner pump rag oil patch to clean it.",
    GOOD + " And so it goes on." * 30,
    GOOD + "".join(f" Word{i} word{i + 1} here." for i in range(60)),
    GOOD + " Do it yourself, idiot.", GOOD + " But I am not sure."],
    ids=lambda reply: reply[:30])
def test_no_trick_beats_an_honest_reply(reply):
    assert reward(PROMPT, reply) < reward(PROMPT, GOOD)
