"""Progress in a log: plain lines, an ETA by what this process did, one bar at a time."""

import pytest

from apo import console


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_lines_not_more_often_than_every_fifteen_seconds(clock, capsys):
    with console.progress("training", 100) as bar:
        for _ in range(40):
            clock[0] += 1
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["training: 15/100 (15 %, 1 min 25 s left)", "training: 30/100 (30 %, 1 min 10 s left)"]


def test_time_left_after_a_resume(clock, capsys):
    with console.progress("training", 100) as bar:
        bar.go_on_from(80)
        clock[0] += 20
        bar.advance(10)
    assert "90/100 (90 %, 20 s left)" in capsys.readouterr().err


def test_an_inner_bar_is_silent(clock, capsys):
    with console.progress("outer", 2) as outer, console.progress("inner", 10) as inner:
        clock[0] += 60
        inner.advance(5)
        outer.note("loss 1")
        outer.advance()
    assert capsys.readouterr().err == "outer: 1/2 (50 %, 1 min 00 s left)  loss 1\n"


def test_durations():
    assert [console.duration(s) for s in (12.4, 200, 3900)] == ["12 s", "3 min 20 s", "1 h 05 min"]
