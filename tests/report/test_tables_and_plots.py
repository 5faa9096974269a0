"""What a person sees: words, numbers, the picture."""

import json
import math

import numpy as np
import pytest
from rich.console import Console

from apo.data.records import Sample
from apo.metrics.code import ByCode
from apo.metrics.statistics import Interval
from apo.report import plots, tables
from apo.report.comparison import build

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def comparison(make_run, make_evaluation):
    pairs = [(make_run(method, seed, scores=(0.03, mean)), make_evaluation(mean, seed + n, bits=1.5 + 0.01 * seed))
             for n, (method, mean) in enumerate([("mle", 0.02), ("awr", 0.012), ("rwr", 0.02)]) for seed in (1, 2, 3)]
    return build(pairs)


def printed(draw, *arguments) -> str:
    out = Console(width=140, record=True, file=open("/dev/null", "w"))
    draw(*arguments, out=out)
    return out.export_text()


@pytest.mark.parametrize("interval, words", [
    (Interval(0.01171, 0.01082, 0.01263), "0.0117 [0.0108, 0.0126]"),
    (Interval(0.5, 0.4, 0.6), "0.50 [0.40, 0.60]"),
    (Interval(12.0, 10.0, 14.0), "12.0 [10.0, 14.0]"),
    (Interval(0.0456, -0.013, 0.104), "0.046 [-0.013, 0.104]"),
    (Interval(-0.0021, -0.13, 0.12), "-0.002 [-0.130, 0.120]"),
    (Interval(0.02, -math.inf, math.inf), "0.0200 [-inf, inf]"),
    (Interval(0.02, 0.02, 0.02), "0.0200 [0.0200, 0.0200]"),
    (Interval(0.0, 0.0, 0.0), "0.000 [0.000, 0.000]")])
def test_as_many_digits_as_the_interval_means(interval, words):
    assert tables.interval_in_words(interval) == words


def test_every_method_and_metric_is_in_the_table(comparison):
    text = printed(tables.show, comparison)
    for words in ("mle", "awr", "rwr", "hits", "parses", "self-BLEU", "25%", "- mle [95 %]", "4,000", "3,900,000"):
        assert words in text
    assert "Student's t over 3 seeds" in text


def test_what_the_score_is_made_of_has_a_table_largest_part_first(make_run, make_evaluation):
    assert tables.parts_tables(build([(make_run(), make_evaluation())]), "functions") == []
    evaluation = make_evaluation()
    evaluation["scenarios"]["functions"]["metrics"] |= {"by_code/E1": 0.002, "by_code/E5": 0.01, "by_code/W6": 0.0,
                                                        "by_code/not_python": 0.05, "by_code/style": 0.01}
    table, = tables.parts_tables(build([(make_run(), evaluation)]), "functions")
    assert (table.header, table.rows) == (
        ["method", "E5", "E1", "not_python", "style"], [["mle", "10.00", "2.00", "50.00", "10.00"]])


def test_differences_by_part_have_intervals_over_seeds(make_run, make_evaluation):
    pairs = []
    for method, means in (("mle", (0.004, 0.006, 0.005)), ("awr", (0.001, 0.002, 0.003))):
        for seed, mean in enumerate(means, 1):
            evaluation = make_evaluation()
            evaluation["scenarios"]["functions"]["metrics"] |= {"by_code/E5": mean, "by_code/style": mean}
            pairs.append((make_run(method, seed), evaluation))
    means, differences = tables.parts_tables(build(pairs), "functions")
    assert differences.header == ["part", "awr"] and differences.title.endswith("to mle by part, times 1000 [95 %]")
    # -3, -4, -2: mean -3, t(2 degrees, 97.5 %) = 4.3027, standard error 1 / sqrt(3)
    assert differences.rows == [["E5", "-3.0 [-5.5, -0.5]"], ["style", "-3.0 [-5.5, -0.5]"]]
    assert "Student's t over 3 seeds" in differences.notes[0]


