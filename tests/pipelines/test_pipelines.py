"""Pipelines: what a line of words means as stages, what is wrong with it, said at once, and that stages hand on what
they say they do."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from apo import cli, experiment, launch
from apo.cli import parse_arguments
from apo.config import load_config, run_directory
from apo.errors import ConfigError, Interrupted, RunError
from apo.pipelines.composing import make_pipelines
from apo.pipelines.drawing import drawing
from apo.scorers.make import make_scorer
from apo.trainer import ScoredTextTrainer

HH = ("--task", "hh", "--scale", "smoke")
JUDGED = """\
# Three stages, of which the last is judged by the second.
stages:
  sft: {method: mle}
  judge: {method: reward_model}
  policy: {method: awr, uses: {scorer.model: judge}, overrides: [objective.beta=0.3, training.num_tokens=9999]}
  beside: {method: dpo, from: sft}
"""


def one(*words):
    [pipeline] = make_pipelines(parse_arguments(words))
    return pipeline


def stages(*words):
    return {stage.name: stage for stage in one(*words).stages}


def problems(*words):
    with pytest.raises(ConfigError) as caught:
        make_pipelines(parse_arguments(words))
    return caught.value.problems


@pytest.fixture
def file(tmp_path):
    """`file(text)`: the path of a pipeline."""
    def write(text, name="mine"):
        (tmp_path / f"{name}.yaml").write_text(text)
        return str(tmp_path / f"{name}.yaml")
    return write


# ------------------------------------------------------------------------------------------------- what is meant by it

def test_a_list_of_methods_each_from_the_one_before():
    made = stages("--pipeline", "sft,dpo,kto,dpo,reward-model,simpo", *HH)
    assert {name: (stage.config.method, stage.start) for name, stage in made.items()} == {
        "sft": ("mle", None), "dpo": ("dpo", "sft"), "kto": ("kto", "dpo"), "dpo_2": ("dpo", "kto"),
        "reward_model": ("reward_model", "dpo_2"), "simpo": ("simpo", "dpo_2")}
    for stage in made.values():
        start = stage.config.init_from
        assert start.run == (stage.start and str(made[stage.start].directory)) and not start.method
    assert made["sft"].config == load_config([*HH, "--method=mle"])
    assert len({stage.directory for stage in made.values()}) == 6


def test_without_an_earlier_policy_a_stage_starts_from_what_its_method_says(file):
    assert stages("--pipeline", "dpo", *HH)["dpo"].config == load_config([*HH, "--method=dpo"])
    named = file("stages:\n  a: {method: mle}\n  b: {method: dpo, from: null}\n")
    made = stages("--pipeline", named, *HH, "b.init_from.overrides=['training.max_steps=3']")
    assert made["b"].start is None and made["b"].config.init_from.method == "mle"


def test_options_of_all_and_of_one(file):
    made = stages("--pipeline", file(JUDGED), *HH, "training.max_steps=3", "policy.training.num_tokens=5e4", "seed=4",
                  "policy.objective.beta=0.2", "~beside.evaluation.metrics.length", "++sft.evaluation.batch_size=2")
    assert [stage.config.seed for stage in made.values()] == [4] * 4
    assert [stage.config.training.max_steps for stage in made.values()] == [3, 3, None, 3]
    assert made["policy"].config.training.num_tokens == 5e4 and made["policy"].config.objective["beta"] == 0.2
    assert [len(stage.config.evaluation.metrics) for stage in made.values()] == [5, 5, 5, 4]
    assert made["sft"].config.evaluation.batch_size == 2
    assert stages("--pipeline", file(JUDGED), *HH)["policy"].config.training.num_tokens == 9999


def test_a_stage_has_the_run_of_another_in_its_options(file):
    made = stages("--pipeline", file(JUDGED), *HH, "policy.scorer.sigmoid=true")
    scorer = made["policy"].config.scorer
    assert scorer["name"] == "reward_model" and scorer["model"] == str(made["judge"].directory) and scorer["sigmoid"]
    assert made["policy"].needs == {"weights": "sft", "scorer.model": "judge"}
    assert made["beside"].needs == {"weights": "sft"} and made["sft"].config.scorer["name"] == "hh_rule"


def test_the_nearest_word_on_the_task_counts(file):
    named = file("task: hh\nstages:\n  a: {method: mle}\n  b: {method: mle, task: pep8}\n  c: {method: mle}\n")

    def tasks(*words):
        return [stage.config.task for stage in stages("--pipeline", named, "--scale=smoke", *words).values()]
    assert tasks() == ["hh", "pep8", "hh"]
    assert tasks("--task=toxicity", "c.task=pii") == ["toxicity", "pep8", "pii"]
    mine = Path(named).with_name("mine.yml")
    mine.write_text("data: {path: mine.jsonl}\nscorer: pep8\ntraining: {learning_rate: 3e-4}\n")
    mine.with_name("mine.jsonl").write_text('{"text": "a"}\n')
    made = stages("--pipeline", named, "--scale=smoke", "--task", str(mine), "b.data.path=null",
                  f"data.path={mine.with_name('mine.jsonl')}")
    assert [stage.config.task for stage in made.values()] == ["custom", "pep8", "custom"]
    assert [stage.config.training.learning_rate for stage in made.values()] == [3e-4, 2e-3, 3e-4]


def test_a_changed_stage_renames_itself_and_what_depends_on_it(file):
    def names(*words):
        return {name: stage.directory for name, stage in stages("--pipeline", file(JUDGED), *HH, *words).items()}

    def changed(*words):
        before, after = names(), names(*words)
        return [name for name in before if before[name] != after[name]]
    assert changed("sft.training.learning_rate=1e-3") == ["sft", "judge", "policy", "beside"]
    assert changed("judge.training.learning_rate=1e-4") == ["judge", "policy"]
    assert changed("policy.objective.beta=0.4") == ["policy"]
    assert changed("beside.objective.beta=0.4") == ["beside"]
    assert {directory.name for directory in names("output_dir=elsewhere").values()} == {
        directory.name for directory in names().values()}


def test_seeds_are_pipelines_of_one_config(file):
    first, second = make_pipelines(parse_arguments(["--pipeline", file(JUDGED), *HH, "--seed", "1,2"]))
    for one, other in zip(first.stages, second.stages):
        assert one.directory.name.removesuffix("-s1") == other.directory.name.removesuffix("-s2")
        assert other.config.init_from.run is None or other.config.init_from.run.endswith("-s2")
    assert re.fullmatch(r"outputs/pipelines/mine-[0-9a-f]{8}-s1\.json", str(first.record))
    assert str(second.record) == str(first.record).replace("-s1.json", "-s2.json")

def test_one_judge_for_all_seeds(file):
    """The same one, and of all seeds one config."""
    named = file("stages:\n  judge: {method: reward_model, from: null, overrides: [seed=9]}\n  sft: {method: mle}\n"
                 "  policy: {method: awr, uses: {scorer.model: judge}}\n")
    made = make_pipelines(parse_arguments(["--pipeline", named, *HH, "--seed", "1,2"]))
    [judge] = {pipeline.stages[0].directory for pipeline in made}
    assert judge.name.endswith("-s9") and [pipeline.seed for pipeline in made] == [1, 2]
    assert {pipeline.stages[2].config.scorer["model"] for pipeline in made} == {str(judge)}
    assert len({pipeline.stages[2].directory.name.partition("-")[0] for pipeline in made}) == 1
    assert stages("--pipeline", named, *HH, "judge.seed=8")["judge"].config.seed == 8


def test_a_reward_model_that_nobody_uses_is_noted(file):
    assert one("--pipeline", file(JUDGED), *HH).notes == []
    [note] = one("--pipeline", "sft,reward_model,dpo", *HH).notes
    assert note.startswith("no later stage uses what reward_model leaves")
    assert one("--pipeline", "sft,reward_model", *HH).notes == []


@pytest.mark.parametrize("name", cli.found("pipeline"))
@pytest.mark.parametrize("scale", cli.found("scale"))
def test_what_is_shipped_composes(name, scale):
    made = one("--pipeline", name, "--scale", scale)
    assert len(made.stages) > 1 and not made.notes


def test_a_plugins_pipelines_are_found(tmp_path, monkeypatch):
    (tmp_path / "more_pipelines/configs/pipeline").mkdir(parents=True)
    (tmp_path / "more_pipelines/__init__.py").write_text("")
    (tmp_path / "more_pipelines/configs/pipeline/theirs.yaml").write_text("# Theirs.\nstages:\n  a: {method: mle}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert list(stages("--pipeline", "theirs", *HH, "--plugins", "more_pipelines")) == ["a"]
    assert "pipeline=theirs\tTheirs." in cli.list_lines(["more_pipelines"])


# ---------------------------------------------------------------------------------------------------------- mistakes

def test_all_mistakes_of_all_stages_at_once(file):
    named = file("""
