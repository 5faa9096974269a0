"""The synthetic corpus: one derivation per text, exact probabilities, exact entropy; clustered; the same everywhere."""

import itertools
import math
import re
from collections import defaultdict

import numpy as np
import pytest

from apo.data.sources.base import sources
from apo.data.sources.synthetic_toxicity import INSULT, KINDS, SENTENCE, START, Form, Stories, Tone, stories
from apo.data.synthetic.grammar import Choice, Drawing, Grammar, parse
from apo.data.synthetic.toxicity_words import INSULTS
from apo.errors import ConfigError
from apo.schema import DataConfig, SyntheticConfig
from apo.seeds import stream


def source(**options):
    data = DataConfig(source="synthetic_toxicity", synthetic=SyntheticConfig(**options))
    return sources.get("synthetic_toxicity")(data)


@pytest.fixture(scope="module")
def documents():
    return list(source(num_documents=1000).documents())


# ---- every choice there is -------------------------------------------------------------------------------------------

class Replay:
    """A `choose` that follows given indices and then takes the first each time; `tried` says how many there were."""

    def __init__(self, path):
        self.path, self.tried, self.log_prob = path, [], 0.0

    def __call__(self, choice: Choice) -> int:
        at = len(self.tried)
        index = self.path[at] if at < len(self.path) else 0
        self.tried.append((index, len(choice.probabilities)))
        self.log_prob += choice.log_probs[index]
        return index


def derivations(distribution):
    """(text, log p) of every derivation: an odometer over the choices, the last one turning fastest."""
    path = []
    while path is not None:
        replay = Replay(path)
        yield "".join(distribution.segments(replay)), replay.log_prob
        path = [index for index, _ in replay.tried]
        while path and path[-1] + 1 == replay.tried[len(path) - 1][1]:
            path.pop()
        path = [*path[:-1], path[-1] + 1] if path else None


@pytest.fixture(scope="module")
def toy():
    """All that the corpus has, small: two forms, tones, settings, lengths, three people."""
    rules = """
        calm: {A} and {B} met {place}. | {B} met {A} {place}.
        hostile: {A} fought {B} {place}.
        act: {X} saw {Y} and {his} {thing}. | {X} helped {him}.
        scene: A {thing}.
        insult: {X} called {Y} {a_noun}.
        ending: Then {A} left."""
    spoken = rules.replace("{X} saw", "{X}: saw").replace("met", "(met").replace("fought", "(fought")
    return Stories(
        {"story": Form(0.6, rules, 0.5, 0.1), "dialogue": Form(0.4, spoken, 0.2, None)},
        {"calm": Tone(0.7, {"act": (0.5, 0.5, 0), "scene": (0.6, 0.3, 0.1), "insult": (0.2, 0.2, 0.6)}),
         "hostile": Tone(0.3, {"act": (0.2, 0.2, 0.6), "scene": (0.3, 0.3, 0.4), "insult": (0.1, 0.1, 0.8)})},
        {"here": "place: here\nthing~ cup | pot\nverbs: do/done", "there": "place: there\nthing: hat\nverbs: do/done"},
        "x: y", ["Ada"], ["Bob"], range(1, 3))


def test_probabilities_over_a_small_grid_sum_to_one_and_give_the_entropy(toy, monkeypatch):
    monkeypatch.setattr("apo.data.synthetic.toxicity_words.INSULTS", ("oaf", "dolt"))
    toy.__post_init__()
    found = [(text, log_prob) for text, log_prob in derivations(toy) if log_prob > -math.inf]
    assert len(found) > 10_000
    assert len({text for text, _ in found}) == len(found), "two derivations with one text"
    assert math.isclose(math.fsum(math.exp(log_prob) for _, log_prob in found), 1, rel_tol=1e-12)
    by_hand = -math.fsum(math.exp(log_prob) * log_prob for _, log_prob in found)
    assert math.isclose(toy.entropy(), by_hand, rel_tol=1e-10)


# ---- reading a text back ---------------------------------------------------------------------------------------------

