"""The manifest: enough to see what a run was, names of environment variables but never values."""

import json
import subprocess

from apo import provenance
from apo.config import load_config
from apo.experiment import differences, new_manifest
from apo.rundir import RunDirectory, write_json


def test_manifest_names_variables_and_holds_no_values(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_thisisasecret")
    monkeypatch.setenv("WANDB_API_KEY", "anothersecret")
    config = load_config(["task=pep8", "method=mle", "scale=smoke", f"output_dir={tmp_path}"])
    run = RunDirectory(tmp_path / "0123abcd-s1")
    run.path.mkdir()
    manifest = new_manifest(run, config, {"a": 1})
    text = json.dumps(manifest)
    assert "HF_TOKEN" in manifest["environment"] and "WANDB_API_KEY" in manifest["environment"]
    assert "secret" not in text
    assert manifest["config_hash"] == "0123abcd" and manifest["seeds"]["seed"] == 1
    assert manifest["packages"]["torch"] and manifest["hardware"]["torch_threads"] >= 1


def test_a_second_start_is_added_not_written_over(tmp_path):
    config = load_config(["task=pep8", "method=mle", "scale=smoke", f"output_dir={tmp_path}"])
    run = RunDirectory(tmp_path / "0123abcd-s1")
    run.path.mkdir()
    first = new_manifest(run, config, {"a": 1})
    write_json(run.manifest_file, first)
    second = new_manifest(run, config, {"a": 1})
    assert second["times"]["started"] == first["times"]["started"] and len(second["times"]["resumed"]) == 1


def test_git_state_sees_uncommitted_changes(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)
    git("init", "-q")
    (tmp_path / "file").write_text("one\n")
    git("add", "file")
    git("commit", "-qm", "one")
    clean = provenance.git_state(tmp_path)
    (tmp_path / "file").write_text("two\n")
    changed = provenance.git_state(tmp_path)
    assert len(clean["commit"]) == 40 and clean["commit"] == changed["commit"]
    assert clean["diff_sha256"] != changed["diff_sha256"] and "+two" in provenance.code_diff(tmp_path)
    assert provenance.git_state(tmp_path / "nowhere") == {}


def test_differences_in_words():
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b: 2 -> 3", "c: (absent) -> 4"]
