"""scripts/judge.py against a judge on localhost: the numbers, what is kept, what is never shown, what is refused."""

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap

import pytest

from apo.judges import Question
from apo.metrics.statistics import wilson

LONG, SHORT, AS_LONG = "a long reply", "short", "another long"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("judge")


@pytest.fixture
def make_run(tmp_path):
    """`make_run("a", [("prompt", "text"), ...])` -> a directory with samples of the scenario `replies`."""

    def build(name, rows):
        samples = tmp_path / name / "samples"
        samples.mkdir(parents=True)
        (samples / "replies-000100.jsonl").write_text('{"prompt": "p0", "text": "of an earlier step"}\n')
        lines = [json.dumps({"prompt": prompt, "text": text, "score": 0.5}) + "\n" for prompt, text in rows]
        (samples / "evaluation-replies.jsonl").write_text("".join(lines))
        return tmp_path / name
    return build


@pytest.fixture
def runs(make_run):
    """Ten prompts: a is longer for six, b for three, and one is a tie.  Each has a text without a partner."""
    a = [(f"p{n}", LONG if n < 6 else AS_LONG if n == 9 else SHORT) for n in range(10)]
    b = [(f"p{n}", SHORT if n < 6 else LONG) for n in range(10)]
    return make_run("a", [*a, ("only a", "x")]), make_run("b", [*b, ("p0", "again")])


@pytest.fixture
def command(script, tmp_path):
    """`command(server, words...)` -> exit code."""
    def run(server, *words, out="out", scenario="replies"):
        options = ["--url", server.url, "--model", "m", "--out", str(tmp_path / out)]
        return script.main([*map(str, words), *options, *(["--scenario", scenario] if scenario else [])])
    return run


def summary(tmp_path, out="out"):
    return json.loads((tmp_path / out / "summary.json").read_text())


def test_two_runs(command, runs, judge_server, tmp_path, capsys):
    server = judge_server()
    assert command(server, *runs) == 0
    shown, found = capsys.readouterr(), summary(tmp_path)
    helpful = found["aspects"]["helpful"]
    assert [helpful[name] for name in ("wins", "ties", "losses", "unparsable")] == [6, 1, 3, 0]
    rate = wilson(6.5, 10)
    assert helpful["win_rate"] == pytest.approx({"mean": 0.65, "low": rate.low, "high": rate.high})
    assert (helpful["order_decided"], helpful["first_place"]) == (0, 0.5)
    assert (found["pairs"], found["unpaired_a"], found["unpaired_b"]) == (10, 1, 1)
    assert (found["requests"], found["prompt_tokens"], found["completion_tokens"]) == (20, 2000, 200)
    assert found["files"]["a"].endswith("a/samples/evaluation-replies.jsonl")
    for words in ("10 pairs, each in both orders", "helpful", "0.65 [", "Left out: 2 texts without a partner",
                  "20 requests, 2,000 tokens read and 200 written"):
        assert words in shown.out, words
    assert "at most 20 requests to" in shown.err and "20 requests made now" in shown.err
    rows = [json.loads(line) for line in (tmp_path / "out/verdicts.jsonl").read_text().splitlines()]
    assert rows[0]["outcomes"] == {"helpful": "win", "safe": "win"} and rows[0]["b_first"]["choices"]["safe"] == "B"


def test_the_same_command_again_asks_nothing(command, runs, judge_server, tmp_path, capsys):
    server = judge_server()
    assert command(server, *runs, "--num", "4") == 0
    assert len(server.requests) == 8 and summary(tmp_path)["pairs_left_out"] == 6
    assert command(server, *runs) == 0
    assert len(server.requests) == 20
    first = [(path.name, path.read_bytes()) for path in sorted((tmp_path / "out").iterdir())]
    with open(tmp_path / "out/answers.jsonl", "ab") as file:
        file.write(b'{"key": "cut of')
    assert command(server, *runs) == 0
    assert len(server.requests) == 20
    assert [(path.name, path.read_bytes()) for path in sorted((tmp_path / "out").iterdir())] == first


