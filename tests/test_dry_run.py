"""The dry run: PHF's own step counts, derived from tokens and batch; what needs the network is marked, not guessed."""

import pytest

from apo.config import load_config
from apo.dry_run import dry_run, facts
from apo.errors import ConfigError

METHODS = ("mle", "filtering", "conditional", "unlikelihood", "awr", "rwr")


@pytest.mark.parametrize("method", METHODS)
def test_steps_of_the_paper(method):
    """papers: 3.3e9 tokens in rows of 1,024; 50,354 steps of 64 rows, 12,588 of AWR's 256."""
    found = facts(load_config(["task=pep8", f"method={method}", "scale=paper"]))
    assert found["optimiser steps"] == ("12,588" if method == "awr" else "50,354")
    halved = facts(load_config(["task=pep8", f"method={method}", "scale=paper", "training.effective_batch_size=128"]))
    assert halved["optimiser steps"] == "25,177"


def test_rows_of_unlike_length_have_no_number_of_tokens_beforehand(tmp_path):
    """And what the run starts from is named, with whether it is there."""
    words = ["task=hh", "method=dpo", "scale=demo", f"output_dir={tmp_path}"]
    found = facts(load_config(words))
    assert found["tokens per step"] == "at most 2,048 = 8 rows x 256 tokens"
    assert found["optimiser steps"].startswith("unknown") and found["training tokens"] == "unknown"
    assert found["starts from"].startswith(str(tmp_path / "hh" / "mle"))
    assert found["starts from"].endswith("(trained first)")
    assert facts(load_config([*words, "training.max_steps=5"]))["training tokens"] == "at most 10,240"
    assert "starts from" not in facts(load_config(["task=hh", "method=mle"]))


def test_what_needs_the_network_is_marked():
    found = facts(load_config(["task=pep8", "method=mle", "scale=paper"]))
    assert found["documents"] == "unknown without the network"
    assert found["parameters"].startswith("unknown: the config of codeparrot/codeparrot-small")
    assert found["memory"].startswith("unknown") and found["training time"].startswith("unknown")


def test_a_fresh_model_is_known_whole(capsys):
    config = load_config(["task=pep8", "method=awr", "scale=smoke"])
    dry_run(config)
    printed = capsys.readouterr().out
    assert "learning_rate: 0.002" in printed and "optimiser steps        6" in printed
    found = facts(config)
    assert int(found["parameters"].replace(",", "")) == pytest.approx(100_000, rel=0.3)
    assert found["memory"].startswith("about") and found["training time"].startswith("about")


def test_what_a_source_refuses_is_told_as_it_is():
    config = load_config(["task=toxicity", "method=mle", "scale=smoke"])
    config.data.path = "mine.jsonl"
    with pytest.raises(ConfigError) as told:
        facts(config)
    assert len(told.value.problems) == 1 and told.value.problems[0].startswith("synthetic_toxicity makes its own text")


def test_writes_nothing(tmp_path):
    dry_run(load_config(["task=pep8", "method=mle", "scale=smoke", f"output_dir={tmp_path / 'out'}"]))
    assert not (tmp_path / "out").exists()
