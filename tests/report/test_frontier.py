"""Reward at equal distance, against numbers worked out by hand."""

import json

import pytest

from apo.errors import EvaluationError
from apo.report import frontier
from apo.report.frontier import Path2D
from apo.report.tables import table_in_markdown


@pytest.fixture
def moved(make_run):
    """`moved("dpo", 1, [(kl, score), ...])`: a run that measured these on its way."""

    def build(method, seed, points, **options):
        run = make_run(method, seed, **options)
        rows = [{"step": 10 * n, "num_tokens": 1000 * n, "generation/functions/kl_full": kl,
                 "generation/functions/score": score} for n, (kl, score) in enumerate(points)]
        (run.directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return run
    return build


def test_the_value_is_taken_where_the_path_first_gets_there():
    path = Path2D([0, 2, 1, 6, 3], [1.0, 0.5, 0.9, 0.4, 0.0])
    assert [path.at(kl) for kl in (1, 2, 4)] == pytest.approx([0.75, 0.5, 0.6])
    assert path.at(7) is None
    assert Path2D([0, 0, 2], [1.0, 3.0, 1.0]).at(1) == pytest.approx(2.0)      # it stood still and began anew


def test_values_and_paired_differences(moved):
    runs = [moved("dpo", seed, [(0, 0.5), (2, 0.5 - drop), (4, 0.2)]) for seed, drop in ((1, 0.1), (2, 0.2), (3, 0.3))]
    runs += [moved("kto", seed, [(0, 0.5), (2, 0.5 - drop - 0.1 - 0.01 * seed), (3, 0.1)])
             for seed, drop in ((1, 0.1), (2, 0.2), (3, 0.3))]
    found = frontier.build(runs, "functions", [1.0, 2.0, 4.0], "dpo")
    assert found.baseline == "dpo" and found.kind == "score"
    assert found.interval("dpo", 2.0).mean == pytest.approx(0.3)
    assert found.interval("dpo", 1.0).mean == pytest.approx(0.4)
    difference = found.differences(2.0)["kto"]
    half = 4.30265 * 0.01 / 3 ** 0.5            # t over -0.11, -0.12, -0.13
    assert difference.interval.mean == pytest.approx(-0.12)
    assert difference.interval.high - difference.interval.mean == pytest.approx(half, rel=1e-4)
    assert found.interval("kto", 4.0) is None and found.differences(4.0) == {}
    assert found.ranked(2.0) == ["kto", "dpo"] and found.ranked(4.0) == ["dpo"]      # a score: the lowest first


def test_what_it_cost_stands_beside(moved):
    runs = [moved("dpo", seed, [(0, 0.5), (3, 0.2)]) for seed in (1, 2)]
    for run, finished in zip(runs, (0.25, 0.5)):
        with (run.directory / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 10, "generation/functions/finished": 0.9}) + "\n")
            last = {"step": 20, "generation/functions/finished": finished, "eval/accuracy": None}
            file.write(json.dumps(last) + "\n")
    table = frontier.build(runs, "functions").tables()[-1]
    [row] = table.rows
    assert row[table.header.index("finished")] == "38%" and row[table.header.index("pairs told")] == ""


def test_where_some_seeds_get_there_it_says_how_many(moved, tmp_path):
    runs = [moved("dpo", 1, [(0, 0.5), (3, 0.2)]), moved("dpo", 2, [(0, 0.5), (1, 0.2)])]
    found = frontier.build(runs, "functions", [0.5, 2.0])
    table, end = found.tables()
    assert table.rows[0][3] == "1 of 2 seeds get there" and "At 0.5: dpo." in table.notes[0]
    found.save(tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 10_000
    assert (tmp_path / "frontier.md").read_text() == "\n".join(map(table_in_markdown, (table, end)))


def test_what_cannot_be_compared_is_said(moved, make_run):
    with pytest.raises(EvaluationError, match="did not measure its distance from the start"):
        frontier.build([moved("dpo", 1, [(0, 0.5), (3, 0.2)]), make_run("mle", 1)], "functions",
                       allow=["tokens_trained"])
    with pytest.raises(EvaluationError, match='scenario "answers": the runs have no one score or reward'):
        frontier.build([moved("dpo", 1, [(0, 0.5), (3, 0.2)])], "answers")

    late = moved("dpo", 1, [(0, 0.5), (3, 0.2), (0.5, 0.4), (2, 0.3)])
    rows = (late.directory / "metrics.jsonl").read_text().splitlines(keepends=True)
    (late.directory / "metrics.jsonl").write_text("".join(rows[1:]))
    with pytest.raises(EvaluationError, match="first evaluated after step 10.*evaluation.at_start=true"):
        frontier.build([late], "functions")

    def other(config):
        config.training.learning_rate = 1e-3
    runs = [moved("dpo", 1, [(0, 0.5), (3, 0.2)]), moved("kto", 1, [(0, 0.5), (3, 0.2)], edit=other)]
    with pytest.raises(EvaluationError, match="--allow training.learning_rate"):
        frontier.build(runs, "functions")
    assert frontier.build(runs, "functions", allow=["training.learning_rate"]).factors


def test_the_command(moved, load_script, tmp_path, capsys):
    script = load_script("frontier")
    runs = [str(moved(method, 1, [(0, 0.5), (3, 0.2)]).directory) for method in ("dpo", "kto")]
    assert script.main([*runs, "--kl", "2,1", "--output", str(tmp_path / "out")]) == 0
    assert "functions: score at a distance" in capsys.readouterr().out
    assert (tmp_path / "out/frontier.png").is_file()
    assert script.main([*runs, "--kl", "far"]) == 2 and "--kl far" in capsys.readouterr().err
    assert script.main([*runs, "--kl", "0"]) == 2
