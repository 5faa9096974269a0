"""Stages: a method that starts from another's run finds it or trains it, once for all that ask; and the reference is
what that run left."""

import json
import shutil

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification

import evaluate
from apo import dry_run, experiment, stages
from apo import reference_logps as reference
from apo.cache import Cache
from apo.config import load_config
from apo.data.corpus import read_scored
from apo.data.prepare import prepare
from apo.errors import ConfigError, EvaluationError, RunError
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
    moved = [row["generation/unconditional/kl_full"] for row in rows_of(outcome)
             if "generation/unconditional/kl_full" in row]
    assert moved[0] == pytest.approx(0, abs=1e-6) and moved[-1] > 1e-4
    assert not any("kl_full" in key for line in (start / "metrics.jsonl").read_text().splitlines()
                   for key in json.loads(line))        # that run began with nothing


def test_samples_are_held_against_the_best_known_answers(tmp_path):
    outcome = experiment.train(load_config([f"output_dir={tmp_path / 'outputs'}", f"cache_dir={tmp_path / 'cache'}",
                                            "task=hh", "scale=smoke", "method=mle", "training.max_steps=2"]))
    last = {key: value for row in rows_of(outcome) for key, value in row.items()}
    assert 0 <= last["generation/replies/win_rate"] < 0.5      # an untrained model's against good ones


def test_a_second_method_finds_start_and_reference(places, monkeypatch):
    experiment.train(load_config([*places, "method=dpo"]))
    monkeypatch.setattr(reference, "_each", lambda *_: pytest.fail("the reference was computed again"))
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


def test_a_run_starts_from_a_directory_that_is_named(places, tmp_path, capsys):
    """Wherever it lies, and whatever it was trained with; also after both have moved together."""
    start = experiment.train(load_config([*places, "method=filtering", "training.max_steps=5", "seed=3"])).path
    words = [*places, "method=dpo", f"init_from.run={start}"]
    assert stages.start_config(load_config(words)) is None
    assert dry_run.facts(load_config(words))["starts from"] == f"{start} (finished)"
    outcome = experiment.train(load_config(words))
    assert f"dpo starts from {start}" in capsys.readouterr().err
    begin = {row["heldout/bits_per_byte"] for row in rows_of(outcome) if row["step"] == 0
             and "heldout/bits_per_byte" in row}
    assert begin == {[row for row in rows_of(experiment.train(load_config(
        [*places, "method=filtering", "training.max_steps=5", "seed=3"]))) if "heldout/bits_per_byte" in row][-1][
            "heldout/bits_per_byte"]}
    moved = [row["generation/unconditional/kl_full"] for row in rows_of(outcome)
             if "generation/unconditional/kl_full" in row]
    assert moved[0] == pytest.approx(0, abs=1e-6) and moved[-1] > 1e-4
    identity = json.loads((outcome.path / "manifest.json").read_text())["identity"]
    assert identity["init_from.run"] == "/".join(start.parts[-3:]) and "init_from.method" not in identity
    shutil.copytree(start, tmp_path / "custom/filtering" / start.name)
    config = load_config([*places, "method=dpo", f"init_from.run=gone/custom/filtering/{start.name}",
                          f"output_dir={tmp_path}"])
    assert run_directory(config).name == outcome.path.name
    assert stages.start_of(config, None).name == str(tmp_path / "custom/filtering" / start.name / "final")


def test_a_start_that_is_not_there_or_writes_no_text_is_refused_before_anything_is_written(places):
    judge = experiment.train(load_config([*places, "method=reward_model"])).path
    for directory, told in (("nowhere/mle/0123abcd-s1", "is not there or not finished"), (judge, "writes no text")):
        config = load_config([*places, "method=kto", f"init_from.run={directory}"])
        with pytest.raises(RunError, match=f"init_from.run: {directory} .*{told}"):
            experiment.train(config)
        assert not run_directory(config).exists()


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


