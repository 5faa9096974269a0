"""What may differ in one table, what may not, and what the refusal says."""

import pytest

from apo.errors import EvaluationError
from apo.report.fairness import differences, refuse
from apo.schema import NOT_IDENTITY


def conditional(config):
    config.method = "conditional"
    config.data.conditional_training_config.threshold = 0.0
    config.evaluation.prefix = "<|aligned|>"
    config.evaluation.banned_tokens = ["<|aligned|>", "<|misaligned|>"]


@pytest.fixture
def verdicts(make_run, make_evaluation):
    """Verdict by key of mle against a run changed by `edit`."""

    def compare(edit, allow=(), tokens=4000, **changes):
        methods = {"mle": [(make_run(), make_evaluation())],
                   "other": [(make_run("other", edit=edit, tokens=tokens), make_evaluation(**changes))]}
        factors = differences(methods, allow)
        return {factor.key: factor.verdict for factor in factors if factor.key != "method"}, factors
    return compare


def test_the_method_itself_may_differ(verdicts):
    found, factors = verdicts(conditional)
    assert set(found.values()) == {"method"} and "evaluation.prefix" in found
    refuse(factors)


def test_objective_options_are_the_method(verdicts):
    found, _ = verdicts(lambda config: config.objective.update(name="awr", beta=10.0))
    assert found == {"objective.name": "method", "objective.beta": "method"}


def test_how_a_method_samples_what_it_learns_from_is_the_method(verdicts):
    def edit(config):
        config.objective.update(name="grpo")
        config.rollout.generations, config.rollout.judge.kind = 4, "rule"
    found, factors = verdicts(edit)
    assert set(found.values()) == {"method"} and {"rollout.generations", "rollout.judge.kind"} <= found.keys()
    refuse(factors)


@pytest.mark.parametrize("node, key, value", [
    ("training", "learning_rate", 1e-3), ("training", "num_tokens", 5e6), ("training", "max_steps", 7),
    ("training", "effective_batch_size", 256), ("data", "source", "hub"), ("data", "block_size", 64),
    ("model", "architecture", "gpt2"), ("model", "vocab_size", 512), ("evaluation", "heldout_tokens", 9)])
def test_anything_else_is_refused_by_name(verdicts, node, key, value):
    found, factors = verdicts(lambda config: setattr(getattr(config, node), key, value))
    assert found == {f"{node}.{key}": "undeclared"}
    with pytest.raises(EvaluationError, match=f"--allow {node}.{key}$"):
        refuse(factors)


def test_a_scenario_that_differs_is_refused(verdicts):
    def edit(config):
        config.evaluation.scenarios["functions"].generation.temperature = 0.7
    found, _ = verdicts(edit)
    assert found == {"evaluation.scenarios.functions.generation.temperature": "undeclared"}


def test_other_prompts_or_scorer_or_sampling_seed_are_refused(verdicts, make_evaluation):
    scenarios = make_evaluation()["scenarios"]
    scenarios["functions"]["prompts_sha256"] = "q"
    found, _ = verdicts(lambda config: None, scenarios=scenarios, settings={"seed": 3, "scorer_sha256": "t"})
    assert found == {"prompts.functions": "undeclared", "evaluation_seed": "undeclared",
                     "fingerprints.scorer": "undeclared"}


def test_what_was_really_trained_counts_not_only_the_config(verdicts):
    found, _ = verdicts(lambda config: None, tokens=2000)
    assert found == {"tokens_trained": "undeclared"}
    assert verdicts(lambda config: None, tokens=4010)[0] == {}


def test_budgets_that_differ_by_a_step_are_equal_also_between_seeds(make_run, make_evaluation):
    """Rows of unlike length fill a budget in tokens to within a step."""
    def compared(*tokens):
        ours = [(make_run(seed=seed), make_evaluation()) for seed in (1, 2)]
        others = [(make_run("other", seed, tokens=many), make_evaluation()) for seed, many in enumerate(tokens, 1)]
        return {factor.key for factor in differences({"mle": ours, "other": others})}
    assert "tokens_trained" not in compared(4000, 3980)
    assert "tokens_trained" in compared(4000, 3900)


