"""A pipeline's record names its runs: `evaluate.py outputs/pipelines/spin-0a1b2c3d-s1.json`."""

import json

import pytest

from apo.errors import EvaluationError
from apo.report.runs import run_directories


@pytest.fixture
def outputs(tmp_path):
    """Two finished runs and one that is not, and records of two pipelines that share the first."""
    for name in ("hh/mle/aa-s1", "hh/spin/bb-s1", "hh/ppo/cc-s1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text("task: hh\n")
        (tmp_path / name / "manifest.json").write_text("{}")
    for name in ("hh/mle/aa-s1", "hh/spin/bb-s1"):
        (tmp_path / name / "final").mkdir()
    (tmp_path / "pipelines").mkdir()
    for name, runs in (("spin-1", ["hh/mle/aa-s1", "hh/spin/bb-s1"]), ("rlhf-2", ["hh/mle/aa-s1", "hh/ppo/cc-s1"])):
        (tmp_path / f"pipelines/{name}.json").write_text(json.dumps({"stages": [{"run": run} for run in runs]}))
    return tmp_path


def names(found, root):
    return [(kind, name.removeprefix(f"{root}/")) for kind, name in found]


def test_a_record_stands_for_its_finished_runs(outputs):
    found = run_directories([str(outputs / "pipelines/spin-1.json"), str(outputs / "pipelines/rlhf-2.json")])
    assert names(found, outputs) == [("run", "hh/mle/aa-s1"), ("run", "hh/spin/bb-s1")]


def test_the_folder_of_records_is_no_stumbling_block_in_outputs(outputs):
    found = run_directories([str(outputs / "hh"), str(outputs / "pipelines")])
    assert {name for _, name in names(found, outputs)} == {"hh/mle/aa-s1", "hh/spin/bb-s1", "hh/ppo/cc-s1"}
    alone = run_directories([str(outputs / "pipelines")])
    assert names(alone, outputs) == [("run", "hh/mle/aa-s1"), ("run", "hh/spin/bb-s1")]


@pytest.mark.parametrize("text", ["{", "[1]", '{"stages": 3}', '{"stages": [{}]}', "{}"])
def test_another_file_is_no_record(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(EvaluationError, match="is neither a run directory"):
        run_directories([str(tmp_path / "other.json")])