stages:
  a: {method: mlee}
  b: {method: dpo, from: aa}
  c: {method: kto, from: d}
  d: {method: ktoo, from: c}
  e: {method: mle, from: f}
  f: {method: awr, from: a, uses: {scorer.modle: a, evaluation.heldout_scorers.x.model: nobody}}
""")
    found = problems("--pipeline", named, *HH, "bb.training.max_steps=3", "b.data.block_size=big",
                     "training.learnig_rate=1")
    told = [f'b: from: no stage "aa". Did you mean "a"? Earlier ones: a ({named})',
            f"c: from: d needs c itself: a circle ({named})",
            f"e: from: f stands behind it; a stage needs earlier ones alone ({named})",
            f'f: uses.evaluation.heldout_scorers.x.model: no stage "nobody". Earlier ones: a, b, c, d, e ({named})',
            'bb.training.max_steps: no stage "bb". Did you mean "b"? Stages: a, b, c, d, e, f (command line)',
            f'a: unknown method "mlee" ({named}). Did you mean "mle"?',
            "b: data.block_size: expected a whole number, got 'big' (command line)",
            f'd: unknown method "ktoo" ({named}). Did you mean "kto"?',
            'f: scorer.modle: no option of scorer "hh_rule"',
            "a, b, c, d, e, f: training.learnig_rate: no such option. Did you mean"]
    assert [text for text in told if not any(problem.startswith(text) for problem in found)] == []
    assert len(found) == len(told)


@pytest.mark.parametrize("text, said", [
    ("stages: {a: {method: mle, form: b}}",
     'a: form: no key of a stage, which has task, method, from, overrides, uses. Did you mean "from"?'),
    ("stages: {a: {}}", "a: method: must be given"),
    ("stages: {a: mle}", "a: expected a mapping with task, method, from, overrides, uses, got 'mle'"),
    ("stages: {a: {method: [mle, dpo]}}", "a: method: expected the name of a method, got ['mle', 'dpo']"),
    ("stages: {a: {method: mle, overrides: seed=2}}", "a: overrides: expected a list [key=value, ...], got 'seed=2'"),
    ("stages: {a: {method: mle, overrides: [{seed: 2}]}}", "a: expected text, got {'seed': 2}"),
    ("stages: {a: {method: mle, overrides: [seed]}}", 'a: "seed": options are written key=value'),
    ("stages: {a: {method: mle, overrides: [method=dpo]}}", "a: method: the methods of a pipeline stand in its stages"),
    ("stages: {a: {method: mle, from: a}}", "a: from: a stage cannot need itself"),
    ("stages: {data: {method: mle}}", "data: not a name for a stage: data.key=value is an option of all of them"),
    ("stages: {a-b: {method: mle}}", "a-b: not a name for a stage, which has letters, digits and underscores"),
    ("stage: {a: {method: mle}}", "no pipeline: expected `stages:`"),
    ("stages: {a: {method: mle}}\ntaks: hh", 'taks: no key of a pipeline, which has task and stages. Did you mean "ta'),
    ("stages: {a: {method: mle}, a: {method: dpo}}", "duplicate"),
    ("stages: {a: {method: mle}, b: {method: reward_model}, c: {method: dpo, from: b}}",
     "c: from: b leaves no policy to start from"),
    ("stages: {a: {method: mle}, b: {method: awr, uses: {scorer.model: a}}}",
     "b: uses.scorer.model: a leaves a policy, which judges nothing"),
    ("stages: {a: {method: mle}, b: {method: reward_model}, c: {method: dpo, uses: {evaluation.scorer.model: b}, "
     "overrides: [evaluation.scorer.model=mine]}}",
     "c: uses.evaluation.scorer.model: is the run of stage b, and something else makes it 'mine'"),
    ("stages: {a: {method: mle}, b: {method: dpo, overrides: [init_from.method=mle]}}",
     "b: init_from.method: it starts from stage a"),
])
def test_mistakes_of_a_file(file, text, said):
    found = problems("--pipeline", file(text), *HH)
    assert any(said in problem for problem in found), found


@pytest.mark.parametrize("words, said", [
    ("stack_lama_2", 'unknown pipeline "stack_lama_2". Did you mean "stack_llama_2"?'),
    ("nowhere.yaml", "nowhere.yaml: there is no such file"),
    (",", "--pipeline ,: no method is named"),
    ("sft,dpo --method mle", "method: the methods of a pipeline stand in its stages (command line)"),
    ("sft,dpo --experiment phf_pep8_mle", "experiment: a published setting is one run"),
    ("sft,dpo dpo.experiment=phf_pep8_mle", "dpo.experiment: a published setting is one run"),
    ("sft,dpo dpo.method=kto", "dpo.method: the methods of a pipeline stand in its stages"),
    ("sft,dpo --sweep", "--sweep: not with --pipeline"),
    ("sft,dpo --cfg job", "--cfg: not with --pipeline"),
    ("sft,dpo -m", "-m: not with --pipeline"),
    ("sft,dpo hydra/launcher=joblib", "hydra/launcher: stages follow one another in one process"),
    ("sft,dpo training.learning_rate=1e-3,1e-4", "training.learning_rate: 2 values (1e-3,1e-4), and a pipeline does"),
    ("sft,dpo dpo.seed=1,2", "dpo.seed: 2 values (1,2), and a pipeline does not sweep: run it once for each (command"),
    ("sft,dpo --task hh,pep8", "task: 2 values (hh,pep8), and a pipeline does not sweep: run it once for each (comm"),
    ("sft,dpo seed=", "sft, dpo: seed=: an empty sweep"),
    ("sft,dpo dpo=3", "dpo: options of a stage are written dpo.key=value (command line)"),
    ("sft,dpo kto.objective.beta=1", 'kto.objective.beta: no stage "kto"'),
    ("sft,dpo dataset.filter_threshold=1", "sft, dpo: dataset: no such option: here it is data"),
    ("sft,dpo objective.beta=1", 'sft: objective.beta: no option of objective "mle"'),
    ("sft,dpo dpo.data.source=file dpo.data.path=gone.jsonl", "dpo: gone.jsonl"),
    ("sft,dpo --frce", 'unknown flag "--frce". Did you mean "--force"?'),
])
def test_mistakes_of_the_command_line(words, said):
    found = problems(*HH, "--pipeline", *words.split())
    assert any(problem.startswith(said) for problem in found), found


def test_without_a_task_it_is_asked_for_once():
    [problem] = problems("--pipeline", "sft,dpo")
    assert problem.startswith("sft, dpo: no task chosen: --task with one of custom, hh")


def test_checking_loads_nothing_heavy():
    code = ("import sys; from apo.cli import parse_arguments; from apo.pipelines.composing import make_pipelines;"
            "make_pipelines(parse_arguments(['--pipeline', 'sft,dpo', '--task', 'hh']));"
            "print(set(sys.modules) & {'torch', 'transformers', 'datasets', 'wandb', 'pandas', 'scipy'})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr


# ---------------------------------------------------------------------------------------------------------- running

@pytest.fixture
def places(tmp_path):
    return [*HH, "training.max_steps=3", "evaluation.num_bootstrap=10", "training.precision=fp32",
            f"output_dir={tmp_path / 'outputs'}", f"cache_dir={tmp_path / 'cache'}"]


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and ".lock" not in path.name}


def test_stages_hand_on_their_weights_and_their_judgement(places, file, tmp_path, monkeypatch, capsys):
    """And a rerun does nothing, and a changed stage is run again with what depends on it alone."""
    begun, fit = {}, ScoredTextTrainer.fit

    def noted(self):
        begun[self.run.path.parent.name] = {name: tensor.clone() for name, tensor
                                            in self.policy.model.state_dict().items()}
        return fit(self)
    monkeypatch.setattr(ScoredTextTrainer, "fit", noted)
    named = file(JUDGED.replace(", training.num_tokens=9999", ""))
    monkeypatch.setattr(sys, "argv", ["train.py"])          # part of the record
    assert launch.main(["--pipeline", named, *places]) == 0
    pipeline = one("--pipeline", named, *places)
    made = {stage.name: stage for stage in pipeline.stages}
    assert list(begun) == ["mle", "reward_model", "awr", "dpo"]
    left = load_file(made["sft"].directory / "final" / "model.safetensors")
    body = [name for name in left if "lm_head" not in name]
    assert len(body) > 10
    for method in ("reward_model", "awr", "dpo"):
        assert all(torch.equal(begun[method][name], left[name]) for name in body), method
    assert not all(torch.equal(begun["mle"][name], left[name]) for name in body)

    judge = make_scorer({"name": "reward_model", "model": str(made["judge"].directory)})
    identity = json.loads((made["policy"].directory / "manifest.json").read_text())["identity"]
    assert identity["scorer"] == judge.fingerprint()
    samples = [json.loads(line) for path in (made["policy"].directory / "samples").iterdir() for line in open(path)]
    assert samples[0]["score"] == pytest.approx(judge.score([samples[0]["prompt"] + samples[0]["text"]])[0], abs=1e-4)

    record = json.loads(pipeline.record.read_text())
    assert (record["pipeline"], record["seed"], record["state"]) == ("mine", 1, "done")
    assert [(told["name"], told["from"], told["uses"], told["state"]) for told in record["stages"]] == [
        ("sft", None, {}, "done"), ("judge", "sft", {}, "done"), ("policy", "sft", {"scorer.model": "judge"}, "done"),
        ("beside", "sft", {}, "done")]
    assert all((tmp_path / "outputs" / told["run"] / "final").is_dir() for told in record["stages"])
    printed = capsys.readouterr()
    assert [line.split()[:4] for line in printed.out.splitlines()[1:]] == [
        ["sft", "hh", "mle", "done"], ["judge", "hh", "reward_model", "done"], ["policy", "hh", "awr", "done"],
        ["beside", "hh", "dpo", "done"]]

    before = files(tmp_path / "outputs")
    begun.clear()
    assert launch.main(["--pipeline", named, *places]) == 0
    again = capsys.readouterr()
    assert not begun and files(tmp_path / "outputs") == before
    assert again.out.count("done before") == 4 and again.err.count("is finished; nothing to do") == 4
    assert launch.main(["--pipeline", named, *places, "judge.training.max_steps=4"]) == 0
    assert list(begun) == ["reward_model", "awr"]
    assert launch.main(["--pipeline", named, *places, "--dry-run"]) == 0
    assert "all finished: nothing to train" in capsys.readouterr().out


def test_a_stage_goes_on_with_the_adapter_of_the_one_before(places, tmp_path):
    """On the policy that an ordinary run has left; the second stage's start is the first one's adapter."""
    base = experiment.train(load_config([*places, "method=mle"])).path / "final"
    words = ["--pipeline", "nll,dpo", *places, "model=lora", f"model.name={base}", "nll.init_from.method=null"]
    assert launch.main(words) == 0
    first, second = one(*words).stages
    for stage in (first, second):
        settings = json.loads((stage.directory / "final" / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == str(base)
    rows = [json.loads(line) for line in (second.directory / "metrics.jsonl").read_text().splitlines()]
    last = [json.loads(line) for line in (first.directory / "metrics.jsonl").read_text().splitlines()]
    begin = next(row["heldout/bits_per_byte"] for row in rows if "heldout/bits_per_byte" in row)
    ended = [row["heldout/bits_per_byte"] for row in last if "heldout/bits_per_byte" in row]
    assert begin == pytest.approx(ended[-1], abs=1e-9) != ended[0]


@pytest.fixture
def trained(monkeypatch):
    """Methods that were asked for; `trained.fails[method]` is raised."""
    class Trained(list):
        fails = {}

    seen = Trained()

    def train(config):
        seen.append((config.method, config.seed))
        if config.method in seen.fails:
            raise seen.fails[config.method]
        return "an outcome"
    monkeypatch.setattr(experiment, "train", train)
    return seen


@pytest.mark.parametrize("error, code, state", [
    (RunError("the disk is full"), 2, "failed"), (Interrupted("stopped by SIGTERM", 15), 143, "preempted"),
    (ZeroDivisionError("a bug"), 1, "failed")])
def test_what_fails_stops_the_pipeline(places, trained, capsys, error, code, state):
    trained.fails = {"dpo": error}
    words = ["--pipeline", "sft,dpo,kto", *places]
    assert launch.main([*words, "--seed", "1,2"]) == code
    assert trained == [("mle", 1), ("dpo", 1)] + ([("mle", 2), ("dpo", 2)] if code != 143 else [])
    record = json.loads(one(*words).record.read_text())
    assert [told["state"] for told in record["stages"]] == ["done", state, "not started"] and record["state"] == state
    said = capsys.readouterr()
    assert ("Traceback" in said.err) == (code == 1)
    assert f"dpo: {error}\nthe same command goes on from there" in said.err
    assert [line.split()[3] for line in said.out.splitlines()[1:4]] == ["done", state, "not"]


def test_the_record_says_what_is_being_trained(places, trained, monkeypatch):
    words, seen = ["--pipeline", "sft,dpo", *places], []

    def train(config):
        record = json.loads(one(*words).record.read_text())
        seen.append((record["state"], [told["state"] for told in record["stages"]]))
    monkeypatch.setattr(experiment, "train", train)
    launch.main(words)
    assert seen == [("running", ["running", "not started"]), ("running", ["not started", "running"])]


def test_a_place_that_cannot_be_written_is_told(places, tmp_path, capsys):
    (tmp_path / "outputs").write_text("a file")
    assert launch.main(["--pipeline", "sft,dpo", *places]) == 2
    said = capsys.readouterr().err
    assert "cannot write" in said and "choose another place with --output-dir" in said and "Traceback" not in said


# ---------------------------------------------------------------------------------------------------------- the drawing

def test_the_drawing(places, file, tmp_path, capsys):
    made = one("--pipeline", file(JUDGED), *places, "policy.training.num_tokens=3e4", "beside.training.max_steps=null",
               "beside.training.num_tokens=1e4", "beside.evaluation.heldout_scorers.rm=reward_model",
               "beside.evaluation.heldout_scorers.rm.seed=9")
    names = {stage.name: stage.directory for stage in made.stages}
    lines = drawing(made).splitlines()
    assert lines[0] == f"pipeline mine: 4 stages, scale smoke, seed 1, in {tmp_path / 'outputs'}"
    heads = [line for line in lines if re.match(r" \d  ", line)]
    assert heads == [" 1  sft     hh mle: to be trained", " 2  judge   hh reward_model: to be trained",
                     " 3  policy  hh awr: to be trained", " 4  beside  hh dpo: to be trained"]
    assert [line.strip() for line in lines if "-->" in line] == [
        "+-- weights --> judge", "+-- weights --> policy", "+-- weights --> beside", "+-- scorer.model --> policy"]
    assert all(f"    {directory}" in lines for directory in names.values())
    assert re.search(r"    [\d,]+ parameters, 3 steps, about 0\.\d\d GiB, about \d+ s", "\n".join(lines))
    assert sum("steps follow from the data" in line for line in lines) == 1
    [needed] = [line for line in lines if "evaluation.heldout_scorers.rm: " in line]
    assert needed.endswith("-s9 (to be trained)")
    assert lines[-1].startswith("6 runs to train: about ")
    assert lines[-1].endswith("; of 1 it is not known beforehand how long")
    assert not (tmp_path / "outputs").exists()


def test_the_drawing_knows_what_is_done_and_what_goes_on(places):
    words = ["--pipeline", "sft,dpo", *places]
    sft, dpo = one(*words).stages
    experiment.train(sft.config)
    dpo.directory.mkdir(parents=True)
    (dpo.directory / "status.json").write_text('{"state": "running", "step": 2, "max_steps": 3}')
    text = drawing(one(*words))
    assert " 1  sft  hh mle: finished\n" in text and " 2  dpo  hh dpo: begun, step 2 of 3\n" in text
    assert text.splitlines()[-1].startswith("1 run to train: about")
    assert "finished, to be trained anew (force)" in drawing(one(*words, "sft.force=true"))
    assert run_directory(load_config([*places, "method=mle"])) == sft.directory
    assert "115,008 parameters and 8,704 of an adapter, 3 steps" in drawing(one(*words, "dpo.model.lora.r=4"))
    far = drawing(one("--pipeline", "sft,dpo", "--task", "hh", "--scale", "paper"))
    assert far.count("parameters unknown (the config of ") == 2
    assert far.endswith("2 runs to train; of 2 it is not known beforehand how long")