def test_overrides_of_what_both_runs_share_are_refused(places):
    config = load_config([*places, "method=dpo", "init_from.overrides=['data.eval_fraction=0.3']"])
    told = "init_from.overrides: data.eval_fraction is the same for dpo and the mle run"
    with pytest.raises(ConfigError, match=told):
        stages.start_config(config)
    config = load_config([*places, "method=dpo", "init_from.method=filtering",
                          "init_from.overrides=['data.filter_threshold=0.5','training.max_steps=4']"])
    assert stages.start_config(config).data.filter_threshold == 0.5


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
    monkeypatch.setattr(reference, "_each", lambda *_: made.append(1))
    monkeypatch.setattr(reference, "_numbers", lambda logps, present: logps)

    def ask(policy, rows, precision="fp32", corpus="a"):
        before = len(made)
        reference.reference_logps(policy, rows, {"corpus": corpus, "weights": reference.weights_digest(policy)},
                                  Cache(tmp_path), precision, 4)
        return len(made) - before

    policy, rows = Policy(tiny_llama()), Rows([[0, 1]])
    assert ask(policy, rows) == 1 and ask(policy, rows) == 0
    assert ask(policy, Rows([[0, 2]])) == 1
    assert ask(policy, Rows([[0], [1]])) == 1
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


# ---- reward models as scorers ----------------------------------------------------------------------------------------


def needed(places, *options):
    return stages.reward_model_configs(load_config([*places, *options]))


def test_a_scorer_without_a_model_is_the_reward_model_of_the_task(places):
    """One for all methods, seeds and budgets; that of the method `reward_model` itself where it is the same."""
    by_scorer = needed(places, "method=mle", "scorer=reward_model")["scorer"]
    assert by_scorer.method == "reward_model" and by_scorer.scorer == {} and by_scorer.seed == 1
    held_out = "evaluation.heldout_scorers.rm=reward_model"
    others = [needed(places, *options) for options in (
        ["method=mle", held_out], ["method=dpo", held_out, "seed=2"], ["method=conditional", "scorer=reward_model"],
        ["method=mle", "training.max_steps=4", "evaluation.scorer=reward_model"])]
    directory = run_directory(load_config([*places, "method=reward_model", "training.precision=auto"]))
    assert {run_directory(each) for every in others for each in every.values()} == {directory}
    assert run_directory(by_scorer) == directory and not stages.reward_model_configs(by_scorer)
    told = [*places, "method=mle", "scorer=reward_model"]
    for option in ("scorer.seed=2", "scorer.overrides=['training.max_steps=4']"):
        assert run_directory(needed(told, option)["scorer"]) != directory
    assert needed(told, "scorer.model=somewhere") == {}
    assert stages.started_from(load_config(told)) == {"scorer.run": "/".join(directory.parts[-3:])}


def test_a_reward_model_keeps_the_tasks_own_scorer_and_so_does_what_it_starts_from():
    made = needed(["task=hh", "scale=smoke"], "method=dpo", "scorer=reward_model")["scorer"]
    assert made.scorer["name"] == stages.start_config(made).scorer["name"] == "hh_rule"
    made = needed(["task=toxicity", "scale=smoke"], "method=mle", "evaluation.heldout_scorers.rm=reward_model")
    assert list(made["evaluation.heldout_scorers.rm"].evaluation.heldout_scorers) == ["insults"]
    with pytest.raises(ConfigError, match="scorer.model: none is given, and none can be trained on this task: .*text"):
        needed(["task=custom", "data.path=mine.jsonl", "scale=smoke"], "method=mle", "scorer=reward_model")


