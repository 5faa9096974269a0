"""The language of known entropy: one derivation per answer, exact conditional probabilities, and what a model is told
of it."""

import itertools
import json
import math

import numpy as np
import pytest

from apo.data.sources.base import sources
from apo.data.synthetic.grammar import Choice, Grammar
from apo.data.synthetic.language import ACTS, BEASTS, LANGUAGE, Language, probabilities
from apo.errors import ConfigError
from apo.launch import main
from apo.schema import DataConfig, SyntheticConfig
from apo.scorers.make import make_scorer
from apo.seeds import stream


def source(**options):
    data = DataConfig(source="synthetic_language", synthetic=SyntheticConfig(**options))
    return sources.get("synthetic_language")(data)


@pytest.fixture(scope="module")
def sampled():
    return LANGUAGE.sample(2000, 1)


@pytest.fixture(scope="module")
def toy():
    """Two kinds of beasts, of which one can do three things and the other one; a word that is another's beginning."""
    answer = "answer~ {beast} {act} {where}. | {beast} {act} {where} {where}.\nwhere: at {time} | here | here at"
    return Language(answer, {"land": "digs | runs | hides", "air": "sings"},
                    {"land": ("fox", "hare", "boar"), "air": ("wren",)}, {"time": ("noon", "dusk")},
                    "What does the {beast} do at {time}?")


# ---- a language small enough to be written down ----------------------------------------------------------------------

def written_down(toy, kind, beast, time):
    """Every answer -> its probability, by hand: choices multiply, and what comes out twice adds up."""
    places = {f"at {time}": 1 / 3, "here": 1 / 3, "here at": 1 / 3}
    acts = toy.acts[kind].split(" | ")
    by_rank = [1 / (rank + 4) for rank in range(1, len(acts) + 1)]
    one, two = (1 / 5) / (1 / 5 + 1 / 6), (1 / 6) / (1 / 5 + 1 / 6)
    found = {}
    for act, weight in zip(acts, by_rank):
        p = weight / sum(by_rank)
        for length, q in ((1, one), (2, two)):
            for chosen in itertools.product(places, repeat=length):
                text = f" {beast} {act} {' '.join(chosen)}."
                found[text] = found.get(text, 0.0) + p * q * math.prod(places[each] for each in chosen)
    return found


@pytest.mark.parametrize("kind, beast", [("land", "hare"), ("air", "wren")])
def test_probabilities_of_all_answers_are_those_by_hand_and_sum_to_one(toy, kind, beast):
    answers = written_down(toy, kind, beast, "dusk")
    question = f"What does the {beast} do at dusk?"
    for text, p in answers.items():
        assert toy.log_prob(question + text) == pytest.approx(math.log(p), rel=1e-12)
    assert math.fsum(math.exp(toy.log_prob(question + text)) for text in answers) == pytest.approx(1, rel=1e-12)


def test_the_entropy_is_that_of_all_answers(toy):
    """Every answer of the toy has one derivation; three quarters of the questions are about land."""
    by_kind = {kind: -math.fsum(p * math.log(p) for p in written_down(toy, kind, beasts[0], "noon").values())
               for kind, beasts in toy.beasts.items()}
    assert len(set(by_kind.values())) == 2
    assert toy.entropy() == pytest.approx(0.75 * by_kind["land"] + 0.25 * by_kind["air"], rel=1e-12)


def test_several_derivations_of_one_text_add_up():
    twice = Grammar({"s": (Choice([1, 3]), ["a b", "{x} b"]), "x": (Choice([1, 1]), ["a", "a c"])})
    assert probabilities(twice, "s", "a b", 0, {}) == {3: pytest.approx(1 / 4 + 3 / 8)}


# ---- the language itself ---------------------------------------------------------------------------------------------

def test_an_answer_has_one_derivation_and_its_probability(sampled):
    """What `log_prob` finds over all derivations is what was drawn, so that there is no other."""
    for each in sampled:
        assert LANGUAGE.log_prob("".join(each.document.texts)) == pytest.approx(each.log_prob, rel=1e-12)