def ways(words: Grammar, name: str, text: str, start: int, given: dict) -> dict[int, tuple[float, int]]:
    """Where a derivation of rule `name` that begins at `start` may end -> (probability, number of derivations)."""
    ends = defaultdict(lambda: (0.0, 0))
    choice, alternatives = words.rules[name]
    for probability, parts in zip(choice.probabilities, alternatives):
        here = {start: (probability, 1)}
        for i, part in enumerate(parts):
            there = defaultdict(lambda: (0.0, 0))
            for at, (p, n) in here.items():
                if i % 2 == 0 or part in given:
                    literal = given[part] if i % 2 else part
                    reached = {at + len(literal): (1.0, 1)} if text.startswith(literal, at) else {}
                else:
                    reached = ways(words, part, text, at, given)
                for end, (q, m) in reached.items():
                    there[end] = (there[end][0] + p * q, there[end][1] + n * m)
            here = there
            if not here:
                break
        for end, (p, n) in here.items():
            ends[end] = (ends[end][0] + p, ends[end][1] + n)
    return ends


def read_back(made: Stories, text: str) -> tuple[float, int]:
    """Probability of a text, summed over every derivation there is, and their number."""
    sentences = SENTENCE.findall(text)
    assert "".join(sentences) == text
    people = [name for name in made.names if re.search(rf"\b{name}\b", text)]
    total, count = 0.0, 0
    for (form, _), words in made.grammars.items():
        for tone, (a, b) in itertools.product(made.tones, itertools.permutations(people, 2)):
            p, n = read_with(made, words, form, tone, {"A": a, "B": b}, sentences)
            outer = (made.form.probabilities[list(made.forms).index(form)]
                     * made.tone.probabilities[list(made.tones).index(tone)]
                     / len(made.settings) / len(made.names) / (len(made.names) - 1) / len(made.lengths))
            total, count = total + outer * p, count + n
    return total, count


def read_with(made, words, form, tone, given, sentences) -> tuple[float, int]:
    def whole(name, sentence, extra):
        stripped = sentence.lstrip()
        return ways(words, name, stripped, 0, given | extra).get(len(stripped), (0.0, 0))

    opening = whole(tone, sentences[0], {})
    if not opening[1] or len(sentences) - 2 not in made.lengths:
        return 0.0, 0
    choice, spaces = made.forms[form].space
    people, states = [given["A"], given["B"]], {(START, 0): opening}
    for sentence in sentences[1:-1]:
        following = defaultdict(lambda: (0.0, 0))
        for (kind, actor), (p, n) in states.items():
            for after, acting in itertools.product(range(len(KINDS)), range(2)):
                step = made.tones[tone].chain[kind].probabilities[after]
                if KINDS[after] == "scene":
                    step *= acting == actor
                else:
                    step *= made.forms[form].actor.probabilities[int(acting != actor)]
                q, m = whole(KINDS[after], sentence, made._acting(people, acting)) if step else (0.0, 0)
                if m:
                    old = following[after, acting]
                    following[after, acting] = (old[0] + p * step * q, old[1] + n * m)
        states = following
    q, m = whole("ending", sentences[-1], {})
    gaps = [sentence[:len(sentence) - len(sentence.lstrip())] for sentence in sentences[1:]]
    space = math.prod(choice.probabilities[spaces.index(gap)] if gap in spaces else 0.0 for gap in gaps)
    return (space * q * sum(p for p, _ in states.values()), m * sum(n for _, n in states.values()) if space else 0)


def test_every_text_has_one_derivation_whose_probability_is_the_one_told():
    made = stories()
    for generated in made.sample(150, seed=3):
        probability, count = read_back(made, "".join(generated.document.texts))
        assert count == 1, "".join(generated.document.texts)
        assert math.isclose(math.log(probability), generated.log_prob, rel_tol=1e-9)


class Recording(Drawing):
    """Keeps which alternatives it took."""

    taken: set

    def __call__(self, choice: Choice) -> int:
        index = super().__call__(choice)
        self.taken.add((id(choice), index))
        return index


def test_no_sentence_can_be_written_in_two_ways():
    """As any kind, by any actor.  Of all sentences' patterns, every one comes up."""
    made, people, taken = stories(), ["Mara", "Peter"], defaultdict(set)
    for (form, setting), words in made.grammars.items():
        drawing = Recording(stream(0, f"{form}/{setting}"))
        drawing.taken = set()
        for kind in [*KINDS] * 70:
            text = words.expand(kind, drawing, made._acting(people, int(drawing.rng.integers(2))))
            found = {(other, actor): n for other in KINDS for actor in range(2)
                     for _, n in [ways(words, other, text, 0, made._acting(people, actor)).get(len(text), (0, 0))]
                     if n and (other != "scene" or actor == 0)}
            assert list(found.values()) == [1] and next(iter(found))[0] == kind, (text, found)
        for rule in {*KINDS, "line", "abuse", "remark"} & set(words.rules):
            taken[form, rule] |= {index for choice, index in drawing.taken if choice == id(words.rules[rule][0])}
    for (form, rule), indices in taken.items():
        words = made.grammars[form, "kitchen"]
        assert indices == set(range(len(words.rules[rule][1]))), (form, rule)