def test_a_task_whose_own_scorer_is_its_reward_model_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "endless_task"
    (package / "configs" / "task").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "configs" / "task" / "endless.yaml").write_text(
        "# @package _global_\n# Its own judge.\ndata: {source: synthetic_hh}\nscorer: {name: reward_model}\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = load_config(["task=endless", "method=mle", "scale=smoke", "plugins=[endless_task]"])
    with pytest.raises(ConfigError, match="trained on task endless would need itself, since the task names it"):
        stages.reward_model_configs(config)


def test_it_is_trained_once_and_judges_every_run(tmp_path, monkeypatch, capsys):
    """In the data, where they bring no rewards, and of samples; evaluate.py finds it where the runs were moved to."""
    rows = [{"chosen": f"\n\nHuman: what is {i} plus {i % 7}?\n\nAssistant: It is {i + i % 7}.",
             "rejected": f"\n\nHuman: what is {i} plus {i % 7}?\n\nAssistant: No idea."} for i in range(60)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    places = ["task=custom", "scale=smoke", "data.source=completions", "data.path=mine.jsonl", "output_dir=outputs",
              f"cache_dir={tmp_path / 'cache'}", "training.precision=fp32", "evaluation.num_bootstrap=10",
              "scorer=reward_model", "scorer.overrides=['training.max_steps=3']", "training.max_steps=3",
              "evaluation.heldout_scorers.rm=reward_model",
              "evaluation.heldout_scorers.rm.overrides=['training.max_steps=3']"]
    config = load_config([*places, "method=awr"])
    facts = dry_run.facts(config)
    assert facts["scorer"].endswith("-s1 (trained first)")
    outcomes = [experiment.train(each) for each in (config, load_config([*places, "method=mle", "seed=2"]))]
    judge, = (tmp_path / "outputs" / "custom" / "reward_model").glob("*-s1")
    assert facts["scorer"].startswith(f"outputs/custom/reward_model/{judge.name}")
    assert dry_run.facts(config)["scorer"].endswith("(finished)")
    told = "is the reward model"
    assert capsys.readouterr().err.count(told) == 4
    scorer = make_scorer({"name": "reward_model", "model": str(judge)})
    for outcome in outcomes:
        manifest = json.loads((outcome.path / "manifest.json").read_text())
        assert manifest["identity"]["scorer.run"] == f"custom/reward_model/{judge.name}"
        assert manifest["identity"]["scorer"] == scorer.fingerprint()
        samples = [json.loads(line) for path in (outcome.path / "samples").glob("*") for line in open(path)]
        assert samples[0]["score"] == pytest.approx(scorer.score([samples[0]["prompt"] + samples[0]["text"]])[0],
                                                    abs=1e-4)
        last = rows_of(outcome)[-1]
        assert last["generation/unconditional/reward"] == last["generation/unconditional/rm/reward"]
    assert not experiment.train(config).fresh
    (tmp_path / "outputs").rename(tmp_path / "moved")
    folder, mle = tmp_path / "moved" / "custom", outcomes[1].path.name
    assert evaluate.main([str(folder / "mle" / mle), "--samples", "0"]) == 0
    assert "unconditional: 8 samples a run, higher is better" in capsys.readouterr().out
    (folder / "reward_model").rename(folder / "elsewhere")
    assert evaluate.main([str(folder / "mle" / mle), "--force"]) == 2
    assert f"{told} {folder / 'reward_model' / judge.name}, which is not there" in capsys.readouterr().err


# ---- standardised rewards --------------------------------------------------------------------------------------------


def test_standardised_rewards_are_told_by_the_manifest_and_reach_clean_text(places, capsys):
    outcome = experiment.train(load_config([*places, "method=awr", "data.standardise_rewards=true"]))
    sizes = json.loads((outcome.path / "manifest.json").read_text())["sizes"]
    assert (sizes["reward_mean"], sizes["reward_std"]) == (-0.5, 0.5)   # the place in the ranking, 0 or 1, as a score
    assert rows_of(outcome)[-1]["heldout/bits_per_byte_clean"] > 0      # clean_threshold 0, now the mean
    with pytest.raises(ConfigError, match="inspector: compares scores with what the scorer says"):
        experiment.train(load_config([*places, "method=awr", "data.standardise_rewards=true", "scorer=lexicon",
                                      "scorer.words=[idea]", "callbacks.inspector={}"]))


def test_rewards_of_what_the_start_policy_wrote_are_standardised_too(tmp_path):
    outcome = experiment.train(load_config([f"output_dir={tmp_path / 'outputs'}", f"cache_dir={tmp_path / 'cache'}",
                                            "task=pii", "scale=smoke", "method=pro", "data.standardise_rewards=true",
                                            "training.max_steps=2"]))
    assert json.loads((outcome.path / "manifest.json").read_text())["sizes"]["reward_std"] > 0
