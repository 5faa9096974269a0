"""`python scripts/score_dataset.py`: what it says, what it refuses, and that a kill costs it nothing."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from apo.annotation.request import Job, Merge, read, source_of
from apo.annotation.rows import Shard
from apo.errors import ConfigError


def command(root, *words, **options):
    return subprocess.run([sys.executable, root / "scripts" / "score_dataset.py", *words], capture_output=True,
                          text=True, timeout=120, **options)


def refused(*words):
    with pytest.raises(ConfigError) as error:
        read(list(words))
    return error.value.problems


def test_help_names_every_option(root):
    done = command(root, "--help")
    assert done.returncode == 0 and not done.stderr
    for option in ("task", "input", "output", "scorer", "workers", "shard", "merge", "force", "data.segment_by"):
        assert f"\n  {option} " in done.stdout


def test_every_mistake_at_once_in_the_real_command(root, tmp_path):
    done = command(root, "inputt=x", "output=a.txt", "scorer=pep9", "data.segment_bi=line", cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout and "Traceback" not in done.stderr
    for said in ('5 problems', 'inputt: no such option. Did you mean "input"?', "output: a.txt: the format is told by",
                 'unknown scorer "pep9". Did you mean "pep8"?', 'Did you mean "data.segment_by"?', "input: missing"):
        assert said in done.stderr
    assert not list(tmp_path.glob("a.txt*"))


@pytest.mark.parametrize("words, message", [
    ([], "output: missing"), ([], "input: missing"), ([], "scorer: missing"),
    (["task=pep9"], 'unknown task "pep9"'), (["task=custom", "scorer=pep8"], "input: missing"),
    (["data.path=x"], "data.path: written input=... here"),
    (["outptu=x"], 'outptu: no such option. Did you mean "output"'),
    (["segment_by=line"], 'segment_by: no such option. Did you mean "data.segment_by"'),
    (["training.max_steps=3"], "training.max_steps: no such option."),
    (["workers"], '"workers": options are written key=value (workers=...)'),
    (["workers=0"], "workers: expected a whole number from 1 on, got '0'"), (["workers=x"], "got 'x'"),
    (["shard=0/3"], "shard: expected i/n with i from 1 to n"), (["shard=4/3"], "got '4/3'"), (["shard=1"], "got '1'"),
    (["force=yes"], "force: expected true or false, got 'yes'"),
    (["output=a.json"], "output: a.json: the format is told by the ending, one of .parquet, .jsonl, .jsonl.gz"),
    (["input=a.jsonl", "output=./a.jsonl"], "output: a.jsonl is the input"), (["input=x/*.jsonl"], "no file matches"),
    (["input=[a.jsonl,b.txt]"], "of different kinds (file, text)"),
    (["task=pep8", "scorer.max_line_lenght=9"], 'Did you mean "max_line_length"'),
    (["scorer=no_colon"], 'unknown scorer "no_colon"'), (["scorer=os:system"], "standard library"),
    (["data.segment_by=word"], "expected document or line or sentence, got 'word'"),
    (["data.source=fil"], 'no source "fil". Did you mean "file"'),
    (["merge=a.jsonl", "input=b.jsonl"], "input: no option of merge"),
    (["merge=", "output=a.jsonl"], "merge: name the"),
    (["merge=a.jsonl,b.jsonl", "output=b.jsonl"], "output: b.jsonl is one of the shards")])
def test_mistakes(words, message):
    problems = refused(*words)
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize("words, message", [
    (["input=raw.jsnol"], "raw.jsnol: no such file. Did you mean \"raw.jsonl\"?"),
    (["input=nowhere/a.jsonl"], "there is no folder nowhere"),
    (["input=raw.jsonl", "scorer=not_there:score"], 'no module "not_there"'),
    (["input=nobody/nothing", "offline=true"], "The run is offline"),
    (["input=a.parquet"], "a.parquet: not a Parquet file"),
    (["input=raw.jsonl", "data.text_column=txt"], 'has no column "txt" (data.text_column)')])
def test_what_only_reading_shows(root, tmp_path, words, message):
    (tmp_path / "raw.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "a.parquet").write_text("no")
    done = command(root, "scorer=pep8", "output=a.jsonl", *words, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "a.jsonl").exists()


def test_debug_shows_the_traceback(root, tmp_path):
    done = command(root, "scorer=pep8", "input=nope.jsonl", "output=a.jsonl", "debug=true", cwd=tmp_path)
    assert "Traceback" in done.stderr and "no such file" in done.stderr


def test_what_the_words_mean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text("{}\n")
    job = read(["--task=pep8", "input=a.jsonl", "output=b.parquet", "workers=3", "shard=2/5", "scorer.select=[E5]"])
    assert isinstance(job, Job) and (job.workers, job.shard, job.force) == (3, Shard(2, 5), False)
    assert (job.data.source, job.data.path, job.data.segment_by) == ("file", ["a.jsonl"], "line")
    assert job.scorer.select == ["E5"]
    other = read(["shard=1/5", "scorer.select=[E5]", "input=a.jsonl", "task=pep8", "output=c.jsonl"])
    assert other.command == job.command
    merge = read(["merge=x.jsonl,y.jsonl", "output=z.parquet", "force=true"])
    assert isinstance(merge, Merge) and [shard.path.name for shard in merge.shards] == ["x.jsonl", "y.jsonl"]


@pytest.mark.parametrize("files, name, source", [
    ([], "owner/name", "hub"), ([], "imdb", "hub"), ([], "a.jsonl.gz", "file"), ([], "nope.py", "text"),
    ([], "./nope", "text"), ([], "src/**/*.py", "text"), (["d/train.parquet", "d/README.md"], "d", "hub"),
    (["d/a.jsonl", "d/b.jsonl.gz", "d/.hidden.py"], "d", "hub"),
    (["d/a.py", "d/table.csv", "d/package.json"], "d", "text"),
    (["d/a.txt", "d/b.txt"], "d", "text"), (["d/a.json"], "d", "text"), (["d"], "d", "text")])
def test_how_an_input_is_read(tmp_path, monkeypatch, files, name, source):
    monkeypatch.chdir(tmp_path)
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("x")
    assert source_of(name) == source


# ---- killed ----------------------------------------------------------------------------------------------------------


def started(root, tmp_path, here, log, sleep):
    words = [sys.executable, root / "scripts" / "score_dataset.py", f"scorer={here}", "data.segment_by=sentence",
             "input=long.jsonl", "output=killed.jsonl.gz", "workers=2"]
    return subprocess.Popen(words, cwd=tmp_path, stderr=log, env={**os.environ, "SLEEP_S": sleep})


def test_kill_9_in_the_middle_and_the_same_command_again(root, tmp_path, here, annotate, files):
    """The real command, with its own chunks and parts, killed from outside when some parts are there and not all."""
    lines = [json.dumps({"text": f"Number {number} {'and so on ' * 500}! " * 20}) + "\n" for number in range(40)]
    (tmp_path / "long.jsonl").write_text("".join(lines[:1] + ["broken\n"] + lines[1:]))
    annotate("input=long.jsonl", "output=whole.jsonl.gz")
    parts = tmp_path / "killed.jsonl.gz.parts"
    with open(tmp_path / "log", "w") as log:
        process = started(root, tmp_path, here, log, sleep="0.02")
        deadline = time.monotonic() + 100
        while not list(parts.glob("0*.jsonl")):
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        done = max(int(part.stem.split("-")[1]) for part in parts.glob("0*.jsonl"))
        assert 0 < done < 41 and not (tmp_path / "killed.jsonl.gz").exists()
        assert started(root, tmp_path, here, log, sleep="0").wait() == 0
    said = (tmp_path / "log").read_text()
    assert f"going on from row {done + 1}" in said and "40 documents" in said
    killed, whole = files("killed.jsonl.gz"), files("whole.jsonl.gz")
    assert killed == whole and not parts.exists()
    [record] = [json.loads(line) for line in (tmp_path / "killed.jsonl.gz.log.jsonl").read_text().splitlines()]
    assert record["from_row"] == done + 1 and record["workers"] == 2