@pytest.fixture
def one_seed(make_run, make_evaluation):
    """mle and awr with one seed; awr's samples have a third of mle's E501 and all of its E901."""
    random, pairs = np.random.default_rng(3), []
    lines, broken = random.uniform(0.01, 0.03, 40), random.uniform(0, 0.01, 40)
    for method, share in (("mle", 1), ("awr", 1 / 3)):
        run, explanations = make_run(method), [{"E501": share * a, "E901": b} for a, b in zip(lines, broken)]
        rows = [{"prompt": "", "text": "", "score": sum(parts.values()), "extra": {"explain": parts}}
                for parts in explanations]
        run.samples_path("functions").parent.mkdir()
        run.samples_path("functions").write_text("".join(json.dumps(row) + "\n" for row in rows))
        evaluation = make_evaluation(scores=[row["score"] for row in rows])
        samples = [Sample("", "", None, 0, 1, None, extra=row["extra"]) for row in rows]
        evaluation["scenarios"]["functions"]["metrics"] |= ByCode()(samples)
        pairs.append((run, evaluation))
    return pairs


def test_within_a_seed_differences_by_part_are_a_bootstrap_over_samples(one_seed):
    comparison = build(one_seed)
    parts = comparison.parts["functions"]
    found = parts["by_code/E5"]["awr"].interval
    drop = -2 / 3 * one_seed[0][1]["scenarios"]["functions"]["metrics"]["by_code/E5"]
    assert found.mean == pytest.approx(drop) and found.low < drop < found.high < 0
    assert parts["by_code/E9"]["awr"].interval == Interval(0, 0, 0), "paired sample by sample: nothing differs"
    classes = sum(each["awr"].interval.mean for part, each in parts.items() if part not in tables.ACROSS)
    assert classes == pytest.approx(comparison.row("functions", "awr").difference.interval.mean)
    assert "Bootstrap over the samples of one seed" in printed(tables.show, comparison)


def test_without_the_samples_one_seed_has_no_differences_by_part(one_seed):
    one_seed[1][0].samples_path("functions").unlink()
    comparison = build(one_seed)
    assert comparison.parts == {"functions": {}}
    assert len(tables.parts_tables(comparison, "functions")) == 1


def test_a_narrow_terminal_gets_two_tables(comparison):
    table = tables.scenario_table(comparison, "functions")
    assert tables.fitting(table, 200) == [table]
    left, right = tables.fitting(table, 90)
    assert left.header[-1] == "p" and right.header[:2] == ["method", "hits"]
    assert [row[0] for row in right.rows] == ["mle", "awr", "rwr"]


def test_the_verdict_names_winners_and_the_undecided(comparison):
    rows = comparison.scenarios["functions"]
    assert tables.verdict(comparison, rows) in (
        "Against mle, better: awr; not to be told apart: rwr.", "Against mle, not to be told apart: awr, rwr.")
    comparison.row("functions", "awr").difference.p = 0.01
    assert "better: awr" in tables.verdict(comparison, rows)
    comparison.kind = "reward"
    assert "worse: awr" in tables.verdict(comparison, rows)


def test_one_seed_is_said_to_be_one(make_run, make_evaluation):
    one = build([(make_run(), make_evaluation()), (make_run("awr"), make_evaluation(0.01))])
    assert "One seed" in printed(tables.show, one)


def test_markdown_holds_the_same_cells(comparison):
    text = tables.markdown(comparison)
    lines = [line for line in text.splitlines() if line.startswith("| awr")]
    assert lines[0].count("|") == text.splitlines()[2].count("|")
    assert "**pep8, functions: 40 samples a run, lower is better**" in text


def test_samples_stand_side_by_side_from_the_same_prompt(comparison):
    for method in comparison.methods:
        run = method.runs[0]
        rows = [{"prompt": f"def f{n // 2}():\n", "text": f"    return '{method.label}{n}'\n", "score": 0.01}
                for n in range(8)]
        path = run.samples_path("functions")
        path.parent.mkdir()
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = printed(tables.show_samples, comparison, "functions", 3)
    assert all(text.count(f"def f{n}()") == 2 for n in (0, 1, 2)) and "def f3" not in text
    assert "mle0" in text and "awr2" in text and "mle1" not in text, "one sample of each prompt, two columns in 140"


def test_what_a_terminal_would_obey_is_not_printed():
    assert tables.printable("a\x1b[2J\x0c\tb\n") == "a\ufffd[2J\ufffd b\n"


