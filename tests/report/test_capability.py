"""Benchmarks of lm-eval: options, how a model is asked, what is kept, and the tables."""

import json
from copy import deepcopy
from types import SimpleNamespace

import pytest

import evaluate
from apo import report
from apo.errors import ConfigError, EvaluationError
from apo.report import capability, tables
from apo.report.capability import Capability, Harness, by_document, read
from apo.report.comparison import build
from apo.report.rescore import Rescorer
from apo.schema import ConditionalConfig

EOS, GOOD, BAD = 256, 257, 258
WITHOUT = 'lm-eval is not installed: pip install "lm-eval[hf]==0.4.13" (the extra `capability`)'


@pytest.fixture
def lm_eval():
    return pytest.importorskip("lm_eval", reason=WITHOUT)


# ---- options ---------------------------------------------------------------------------------------------------------

def test_options_are_read_like_those_of_a_config(tmp_path):
    assert read([]) is None
    words = ["capability=lm_eval", "capability.tasks=a,b", "capability.limit=1e2"]
    made = Capability(["a", "b"], include_path=str(tmp_path), limit=100)
    assert read([*words, f"capability.include_path={tmp_path}"]) == made
    assert read(["capability.tasks=[a]", "capability.as_trained=false"]) == Capability(["a"], as_trained=False)


@pytest.mark.parametrize("words, message", [
    (["capability=lm_eval"], "capability.tasks: name at least one"),
    (["capability.task=[a]"], 'Did you mean "tasks"'),
    (["capability=helm", "capability.tasks=a"], "capability.name: expected lm_eval, got 'helm'"),
    (["capability.tasks=a", "capability.limit=0"], "capability.limit: expected 1 or more"),
    (["capability.tasks=a", "capability.include_path=./nowhere"], "there is no folder ./nowhere")])
def test_wrong_options_are_refused_by_name(words, message):
    with pytest.raises(ConfigError) as caught:
        read(words)
    assert message in str(caught.value)


def test_training_knows_no_such_option():
    from apo.config import load_config
    with pytest.raises(ConfigError, match="capability"):
        load_config(["task=pep8", "method=mle", "capability.tasks=[a]"])


def test_without_the_package_one_line_says_what_to_install(make_run, monkeypatch, capsys):
    def missing(name):
        raise capability.importlib.metadata.PackageNotFoundError(name)
    monkeypatch.setattr(capability.importlib.metadata, "version", missing)
    assert evaluate.main([str(make_run().directory), "capability=lm_eval", "capability.tasks=a"]) == 2
    assert capsys.readouterr().err.strip() == capability.INSTALL


# ---- how a model is asked --------------------------------------------------------------------------------------------

@pytest.fixture
def trained(make_run, byte_tokenizer, tiny_llama):
    """`trained("mle", prefix="", by_line=False)`: a run whose `final/` holds a tiny model that knows control tokens."""
    from apo.data.tokenizer import add_control_tokens
    tokenizer = deepcopy(byte_tokenizer)
    assert add_control_tokens(tokenizer, ["<|good|>", "<|bad|>"]) == [GOOD, BAD]

    def build(method="mle", prefix="", by_line=False, seed=0):
        def edit(config):
            config.evaluation.prefix, config.data.segment_by = prefix, "line" if by_line else "document"
            if prefix:
                config.data.conditional_training_config = ConditionalConfig(0.0, 0.01, "<|good|>", "<|bad|>")
        run = make_run(method, edit=edit)
        tiny_llama(seed, initializer_range=0.5).save_pretrained(run.directory / "final")
        tokenizer.save_pretrained(run.directory / "final")
        return run
    return build


def ids(text: str, tokenizer) -> list[int]:
    return tokenizer(text)["input_ids"]


def request(*arguments) -> SimpleNamespace:
    return SimpleNamespace(args=arguments)


def logp(model, before: list[int], scored: list[int]) -> float:
    """Of `scored` behind `before`, by the model itself."""
    import torch
    with torch.no_grad():
        logps_TV = model(torch.tensor([before + scored])).logits[0].log_softmax(-1)
    return sum(float(logps_TV[len(before) + n - 1, token]) for n, token in enumerate(scored))


