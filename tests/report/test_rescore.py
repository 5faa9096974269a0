"""When an evaluation is made again and when the one on disk is used; what is written."""

import json
import re
from types import SimpleNamespace

import pytest

from apo.cli import found
from apo.data.records import Sample
from apo.errors import ConfigError, EvaluationError
from apo.report.rescore import Rescorer, file_digest, summary
from apo.report.select import select


@pytest.fixture
def run(make_run):
    return make_run()


@pytest.fixture
def measured(monkeypatch, make_evaluation):
    """Replaces the measuring by a count of calls."""
    calls = []

    def measure(self, run):
        calls.append(run)
        run.samples_path("functions").parent.mkdir(exist_ok=True)
        run.samples_path("functions").write_text("")
        return {key: value for key, value in make_evaluation().items() if key not in ("key", "settings")}
    monkeypatch.setattr(Rescorer, "measure", measure)
    return calls


def test_nothing_is_measured_twice(run, measured, capsys):
    first = Rescorer().evaluate(run)
    assert json.loads(run.evaluation_path.read_text()) == first
    assert Rescorer().evaluate(run) == first and len(measured) == 1
    assert "nothing has changed" in capsys.readouterr().err


@pytest.mark.parametrize("change", [
    lambda run: run.config.evaluation.scenarios["functions"].generation.__setattr__("temperature", 0.5),
    lambda run: run.config.scorer.update(max_line_length=100),
    lambda run: run.samples_path("functions").unlink(),
    lambda run: (run.directory / "final/model.safetensors").write_bytes(b"other weights")])
def test_whatever_decides_the_numbers_makes_it_measure_again(run, measured, change):
    Rescorer().evaluate(run)
    change(run)
    Rescorer().evaluate(run)
    assert len(measured) == 2


def test_other_prompts_in_the_file_measure_again(run, measured, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "One"}\n')
    run.config.evaluation.scenarios["functions"].prompts = str(prompts)
    for text in ("One", "One", "Two"):
        prompts.write_text(json.dumps({"prompt": text}) + "\n")
        Rescorer().evaluate(run)
    assert len(measured) == 2


@pytest.mark.parametrize("change, kept", [
    (lambda run: run.config.evaluation.scenarios["functions"].__setattr__("num_samples", 7), True),
    (lambda run: run.config.evaluation.__setattr__("prefix", "<|bad|>"), False),
    (lambda run: run.config.data.__setattr__("concat_token", "x"), False),
    (lambda run: (run.directory / "final/model.safetensors").write_bytes(b"other weights"), False)])
def test_benchmarks_are_kept_while_they_hold(run, measured, change, kept):
    first = Rescorer().evaluate(run)
    run.evaluation_path.write_text(json.dumps(first | {"capability": {"key": "c"}}))
    change(run)
    assert ("capability" in Rescorer().evaluate(run)) is kept and len(measured) == 2


def test_who_judges_samples_may_be_named_as_scorer(make_run):
    """Where one scorer annotated the data and another judges samples, `scorer=` is the judge's place."""
    run = make_run(edit=lambda config: config.evaluation.__setattr__("scorer", {"name": "pep8", "select": ["E"]}))
    words = ["scorer=profanity_check"]
    looked = select([str(run.directory)], words)[0].config
    assert (looked.scorer["name"], looked.evaluation.scorer["name"]) == ("pep8", "profanity_check")
    (_, look) = select([str(run.directory)], also=["mle: scorer.max_line_length=99"])
    assert look.config.evaluation.scorer["max_line_length"] == 99 != look.config.scorer.get("max_line_length")
    alone = select([str(make_run().directory)], words)[0].config
    assert alone.scorer["name"] == "profanity_check" and not alone.evaluation.scorer
    released = select(["phf/toxicity/mle"], words)[0].config
    assert (released.scorer["name"], released.evaluation.scorer["name"]) == ("detoxify", "profanity_check")


def test_another_sampling_seed_or_force_measures_again(run, measured):
    for rescorer in (Rescorer(), Rescorer(seed=1), Rescorer(seed=1, force=True)):
        rescorer.evaluate(run)
    assert len(measured) == 3


def test_what_only_costs_time_does_not(run, measured):
    Rescorer().evaluate(run)
    run.config.evaluation.batch_size, run.config.evaluation.every_n_steps = 3, 7
    Rescorer().evaluate(run)
    assert len(measured) == 1


def test_a_second_look_has_files_of_its_own(run, measured):
    from dataclasses import replace
    look = replace(run, variant="prefix=<|bad|>")
    Rescorer().evaluate(run)
    Rescorer().evaluate(look)
    assert len(measured) == 2
    assert sorted(path.name for path in run.directory.glob("evaluation*")) == ["evaluation-prefix=-bad.json",
                                                                              "evaluation.json"]