def test_the_picture_has_a_point_and_a_curve_for_every_method(comparison):
    left, right = plots.draw(comparison).axes
    points = {line.get_gid(): line for line in left.get_lines() if line.get_gid()}
    assert set(points) == {"mle", "awr", "rwr"}
    assert points["awr"].get_xdata()[0] == pytest.approx(1.52)
    assert points["awr"].get_ydata()[0] == pytest.approx(comparison.row("functions", "awr").score.mean)
    curves = {line.get_gid(): list(line.get_xdata()) for line in right.get_lines()}
    assert curves == {label: [0, 2000, 4000] for label in ("mle", "awr", "rwr")}
    assert len(right.collections) == 3, "a band for each"
    assert "lower left is better" in left.get_title(loc="left")


def test_a_kl_that_all_runs_have_is_a_column_and_the_axis(make_run, make_evaluation):
    def pairs(*measured):
        names = ["mle", "awr"]
        return [(make_run(name), make_evaluation(measured=each)) for name, each in zip(names, measured)]
    every = [{"kl/generator/exact_logp_mc": number, "kl/generator/exact_logp_mc/se": 9.0,
              "kl/generator/exact_entropy_mc": 8.0} for number in (2.25, 3.5)]
    both = build(pairs(*every))
    table = tables.cost_table(both)
    column = table.header.index("KL(generator)")
    assert [row[column] for row in table.rows] == ["2.25", "3.50"] and "nats" in table.notes[1]
    left = plots.draw(both).axes[0]
    assert [line.get_xdata()[0] for line in left.get_lines() if line.get_gid()] == [2.25, 3.5]
    assert left.get_xlabel() == "KL(generator || model), nats per text"
    one = build(pairs(every[0], {}))
    assert not any("KL" in title for title in tables.cost_table(one).header)
    assert "bits per byte" in plots.draw(one).axes[0].get_xlabel()


@pytest.mark.parametrize("threshold, said", [(0.0, "a score of 0 or less"), (5.6e-4, "a score of 0.00056 or less")])
def test_what_counts_as_clean_is_said(make_run, make_evaluation, threshold, said):
    run = make_run(edit=lambda config: setattr(config.evaluation, "clean_threshold", threshold))
    assert f"clean: segments with {said}" in tables.cost_table(build([(run, make_evaluation())])).notes[0]


def test_held_out_scorers_have_a_column_each(make_run, make_evaluation, comparison):
    def judged(config):
        config.evaluation.heldout_scorers = {"insults": {"name": "lexicon"}, "praise": {"name": "my:reward"}}
    pairs = []
    for method, scores in (("mle", (0.25, 0.125)), ("awr", (0.5, 0.0))):
        for seed, score in enumerate(scores, 1):
            evaluation = make_evaluation(seed=seed)
            evaluation["scenarios"]["functions"]["metrics"] |= {"insults/score": score, "insults/num_hits": 1.0,
                                                                "praise/reward": 2.0}
            pairs.append((make_run(method, seed, edit=judged), evaluation))
    table = tables.scenario_table(build(pairs), "functions")
    first = table.header.index("p") + 1
    assert table.header[first:first + 3] == ["insults score", "praise reward", "hits"] and table.split == first
    assert [row[first:first + 2] for row in table.rows] == [["0.188", "2"], ["0.25", "2"]]
    assert table.notes[-1].startswith("insults score, praise reward: means by scorers that nothing was trained on")
    without = tables.scenario_table(comparison, "functions")
    assert without.header[without.header.index("p") + 1] == "hits" and len(without.notes) == 2


def test_an_untrained_model_does_not_flatten_the_curves(comparison):
    low, high = plots.draw(comparison).axes[1].get_ylim()
    assert 0 <= low < 0.012 and 0.03 < high < 0.04, "scores after step 0 lie in 0.012 ... 0.03, at step 0 at 0.5"


def test_the_file_is_a_png_and_nothing_else_is_left(comparison, tmp_path):
    path = tmp_path / "new" / "picture.png"
    plots.save(comparison, path)
    assert path.read_bytes().startswith(PNG)
    assert [each.name for each in path.parent.iterdir()] == ["picture.png"]
    from PIL import Image
    assert Image.open(path).size[0] == 1200


def test_one_run_without_held_out_text_still_gives_a_picture(make_run, make_evaluation, tmp_path):
    one = build([(make_run(), make_evaluation(heldout={}))])
    plots.save(one, tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 0


def test_every_look_is_distinct(comparison):
    looks = plots.looks(comparison)
    assert len({colour for colour, _ in looks.values()}) == len({marker for _, marker in looks.values()}) == 3
    assert looks["mle"] == plots.BASELINE