def test_seed_sets_must_be_equal(make_run, make_evaluation):
    methods = {"mle": [(make_run(seed=1), make_evaluation()), (make_run(seed=2), make_evaluation())],
               "awr": [(make_run("awr", seed=1), make_evaluation())]}
    factor = next(each for each in differences(methods) if each.key == "seed")
    assert (factor.values, factor.verdict) == ({"mle": "1, 2", "awr": "1"}, "undeclared")


def test_allow_takes_keys_and_whole_nodes_and_is_shown(verdicts):
    def edit(config):
        config.training.learning_rate, config.training.max_steps = 1e-3, 7
    for allow in (["training"], ["training.learning_rate", "training.max_steps"]):
        found, factors = verdicts(edit, allow)
        assert found == {"training.learning_rate": "allowed", "training.max_steps": "allowed"}
        refuse(factors)


def test_beside_a_bare_model_its_training_must_be_declared_unknown(make_run, make_evaluation):
    run, bare = make_run(), make_run("gpt2")
    bare.bare, bare.model, bare.manifest = True, "gpt2", {"bare_model": "gpt2"}
    methods = {"mle": [(run, make_evaluation())], "gpt2": [(bare, make_evaluation())]}
    with pytest.raises(EvaluationError, match="--allow training,model$"):
        refuse(differences(methods))
    refuse(differences(methods, ["training", "model"]))
    bare.config.data.block_size = 7
    with pytest.raises(EvaluationError, match="--allow data.block_size$"):
        refuse(differences(methods, ["training", "model"]))


def test_a_misspelt_permission_is_refused(verdicts):
    with pytest.raises(EvaluationError, match='Did you mean "training.learning_rate"'):
        verdicts(lambda config: None, ["training.lerning_rate"])


def test_where_and_how_fast_a_run_went_is_not_shown(verdicts):
    def edit(config):
        config.output_dir, config.training.per_device_train_batch_size, config.scale = "x", 1, "small"
        config.evaluation.batch_size, config.tags = 3, ["t"]
    assert verdicts(edit)[0] == {}
    assert "training.per_device_train_batch_size" in NOT_IDENTITY


def test_how_often_a_run_logs_is_noted(verdicts):
    def edit(config):
        config.training.logging_steps, config.callbacks = 1, {"inspector": {"num_rows": 2}}
    found, factors = verdicts(edit)
    assert found == {"training.logging_steps": "noted", "callbacks": "noted", "callbacks.inspector.num_rows": "noted"}
    refuse(factors)


@pytest.mark.parametrize("part", ["data", "tokenizer"])
def test_other_data_or_another_tokenizer_is_refused(make_run, make_evaluation, part):
    one, other = make_run(), make_run("conditional", edit=conditional)
    other.manifest["fingerprints"][part] = "other"
    found = differences({"mle": [(one, make_evaluation())], "conditional": [(other, make_evaluation())]})
    assert [each.verdict for each in found if each.key == f"fingerprints.{part}"] == ["undeclared"]


def test_a_seed_that_disagrees_within_a_method_is_refused(make_run, make_evaluation):
    def slow(config):
        config.training.learning_rate = 1e-5
    methods = {"mle": [(make_run(seed=1), make_evaluation()), (make_run(seed=2, edit=slow), make_evaluation())]}
    with pytest.raises(EvaluationError, match="training.learning_rate: mle 0.0005 / 1e-05"):
        refuse(differences(methods))


@pytest.mark.parametrize("scale, undeclared", [
    ("demo", set()), ("paper", {"training.learning_rate", "training.effective_batch_size"})])
def test_phfs_six_methods_may_be_compared_as_they_come(scale, undeclared, tmp_path):
    """At paper scale AWR and RWR have PHF's own learning rates and batch, and that must be said."""
    from apo.config import load_config
    from apo.report.runs import Run
    methods = {}
    for name in ("mle", "filtering", "conditional", "unlikelihood", "awr", "rwr"):
        config = load_config(["task=pep8", f"method={name}", f"scale={scale}"])
        methods[name] = [(Run(tmp_path / name, config, "final", trained=config), {})]
    assert {factor.key for factor in differences(methods) if factor.verdict == "undeclared"} == undeclared