def test_cross_entropy_of_samples_converges_to_the_entropy(sampled):
    nats = -np.array([each.log_prob for each in sampled])
    for count in (100, 500, 2000):
        error = nats[:count].std(ddof=1) / math.sqrt(count)
        assert abs(nats[:count].mean() - LANGUAGE.entropy()) < 3 * error
    assert error < 0.15


def test_what_a_beast_does_depends_on_its_kind(sampled):
    """A model that does not know the kind of a beast is 1.1 nats away for each act: ln 3."""
    question = "Ada asks: what does the {} of Elm Hill do at noon?\n\nAnswer:"
    for kind, beasts in BEASTS.items():
        for other, acts in ACTS.items():
            text = f" At noon the {beasts[0]} {acts.split(' | ')[0]} by the oak. Sleep well, Ada."
            assert math.isfinite(LANGUAGE.log_prob(question.format(beasts[0]) + text)) == (kind == other)
    assert len({act for acts in ACTS.values() for act in acts.split(" | ")}) == 24
    assert len({each.document.texts[0] for each in sampled}) > 1900, "few questions come again"


@pytest.mark.parametrize("change", [
    lambda text: text.replace("noon.", "dusk."), lambda text: text.replace("Ada.", "Ben."), lambda text: text[:-1],
    lambda text: text + " ", lambda text: text.replace("Answer: ", "Answer:  "),
    lambda text: text.replace("sings", "swims"), lambda text: text.split("Answer:")[1],
    lambda text: text.replace("Elm Hill do", "Elm Hall do"), lambda text: ""])
def test_what_is_no_answer_has_no_probability(change):
    text = ("Ada asks: what does the heron of Elm Hill do at noon?\n\nAnswer: The heron of Elm Hill calls near the "
            "reeds at noon. Then it sings by the oak. Sleep well, Ada.")
    assert math.isfinite(LANGUAGE.log_prob(text)) and change(text) != text
    assert LANGUAGE.log_prob(change(text)) == -math.inf
    assert make_scorer({"name": "language_rule"}).score([text, change(text)]) == [1.0, 0.0]


def test_words_cannot_be_cut_otherwise():
    """No word that a question names is the beginning of another."""
    for words in (*LANGUAGE.given.values(), tuple(LANGUAGE.kinds)):
        assert len(set(words)) == len(words)
        assert not any(a != b and a.startswith(b) for a, b in itertools.product(words, repeat=2))


# ---- the source ------------------------------------------------------------------------------------------------------

def test_question_i_depends_on_seed_and_i_alone():
    few = list(source(num_documents=5).rankings())
    assert few == list(source(num_documents=9).rankings())[:5]
    assert all(len(each.completions) == 1 and each.rewards == [1.0] for each in few)
    assert few[3].prompt + few[3].completions[0] == "".join(
        LANGUAGE.draw(stream(1, "synthetic_language", 3), 3).document.texts)
    assert few[0] != next(source(seed=2).rankings())
    assert len({source().fingerprint(), source(seed=2).fingerprint(), source(num_documents=9).fingerprint()}) == 3
    documents = list(source(num_documents=2).documents())
    assert [each.standing.group for each in documents] == [0, 1]


def test_files_are_refused():
    with pytest.raises(ConfigError, match="synthetic_language makes its own text"):
        sources.get("synthetic_language")(DataConfig(source="synthetic_language", path="mine.jsonl"))


def test_spin_on_it_starts_from_mle_and_knows_how_far_it_is(tmp_path):
    """A few steps of the experiment: the KL before the first is that of the start, far from 0 and above it."""
    words = ["--experiment", "spin_language", "--scale", "smoke", "--output-dir", str(tmp_path), "training.max_steps=2",
             "rollout={prompts: 8, epochs: 1, max_new_tokens: 8}", "training.effective_batch_size=4",
             "data.max_documents=200", "callbacks.kl.num_samples=32", "evaluation.every_n_steps=1",
             "evaluation.scenarios.answers.num_samples=4", "evaluation.scenarios.answers.generation.max_new_tokens=8"]
    assert main(words) == 0
    (run,) = (tmp_path / "custom/spin").iterdir()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    nats = [row["kl/generator/exact_logp_mc"] for row in rows if "kl/generator/exact_logp_mc" in row]
    assert len(nats) == 3 and all(20 < each < 1000 for each in nats) and len(set(nats)) == 3
