"""What the config refuses, and in which words: every mistake at once, with option, value, place and remedy."""

import re

import pytest

from apo.config import load_config
from apo.data.sources.base import Source, sources
from apo.errors import ConfigError

PEP8 = ("task=pep8", "method=mle")


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides)
    return caught.value.problems


@pytest.mark.parametrize("spelling", ["training.learnig_rate=1", "+training.learnig_rate=1",
                                      "++training.learnig_rate=1"])
def test_a_misspelt_key_is_refused_in_every_spelling(spelling):
    [problem] = problems(*PEP8, spelling)
    assert 'Did you mean "training.learning_rate"?' in problem and "command line" in problem


def test_a_misspelt_key_in_a_file_names_the_file(tmp_path):
    file = tmp_path / "mine.yml"
    file.write_text("task: pep8\ntraining: {learnig_rate: 1.0e-3}\ndata: {block_size: big}\n")
    first, second = problems(f"task={file}", "method=mle")
    assert f'({file})' in first and 'Did you mean "training.learning_rate"?' in first
    assert f"data.block_size: expected a whole number, got 'big' ({file})" == second


@pytest.mark.parametrize("given, said", [
    ("training.learning_rate=abc", "training.learning_rate: expected a number, got 'abc' (command line)"),
    ("training.learning_rate=true", "training.learning_rate: expected a number, got true (command line)"),
    ("training.learning_rate=nan", "training.learning_rate: expected a number, got nan (command line)"),
    ("training.learning_rate=0", "training.learning_rate: must be above 0, got 0 (command line)"),
    ("training.max_steps=1.5", "training.max_steps: expected a whole number or null, got 1.5 (command line)"),
    ("training.precision=fp8", "expected auto or fp32 or bf16 or fp16, got 'fp8'"),
    ("training.optim=adam_torch", 'no optimiser "adam_torch". Did you mean "adamw_torch"?'),
    ("training.lr_scheduler_type=cosin", 'no schedule "cosin". Did you mean "cosine"?'),
    ("training.num_train_epochs=1 training.max_steps=5", "exactly one of num_tokens, max_steps, num_train_epochs"),
    ("training.num_tokens=null", "exactly one of num_tokens, max_steps, num_train_epochs sets the budget; none is set"),
    ("training.per_device_train_batch_size=3", "must divide training.effective_batch_size=8, got 3; 2 and 4 do"),
    ("training.tokens_already_seen=2e6", "must be less than training.num_tokens=1.5e+06"),
    ("training=5", "training: expected a mapping with effective_batch_size"),
    ("data.filter_threshold.percentile=101", "a percentile must be at least 0 and at most 100"),
    ("data.filter_threshold={}", "expected a number, {percentile: a number} or null, got {}"),
    ("data.eval_fraction=1", "must be at least 0 and below 1, got 1"),
    ("data.source=stdlb", 'no source "stdlb". Did you mean "stdlib"?'),
    ("data.source=file", "data.path: missing: your own text, data.path=mine.jsonl"),
    ("data.source=text", "data.path: missing: a folder, a pattern"),
    ("data.segment_by=paragraph", "expected document or line or sentence, got 'paragraph'"),
    ("model=hub", "model.name: missing: a name on the hub"),
    ("model=hubb", 'unknown model "hubb" (command line). Did you mean "hub"?'),
    ("model.from_scratch=true", "needs model.name"),
    ("model.vocab_size=100", "must be at least 257, got 100"),
    ("objective.name=awrr", 'unknown objective "awrr". Did you mean "awr"?'),
    ("objective.alpha=1", 'no option of objective "mle", which has none.'),
    ("scorer.max_line_lenght=1", 'Did you mean "max_line_length"?'),
    ("scorer=pep9", 'unknown scorer "pep9". Did you mean "pep8"?'),
    ("evaluation.metrics.lenght={}", 'unknown metric "lenght". Did you mean "length"?'),
    ("evaluation.metrics.self_bleu.m=4", 'no option of metric "self_bleu", which has n, references'),
    ("evaluation.scenarios.functions.num_sample=4", "evaluation.scenarios.functions.num_samples"),
    ("evaluation.scenarios.functions.num_samples=0", "must be at least 1, got 0"),
    ("evaluation.scenarios.functions.generation.top_p=1.5", "must be above 0 and at most 1, got 1.5"),
    ("evaluation.scenarios.functions.generation.min_new_tokens=999", "must be at most max_new_tokens=128, got 999"),
    ("evaluation.best=function", 'no scenario "function". Did you mean "functions"?'),
    ("evaluation.prefix=<|aligned|>", "data.conditional_training_config.threshold: missing"),
    ("logger=wandbb", 'unknown logger "wandbb" (command line). Did you mean "wandb"?'),
    ("logger=wandb,tensorboard", "logger=[wandb,tensorboard]"),
    ("tags=[1", "is neither a list, a mapping nor a quoted text"),
    ("seed=-1", "seed: must be at least 0"),
    ("seed=", "an empty sweep"),
    ("seed=range(3,3)", "an empty sweep"),
    ("method=glob(x*)", "an empty sweep"),
    ("seed=1,2", "make 2 configs, not one"),
    ("training.learning_rate=1e-3,1e-4", "add --sweep"),
    ("block_size=4", 'Did you mean "data.block_size"?'),
    ("sizes.num_samples=4", "evaluation.scenarios.NAME"),
    ("training.fp16=true", "here it is training.precision=fp16"),
    ("training.push_to_hub=true", "not needed here, leave it out"),
    ("~evaluation.scenarios.functios", 'nothing of that name to delete. Did you mean "functions"?'),
    ("data.path=${nothing.here}", "nothing.here"),
    ("foo", '"foo": options are written key=value'),
    ("--resume", 'unknown flag "--resume".'),
    ("--outputdir=x", 'Did you mean "--output-dir"?'),
    ("--task", "--task needs a value"),
    ("--plugins=no_such_package", 'plugins: there is no package "no_such_package"'),
])
def test_mistakes_are_told(given, said):
    assert any(said in problem for problem in problems(*PEP8, *given.split(" ")))


