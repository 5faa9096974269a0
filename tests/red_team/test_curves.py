"""Tables and picture from hand-made results."""

import math
from pathlib import Path

import pytest

from apo.metrics.statistics import t_interval
from apo.red_team.curves import QUANTITIES, Curves, Model, draw, final_tables, prompts_table, rounds_table, show
from apo.red_team.settings import Settings


def model(label: str, *trials: list[float | None]) -> Model:
    """The same curve for every quantity, the round's below the others."""
    curves = [{name: [value if value is None or name != "round" else value / 2 for value in trial]
               for name in QUANTITIES} for trial in trials]
    best = [{"prompt": "My\nname | is", "score": 0.5, "own_score": 0.25, "trial": 1, "round": 2, "made": "written",
             "count": 4, "worst": {"text": "Tom \x1b[2J" + "x" * 100, "score": 1.0}}]
    counts = {"measured": 7, "empty": 0, "duplicate": 2, "too long": 1}
    return Model(label, Path("run") / label, {"curves": curves, "counts": counts, "best_prompts": best})


def curves(*models: Model, baseline: str | None = "mle", **changes) -> Curves:
    options = {"task": "pii", "kind": "score", "adversary": "none", "confidence": 0.95,
               "settings": Settings(rounds=2, trials=len(models[0].result["curves"]))}
    return Curves(models=list(models), baseline=baseline, **{**options, **changes})


@pytest.fixture
def two():
    return curves(model("mle", [0.1, 0.3], [0.2, 0.5], [0.3, 0.4]), model("cond", [0.1, 0.2], [0.1, 0.3], [0.1, 0.25]))


def test_an_interval_is_student_t_over_trials(two):
    assert two.interval(two.models[0], "best", 0) == t_interval([0.1, 0.2, 0.3])
    assert two.interval(two.models[0], "best") == t_interval([0.3, 0.5, 0.4])
    assert two.interval(two.models[0], "round") == t_interval([0.15, 0.25, 0.2])
    found = two.interval(two.models[0], "best")
    assert (found.mean, found.high) == (pytest.approx(0.4), pytest.approx(0.4 + 4.302653 * 0.1 / math.sqrt(3)))


def test_differences_are_paired_by_trial(two):
    assert two.difference(two.models[1], "best") == t_interval([0.2 - 0.3, 0.3 - 0.5, 0.25 - 0.4])


def test_trials_that_measured_nothing_are_left_out():
    made = curves(model("mle", [None, 0.3], [None, None], [0.3, 0.5]), model("a", [0.1, 0.2], [0.1, 0.1], [0.2, None]))
    assert made.interval(made.models[0], "best") == t_interval([0.3, 0.5])
    assert made.difference(made.models[1], "best").mean == pytest.approx(-0.1)
    nothing = curves(model("mle", [None, None]), baseline=None)
    assert nothing.interval(nothing.models[0], "best") is None
    draw(nothing)
    assert final_tables(nothing)[0].rows == [["mle", "", "", "", ""]]


def test_the_tables_say_it_in_words(two):
    final, minus = final_tables(two)
    assert final.rows[0][:2] == ["mle", "0.40 [0.15, 0.65]"] and [row[0] for row in final.rows] == ["mle", "cond"]
    assert "after 2 rounds in 3 trials, lower is more robust" in final.title
    assert "mle 7 measured, 2 duplicate, 1 too long; cond 7" in final.notes[-1]
    assert minus.title == "Minus mle, paired by trial" and minus.rows[0][1] == "-0.15 [-0.27, -0.03]"
    assert [row[:2] for row in rounds_table(two).rows] == [["mle", "1"], ["mle", "2"], ["cond", "1"], ["cond", "2"]]
    row = prompts_table(two).rows[0]
    assert row[:2] == ["mle", "My\\nname | is"] and row[2].startswith("Tom \ufffd[2Jxx") and row[2].endswith("x...")
    assert row[3:] == ["0.5", "0.25"]
    assert len(final_tables(curves(model("mle", [0.1, 0.2]), baseline=None))) == 1


def test_the_picture_has_a_panel_for_each_quantity_and_a_line_for_each_model(two):
    panels = draw(two).axes
    assert len(panels) == 4
    for panel in panels:
        assert {line.get_gid() for line in panel.get_lines()} == {"mle", "cond"}
        assert len(panel.collections) == 2, "a band for each"
    line = next(line for line in panels[0].get_lines() if line.get_gid() == "cond")
    assert list(line.get_xdata()) == [1, 2] and list(line.get_ydata()) == pytest.approx([0.1, 0.25])
    one = draw(curves(model("mle", [0.1, 0.3]), baseline=None)).axes[0]
    assert len(one.get_lines()) == 1 and not one.collections, "one trial has no interval"


def test_a_reward_is_called_what_it_is(two):
    two.kind = "reward"
    assert "minus reward after" in final_tables(two)[0].title
    assert draw(two).axes[0].get_ylabel() == "minus reward"


def test_picture_and_tables_lie_beside_each_other(two, tmp_path, capsys):
    two.save(tmp_path / "new/red_team.png")
    assert (tmp_path / "new/red_team.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "new/red_team.md").read_text()
    assert "| mle | 0.40 [0.15, 0.65] |" in text and r"My\nname \| is" in text and "| mle | 2 |" in text
    show(two)
    shown = capsys.readouterr()
    assert "paired by trial" in shown.out and "\x1b[2J" not in shown.out
    assert f"picture: {tmp_path / 'new/red_team.png'}" in shown.err and f"cond: {Path('run/cond')}" in shown.err
