"""Promise 5: bad input is refused with one message that names the file, key or row and what to do.  Exit code 2, no
traceback, nothing half-written.  All through the command's own `main`."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from apo.launch import main

SMOKE = ["--scale", "smoke", "training.max_steps=2"]
GOOD = [{"text": f"a line of text number {n}\n" * 8, "score": n % 5 / 5} for n in range(40)]


def jsonl(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refused(capsys, *arguments) -> str:
    """What stderr says, without the notes."""
    code = main([*arguments])
    said = capsys.readouterr().err
    assert code == 2, said
    assert "Traceback" not in said
    return said


def with_row(tmp_path, row, name="data.jsonl"):
    return jsonl(tmp_path / name, [*GOOD[:20], row, *GOOD[20:]])


class TestData:
    @pytest.fixture(autouse=True)
    def custom(self, tmp_path, capsys):
        def run(path, *more):
            arguments = ["--task", "custom", "--method", "mle", *SMOKE, f"data.path={path}", *more,
                         "--output-dir", str(tmp_path / "out")]
            said = refused(capsys, *arguments)
            assert not list((tmp_path / "out").rglob("final"))
            return said
        self.run, self.tmp_path = run, tmp_path

    @pytest.mark.parametrize("row, words", [
        ({"text": "no score here"}, ["row 21", "score"]),
        ({"text": "x", "score": float("nan")}, ["row 21", "nan"]),
        ({"text": "x", "score": "high"}, ["row 21", "high"]),
        ({"text": 7, "score": 0.5}, ["row 21", "text"]),
    ], ids=["missing column", "NaN", "not a number", "text that is a number"])
    def test_a_bad_row_is_named(self, row, words):
        path = with_row(self.tmp_path, row)
        said = self.run(path)
        assert "data.jsonl" in said and all(word in said.lower() for word in words), said

    def test_unequal_lengths(self):
        path = jsonl(self.tmp_path / "d.jsonl", [{"texts": ["a", "b"], "scores": [0.1, 0.2]}] * 5
                     + [{"texts": ["a", "b"], "scores": [0.1]}])
        said = self.run(path)
        assert "row 6" in said and "2" in said and "1" in said

    def test_several_bad_rows_in_one_message(self):
        rows = [*GOOD]
        rows[3], rows[11] = {"text": "x", "score": None}, {"text": "x", "score": "?"}
        said = self.run(jsonl(self.tmp_path / "d.jsonl", rows))
        assert "row 4" in said and "row 12" in said

    def test_broken_json(self):
        path = self.tmp_path / "d.jsonl"
        path.write_text(json.dumps(GOOD[0]) + "\n{\"text\": \n")
        assert "row 2" in self.run(path)

    def test_empty_file(self):
        path = self.tmp_path / "empty.jsonl"
        path.write_text("")
        assert "empty.jsonl" in self.run(path)

    def test_a_file_that_is_not_there_names_the_nearest(self):
        jsonl(self.tmp_path / "comments.jsonl", GOOD)
        assert "comments.jsonl" in self.run(self.tmp_path / "coments.jsonl")

    def test_not_gzip(self):
        path = jsonl(self.tmp_path / "d.jsonl.gz", GOOD)
        assert "gzip" in self.run(path)

    def test_truncated_gzip(self):
        path = self.tmp_path / "d.jsonl.gz"
        whole = gzip.compress("".join(json.dumps(row) + "\n" for row in GOOD).encode())
        path.write_bytes(whole[:len(whole) // 2])
        assert "d.jsonl.gz" in self.run(path)

    def test_unknown_kind_of_file(self):
        path = self.tmp_path / "data.xlsx"
        path.write_bytes(b"PK")
        assert "data.xlsx" in self.run(path)

    def test_a_threshold_that_leaves_nothing(self):
        said = self.run(jsonl(self.tmp_path / "d.jsonl", GOOD), "data.filter_threshold=-1")
        assert "data.filter_threshold" in said and "percentile" in said

    def test_no_score_and_no_scorer(self):
        said = self.run(jsonl(self.tmp_path / "d.jsonl", [{"text": row["text"]} for row in GOOD]))
        assert "scorer" in said

    def test_a_scorer_that_is_not_there(self):
        path = jsonl(self.tmp_path / "d.jsonl", [{"text": row["text"]} for row in GOOD])
        assert "no_such_module" in self.run(path, "scorer=no_such_module:score")

    def test_a_scorer_that_returns_nan(self, monkeypatch):
        (self.tmp_path / "nan_scorer.py").write_text("def score(text):\n    return float('nan')\n")
        monkeypatch.syspath_prepend(str(self.tmp_path))
        path = jsonl(self.tmp_path / "d.jsonl", [{"text": row["text"]} for row in GOOD])
        said = self.run(path, "scorer=nan_scorer:score")
        assert "nan" in said.lower() and "nan_scorer:score" in said


class TestRuns:
    def test_model_that_cannot_be_had(self, capsys, tmp_path):
        said = refused(capsys, "--task", "pep8", "--method", "mle", *SMOKE, "model=hub", "model.name=nobody/nothing",
                       "--output-dir", str(tmp_path))
        assert "nobody/nothing" in said and "cannot be loaded" in said

    def test_gated_model_names_the_token(self, capsys, tmp_path, monkeypatch):
        import httpx
        from huggingface_hub.errors import GatedRepoError
        from transformers import AutoTokenizer

        def gated(*_, **__):
            request = httpx.Request("GET", "http://localhost")
            raise GatedRepoError("gated", response=httpx.Response(403, request=request))
        monkeypatch.setattr(AutoTokenizer, "from_pretrained", gated)
        said = refused(capsys, "--task", "pep8", "--method", "mle", *SMOKE, "model=hub", "model.name=some/gated",
                       "--output-dir", str(tmp_path))
        assert "HF_TOKEN" in said and "some/gated" in said

    def test_unknown_option_of_the_model(self, capsys, tmp_path):
        said = refused(capsys, "--task", "pep8", "--method", "mle", *SMOKE, "model.config.hiden_size=64",
                       "--output-dir", str(tmp_path))
        assert "hiden_size" in said and "hidden_size" in said

    def test_block_longer_than_the_context(self, capsys, tmp_path):
        said = refused(capsys, "--task", "pep8", "--method", "mle", *SMOKE, "data.block_size=2048",
                       "--output-dir", str(tmp_path))
        assert "data.block_size" in said and "1024" in said

    def test_read_only_disk(self, capsys, tmp_path, monkeypatch):
        """An injected error: a test that runs as root may write anywhere."""
        mkdir = Path.mkdir

        def read_only(self, *arguments, **options):
            if tmp_path in self.parents:
                raise OSError(30, "Read-only file system", str(self))
            return mkdir(self, *arguments, **options)
        monkeypatch.setattr(Path, "mkdir", read_only)
        said = refused(capsys, "--task", "pep8", "--method", "mle", *SMOKE, "--output-dir", str(tmp_path / "out"))
        assert "Read-only file system" in said and "--output-dir" in said

    @pytest.mark.parametrize("kind", [OSError, RuntimeError], ids=["plain", "of a writer in a library"])
    def test_disk_full_in_a_checkpoint(self, capsys, tmp_path, monkeypatch, kind):
        from apo import checkpoint

        def full(folder):
            raise kind(28, "No space left on device", str(folder))
        arguments = ["--task", "pep8", "--method", "mle", *SMOKE, "--output-dir", str(tmp_path)]
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "seal", full)
            said = refused(capsys, *arguments)
        assert "No space left on device" in said and "goes on" in said
        assert main(arguments) == 0

    def test_owned_by_another_process(self, capsys, tmp_path):
        from apo.config import load_config, run_directory
        from apo.rundir import RunDirectory
        arguments = ["task=pep8", "method=mle", "scale=smoke", "training.max_steps=2", f"output_dir={tmp_path}"]
        run = RunDirectory(run_directory(load_config(arguments)))
        holder = subprocess.Popen([sys.executable, "-c", f"""