@pytest.mark.parametrize("given, said", [
    ("task=pep8 method=mle", "stdlib yields texts without prompts, which are in the loss as a whole: leave it out"),
    ("task=toxicity method=dpo", "synthetic_toxicity yields texts without prompts"),
    ("task=hh method=dpo init_from.method=null",
     "dpo compares completions, and their prompts are in no loss of its own or of a run it starts from: leave it out, "
     "or set init_from.method=mle")])
def test_prompts_are_in_the_loss_only_where_there_are_some_and_a_loss_for_them(given, said):
    [problem] = problems(*given.split(" "), "data.loss_on=all")
    assert problem.startswith(f"data.loss_on: {said}")


@pytest.mark.parametrize("given, said", [
    ("task=pep8 method=mle model=hub model.name=x", "stdlib yields texts without prompts: leave it out"),
    ("task=hh method=mle", "a tokenizer that is trained on the corpus has no chat template: name one that has "),
    ("task=hh method=reward_model model=hub model.name=x", "what reward_model trains is asked about plain transcript")])
def test_a_chat_template_where_it_has_nothing_to_write(given, said):
    [problem] = problems(*given.split(" "), "data.chat_template=tokenizer")
    assert problem.startswith(f"data.chat_template: {said}")


@pytest.mark.parametrize("given, said", [
    ("init_from.method=mle", "init_from.run: a run starts from one run, and init_from.method=mle is set too"),
    ("init_from.overrides=['training.max_steps=3']", "init_from.overrides: of a run that init_from.method trains"),
    ("init_from.seed=2", "init_from.seed: of a run that init_from.method trains; that of init_from.run is")])
def test_a_run_starts_from_one_run(given, said):
    [problem] = problems("task=hh", "method=dpo", "init_from.run=outputs/hh/mle/0123abcd-s1", given)
    assert problem.startswith(said)


def test_all_mistakes_at_once():
    found = problems("task=pep8", "method=awr", "+training.learnig_rate=1", "objective.bta=2", "data.block_size=x",
                     "--frce", "scorer.select=3.5", "evaluation.best=nothing")
    assert len(found) == 6


def test_mistakes_are_told_where_the_task_is_wrong_too():
    found = problems("task=pepp8", "method=mle", "training.learnig_rate=1", "objective.beta=x", "data.block_size=x")
    assert len(found) == 3 and found[0].startswith('unknown task "pepp8" (command line). Did you mean "pep8"?')


def test_without_task_and_method_they_are_listed():
    first, second = problems()
    assert "custom" in first and "pep8" in first and "conditional" in second


