"""Stages: a method that starts from another's run finds it or trains it, once for all that ask; and the reference is
what that run left."""

import json

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification

from apo import experiment, stages
from apo import reference_logps as reference
from apo.cache import Cache
from apo.config import load_config
from apo.data.corpus import read_scored
from apo.data.prepare import prepare
from apo.errors import ConfigError, EvaluationError
from apo.identity import run_directory
from apo.report.select import select
from apo.scorers.make import make_scorer


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Options of runs on a file of preferences of known wording, whose start runs are shared."""
    folder = tmp_path_factory.mktemp("stages")
    rows = [{"prompt": f"Question: what is {i} plus {i % 7}?\n\nAnswer:", "chosen": f" The sum is {i + i % 7}.",
             "rejected": " No idea, ask somebody else."} for i in range(80)]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["task=custom", "scale=smoke", "data.source=completions", f"data.path={folder / 'mine.jsonl'}",
            f"output_dir={folder / 'outputs'}", f"cache_dir={folder / 'cache'}", "training.precision=fp32",
            "evaluation.num_bootstrap=10"]


def rows_of(outcome):
    return [json.loads(line) for line in (outcome.path / "metrics.jsonl").read_text().splitlines()]


def test_it_trains_its_start_first_and_begins_at_its_reference(places):
    config = load_config([*places, "method=dpo"])
    start = run_directory(stages.start_config(config))
    assert not start.exists()
    outcome = experiment.train(config)
    assert outcome.state == "done" and (start / "final" / "model.safetensors").is_file()
    first = next(row for row in rows_of(outcome) if "rewards/chosen" in row)
    assert first["step"] == 1 and first["rewards/chosen"] == pytest.approx(0, abs=1e-5)
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-5)
    before = next(row for row in rows_of(outcome) if "eval/loss" in row)
    assert before["step"] == 0 and before["eval/loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert rows_of(outcome)[-1]["eval/rewards/margins"] > 0


def test_a_second_method_finds_start_and_reference(places, monkeypatch):
    experiment.train(load_config([*places, "method=dpo"]))
    monkeypatch.setattr(reference, "_computed", lambda *_: pytest.fail("the reference was computed again"))
    outcome = experiment.train(load_config([*places, "method=dpo", "objective.loss_type=hinge"]))
    assert outcome.fresh
    starts = {stages.started_from(load_config([*places, *method]))["init_from.run"]
              for method in (["method=dpo"], ["method=dpo", "objective.beta=0.3"], ["method=simpo"])}
    assert len(starts) == 1


def test_another_seed_starts_from_a_run_of_its_own_unless_told(places):
    def start(*options):
        return stages.started_from(load_config([*places, "method=dpo", *options]))["init_from.run"]

    assert start("seed=2") != start()
    assert start("seed=2", "init_from.seed=1") == start()
    assert start("init_from.overrides=['training.max_steps=4']") != start()
    assert start("data.loss_on=all") != start()
    assert stages.start_config(load_config([*places, "method=dpo", "data.loss_on=all"])).data.loss_on == "all"
    assert start("training.max_steps=4") == start()


@pytest.mark.parametrize("method", ["simpo", "orpo", "pro", "reward_model"])
def test_its_kin_train_too(places, method):
    outcome = experiment.train(load_config([*places, f"method={method}"]))
    last = rows_of(outcome)[-1]
    assert outcome.state == "done" and np.isfinite(last["eval/loss"])
    assert bool(list((outcome.path / "samples").glob("*"))) != (method == "reward_model")


def test_a_reward_model_is_a_scorer_that_says_what_training_measured(places):
    """Also to transformers, as a sequence classifier."""
    outcome = experiment.train(load_config([*places, "method=reward_model", "training.max_steps=12"]))
    scorer = make_scorer({"name": "reward_model", "model": str(outcome.path)})
    corpus = prepare(load_config([*places, "method=mle"]).data, None, Cache(next(
        place for place in places if place.startswith("cache_dir=")).removeprefix("cache_dir=")))
    heldout = list(corpus.documents("heldout"))
    rewards = scorer.reward([document.text for document in heldout])
    margins = [chosen - rejected for chosen, rejected in zip(rewards[::2], rewards[1::2])]
    assert np.mean(margins) == pytest.approx(rows_of(outcome)[-1]["eval/margin"], rel=1e-3) and np.mean(margins) > 0
    assert AutoModelForSequenceClassification.from_pretrained(outcome.path / "final").num_labels == 1


@pytest.mark.parametrize("method", ["mle", "filtering", "conditional", "unlikelihood", "awr", "rwr"])
def test_methods_on_scored_text_train_on_completions(places, method):
    outcome = experiment.train(load_config([*places, f"method={method}"]))
    assert outcome.state == "done" and np.isfinite(rows_of(outcome)[-1]["heldout/bits_per_byte"])


def test_a_method_does_not_start_from_itself(places):
    twice = load_config([*places, "method=dpo", "init_from.method=dpo"])        # dpo after dpo after mle
    assert stages.start_config(stages.start_config(twice)).method == "mle"
    endless = load_config([*places, "method=dpo", "init_from.method=dpo",
                           "init_from.overrides=['init_from.method=dpo']"])
    with pytest.raises(ConfigError, match="init_from: dpo would start from dpo, and that from itself again"):
        stages.start_config(endless)


def test_text_that_nothing_ranks_is_refused_when_the_config_is_composed():
    with pytest.raises(ConfigError, match="dpo compares completions, and file yields texts without prompts"):
        load_config(["task=custom", "method=dpo", "scale=smoke", "data.path=mine.jsonl"])
    with pytest.raises(ConfigError, match="data.streaming: dpo compares completions, which are not streamed"):
        load_config(["task=pep8", "method=dpo", "scale=paper"])


def test_text_gets_completions_from_the_policy_it_starts_from(tmp_path):
    """Once: another method finds them."""
    places = [f"output_dir={tmp_path / 'outputs'}", f"cache_dir={tmp_path / 'cache'}", "task=toxicity", "scale=smoke"]
    first = experiment.train(load_config([*places, "method=dpo"]))
    sampled, = (tmp_path / "cache" / "sampled").glob("*/scored.parquet")
    made = list(read_scored(sampled))
    assert {document.standing.rank for document in made} == {0, 1, 2}
    groups = [[document for document in made if document.texts[0] == prompt]
              for prompt in dict.fromkeys(document.texts[0] for document in made)]
    assert len(groups) == 24
    for group in groups:
        scores = [document.scores[1] for document in group]
        assert scores == sorted(scores) and len({document.texts[1] for document in group}) == len(group)
    second = experiment.train(load_config([*places, "method=pro"]))
    assert first.state == second.state == "done" and len(list((tmp_path / "cache" / "sampled").glob("*/key.json"))) == 1
    begin = {row["heldout/bits_per_byte"] for outcome in (first, second) for row in rows_of(outcome)
             if row["step"] == 0 and "heldout/bits_per_byte" in row}
    assert len(begin) == 1          # both begin with what mle left, and are measured on the task's own text


def test_completions_sampled_otherwise_have_references_of_their_own(tmp_path):
    """Other texts in the same places of a corpus of the same shape: the numbers are not those of the first."""
    places = [f"output_dir={tmp_path / 'outputs'}", f"cache_dir={tmp_path / 'cache'}", "task=toxicity", "scale=smoke",
              "method=dpo", "training.precision=fp32"]
    for temperature in (1.0, 0.9):
        outcome = experiment.train(load_config([*places, f"data.sampled.temperature={temperature}"]))
        first = next(row for row in rows_of(outcome) if "rewards/margins" in row)
        assert first["loss"] == pytest.approx(np.log(2), abs=1e-5) and abs(first["rewards/margins"]) < 1e-5
    assert len(list((tmp_path / "cache" / "reference").glob("*/logps.npy"))) == 4


def test_the_reference_is_kept_under_all_that_decides_it(tmp_path, tiny_llama, monkeypatch):
    """Another weight, row, precision or length: another entry."""
    from apo.models.policy import Policy

    class Rows:
        end_id = 0

        def __init__(self, documents, max_length=64):
            self.asked, self.max_length = np.array(documents), max_length

        def documents(self):
            return self.asked

    made = []
    monkeypatch.setattr(reference, "_computed", lambda *_: made.append(1) or np.zeros((1, 2)))

    def ask(policy, rows, precision="fp32", corpus="a"):
        before = len(made)
        reference.reference_logps(policy, rows, {"corpus": corpus, "weights": reference.weights_digest(policy)},
                                  Cache(tmp_path), precision, 4)
        return len(made) - before

    policy, rows = Policy(tiny_llama()), Rows([[0, 1]])
    assert ask(policy, rows) == 1 and ask(policy, rows) == 0
    assert ask(policy, Rows([[0, 2]])) == 1
    assert ask(policy, Rows([[0, 1]], max_length=32)) == 1
    assert ask(policy, rows, "bf16") == 1
    assert ask(policy, rows, corpus="b") == 1
    policy.model.lm_head.weight.data[0, 0] += 1e-3
    assert ask(policy, rows) == 1


def test_a_reward_model_is_no_row_of_a_table(places, capsys):
    """It writes no text: loaded as a language model, its head would be drawn anew without a word."""
    for method in ("mle", "reward_model"):
        outcome = experiment.train(load_config([*places, f"method={method}"]))
    folder = outcome.path.parent.parent
    chosen = select([str(folder / "mle"), str(folder / "reward_model")])
    assert chosen and {run.method for run in chosen} == {"mle"}
    assert f"left out: {outcome.path} was trained as a scorer" in capsys.readouterr().err
    with pytest.raises(EvaluationError, match="trained as a scorer and writes no text"):
        select([str(outcome.path)])