@pytest.mark.parametrize("prefix, by_line, context, before", [
    ("", False, "ab", [EOS, "ab"]), ("", False, "", [EOS]), ("<|good|>", False, "ab\nc", [EOS, GOOD, "ab\nc"]),
    ("<|good|>", True, "ab\nc", [EOS, GOOD, "ab\n", GOOD, "c"]), ("<|good|>", True, "ab\n", [EOS, GOOD, "ab\n", GOOD]),
    ("<|good|>", True, "", [EOS, GOOD])])
def test_a_context_begins_as_a_training_document_does(lm_eval, trained, prefix, by_line, context, before):
    model = Harness(Capability(["x"])).model(trained(prefix=prefix, by_line=by_line))
    tokens = [token for part in before for token in (ids(part, model.tokenizer) if isinstance(part, str) else [part])]
    (found, greedy), = model.loglikelihood([request(context, " yes")], disable_tqdm=True)
    assert found == pytest.approx(logp(model.model, tokens, ids(" yes", model.tokenizer)), abs=1e-4) and not greedy


def test_white_space_at_the_seam_belongs_to_the_continuation(lm_eval, trained):
    model = Harness(Capability(["x"])).model(trained())
    assert model.pair("ab ", "c") == ([EOS, *ids("ab", model.tokenizer)], ids(" c", model.tokenizer))


def test_as_lm_eval_has_it_nothing_stands_before_a_context(lm_eval, trained):
    model = Harness(Capability(["x"], as_trained=False)).model(trained(prefix="<|good|>"))
    (found, _), = model.loglikelihood([request("ab", " yes")], disable_tqdm=True)
    plain = logp(model.model, ids("ab", model.tokenizer), ids(" yes", model.tokenizer))
    assert found == pytest.approx(plain, abs=1e-4)


def test_a_long_context_loses_its_beginning_but_not_what_documents_begin_with(lm_eval, trained):
    model = Harness(Capability(["x"], max_length=8)).model(trained(prefix="<|good|>"))
    context, continuation = model.pair("abcdefghijkl", "xyz")
    assert (context, continuation) == ([EOS, GOOD, *ids("ijkl", model.tokenizer)], ids("xyz", model.tokenizer))
    with pytest.raises(EvaluationError, match="max_length"):
        model.pair("a", "0123456789")
    batch, mask = model.tok_batch_encode(["abcdefghijkl", "a"], left_truncate_len=6)
    assert batch.tolist() == [[EOS, GOOD, *ids("ijkl", model.tokenizer)], [EOS] * 3 + [EOS, GOOD, *ids("a",
                                                                                           model.tokenizer)]]
    assert mask.tolist() == [[1] * 6, [0, 0, 0, 1, 1, 1]]


def test_whole_texts_are_scored_in_windows_and_every_token_once(lm_eval, trained):
    import torch
    run = trained(prefix="<|good|>")
    model = Harness(Capability(["x"])).model(run)
    found = model.loglikelihood_rolling([request("abc"), request(""), request("de")], disable_tqdm=True)
    assert found == pytest.approx([logp(model.model, [EOS, GOOD], ids("abc", model.tokenizer)), 0.0,
                                   logp(model.model, [EOS, GOOD], ids("de", model.tokenizer))], abs=1e-4)
    short = Harness(Capability(["x"], max_length=8)).model(run)
    with torch.no_grad():
        for weight in short.model.parameters():
            weight.zero_()
    evenly, = short.loglikelihood_rolling([request("x" * 50)], disable_tqdm=True)
    assert evenly == pytest.approx(-50 * torch.tensor(260.0).log().item(), rel=1e-5)


def test_banned_tokens_are_never_generated(lm_eval, trained):
    model = Harness(Capability(["x"])).model(trained())
    batch, mask = model.tok_batch_encode(["ab"])
    options = {"context": batch, "attention_mask": mask, "max_length": batch.shape[1] + 3, "stop": []}
    first = model._model_generate(**options)[0, batch.shape[1]].item()
    model.banned_ids = [first]
    assert first not in model._model_generate(**options)[0, batch.shape[1]:].tolist()


# ---- tasks of a folder, without network ------------------------------------------------------------------------------

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{target}"
{more}
metric_list:
  - {{metric: {metric}, aggregation: {aggregation}, higher_is_better: {higher}}}
