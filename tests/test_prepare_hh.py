"""scripts/prepare_hh.py: what is written where, what is left out and why, there and back, and what is refused."""

import gzip
import json
from pathlib import Path

import pytest

from apo.data.sources.base import sources
from apo.schema import DataConfig


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("prepare_hh")


def pair(prompt, chosen="Yes.", rejected="No."):
    head = f"\n\nHuman: {prompt}\n\nAssistant: "
    return {"chosen": head + chosen, "rejected": head + rejected}


def pro(prompt, suffix=("Yes.", "No."), **others):
    return {"prefix": [[f"<|prompter|>{prompt}", "<|assistant|>"]] * len(suffix), "suffix": list(suffix), **others}


def write(path, *rows):
    path.parent.mkdir(exist_ok=True, parents=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return str(path)


def read(path):
    """`str.splitlines` would also cut at the Unicode separators inside the rows."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def prompts(path):
    return [row["prefix"][0][0].removeprefix("<|prompter|>") for row in read(path)]


def written(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def refused(script, capsys, *arguments):
    assert script.main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


@pytest.fixture
def released(tmp_path):
    """Four files as hh-rlhf has them: of six test prompts two are also in training, and one stands in both subsets."""
    return [write(tmp_path / "in" / name, *rows) for name, rows in {
        "harmless-base/train.jsonl.gz": [pair("a"), pair("b", "Like so:"), pair("c", "x: "), pair("d", "y", "z:"),
                                         {"chosen": "\n\nHuman: e", "rejected": "\n\nHuman: e"}],
        "harmless-base/test.jsonl.gz": [pair("t1"), pair("a  "), pair("t2", "List:")],
        "helpful-base/train.jsonl.gz": [pair("f", "One.\n\nTwo.")],
        "helpful-base/test.jsonl.gz": [pair("t1"), pair("f"), pair("t3"), pair("b")]}.items()]


def test_the_released_files(script, released, tmp_path, capsys):
    out = tmp_path / "out"
    assert script.main([*released, str(out), "--dev", "0"]) == 0
    assert written(out) == ["hh_test/harmless_base.json", "hh_test/helpful_base.json", "hh_train/train.json"]
    assert prompts(out / "hh_train/train.json") == ["a", "c", "f"]
    assert prompts(out / "hh_test/harmless_base.json") == ["t1", "t2"]
    assert prompts(out / "hh_test/helpful_base.json") == ["t1", "t3", "b"]
    assert capsys.readouterr().out == f"""\
read             5  train harmless_base
read             3  test harmless_base
read             1  train helpful_base
read             4  test helpful_base
dropped          1  test harmless_base: prompt is in training
dropped          1  test helpful_base: prompt is in training
dropped          2  train harmless_base: an answer ends in ":"
dropped          1  train harmless_base: no assistant turn
written          3  {out}/hh_train/train.json
written          2  {out}/hh_test/harmless_base.json
written          3  {out}/hh_test/helpful_base.json
in all          13  read, 5 dropped, 8 written
"""


def test_rows_are_those_of_pro_with_every_paragraph(script, released, tmp_path):
    assert script.main([*released, str(tmp_path / "out"), "--dev", "0"]) == 0
    turns = ["<|prompter|>f", "<|assistant|>"]
    assert read(tmp_path / "out/hh_train/train.json")[2] == {
        "prefix": [turns, turns], "suffix": ["One.\n\nTwo.", "No."], "sft_index": 0,
        "meta": {"path": "helpful-base/train.jsonl.gz", "line_num": 1, "task": "dialogue"}}


@pytest.mark.parametrize("colon, left", [("train", 8), ("all", 7), ("none", 9)])
def test_where_a_colon_counts(script, released, tmp_path, capsys, colon, left):
    """With none left out of training, the test prompt "b" is one of training's."""
    assert script.main([*released, str(tmp_path / "out"), "--dev", "0", "--colon", colon]) == 0
    assert capsys.readouterr().out.endswith(f" {left} written\n")


def test_dev_prompts_are_drawn_from_the_test_files_and_taken_out_of_them(script, released, tmp_path, capsys):
    found = {}
    for seed in range(6):
        out = tmp_path / f"out{seed}"
        assert script.main([*released, str(out), "--dev", "2", "--seed", str(seed)]) == 0
        dev = prompts(out / "hh_dev/sampled_dev.json")
        tested = [prompt for path in (out / "hh_test").glob("*.json") for prompt in prompts(path)]
        assert len(dev) == 2 and sorted({*dev, *tested}) == ["b", "t1", "t2", "t3"] and not {*dev} & {*tested}
        assert ("test helpful_base: prompt is in dev" in capsys.readouterr().out) == ("t1" in dev)
        found[seed] = dev
    assert len({tuple(dev) for dev in found.values()}) > 1
    assert script.main([*released, str(tmp_path / "again"), "--dev", "2"]) == 0
    assert written(tmp_path / "again") == written(tmp_path / "out0")
    assert all((tmp_path / "again" / name).read_bytes() == (tmp_path / "out0" / name).read_bytes()
               for name in written(tmp_path / "again"))
    assert script.main([*released, str(tmp_path / "again"), "--dev", "2"]) == 0     # over its own files


def test_a_dev_file_that_is_given(script, tmp_path):
    """As in PRO's data: every dev prompt is also in the test files."""
    dev = write(tmp_path / "data/hh_dev/sampled_dev.json", pro("t1", reward=[-1, 2], meta={"line_num": 9}))
    test = write(tmp_path / "data/hh_test/helpful_base.json", pro("t1", reward=[1, 0]), pro("t2", reward=[0, 1]))
    out = tmp_path / "out"
    assert script.main([test, dev, str(out)]) == 0
    assert prompts(out / "hh_dev/sampled_dev.json") == ["t1"]
    assert prompts(out / "hh_test/helpful_base.json") == ["t2"]
    [row] = read(out / "hh_dev/sampled_dev.json")
    assert (row["reward"], row["suffix"], row["meta"]) == ([-1.0, 2.0], ["Yes.", "No."], {"line_num": 9})


def test_back_to_transcripts(script, tmp_path):
    rows = [pair("Hi.\n\nBob here. ", "Dear Bob,\n\nI am fine. ", "\u00fc\u2028"), pair("b", "")]
    one, two = tmp_path / "one", tmp_path / "two"
    assert script.main([write(tmp_path / "in/train.jsonl", *rows), str(one)]) == 0
    assert script.main([str(one / "hh_train/train.json"), "--format", "hh", str(two)]) == 0
    assert read(two / "hh_train/train.jsonl") == rows
    read_by = [sources.get("hh")(DataConfig(path=str(path))) for path in (
        one / "hh_train/train.json", two / "hh_train/train.jsonl")]
    first, second = ([(ranked.prompt, ranked.completions) for ranked in hh.rankings()] for hh in read_by)
    assert first == second and len(first) == 2


@pytest.mark.parametrize("name, split, subset", [
    ("harmless-base/train.jsonl.gz", "train", "harmless_base"), ("helpful-online/test.jsonl", "test", "helpful_online"),
    ("hh_test/helpful_rejection.json", "test", "helpful_rejection"), ("hh_train_len2/x.json", "train", "x"),
    ("hh_dev/sampled_dev.json", "dev", "sampled_dev"), ("data/my-test.jsonl", "test", "my_test"),
    ("data/latest.jsonl", None, None), ("hh_training/contested.jsonl", None, None)])
def test_names_say_what_a_file_is_for(script, tmp_path, name, split, subset):
    path = Path(write(tmp_path / name, pair("a")))
    if split:
        assert script.place(path, "dev") == (split, subset)
    else:
        assert script.place(path, "dev")[0] == "dev"
        with pytest.raises(script.DataError, match="say --split"):
            script.place(path, None)


def test_what_is_refused(script, released, tmp_path, capsys):
    out, train = tmp_path / "out", released[0]
    for arguments, message in [
            ([write(tmp_path / "rows.jsonl", pair("a")), out], "say --split"),
            ([train, train, out], "a file is named twice"),
            ([tmp_path / "in/harmless-base/tran.jsonl.gz", out, "--split", "train"], 'Did you mean "train.jsonl.gz"?'),
            ([write(tmp_path / "bad/train.jsonl", pair("a"), *["{"] * 9), out], "bad/train.jsonl, row 6: not JSON"),
            ([write(tmp_path / "odd/train.jsonl", {"text": "a"}), out], 'needs "chosen" and "rejected"'),
            ([*released, out, "--dev", "5"], "--dev 5: the test files have only 4 prompts that are not in training"),
            ([*released, out], "--dev 280: "), ([*released, out, "--dev", "-1"], "--dev -1: is to be 0 or more"),
            ([write(tmp_path / "x/dev.jsonl", pair("a")), out, "--dev", "1"], "dev files are given already"),
            (released, "is a file; the last argument is the folder"),
            ([train, Path(train) / "out"], "out/hh_train/train.json: cannot be written (Not a directory)"),
            ([write(tmp_path / "y/train.jsonl", pair("a", "b:")), out], "nothing is left to write"),
            ([write(tmp_path / "z/train.jsonl", pro("a", "xyz")), out, "--format", "hh"], "row 1: 3 answers, of w")]:
        assert message in refused(script, capsys, *arguments)
    assert not out.exists()


def test_nothing_is_written_over_or_beside_what_another_call_wrote(script, released, tmp_path, capsys):
    out = tmp_path / "out"
    write(out / "hh_test/other.json", pro("a"))
    assert "other.json is there and is not of this command" in refused(script, capsys, *released, out, "--dev", "0")
    before = write(tmp_path / "same/hh_train/train.json", pro("a"))
    assert "is there and is not of this command" in refused(script, capsys, before, tmp_path / "same")
    assert written(out) == ["hh_test/other.json"] and prompts(Path(before)) == ["a"]


def test_pros_dev_prompts_stand_in_its_test_files(script, shared_data, tmp_path, capsys):
    """All those of the three subsets that there are; the other 70 are of the fourth."""
    folder = tmp_path / "in"
    for subset in ("harmless_base", "helpful_base", "helpful_online"):
        (folder / "hh_test").mkdir(parents=True, exist_ok=True)
        (folder / "hh_test" / f"{subset}.json.gz").symlink_to(shared_data(f"hh/pro_{subset}.jsonl.gz"))
    arguments = [*map(str, sorted((folder / "hh_test").iterdir())), str(shared_data("hh/pro_sampled_dev.jsonl.gz"))]
    assert script.main([*arguments, str(tmp_path / "out")]) == 0
    assert [line.split(maxsplit=2)[1:] for line in capsys.readouterr().out.splitlines() if "dropped  " in line] == [
        ["49", "test harmless_base: prompt is in dev"], ["57", "test helpful_base: prompt is in dev"],
        ["35", "test helpful_online: prompt is in dev"]]
    wanted = {"harmless_base": 1822, "helpful_base": 1819, "helpful_online": 873}
    assert {path.stem: len(read(path)) for path in (tmp_path / "out/hh_test").iterdir()} == wanted
    with gzip.open(shared_data("hh/pro_sampled_dev.jsonl.gz"), "rt", encoding="utf-8") as file:
        dev = [json.loads(line) for line in file]
    assert read(tmp_path / "out/hh_dev/sampled_dev.json") == dev
    assert sum("rejection" in row["meta"]["path"] for row in dev) == 70 == len(dev) - 49 - 57 - 35


@pytest.mark.parametrize("colon, dropped", [("train", 0), ("all", 15)])
def test_real_released_rows_lose_nothing_but_what_is_told(script, shared_data, tmp_path, capsys, colon, dropped):
    path, out = str(shared_data("hh/harmless_base.jsonl.gz")), tmp_path / "out"
    assert script.main([path, str(out), "--split", "test", "--format", "hh", "--colon", colon, "--dev", "0"]) == 0
    found = [row for name in written(out) for row in read(out / name)]
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    known = {(row["chosen"], row["rejected"]) for row in rows}
    assert {(row["chosen"], row["rejected"]) for row in found} <= known and len(found) == 1868 - dropped
    assert "different prompts" in capsys.readouterr().out
