"""Questions about the standard library: the same from a seed, answers in the order of their rewards, and the rule."""

import re
import subprocess
import sys

import pytest

from apo.data.sources.base import sources
from apo.data.sources.synthetic_stack_exchange import KINDS, QUESTIONS, REBUFFS
from apo.data.synthetic import stack_exchange
from apo.data.synthetic.stack_exchange import STOCK, Function, cleaned, functions, read, reward
from apo.errors import ConfigError
from apo.schema import DataConfig, SyntheticConfig
from apo.seeds import stream

NAME = "synthetic_stack_exchange"


def source(**options):
    return sources.get(NAME)(DataConfig(source=NAME, synthetic=SyntheticConfig(**options)))


@pytest.fixture(scope="module")
def rankings():
    return list(source(num_documents=1000).rankings())


# ---- the table -------------------------------------------------------------------------------------------------------

def test_functions_are_read_from_sources_and_not_imported():
    code = ("import sys; from apo.data.synthetic.stack_exchange import functions; n = len(functions());"
            "print(n, 'turtle' in sys.modules, 'smtplib' in sys.modules)")
    count, *imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                                      check=True).stdout.split()
    assert 500 < int(count) < 2000 and imported == ["False", "False"]


def test_what_is_kept_of_a_docstring_is_one_line_of_prose():
    found = functions()
    assert found["textwrap.dedent"].signature == "textwrap.dedent(text)"
    assert found["textwrap.dedent"].text.startswith("Remove any common leading whitespace from every line in `text`."
                                                    .replace("`", ""))
    assert len({each.text for each in found.values()}) == len(found)
    for each in found.values():
        assert 6 <= len(each.text.split()) <= 60 and re.fullmatch(r"[^\n`]+[.!?]", each.text), each
        assert re.fullmatch(r"[\w.]+\([\w, *.]*\)", each.signature) and "._" not in each.name


@pytest.mark.parametrize("docstring, expected", [
    ("Do a thing.", "Do a thing."),
    ("Do a\n  ``good`` thing with *x*\n\n>>> f()\n1", "Do a good thing with x."),
    ("f(x) -> int\n\nCount :func:`things` of x.", "Count things of x."),
    ("One short.\n\nAnother.\n\nA third.", "One short. Another."),
    ("Short.\n\nArgs:\n  x: it", "Short."),
    (">>> only()\n", ""), ("", ""),
    (" ".join(["word"] * 10) + ". " + " ".join(["more"] * 80) + ".", " ".join(["word"] * 10) + ".")])
def test_docstrings_are_cleaned(docstring, expected):
    assert cleaned(docstring) == expected


def test_functions_of_a_module():
    text = '''
def one(a, /, b=1, *c, d: int = 2, **e): "Says more than enough about one."
async def two(): "Says more than enough about two."
def _three(): "Says more than enough about three."
def four(): "Too short."
class C:
    def five(self): "Says more than enough about five."
'''
    assert [each.signature for each in read("m", text)] == ["m.one(a, b, *c, d, ...)", "m.two()"]
    assert not list(read("m", "def f(:"))


# ---- the corpus ------------------------------------------------------------------------------------------------------

def test_question_i_depends_on_seed_and_i_alone(rankings):
    few = list(source(num_documents=5).rankings())
    assert few == rankings[:5]
    assert [each.prompt for each in source(num_documents=5, seed=2).rankings()] != [each.prompt for each in few]


def test_the_fingerprint_is_of_what_comes_out(monkeypatch):
    made = {source(**options).fingerprint() for options in ({}, {"seed": 1}, {"seed": 2}, {"num_documents": 9})}
    assert len(made) == 3
    monkeypatch.setattr(stack_exchange, "fingerprint", lambda: "another interpreter")
    assert source().fingerprint() not in made


def test_answers_are_ranked_by_the_rule(rankings):
    for each in rankings:
        assert 2 <= len(each.completions) <= 5
        assert each.rewards == [reward(each.prompt, answer) for answer in each.completions]
        assert each.rewards == sorted(set(each.rewards), reverse=True)
        assert re.fullmatch(r"Question: [^\n]+\n\nAnswer:", each.prompt)
        assert all(re.fullmatch(r" \S[^\n]*", answer) for answer in each.completions)