import time
from pathlib import Path
from apo.rundir import RunDirectory
with RunDirectory(Path({str(run.path)!r})).owned() as run:
    run.set_status("running", 0, 2)
    print("held", flush=True)
    time.sleep(60)
"""], stdout=subprocess.PIPE, text=True)
        assert holder.stdout.readline() == "held\n"
        said = refused(capsys, *arguments)
        holder.kill()
        assert f"process {holder.pid}" in said

    def test_every_checkpoint_corrupt_begins_anew(self, capsys, tmp_path):
        arguments = ["--task", "pep8", "--method", "mle", *SMOKE, "--output-dir", str(tmp_path)]
        assert main(arguments) == 0
        (run,) = (tmp_path / "pep8" / "mle").iterdir()
        before = (run / "metrics.jsonl").read_text()
        for checkpoint in (run / "checkpoints").iterdir():
            (checkpoint / "model.safetensors").write_bytes(b"garbage")
        (run / "final" / "model.safetensors").unlink()
        (run / "status.json").write_text(json.dumps({"state": "running", "step": 2, "max_steps": 2}))
        capsys.readouterr()
        assert main(arguments) == 0
        assert "set aside" in capsys.readouterr().err
        assert (run / "metrics.jsonl").read_text() == before

    def test_another_run_in_the_directory_is_shown(self, capsys, tmp_path):
        arguments = ["--task", "pep8", "--method", "mle", *SMOKE, "--output-dir", str(tmp_path)]
        assert main(arguments) == 0
        (run,) = (tmp_path / "pep8" / "mle").iterdir()
        manifest = json.loads((run / "manifest.json").read_text())
        manifest["identity"]["training.learning_rate"] = 0.5
        (run / "manifest.json").write_text(json.dumps(manifest))
        capsys.readouterr()
        said = refused(capsys, *arguments)
        assert "training.learning_rate: 0.5 -> 0.002" in said and "force=true" in said


class TestConfig:
    def test_three_mistakes_at_once(self, root, tmp_path):
        method = tmp_path / "mine.yaml"
        method.write_text("method: mle\ntraining:\n  lerning_rate: 0.1\n")
        done = subprocess.run([sys.executable, "train.py", "--task", "pep8", "--method", str(method),
                               "training.wieght_decay=0.1", "+evaluation.bach_size=3"], cwd=root,
                              capture_output=True, text=True)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        for wrong, right in (("lerning_rate", "learning_rate"), ("wieght_decay", "weight_decay"),
                             ("bach_size", "batch_size")):
            assert wrong in done.stderr and f'.{right}"' in done.stderr, done.stderr
        assert "mine.yaml" in done.stderr and done.stderr.count("\n  - ") == 3

    def test_traceback_only_with_debug(self, capsys, tmp_path):
        assert main(["--task", "pep8", "--method", "mle", "--debug", "training.bogus=1"]) == 2
        assert "Traceback" in capsys.readouterr().err


def test_environment_is_that_of_the_suite():
    """These runs must not reach a hub: the messages above are those of a machine without network."""
    assert os.environ["HF_HUB_OFFLINE"] == "1"