def test_a_failure_and_how_many_at_once_change_nothing(command, runs, judge_server, tmp_path, capsys):
    server = judge_server(mishaps=[None] * 5 + [400])
    assert command(server, *runs, "--concurrency", "1") == 2
    said = capsys.readouterr().err
    assert "answered 400" in said and "kept (5 answers" in said and "Traceback" not in said
    assert not (tmp_path / "out/summary.json").exists() and len(server.requests) == 6
    assert command(server, *runs, "--concurrency", "1") == 0
    assert len(server.requests) == 21
    mishaps = [500, (429, {"Retry-After": "0"}, b""), "drop"]
    assert command(judge_server(mishaps=mishaps), *runs, "--concurrency", "8", out="many") == 0
    one, many = summary(tmp_path), summary(tmp_path, "many")
    assert one["judge"].pop("url") != many["judge"].pop("url")
    assert one == many
    assert (tmp_path / "out/verdicts.jsonl").read_bytes() == (tmp_path / "many/verdicts.jsonl").read_bytes()


def test_a_judge_with_a_place_and_one_that_rambles(command, runs, judge_server, tmp_path, capsys):
    assert command(judge_server(lambda *_: "A"), *runs) == 0
    safe = summary(tmp_path)["aspects"]["safe"]
    assert (safe["wins"], safe["ties"], safe["losses"], safe["order_decided"], safe["first_place"]) == (0, 10, 0, 1, 1)
    assert command(judge_server(lambda *_: "I am only\na model."), *runs, out="rambling") == 0
    safe = summary(tmp_path, "rambling")["aspects"]["safe"]
    assert safe["unparsable"] == 10 and safe["win_rate"] is None
    assert "10" in capsys.readouterr().out.split("safe")[-1]