def test_shares_of_answers(rankings):
    answers = [(answer, number) for each in rankings for answer, number in zip(each.completions, each.rewards)]
    whole = {" " + each.text for each in functions().values()}
    shares = [sum(map(test, answers)) / len(answers) for test in (
        lambda pair: pair[0] in whole and pair[1] == 5, lambda pair: pair[0] in whole and pair[1] < 2,
        lambda pair: pair[0].isupper(), lambda pair: pair[0][1:].startswith(REBUFFS))]
    assert 0.1 < shares[0] < 0.3 and 0.05 < shares[1] < 0.25 and 0.03 < shares[2] < 0.2 and 0.05 < shares[3] < 0.2
    rewards = [number for _, number in answers]
    assert max(rewards) == 5 and min(rewards) < 0 and 2 < sum(rewards) / len(rewards) < 3.5


def test_two_thousand_questions_are_nearly_all_different():
    made = list(source(num_documents=2000).rankings())
    assert len({each.prompt for each in made}) > 1600


def test_prompts_end_where_the_answer_begins(rankings):
    assert all(each.prompt.endswith("\n\nAnswer:") for each in rankings)
    assert source().prompt_sets(each.prompt for each in rankings[:20]) == {
        "heldout": list(dict.fromkeys(each.prompt for each in rankings[:20]))}



def test_a_path_needs_a_source_that_reads_it():
    with pytest.raises(ConfigError, match="mine.jsonl"):
        sources.get(NAME)(DataConfig(source=NAME, path="mine.jsonl"))


# ---- the rule --------------------------------------------------------------------------------------------------------

TRUTH = "Remove blank lines. Lines with text stay."
PROMPT = "Question: What does tools.strip(text) do?\n\nAnswer:"


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(stack_exchange, "functions", lambda: {"tools.strip": Function("tools.strip", "", TRUTH)})


@pytest.mark.parametrize("answer, expected", [
    (" " + TRUTH, 5.0),
    (" remove blank lines lines with text stay", 4.5),
    (" Remove blank lines.", 2.5 * 2 * 3 / (3 + 6) + 2.5 * 2 * 2 / (2 + 6)),        # "with" is a common word
    (" Remove lines blank.", 2.5 * 2 * 3 / (3 + 6)),
    (" Just google it.", -1.5 * 2),
    (" Read the manual. " + TRUTH, 2.5 * 2 * 6 / (8 + 6) + 2.5 * 2 * 6 / (9 + 6) - 1.5),
    (" " + TRUTH.upper(), 3.5),
    (" Something else.", 0.0), (" Something else", -0.5), ("", -1.0), (" ...", -1.0)])
def test_the_rule_by_hand(table, answer, expected):
    assert reward(PROMPT, answer) == pytest.approx(max(expected, -1), abs=0.005)


@pytest.mark.parametrize("answer", [
    " lines" * 50, " remove blank lines" * 20, " What does tools.strip(text) do?", " " + " ".join([TRUTH] * 4),
    " Remove blank lines with text. Stay text lines. Blank remove.",
    " " + TRUTH + " And so it goes on and on, whatever was asked." * 10,
    " " + TRUTH + "".join(f" Word{i} here." for i in range(60))], ids=lambda answer: answer[:30])
def test_no_trick_beats_an_honest_answer(table, answer):
    assert reward(PROMPT, answer) < reward(PROMPT, " Remove blank lines. Lines with text.")


def test_of_an_unknown_function_only_faults_count(table):
    for question in ("What does os.nothing(x) do?", "What is it?", ""):
        prompt = f"Question: {question}\n\nAnswer:"
        assert reward(prompt, " " + TRUTH) == 0 and reward(prompt, " LOUD") == -1
    assert reward("Question: os.nothing(x) or tools.strip(x)?\n\nAnswer:", " " + TRUTH) == 5


def test_a_docstring_is_its_own_best_answer_and_no_answer_fits_all():
    made = [(f"Question: {QUESTIONS[0].format(each.signature)}\n\nAnswer:", each.text) for each in functions().values()]
    assert {reward(prompt, " " + text) for prompt, text in made} == {5.0}
    for general in (" Return a string.", " Return True if the given object is a string, or None otherwise."):
        assert sum(reward(prompt, general) for prompt, _ in made) / len(made) < 0.5


def test_damage_costs_what_it_is():
    """On average, and the more the worse."""
    rng, some = stream(0, "damage"), list(functions().values())[::9]
    prompt = "Question: {}\n\nAnswer:".format
    mean = {kind: sum(reward(prompt(each.signature), " " + make(rng, each)) for each in some) / len(some)
            for kind, (_, make) in KINDS.items()}
    assert mean["whole"] == 5 and mean["other"] < 0.6 and mean["rebuff"] < 2.5
    assert all(2.3 < mean[kind] < 4.5 for kind in ("cut", "dropped", "swapped", "shouted"))


def test_every_rebuff_has_a_stock_phrase():
    assert all(any(phrase in rebuff.lower() for phrase in STOCK) for rebuff in REBUFFS)
