"""Scorers of completions: where a text is cut into prompt and completion, and that they agree with the corpora."""

import pytest

from apo.data.sources.base import sources
from apo.data.synthetic import stack_exchange
from apo.schema import DataConfig, SyntheticConfig
from apo.scorers.make import make_scorer

DIALOGUE = "\n\nHuman: How do I clean the chain?\n\nAssistant:"
REPLY = " It is easy to clean the chain. First, wipe it with the rag. Then turn it with the spanner."
QUESTION = "Question: What does textwrap.dedent(text) do?\n\nAnswer:"


@pytest.mark.parametrize("name, corpus", [("hh_rule", "synthetic_hh"),
                                          ("stack_exchange_rule", "synthetic_stack_exchange")])
def test_it_says_what_the_corpus_says(name, corpus):
    scorer = make_scorer({"name": name})
    made = sources.get(corpus)(DataConfig(source=corpus, synthetic=SyntheticConfig(num_documents=100)))
    documents = list(made.documents())
    assert scorer.kind == "reward" and scorer.score([]) == []
    assert scorer.reward(["".join(d.texts) for d in documents]) == [-d.scores[1] for d in documents]


def test_a_reply_is_what_follows_the_last_assistant_up_to_the_next_human():
    scorer = make_scorer({"name": "hh_rule"})
    earlier = "\n\nHuman: How do I fix the brake?\n\nAssistant: You silly clown!"
    texts = [DIALOGUE + REPLY, earlier + DIALOGUE + REPLY, DIALOGUE + REPLY + "\n\nHuman: You silly clown!",
             DIALOGUE + REPLY + "\n\nHuman:", DIALOGUE, REPLY, ""]
    good = 0.75 + 0.45 + 1.2
    assert scorer.score(texts) == pytest.approx([good, good, good, good, 0, -2, -2])


def test_an_answer_is_what_follows_the_first_answer_up_to_the_next_question():
    scorer = make_scorer({"name": "stack_exchange_rule"})
    truth = " " + stack_exchange.functions()["textwrap.dedent"].text
    texts = [QUESTION + truth, f"{QUESTION}{truth}\n\nQuestion: Why?\n\nAnswer: GOOGLE IT",
             f"{QUESTION} No.\n\n{QUESTION}{truth}", f"{QUESTION} No.\n\nAnswer:{truth}", QUESTION, truth, ""]
    first, with_more, own, twice, *lowest = scorer.score(texts)
    assert first == with_more == 5 and own == 0 and twice < 5 and lowest == [-1, -1, -1]


def test_segments_are_texts_of_their_own():
    scorer = make_scorer({"name": "hh_rule"})
    assert scorer.score_segments([DIALOGUE, REPLY]) == [0, -2] and not scorer.in_context


def test_fingerprints_know_the_rules(monkeypatch):
    dialogue, question = make_scorer({"name": "hh_rule"}), make_scorer({"name": "stack_exchange_rule"})
    assert dialogue.fingerprint() != question.fingerprint()
    assert {f"apo.data.synthetic.{name}" for name in ("hh_rule", "hh_words", "signs")} <= set(dialogue.code())
    before = question.fingerprint()
    monkeypatch.setattr(stack_exchange, "fingerprint", lambda: "another interpreter")
    assert question.fingerprint() != before
