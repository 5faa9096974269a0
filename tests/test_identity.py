"""What names a run: its hash, its directory, and its config.yaml, from which the same config comes back."""

import dataclasses
import re

import pytest

from apo.config import config_from_file, config_hash, load_config, override, run_directory, to_yaml
from apo.errors import ConfigError

PEP8 = ("task=pep8", "method=mle")


def test_the_hash_does_not_depend_on_order_spelling_or_what_is_outside():
    base = [*PEP8, "method=awr"]
    hashes = {config_hash(load_config(words)) for words in (
        [*base, "objective.beta=0.3", "data.block_size=64"],
        ["data.block_size=64", "objective.beta=0.30", *base],
        [*base, "++objective.beta=3e-1", "+data.block_size=64.0"],
        [*base, "objective.beta=0.3", "data.block_size=64", "--offline", "--force", "name=x", "logger=wandb",
         "output_dir=elsewhere", "training.per_device_train_batch_size=4", "evaluation.batch_size=3", "seed=7"],
        [*base, "objective.beta=0.3", "data.block_size=64", "objective.is_detached=false", "training.adam_beta1=0.9"],
    )}
    assert len(hashes) == 1 and re.fullmatch("[0-9a-f]{8}", hashes.pop())


@pytest.mark.parametrize("change", ["objective.beta=0.4", "training.adam_beta1=0.8", "scorer.max_line_length=80",
                                    "evaluation.scenarios.other={}", "evaluation.metrics.length=null",
                                    "evaluation.metrics.distinct_n.ns=[1]", "model.config.num_hidden_layers=3"])
def test_the_hash_depends_on_what_makes_another_run(change):
    base = ["task=pep8", "method=awr"]
    assert config_hash(load_config(base)) != config_hash(load_config([*base, change]))


def test_the_hash_knows_a_run_by_its_name_and_not_by_its_place():
    """Of the run that it starts from, or that judges; its seed counts where it is another than this run's."""
    def named(*options):
        return config_hash(load_config(["task=hh", "method=dpo", *options]))
    for option in ("init_from.run=", "evaluation.heldout_scorers.rm=reward_model evaluation.heldout_scorers.rm.model="):
        def at(place, *more, option=option):
            return named(*f"{option}{place}".split(), *more)
        assert at("outputs/hh/mle/0123abcd-s1") == at("/elsewhere/hh/mle/0123abcd-s1/") == at("hh/mle/0123abcd-s1")
        assert at("o/hh/mle/0123abcd-s2", "seed=2") == at("o/hh/mle/0123abcd-s1") != at("o/hh/mle/0123abcd-s2")
        others = ["o/hh/mle/0123abce-s1", "o/hh/filtering/0123abcd-s1", "o/pii/mle/0123abcd-s1", "o/mine"]
        assert len({at(place) for place in ["o/hh/mle/0123abcd-s1", *others]}) == 5


def test_a_named_start_takes_the_place_of_the_methods_own():
    start = load_config(["task=hh", "method=dpo", "init_from.run=o/mine"]).init_from
    assert (start.method, start.run, start.is_given) == (None, "o/mine", True)
    assert load_config(["task=hh", "method=dpo", "init_from.run=null"]).init_from.method == "mle"


def test_a_new_option_with_a_default_renames_nothing(monkeypatch):
    from apo.objectives.weighted_regression import AWR
    config = load_config(["task=pep8", "method=awr"])
    before = config_hash(config)

    @dataclasses.dataclass
    class Newer(AWR):
        new_option: float = 3.0
    monkeypatch.setattr("apo.identity.option_class", lambda node, name: Newer if node == "objective" else
                        __import__("apo.scorers.make", fromlist=["x"]).scorer_class(name) if node == "scorer" else
                        __import__("apo.metrics.base", fromlist=["x"]).metrics.get(name))
    config.objective["new_option"] = 3.0
    assert config_hash(config) == before
    config.objective["new_option"] = 2.0
    assert config_hash(config) != before


def test_run_directory():
    config = load_config([*PEP8, "seed=5", "output_dir=somewhere"])
    assert str(run_directory(config)) == f"somewhere/pep8/mle/{config_hash(config)}-s5"


@pytest.mark.parametrize("words", [["task=pep8", "method=conditional"], ["task=pep8", "method=awr", "scale=paper"],
                                   [*PEP8, "name=1e-4", "group='yes'", "tags=[null_, '1']",
                                    "evaluation.scenarios.x.generation.stop_strings=['\\${', 'a\\nb']"]])
def test_a_config_survives_its_file(tmp_path, words):
    config = load_config(words)
    (tmp_path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    again = config_from_file(tmp_path / "config.yaml")
    assert again == config and config_hash(again) == config_hash(config)
    assert override(again, []) == config


def test_override_checks_like_the_command_line():
    config = load_config(PEP8)
    changed = override(config, ["+evaluation.scenarios.functions.num_samples=512",
                                "~evaluation.scenarios.unconditional", "evaluation.best=functions"])
    assert changed.evaluation.scenarios["functions"].num_samples == 512 and len(changed.evaluation.scenarios) == 1
    with pytest.raises(ConfigError) as caught:
        override(config, ["evaluation.scenarios.functions.num_sampels=1", "seed=1,2", "evaluation.batch_size=x"])
    assert len(caught.value.problems) >= 1
    with pytest.raises(ConfigError, match="Did you mean"):
        override(config, ["evaluation.batch_siz=x"])


def test_a_damaged_config_file(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(load_config(PEP8)).replace("block_size: 256", "block_size: wide"))
    with pytest.raises(ConfigError, match="data.block_size: expected a whole number, got 'wide' .*config.yaml"):
        config_from_file(tmp_path / "config.yaml")