@pytest.mark.parametrize("given, said", [
    ("experiment=phf_pii_condtional", 'unknown experiment "phf_pii_condtional": Did you mean "phf_pii_conditional"?'),
    ("experiment=gibberish", 'unknown experiment "gibberish": --list shows them'),
    ("experiment=nowhere/e.yaml", "nowhere/e.yaml: there is no such file"),
    ("task=nowhere/mine.yml method=mle", "nowhere/mine.yml: there is no such file")])
def test_a_file_that_is_not_found_is_not_also_said_to_choose_nothing(given, said):
    """Task and method would have stood in it."""
    assert problems(*given.split(" ")) == [said]
    assert problems(*given.split(" "), "training.learnig_rate=1")[1:] == [
        'training.learnig_rate: no such option. Did you mean "training.learning_rate"? (command line)']


def test_custom_with_nothing_else_says_what_it_needs():
    [problem] = problems("task=custom", "method=mle")
    assert "data.path" in problem and "scorer=" in problem


def test_what_a_source_says_of_its_options_stands_among_the_other_mistakes(monkeypatch):
    found = problems("task=toxicity", "method=mle", "data.path=mine.jsonl", "training.learnig_rate=1")
    assert len(found) == 2 and found[1].startswith(
        "data.source: synthetic_toxicity makes its own text; to read mine.jsonl add data.source=file")

    class Choosy(Source):
        documents = fingerprint = None

        def __init__(self, data):
            raise ConfigError(["no verse", "no rhyme"])
    monkeypatch.setitem(sources._classes, "choosy", Choosy)
    assert problems(*PEP8, "data.source=choosy") == [
        "data.source: no verse (command line)", "data.source: no rhyme (command line)"]


def test_conditional_training_needs_its_tokens():
    [problem] = problems("task=pep8", "method=conditional", "data.conditional_training_config.misaligned_prefix=''")
    assert "two different control tokens" in problem


def test_phf_nodes_are_named(tmp_path):
    file = tmp_path / "pretrain.yml"
    file.write_text("""
dataset:
  datasets: [tomekkorbak/detoxify-pile-chunk3-0-50000]
  is_split_by_sentences: true
tokenizer: {path_or_name: gpt2}
model:
  from_scratch: true
  path_or_name: gpt2
  gpt2_config_kwargs: {reorder_and_upcast_attn: true, scale_attn_by: true}
generation:
  scenario_configs:
    - {name: unconditional, num_samples: 2048, generate_kwargs: {do_sample: true, max_length: 128}}
kl_gpt3_callback: {num_samples: 4096}
training:
  num_tokens: 3.3E+9
  effective_batch_size: 64
  fp16: true
  output_dir: training_output
""")
    text = "\n".join(problems(f"task={file}", "method=mle"))
    for theirs, ours in {"dataset": "data", "datasets": "data.path", "tokenizer": "model.tokenizer",
                         "generation": "evaluation.scenarios", "kl_gpt3_callback": "callbacks.kl",
                         "model.path_or_name": "model.name", "training.fp16": "training.precision=fp16",
                         "training.output_dir": "output_dir"}.items():
        assert re.search(rf"\b{re.escape(theirs)}: .*{re.escape(ours)}", text), theirs
    assert "num_tokens" not in text and "effective_batch_size" not in text


@pytest.mark.parametrize("text, said", [
    ("a: [1", "line 2: not YAML"), ("a: 1\na: 2\n", "duplicate"), ("- 1\n", "expected options"),
    ("defaults: [x]\n", "task:, method: and scale:"),
])
def test_files_that_are_no_configs(tmp_path, text, said):
    file = tmp_path / "mine.yml"
    file.write_text(text + "\n")
    assert any(said in problem and str(file) in problem for problem in problems(f"task={file}", "method=mle"))


def test_a_file_that_is_not_there_and_files_in_a_sweep():
    assert problems("task=nowhere/mine.yml", "method=mle")[0] == "nowhere/mine.yml: there is no such file"
    assert "one by one" in problems("task=a.yml,b.yml", "method=mle")[0]


def test_a_method_file_says_what_it_builds_on(tmp_path):
    file = tmp_path / "m.yml"
    file.write_text("objective: {alpha: 0.1}\n")
    assert "add a line `method: NAME`" in problems("task=pep8", f"method={file}")[0]