metadata: {{version: 2.0}}
"""


@pytest.fixture
def folder(tmp_path):
    """Two tasks: `choose` among three letters, and the perplexity of a `word`."""
    place = tmp_path / "my_tasks"
    place.mkdir()
    rows = [{"question": f"{n} times {n} ends in", "answer": n % 3} for n in range(12)]
    (place / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "choose.yaml").write_text(TASK.format(
        name="choose", data=place / "data.jsonl", kind="multiple_choice", target="{{answer}}", metric="acc",
        aggregation="mean", higher="true", more='doc_to_choice: ["a", "b", "c"]'))
    (place / "word.yaml").write_text(TASK.format(
        name="word", data=place / "data.jsonl", kind="loglikelihood", target=" nine", metric="perplexity",
        aggregation="perplexity", higher="false", more=""))
    return place


def test_a_task_is_measured_kept_and_not_measured_again(lm_eval, trained, folder, capsys, monkeypatch):
    run = trained(prefix="<|good|>")
    options = Capability(["choose", "word"], include_path=str(folder))
    found = Harness(options).evaluate(run, {"other": 1})
    assert json.loads(run.evaluation_path.read_text()) == found and found["other"] == 1
    choose = found["capability"]["tasks"]["choose"]
    accuracy = choose["metrics"]["acc"]
    assert (choose["version"], choose["count"], accuracy["higher_is_better"]) == (2.0, 12, True)
    expected = best_answers(Harness(options).model(run), folder)
    assert accuracy["documents"] == expected and accuracy["value"] == pytest.approx(sum(expected) / 12)
    assert 0 < accuracy["stderr"] < 0.2
    perplexity = found["capability"]["tasks"]["word"]["metrics"]["perplexity"]
    assert perplexity["documents"] is None and perplexity["value"] > 1 and perplexity["stderr"] > 0
    monkeypatch.setattr(Harness, "measure", lambda *_: pytest.fail("measured again"))
    options.batch_size = 5
    assert Harness(options).evaluate(run, found) == found
    assert "measured already" in capsys.readouterr().err


def best_answers(model, folder) -> list[float]:
    """Whether the most probable of the three letters is the answer, by the model itself."""
    right = []
    for row in map(json.loads, (folder / "data.jsonl").read_text().splitlines()):
        before = [EOS, GOOD, *ids(row["question"], model.tokenizer)]
        chances = [logp(model.model, before, ids(f" {letter}", model.tokenizer)) for letter in "abc"]
        right.append(float(chances.index(max(chances)) == row["answer"]))
    return right


@pytest.mark.parametrize("change", [
    lambda run, options, folder: run.config.evaluation.__setattr__("prefix", "<|bad|>"),
    lambda run, options, folder: run.config.data.__setattr__("concat_token", "x"),
    lambda run, options, folder: options.__setattr__("limit", 3),
    lambda run, options, folder: (folder / "data.jsonl").write_text("{}"),
    lambda run, options, folder: (run.directory / "final/model.safetensors").write_bytes(b"other")])
def test_whatever_decides_the_numbers_makes_them_stale(lm_eval, trained, folder, change):
    run, options = trained(), Capability(["choose"], include_path=str(folder))
    from apo.cache import digest
    evaluation = {"capability": {"key": digest(Harness(options).settings(run))}}
    assert Harness(options).up_to_date(run, evaluation) and not Harness(options, force=True).up_to_date(run, evaluation)
    change(run, options, folder)
    assert not Harness(options).up_to_date(run, evaluation)


def test_two_models_stand_side_by_side_and_asking_costs_no_second_sampling(lm_eval, trained, folder, monkeypatch,
                                                                           make_evaluation, capsys):
    def measure(self, run):
        run.samples_path("functions").parent.mkdir(exist_ok=True)
        run.samples_path("functions").write_text("")
        return {key: value for key, value in make_evaluation().items() if key not in ("key", "settings")}
    monkeypatch.setattr(Rescorer, "measure", measure)
    directories = [str(trained().directory), str(trained("conditional", "<|good|>", seed=1).directory)]
    report.show(report.compare(directories), samples=0)
    assert "lm-eval" not in capsys.readouterr().out
    monkeypatch.setattr(Rescorer, "measure", lambda *_: pytest.fail("sampled again"))
    words = ["capability=lm_eval", "capability.tasks=choose,word", f"capability.include_path={folder}"]
    assert evaluate.main([*directories, "--samples", "0", *words]) == 0
    said = capsys.readouterr().out
    for text in ("lm-eval 0.4", "choose: acc of 12, higher is better", "word: perplexity of 12, lower is better",
                 "lm-eval: difference to mle [95 %]", "One seed: +- is one standard error"):
        assert text in said
    assert "perplexity" not in said.partition("lm-eval: difference to mle")[2], "it is no mean over documents"


@pytest.mark.parametrize("name, message", [
    ("chose", 'capability.tasks: "chose" is no task of lm-eval'),
    ("gone", "lm-eval cannot load gone: FileNotFoundError")])
def test_what_cannot_be_measured_is_said_before_anything_is(lm_eval, trained, folder, monkeypatch, name, message):
    (folder / "gone.yaml").write_text((folder / "word.yaml").read_text().replace("task: word", "task: gone").replace(
        "data.jsonl", "no.jsonl"))
    monkeypatch.setattr("lm_eval.tasks.TaskManager", folder_only(lm_eval))
    with pytest.raises(EvaluationError) as caught:
        Harness(Capability([name], include_path=str(folder))).prepare([trained()])
    assert message in str(caught.value)
    assert name != "chose" or 'Did you mean "choose"?' in str(caught.value)


def folder_only(lm_eval):
    """The index of a folder, whatever is asked for: reading lm-eval's own takes ten seconds."""
    from lm_eval.tasks import TaskManager
    return lambda include_path=None, include_defaults=True: TaskManager(include_path=include_path,
                                                                        include_defaults=False)


