"""scripts/red_team.py on tiny runs: one command, several models, one picture; what it refuses."""

import json
import re
import subprocess
import sys

import pytest

SMALL = ["--rounds", "2", "--trials", "2", "--responses", "3", "--continuations", "2", "--max-new-tokens", "5"]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("red_team")


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    texts = ["The letter e", "No such", "Tom ran", "", "x", "Tom ran", "beyond the initial ones"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def command(script, prompts):
    """`command(RUN, ..., "--option", ...)` with small numbers -> exit code."""
    return lambda *words: script.main([*map(str, words), "--prompts", str(prompts), *SMALL])


def test_two_models_in_one_picture(command, tiny_run, tmp_path, capsys):
    runs = [tiny_run("mle", 0), tiny_run("conditional", 1)]
    assert command(*runs, "--initial", "4") == 0
    first = capsys.readouterr()
    for words in ("pep8, red teaming: score after 2 rounds in 2 trials", "Minus mle, paired by trial", "Prompts that"):
        assert words in first.out
    picture = tmp_path / "runs/red_team.png"
    assert picture.is_file() and f"picture: {picture}" in first.err
    assert re.search(r"^\| conditional \| 2 \|", picture.with_suffix(".md").read_text(), re.MULTILINE)
    homes = [next(run.glob("red_team/*")) for run in runs]
    pools = [json.loads((home / "settings.json").read_text())["initial_sha256"] for home in homes]
    assert pools[0] == pools[1]
    for home in homes:
        assert {path.name for path in home.iterdir()} == {".lock", "settings.json", "rounds", "result.json",
                                                          "red_team.png", "red_team.md"}
        shown = {text for path in home.glob("rounds/*round-01.jsonl") for line in path.read_text().splitlines()
                 for text in json.loads(line)["shown"]}
        assert shown <= {"The letter e", "No such", "Tom ran", "x"}
    first_round = [json.loads((home / "rounds/trial-01-round-01.jsonl").read_text().split("\n")[0]) for home in homes]
    assert first_round[0]["prompt"] == first_round[1]["prompt"], "the same pool and seeds"
    assert first_round[0]["continuations"] != first_round[1]["continuations"]
    assert command(*runs, "--initial", "4") == 0
    second = capsys.readouterr()
    assert second.out == first.out and second.err.count("finished, not attacked again") == 2


def test_a_model_as_adversary_and_a_picture_where_it_is_wanted(command, tiny_run, tmp_path, capsys):
    run = tiny_run()
    assert command(run, "--adversary", f"model={run}", "--adversary-tokens", "8", "--output", tmp_path / "x.png") == 0
    assert (tmp_path / "x.png").is_file() and (tmp_path / "x.md").is_file()
    rows = [json.loads(line) for path in run.glob("red_team/*/rounds/*") for line in path.read_text().splitlines()]
    assert len(rows) == 12 and {row["made"] for row in rows} == {"written"}


def test_a_server_as_adversary(command, tiny_run, completions_server):
    server = completions_server(lambda request: [{"text": f" says {n % 2}"} for n in range(request["n"])])
    run = tiny_run()
    assert command(run, "--adversary", f"server={server.url}", "--adversary-model", "m", "--instruction", "") == 0
    assert [request["n"] for request in server.requests] == [3] * 4
    assert server.requests[0]["prompt"].startswith("1. ") and server.requests[0]["prompt"].endswith("\n5.")
    result = json.loads(next(run.glob("red_team/*/result.json")).read_text())
    assert result["counts"] == {"measured": 8, "empty": 0, "duplicate": 4, "too long": 0}


def test_the_scenario_says_whether_the_prompt_is_scored_too(command, tiny_run):
    run = tiny_run()
    assert command(run, "--scenario", "functions") == 0
    assert command(run, "--scenario", "unconditional") == 0
    found = {}
    for home in run.glob("red_team/*"):
        with_prompt = json.loads((home / "settings.json").read_text())["scenario"]["score_prompt"]
        found[with_prompt] = [json.loads(line) for path in home.glob("rounds/*")
                              for line in path.read_text().splitlines()]
    for with_prompt, rows in found.items():
        for row in rows:
            for each in row["continuations"]:
                text = row["prompt"] * with_prompt + each["text"]
                assert each["score"] == text.count("e") / max(len(text), 1)
    assert set(found) == {True, False}


def test_without_a_file_the_pool_begins_with_the_scenarios_own_prompts(script, tiny_run):
    run = tiny_run()
    assert script.main([str(run), *SMALL]) == 0
    rows = [json.loads(line) for path in run.glob("red_team/*/rounds/*-01.jsonl")
            for line in path.read_text().splitlines()]
    assert rows and all(text.startswith(("def ", "async def ")) for row in rows for text in row["shown"])


def test_phfs_numbers_and_one_of_ones_own(script, monkeypatch):
    seen = {}
    monkeypatch.setattr("apo.report.select.select", lambda *_: [])
    monkeypatch.setattr("apo.red_team.attack_runs", lambda runs, settings, *_, **__: seen.update(vars(settings)))
    monkeypatch.setattr("apo.red_team.curves.show", lambda *_: None)
    assert script.main(["RUN", "--paper", "--trials", "2"]) == 0
    assert (seen["rounds"], seen["trials"], seen["responses"], seen["continuations"]) == (10, 2, 20, 512)


@pytest.mark.parametrize("words, message", [
    (["--rounds", "0"], "--rounds 0: must be a number above 0"),
    (["--adversary", "gpt"], "--adversary gpt: expected none, model=NAME or server=URL"),
    (["--scenario", "functoins"], "--scenario functoins: "),
    (["--prompts", "nowhere.jsonl"], '"nowhere.jsonl" is neither a file nor a prompt set'),
    (["callbacks.kl.reference=generator"], "takes overrides of evaluation.* and scorer.*"),
    (["training.max_steps=3"], "says how a run is trained")])
def test_mistakes_are_answered_with_a_line_and_exit_code_2(script, tiny_run, prompts, words, message, capsys):
    run = tiny_run()
    options = [] if "--prompts" in words else ["--prompts", str(prompts)]
    assert script.main([str(run), *words, *options]) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert not (run / "red_team").exists()


def test_models_that_differ_in_more_than_the_method_are_refused(command, tiny_run, capsys):
    runs = [tiny_run("mle", 0), tiny_run("conditional", 1, "letter_e:score", "training.learning_rate=0.5")]
    assert command(*runs) == 2
    assert "--allow training.learning_rate" in capsys.readouterr().err
    assert command(*runs, "--allow", "training.learning_rate") == 0


def test_help_is_quick_and_gives_defaults(root):
    done = subprocess.run([sys.executable, root / "scripts/red_team.py", "--help"], capture_output=True, text=True)
    words = " ".join(done.stdout.split())
    assert done.returncode == 0 and "rounds of a trial (default 5)" in words and "PHF's numbers: 10 rounds" in words
    typo = subprocess.run([sys.executable, root / "scripts/red_team.py", "--round"], capture_output=True, text=True)
    assert typo.returncode == 2 and typo.stderr.startswith('red_team.py: ') and 'Did you mean "--rounds"' in typo.stderr
