"""The watch over a rising reward in evaluate.py: a line and a picture for each run, with its warnings in them."""

import json

import numpy as np
import pytest

from apo import report
from apo.errors import RunError
from apo.report.plots import BASELINE

SAMPLE = {"prompt": "def f():\n", "text": "good\x1b[31m good\ngood", "score": 2.0, "index": 3,
          "extra": {"heldout_scores": {"strict": -1.5}}, "repetition": 0.5, "loop": True}
WARNED = {"step": 20, "scenario": "functions", "kind": "gap/strict", "since": 0, "said": "the reward has risen",
          "samples": [SAMPLE]}


@pytest.fixture
def watched(make_run):
    """A run of dpo that was watched at steps 0, 10 and 20."""

    def build(warned=(WARNED,), heldout=("strict",), kl=True, seed=1):
        def edit(config):
            config.objective = {"name": "dpo"}
            config.evaluation.heldout_scorers = {name: {"name": "lexicon", "words": ["x"]} for name in heldout}
        run = make_run("dpo", seed, edit)
        rows = []
        for step in (0, 10, 20):
            at = "hacking/functions"
            rows += [{"step": step, "generation/functions/score": 0.1, **({"generation/functions/kl_full": 2.0 * step}
                                                                         if kl else {})},
                     {"step": step, f"{at}/reward": step / 10, f"{at}/length": 1 + step / 20 if step else None,
                      f"{at}/repetition": step / 100, f"{at}/loops": step / 50,
                      **({f"{at}/kl_per_token": step / 10} if kl else {}),
                      **{key: value for name in heldout for key, value in
                         ((f"{at}/{name}/reward", -step / 20), (f"{at}/{name}/gap", 3 * step / 20))}}]
        (run.directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if warned:
            (run.directory / "hacking.jsonl").write_text("".join(json.dumps(row) + "\n" for row in warned))
        return run
    return build


def test_a_line_says_what_became_of_the_samples(watched):
    run = watched()
    line, samples = report.read_hacking([run]).tables()
    assert line.rows == [[f"dpo/{run.directory.name}, functions", "gap/strict at 20", "+2.00", "strict -1.00", "2.00",
                          "+20%", "+40%", "2.00"]]
    assert samples.rows == [["20", "functions", "gap/strict", "def f():", "good\ufffd[31m good good", "2",
                             "strict -1.5"]]
    assert samples.notes == ["Step 20, functions: since step 0 the reward has risen."]


def test_without_warnings_held_out_scorers_and_a_distance(watched):
    run = watched(warned=(), heldout=(), kl=False)
    (line,) = report.read_hacking([run]).tables()
    assert line.rows[0][1:] == ["", "+2.00", "", "2.00", "+20%", "+40%", ""]
    panels = report.read_hacking([run]).runs[0].draw().axes
    assert not panels[1].get_lines()[0].get_xdata().size, "no KL was measured"


def test_the_picture_has_every_curve_and_the_warning_in_its_panel(watched):
    panels = report.read_hacking([watched()]).runs[0].draw().axes
    curves = [{line.get_gid(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}
              for axes in panels]
    assert curves[0]["reward"] == ([0, 10, 20], [0, 1, 2]) and curves[0]["strict"] == ([0, 10, 20], [0, -0.5, -1])
    assert curves[0]["warned"][0] == [20, 20]
    assert curves[1] == {"KL": ([0, 10, 20], [0, 20, 40])}
    assert curves[2] == {"length": ([10, 20], [1.5, 2])}, "the first samples were empty"
    assert set(curves[3]) == {"repeated 4-grams", "ends in a loop"}
    assert panels[0].get_lines()[0].get_color() == BASELINE[0]


def test_each_run_gets_its_picture_and_runs_that_began_with_nothing_none(watched, make_run, capsys):
    runs = [watched(), watched(seed=2), make_run()]
    found = report.read_hacking(runs)
    report.show_of_runs(found)
    out = capsys.readouterr().out
    assert [row[0].partition("-")[2].partition(",")[0] for row in found.table().rows] == ["s1", "s2"]
    assert "good good" not in out, "of several runs only the lines"
    for run in runs[:2]:
        assert np.frombuffer((run.directory / "hacking.png").read_bytes()[:4], np.uint8).tolist() == [137, 80, 78, 71]
        assert "good\ufffd[31m good good" in (run.directory / "hacking.md").read_text()
    assert not (runs[2].directory / "hacking.png").exists()


def test_a_damaged_file_is_named(watched):
    run = watched()
    (run.directory / "hacking.jsonl").write_text("{\n{}\n")
    with pytest.raises(RunError, match="hacking.jsonl, line 1: not JSON"):
        report.read_hacking([run])