# ---- tables ----------------------------------------------------------------------------------------------------------

def test_only_what_is_a_mean_over_documents_can_be_paired():
    samples = [{"filter": "none", "acc": 1.0, "ppl": -2.0, "pair": (1, 2)}, {"filter": "none", "acc": 0, "ppl": -1.0,
                                                                             "pair": (1, 2)}]
    assert by_document(samples, "acc", "none", 0.5) == [1.0, 0.0]
    assert by_document(samples, "ppl", "none", 4.48) is None
    assert by_document(samples, "pair", "none", 1.0) is None and by_document(samples, "acc", "strict", 0.5) is None


@pytest.fixture
def measured(make_run, make_evaluation):
    """`measured({"mle": [values of seeds], ...})`: a comparison of a benchmark with these values."""

    def build_comparison(methods, documents=None, **settings):
        pairs = []
        for method, values in methods.items():
            for seed, value in enumerate(values, 1):
                one = {"value": value, "stderr": 0.05, "higher_is_better": True,
                       "documents": documents[method] if documents else None}
                task = {"version": 1, "count": 40, "documents": "d", "metrics": {"acc": one}}
                about = {"lm_eval": "0.4.13", "as_trained": True, "model": f"{method}{seed}"}
                found = {"settings": about | settings.get(method, {}), "tasks": {"lambada": task}}
                pairs.append((make_run(method, seed), make_evaluation(capability=found)))
        return build(pairs)
    return build_comparison


def test_over_seeds_intervals_and_differences_are_students_t(measured):
    values, differences = tables.benchmark_tables(measured({"mle": [0.5, 0.6, 0.7], "awr": [0.3, 0.3, 0.6]}))
    # -0.2, -0.3, -0.1: mean -0.2, t(2 degrees, 97.5 %) = 4.3027, standard error 0.1 / sqrt(3)
    assert differences.rows == [["lambada: acc of 40, higher is better", "-0.20 [-0.45, +0.05]"]]
    assert values.rows[0][1] == "0.60 [0.35, 0.85]" and "Student's t" in values.notes[0]


def test_within_a_seed_documents_are_paired(measured):
    ours, theirs = [1.0] * 30 + [0.0] * 10, [1.0] * 20 + [0.0] * 20
    values, differences = tables.benchmark_tables(measured({"mle": [0.5], "awr": [0.75]}, {"mle": theirs, "awr": ours}))
    assert values.rows == [["lambada: acc of 40, higher is better", "0.50 +- 0.05", "0.75 +- 0.05"]]
    found, = differences.rows
    assert found[1].startswith("+0.25 [+0.1") and found[1].endswith("]")


def test_without_values_of_documents_one_seed_has_no_difference(measured):
    assert len(tables.benchmark_tables(measured({"mle": [0.5], "awr": [0.75]}))) == 1


@pytest.mark.parametrize("settings", [{"limit": 10}, {"as_trained": False}])
def test_models_measured_otherwise_share_no_table(measured, settings):
    assert tables.benchmark_tables(measured({"mle": [0.5], "awr": [0.75]}, awr=settings)) == []
    assert tables.benchmark_tables(measured({"mle": [0.5], "awr": [0.75]}, awr={"how": {"prefix": "x"}})) != []