def test_the_mean_of_minus_log_p_is_the_entropy():
    surprise = -np.array([generated.log_prob for generated in stories().sample(3000, seed=5)])
    error = surprise.std(ddof=1) / math.sqrt(len(surprise))
    assert abs(surprise.mean() - stories().entropy()) < 3 * error and error < 1


# ---- the corpus ------------------------------------------------------------------------------------------------------

def test_document_i_depends_on_seed_and_i_alone(documents):
    few = list(source(num_documents=5).documents())
    assert [d.texts for d in few] == [d.texts for d in documents[:5]]
    assert [d.texts for d in source(num_documents=5, seed=2).documents()] != [d.texts for d in few]
    sampled = {"".join(g.document.texts) for g in stories().sample(50, seed=1)}
    assert not sampled & {"".join(d.texts) for d in documents}, "samples of the seed are those of the corpus"


def test_the_fingerprint_is_of_what_comes_out():
    assert source().fingerprint() == source().fingerprint() == source(seed=1).fingerprint()
    assert len({source().fingerprint(), source(seed=2).fingerprint(), source(num_documents=9).fingerprint()}) == 3
    assert source(num_documents=9).size().documents == 9


def test_documents_are_long_enough_and_clustered(documents):
    words = [len("".join(d.texts).split()) for d in documents]
    assert 40 <= min(words) and max(words) <= 220 and 90 < np.median(words) < 120
    insulting = [[bool(INSULT.search(text)) for text in d.texts] for d in documents]
    shares = np.array([np.mean(flags) for flags in insulting])
    assert 0.12 < np.mean(list(itertools.chain(*insulting))) < 0.19
    assert 0.5 < np.mean(shares == 0) < 0.65 and np.mean(shares > 0.5) > 0.07
    assert all(SENTENCE.findall("".join(d.texts)) == d.texts for d in documents)
    assert all(d.scores is None and d.origin.startswith("synthetic document") for d in documents)


def test_a_sentence_is_an_insult_where_a_listed_word_stands_in_it():
    made = stories()
    for words in made.grammars.values():
        rng = stream(1, "insults")
        for kind, _ in itertools.product(("calm", "tense", "hostile", "ending", *KINDS), range(40)):
            text = words.expand(kind, Drawing(rng), {"A": "Ada", "B": "Bob", **made._acting(["Mara", "Peter"], 0)})
            assert bool(INSULT.search(text)) == (kind == "insult"), text
            assert len(re.findall("[.!?]", text)) == 1, text
    assert len(set(INSULTS)) == len(INSULTS) >= 20


def test_prompts_end_where_the_second_insult_would_come(documents):
    texts = ["".join(d.texts) for d in documents]
    prompts = source().prompt_sets(texts)["challenging"]
    assert len(prompts) > 200
    for prompt in prompts[:50]:
        [text] = [text for text in texts if text.startswith(prompt)]
        following = SENTENCE.findall(text[len(prompt):])[0]
        assert len([s for s in SENTENCE.findall(prompt) if INSULT.search(s)]) == 1 and INSULT.search(following)
    assert source().prompt_sets(["A calm text. Nothing else."]) == {"challenging": []}


def test_a_path_needs_a_source_that_reads_it():
    with pytest.raises(ConfigError, match="data.source=file"):
        sources.get("synthetic_toxicity")(DataConfig(source="synthetic_toxicity", path="mine.jsonl"))


# ---- grammars --------------------------------------------------------------------------------------------------------

def test_rules_are_read():
    rules = parse("""
        a: x {b} | y, |
            z
        b~ one | two | three | four""")
    assert rules["a"][1] == ["x {b}", "y,", "z"] and rules["a"][0].probabilities == [1 / 3] * 3
    weights = [1 / 5, 1 / 6, 1 / 7, 1 / 8]
    assert np.allclose(rules["b"][0].probabilities, np.array(weights) / sum(weights))
    assert math.isclose(Grammar(rules).entropy("a"), math.log(3) + rules["b"][0].entropy / 3)


@pytest.mark.parametrize("text", ["a: {b}", "a: {b}\nb: {a}"])
def test_rules_that_lead_nowhere_are_refused(text):
    with pytest.raises(ValueError):
        Grammar(parse(text))
