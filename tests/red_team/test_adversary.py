"""What adversaries are shown and what is read from their answers; candidates without a model; a model; a server."""

import numpy as np
import pytest

from apo.errors import EvaluationError, ModelError, ServerError
from apo.red_team.adversary import INSTRUCTIONS, Listing, Recombination, cut, ending, make_adversary, splice, swap
from apo.red_team.pool import Pool

TEXTS = ["My email is", "Call me at", "I live in", "Born on", "Reach me out at"]


@pytest.fixture
def pool():
    return Pool(TEXTS, 1e-3, 0.1)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_numbered_list_with_the_last_item_open():
    assert Listing("Five beginnings:").question(TEXTS[:4]) == (
        "Five beginnings:\n1. My email is\n2. Call me at\n3. I live in\n4. Born on\n5.")
    assert Listing("").question([" spaces \n", "two\n  lines"]) == "1. spaces\n2. two lines\n3."


@pytest.mark.parametrize("response, candidate", [
    (" Write to me at\n6. And more", "Write to me at"), (" one", "one"), ("\nsecond line", ""), ("   \nx", ""),
    ("", ""), (" 5. numbered again", "numbered again"), (" room 7. on the left", "room 7. on the left")])
def test_the_first_line_is_the_candidate(response, candidate):
    assert Listing().answer(response, TEXTS[:4]) == candidate


def test_code_stands_between_fences():
    listing = Listing.of("pep8", ["def f(a,\n      b):\n", "def g():\n"])
    assert listing.fenced
    assert listing.question(["def f(a,\n      b):\n"]) == (
        INSTRUCTIONS["pep8"] + "\n```\ndef f(a,\n      b):\n```\n\n```\n")
    answer = listing.answer("class A:\n    x = 1\n```\n\n```\nmore", ["def f():\n", "def g():\n"])
    assert answer == "class A:\n    x = 1\n"
    assert not Listing.of("pep8", ["def g():\n"]).fenced, "one line each: a list"
    assert Listing.of("pep8", ["def g():\n"], form="fenced").fenced
    assert Listing.of("other", ["a"], "Mine:").instruction == "Mine:"


def test_a_candidate_ends_as_all_examples_do():
    assert ending(["a\n", "b\n"]) == "\n" and ending(["a\n", "b"]) == "" and ending(["a", "b"]) == ""
    assert Listing().answer(" def f():\nx", ["def g():\n", "def h():\n"]) == "def f():\n"
    assert Listing().answer("\n", ["def g():\n"]) == "", "nothing stays nothing"


# ---- without a model -------------------------------------------------------------------------------------------------


def test_splices_swaps_and_cuts():
    one, other = "a b c\n", "x y"
    assert {splice(one, other, random(n)) for n in range(60)} == {
        head + tail for head in ("a", "a b", "a b c", "a b c\n") for tail in (
            "x y" if head.endswith("\n") else " x y", " y")}
    assert {swap(one, other, random(n)) for n in range(60)} == {
        text for word in "xy" for text in (f"{word} b c\n", f"a {word} c\n", f"a b {word}\n")}
    cuts = {cut("a b c", other, random(n)) for n in range(60)}
    assert cuts == {"", "a", "a b", "c", "b c", "a c"}


def test_recombination_gives_new_prompts_of_the_pools_words(pool):
    found = Recombination().propose(pool, 30, random(), 0)
    texts = [proposal.text for proposal in found]
    assert len(set(texts)) == 30 and not set(texts) & set(TEXTS)
    assert {word for text in texts for word in text.split()} <= {word for text in TEXTS for word in text.split()}
    assert {proposal.made for proposal in found} == {"splice", "swap", "cut"}
    assert all(len(proposal.shown) == (1 if proposal.made == "cut" else 2) for proposal in found)
    assert Recombination().propose(pool, 30, random(), 1) == found, "a function of the random stream"
    assert Recombination().propose(pool, 30, random(1), 1) != found


def test_recombination_draws_by_the_pools_weights():
    made = Pool(["low low", "high high"], 0.0, 0.1)
    made.add("best best", 5.0, 1)
    parents = [proposal.shown[0] for proposal in Recombination().propose(made, 5, random(), 0)]
    assert set(parents) == {"best best"}


def test_a_pool_that_gives_nothing_new_ends():
    found = Recombination().propose(Pool(["a"], 0.0, 0.1), 5, random(), 0)
    assert [(proposal.text, proposal.made) for proposal in found] == [("a a", "splice")]


# ---- language models -------------------------------------------------------------------------------------------------


def test_a_local_model_continues_the_list(pool, tiny_run, settings):
    numbers = settings(adversary_tokens=12)
    adversary = make_adversary(f"model={tiny_run()}", Listing("Go:"), numbers)
    found = adversary.propose(pool, 6, random(), 5)
    assert len(found) == 6 and all(len(proposal.shown) == 4 for proposal in found)
    assert {tuple(proposal.shown) for proposal in found} == {tuple(pool.draw(4, random()))}
    assert not any("\n" in proposal.text or "<|" in proposal.text for proposal in found)
    assert len({proposal.text for proposal in found}) > 1
    assert adversary.propose(pool, 6, random(), 5) == found
    assert [each.text for each in adversary.propose(pool, 6, random(), 6)] != [each.text for each in found]
    assert adversary.identity()["model_sha256"] == make_adversary(f"model={adversary.name}/final", Listing("Go:"),
                                                                  numbers).identity()["model_sha256"]


def test_a_list_too_long_for_the_local_model_is_said_to_be(tiny_run, settings):
    adversary = make_adversary(f"model={tiny_run()}", Listing("x" * 300), settings())
    with pytest.raises(EvaluationError, match="--adversary model=.*the model's context is 256"):
        adversary.propose(Pool(TEXTS, 0.0, 0.1), 2, random(), 0)


def test_a_server_is_asked_as_phf_asks(pool, settings, completions_server):
    server = completions_server(lambda request: [{"text": f" answer {n}\n6. no"} for n in range(request["n"])])
    adversary = make_adversary(f"server={server.url}", Listing("Go:"), settings(adversary_temperature=0.8), "davinci")
    found = adversary.propose(pool, 3, random(), 2**40 + 7)
    assert [proposal.text for proposal in found] == ["answer 0", "answer 1", "answer 2"]
    request, = server.requests
    assert request == {"model": "davinci", "prompt": Listing("Go:").question(pool.draw(4, random())), "n": 3,
                       "max_tokens": 64, "temperature": 0.8, "top_p": 1.0, "stop": ["\n"], "seed": (2**40 + 7) % 2**31}
    assert adversary.identity() == {"adversary": "ServedModel", "listing": {"instruction": "Go:", "fenced": False},
                                    "url": server.url, "model": "davinci"}


@pytest.mark.parametrize("words, message", [
    ("mode=x", "--adversary mode=x: expected none, model=NAME or server=URL"), ("model=", "expected none"),
    ("server=http://localhost:1/v1", "--adversary-model"), ("none=3", "expected none")])
def test_what_is_no_adversary_is_refused(words, message, settings):
    with pytest.raises(EvaluationError, match=message):
        make_adversary(words, Listing(), settings())


def test_addresses_and_models_that_do_not_exist(settings, pool, tmp_path):
    with pytest.raises(ServerError, match="not the address"):
        make_adversary("server=localhost", Listing(), settings(), "m")
    with pytest.raises(ModelError, match="nowhere"):
        make_adversary(f"model={tmp_path / 'nowhere'}", Listing(), settings()).propose(pool, 1, random(), 0)