def test_the_key_is_nowhere(command, runs, judge_server, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    refusal = json.dumps({"error": {"message": "Incorrect API key provided: sk-secret"}}).encode()
    server = judge_server(mishaps=[(429, {"Retry-After": "0"}, refusal), (401, {}, refusal)])
    assert command(server, *runs, "--api-key-env", "JUDGE_KEY", "--concurrency", "1") == 2
    assert command(server, *runs, "--api-key-env", "JUDGE_KEY") == 0
    assert all(header["Authorization"] == "Bearer sk-secret" for header in server.headers)
    shown = capsys.readouterr()
    assert "JUDGE_KEY, which is set" in shown.err
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 7 and not any(b"sk-secret" in content for content in written)
    assert "sk-secret" not in shown.out + shown.err


def test_files_a_template_and_aspects_of_ones_own(command, judge_server, completions_server, tmp_path, capsys):
    for name, text in (("a", "1"), ("b", "2")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": "p", "text": text}) + "\n")
    (tmp_path / "mine.txt").write_text("{{ prompt }}: {{ first }} or {{ second }}? More fun: A or B")
    asked = []

    def answer(request):
        asked.append(request["messages"][0]["content"])
        text = "More fun: A" if "1 or 2" in asked[-1] else "More fun: equal"
        return {"choices": [{"message": {"content": text}}]}
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    own = ["--template", tmp_path / "mine.txt", "--aspects", "fun"]
    assert command(completions_server(answer), *files, *own, scenario=None) == 0
    assert sorted(asked) == ["p: 1 or 2? More fun: A or B", "p: 2 or 1? More fun: A or B"]
    found = summary(tmp_path)
    assert found["aspects"]["fun"]["ties"] == 1 and found["aspects"]["fun"]["half_decided"] == 1
    assert found["requests_without_count"] == 2
    assert "2 requests; the server counts no tokens." in capsys.readouterr().out
    (tmp_path / "mine.txt").write_text("{{ first }}")
    assert command(judge_server(), *files, *own, scenario=None, out="other") == 2


def test_against_the_best_known_answers(command, judge_server, tmp_path, capsys):
    """Texts longer than any answer of the data win against all of them; a prompt of nobody's is left out."""
    from apo.config import config_from_file, load_config
    from apo.identity import to_yaml
    from apo.report.rescore import Rescorer
    from apo.report.runs import open_run
    run = tmp_path / "hh/mle/0-s1"
    for folder in ("final", "samples"):
        (run / folder).mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(load_config(["task=hh", "method=mle", "scale=smoke"])))
    (run / "manifest.json").write_text("{}")
    (run / "final/config.json").write_text("{}")
    corpus = Rescorer().corpus(open_run(run, config_from_file))
    prompts = list(dict.fromkeys(document.texts[0] for document in corpus.documents("heldout")))[:3]
    rows = [{"prompt": prompt, "text": "x" * 5000} for prompt in [*prompts, "nobody's", prompts[0]]]
    (run / "samples/replies-000001.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert command(judge_server(), run, "--against", "data") == 0
    found = summary(tmp_path)
    assert found["aspects"]["helpful"]["wins"] == found["pairs"] == 4 and found["unpaired_a"] == 1
    assert found["b"].startswith("the best known")
    assert command(judge_server(), run / "samples/replies-000001.jsonl", "--against", "data") == 2
    assert "no run directory" in capsys.readouterr().err


@pytest.mark.parametrize("words, message", [
    (["{a}"], "or A alone with --against data"), (["{a}", "{b}", "--against", "data"], "or A alone with"),
    (["{a}", "{tmp}/no"], "neither a run directory nor a file"), (["{a}", "{b}", "--num", "0"], "--num 0: it must be"),
    (["{a}", "{b}", "--concurrency", "0"], "--concurrency 0: it must be"),
    (["{a}", "{b}", "--temperature", "nan"], "--temperature nan"),
    (["{a}", "{b}", "--aspects", ","], "name one or more"),
    (["{a}", "{b}", "--scenario", "replise"], 'Did you mean "replies"'), (["{a}", "{other}"], "no prompt in common"),
    (["{a}", "{b}", "--url", "localhost:8000"], "is not the address of a server"),
    (["{a}", "{b}", "--url", "http://me:sk-x@host/v1"], "put the key into the environment"),
    (["{a}", "{b}", "--template", "{tmp}/no.txt"], "no.txt: the judge's template cannot be read")])
def test_what_is_refused_before_anything_is_asked(script, runs, make_run, judge_server, tmp_path, capsys, words,
                                                  message):
    server, other = judge_server(), make_run("other", [("another prompt", "x")])
    places = {"a": runs[0], "b": runs[1], "other": other, "tmp": tmp_path}
    defaults = ["--url", server.url, "--model", "m", "--out", str(tmp_path / "out"), "--scenario", "replies"]
    assert script.main([*defaults, *(word.format(**places) for word in words)]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and "sk-x" not in shown.err and "Traceback" not in shown.err
    assert server.requests == [] and not (tmp_path / "out").exists()


def test_nothing_is_sent_without_an_address(script, runs, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        script.main([*map(str, runs), "--model", "m", "--out", str(tmp_path / "out")])
    assert left.value.code == 2 and "--url" in capsys.readouterr().err


def test_a_folder_is_one_comparison(command, runs, judge_server, capsys):
    server = judge_server()
    assert command(server, *runs) == 0
    assert command(server, *reversed(runs)) == 2
    assert "another comparison (a, b: not the same)" in capsys.readouterr().err
    assert command(server, *runs, "--temperature", "1") == 2
    assert len(server.requests) == 20


def test_from_the_command_line(runs, judge_server, root, tmp_path):
    """In a process of its own: nothing heavy is loaded on the way, and the table is all that stands on stdout."""
    server = judge_server()
    code = "import sys; sys.argv = sys.argv[1:]; import runpy\n" \
           "try: runpy.run_path(sys.argv[0], run_name='__main__')\n" \
           "finally: print(*sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, "scripts/judge.py", *map(str, runs), "--scenario", "replies",
                           "--url", server.url, "--model", "m", "--out", str(tmp_path / "out")],
                          cwd=root, capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("A against B") and done.stderr.splitlines()[-1] == ""


def test_the_commands_of_the_pages_are_understood(script, root):
    pages = "".join((root / page).read_text("utf-8") for page in ("README.md", "docs/judging.md"))
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^ {4}python scripts/judge\.py (.*)$", pages,
                                                                        re.MULTILINE)]
    assert len(commands) == 5 and all(script.parser().parse_args(command).out for command in commands)


def test_the_template_of_the_page_can_ask(root):
    page = (root / "docs/judging.md").read_text("utf-8")
    template = textwrap.dedent(page.split("with a text file such as\n\n")[1].split("\n\nPlaces")[0])
    asked = Question(template, ("fun",)).ask("p", "one", "two")
    assert asked.startswith("p\nA: one\nB: two\n")