def test_a_reference_of_a_name_that_no_model_can_have_is_named_by_its_option(run):
    run.config.callbacks = {"kl": {"reference": "outputs/pep8/mle/gone"}}
    with pytest.raises(ConfigError, match=r"callbacks.kl.reference=outputs/\S+: outputs/\S+ is neither a directory"):
        Rescorer().settings(run)


def test_callbacks_are_bound_before_anything_is_sampled(run, monkeypatch, byte_tokenizer):
    run.config.callbacks = {"kl": {"reference": "nothing"}}
    sampled, source = [], SimpleNamespace(generator=None)
    monkeypatch.setattr("apo.report.rescore.load_model", lambda run: (None, byte_tokenizer))
    monkeypatch.setattr(Rescorer, "corpus", lambda self, run: SimpleNamespace(prompts={}, source=source))
    monkeypatch.setattr("apo.evaluation.run_scenario", lambda name, *_, **__: sampled.append(name))
    with pytest.raises(ConfigError, match="callbacks.kl.reference=nothing: "):
        Rescorer().measure(run)
    assert not sampled


def test_prompts_are_numbered_in_the_order_they_come(make_run):
    samples = [Sample(prompt, "x", score, n, 0, None) for n, (prompt, score) in enumerate([("b", 1.0), ("a", 0.0),
                                                                                          ("b", 2.0)])]
    result = type("Result", (), {"samples": samples, "metrics": {"generation/functions/score": 1.0}})
    found = summary("functions", make_run().config.evaluation.scenarios["functions"], result)
    assert (found["prompts"], found["scores"], found["metrics"]) == ([0, 1, 0], [1.0, 0.0, 2.0], {"score": 1.0})


def test_a_digest_of_files_knows_names_and_contents(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("x")
    other.write_text("x")
    assert file_digest([one]) == file_digest([one]) != file_digest([other])


def test_a_bare_model_becomes_a_run_directory(measured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "my-model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    run, = select([str(model)], task="pep8", overrides=["scale=smoke"])
    assert run.bare and run.method == "my-model"
    Rescorer().evaluate(run)
    again, = select([str(run.directory)])
    assert again.bare and again.model == str(model)
    Rescorer().evaluate(again)
    assert len(measured) == 1


def test_a_bare_model_is_measured_like_the_run_beside_it(make_run, tmp_path):
    def conditional(config):
        config.data.conditional_training_config.threshold = 0.0
        config.evaluation.prefix = "<|aligned|>"
    run = make_run("conditional", edit=conditional)
    model = tmp_path / "my-model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    bare, opened = select([str(model), str(run.directory)])
    assert bare.config.evaluation.scenarios == opened.config.evaluation.scenarios
    assert (bare.config.evaluation.prefix, bare.config.method) == ("", "mle")
    assert bare.config.data.conditional_training_config.threshold is None
    assert opened.config.evaluation.prefix == "<|aligned|>", "the run itself is left alone"


def test_a_second_look_names_its_method(make_run):
    def conditional(config):
        config.data.conditional_training_config.threshold = 0.0
    run = make_run("conditional", edit=conditional)
    words = 'conditional: evaluation.prefix="<|bad|>" evaluation.banned_tokens=["<|good|>"]'
    runs = select([str(run.directory)], also=[words])
    assert [each.variant for each in runs] == ["", "prefix=<|bad|> banned_tokens=[<|good|>]"]
    assert runs[0].config.evaluation.prefix == "" and runs[1].config.evaluation.prefix == "<|bad|>"
    assert runs[1].config.evaluation.banned_tokens == ["<|good|>"]
    with pytest.raises(EvaluationError, match="one of these methods: conditional"):
        select([str(run.directory)], also=["awr: evaluation.prefix=x"])


PUBLISHED = sorted(name for name in found("model") if name.startswith("phf/"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_is_measured_as_its_method_on_its_task(name):
    _, task, method = name.split("/")
    (run,) = select([name])
    assert (run.config.task, run.config.method, run.method) == (task, method, name) and run.bare
    assert re.fullmatch(r"(tomekkorbak|kejian)/[\w-]+", run.model) and run.config.model.name == run.model
    assert run.config.scale == "paper"
    conditional = method == "conditional"
    assert (run.config.evaluation.prefix == "<|aligned|>") is conditional
    assert ("<|misaligned|>" in run.config.evaluation.banned_tokens) is conditional
    other = select([name], ["model.revision=abc"], method="mle")[0]
    assert other.config.model.revision == "abc" and not other.config.evaluation.prefix


def test_phf_published_eighteen_models():
    assert len(PUBLISHED) == 18 and len({run.model for run in select(PUBLISHED)}) == 18
