"""scripts/scorer_quality.py: the area under the curve, the table, and what it says of wrong files."""

import json

import numpy as np
import pytest

from apo.evaluation import read_prompts


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("scorer_quality")


def test_the_area_is_that_of_scikit_learn_ties_included(script):
    from sklearn.metrics import roc_auc_score
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.3
    scores = np.round(rng.random(300) + 0.3 * positive, 1)
    assert script.auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    found = script.quality(scores, positive, 0.5)
    assert found.low < found.auc < found.high < found.low + 0.2
    assert found.recall == (scores[positive] > 0.5).mean() and found.false_alarms == (scores[~positive] > 0.5).mean()


def test_a_row_per_scorer_and_file(script, rows, capsys):
    path = rows([{"text": "you idiot", "toxic": 1}, {"text": "a kettle", "toxic": 0}, {"text": "moron", "toxic": 1}])
    assert script.main([f"{path}:toxic", "--scorer", "profanity_check", "--scorer", "lexicon words=[idiot]"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:5] for line in lines[2:]] == [
        ["| profanity_check", "rows.jsonl:toxic", "3", "67%", "1.000"],
        ["| lexicon words=[idiot]", "rows.jsonl:toxic", "3", "67%", "0.750"]]


@pytest.mark.parametrize("content, message", [
    ([{"text": "a", "toxik": 1}], 'row 1: no "toxic". Did you mean "toxik"'),
    ([{"text": "a", "toxic": "yes"}], "row 1: \"toxic\" holds 'yes', not a number"),
    ([{"text": "a", "toxic": [1]}], 'row 1: "toxic" holds [1], not a number'),
    ([{"text": "a", "toxic": 1}], "all rows are positive by toxic > 0.5")])
def test_files_that_cannot_be_used(script, rows, capsys, content, message):
    assert script.main([f"{rows(content)}:toxic"]) == 2
    said = capsys.readouterr()
    assert message in said.err and not said.out


GOOD = [{"text": "you idiot", "toxic": 1}, {"text": "a kettle", "toxic": 0}]


@pytest.mark.parametrize("words, message", [
    ("lexicon words=[idiot", '--scorer "lexicon words=[idiot": words: [idiot is not YAML: expected'),
    ("lexicn", 'unknown scorer "lexicn". Did you mean "lexicon"?'),
    ("lexicon word=[a]", 'scorer "lexicon" has no option "word". Did you mean "words"?')])
def test_scorers_that_cannot_be_used_are_told_before_the_table_begins(script, rows, capsys, words, message):
    assert script.main([f"{rows(GOOD)}:toxic", "--scorer", "profanity_check", "--scorer", words]) == 2
    said = capsys.readouterr()
    assert message in said.err and not said.out


def test_all_files_are_read_before_the_table_begins(script, rows, tmp_path, capsys):
    assert script.main([f"{rows(GOOD)}:toxic", str(tmp_path / "gone.jsonl")]) == 2
    said = capsys.readouterr()
    assert "gone.jsonl: no such file" in said.err and not said.out


@pytest.fixture
def rows(tmp_path):
    def write(content):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
        return path
    return write


# ---- real data -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("file, label, low, high", [
    ("surge_social", "score", 0.80, 0.87), ("wikipedia_talk", "score", 0.95, 1.0),
    ("jigsaw2018_sample", "toxic", 0.95, 1.0),
    ("hatecheck", "score", 0.42, 0.52), ("davidson_tweets", "score", 0.95, 1.0)])
def test_profanity_check_on_human_labels(script, shared_data, file, label, low, high):
    """What the page on the task says: good on profanity, at chance on implied hate."""
    path = shared_data(f"toxicity/{file}.jsonl.gz")
    texts, positive = script.labelled(f"{path}:{label}", "text", 0.5)
    scores = np.array(script.scorer_of("profanity_check").score(texts))
    assert low < script.auc(scores, positive) < high


@pytest.mark.parametrize("file", ["rtp_toxic", "rtp_nontoxic", "challenging_rtp"])
def test_prompt_files_of_real_toxicity_prompts_and_phf_are_read(shared_data, file):
    prompts = read_prompts(shared_data(f"toxicity/{file}.jsonl.gz"))
    assert len(prompts) > 900 and all(prompts)
