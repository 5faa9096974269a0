"""Advantages by evaluate.py: what the file says in words, a picture with something in every panel, and no traceback."""

import json

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

import evaluate
from apo import experiment, report
from apo.advantages import Advantages
from apo.config import load_config
from apo.errors import RunError
from apo.objectives.base import Draw
from apo.report import tables

FIT = {"epochs": 2, "prompts": 5, "error_by_epoch": [0.08, 0.07, 0.06, 0.065], "error": 0.06, "constant_error": 0.08,
       "explained": 0.25, "targets": [0.1, 0.3, 0.5, 0.7, 0.9], "predictions": [0.3, 0.4, 0.5, 0.55, 0.6],
       "heldout_error": 0.09, "heldout_constant_error": 0.08, "heldout_targets": [0.2, 0.4],
       "heldout_predictions": [0.5, 0.5]}


def made_up(**changes):
    rewards, values = np.linspace(0, 1, 40), np.resize([0.25, 0.5, 0.75], 40)
    good = np.arange(40) % 2 == 0
    made = Advantages(rewards, values, good, Draw((rewards > values) & good), FIT | changes, np.arange(40))
    return made.summary() | {"examples": made.extremes(
        lambda document: (f"\n\nHuman: a question that is long, number {document}?\n\nAssistant:",
                          f" Answer {document}, with\x1b[31m colour,\nlines and a great many words after them."))}


@pytest.fixture
def weighed(make_run):
    """A run of a_lol with this in its advantages.json; None for no file."""

    def build(found=None, seed=1, **options):
        def edit(config):
            config.objective = {"name": "a_lol", **options}
        run = make_run("a_lol", seed, edit)
        if found is not None:
            (run.directory / "advantages.json").write_text(found if isinstance(found, str) else json.dumps(found))
        return run
    return build


def printed(found) -> str:
    out = Console(width=140, record=True, file=open("/dev/null", "w"))
    tables.show_tables(found.tables(), out)
    return out.export_text()


def test_the_table_says_what_the_file_says(weighed):
    found = made_up()
    run = weighed(found)
    text = printed(report.read_advantages([run]))
    one, percentiles, examples = report.read_advantages([run]).tables()
    assert one.rows == [[f"a_lol/{run.directory.name}", "20", f"{found['dropped']:.0%}",
                         f"{found['effective_share']:.0%}", f"{found['same_as_threshold']:.0%}",
                         "0.06", "0.08", "25.0%", "0.09", "0.08", "-12.5%"]]
    assert "prompts left out of its fit" in text and "held out: error of V" in text
    assert percentiles.rows[0][:3] == ["V, good", "20", "0.25"] and percentiles.rows[0][-1] == "0.75"
    assert [row[0] for row in percentiles.rows] == [f"{name}, {kind}" for name in "VRA" for kind in ("good", "bad")]
    assert [row[0] for row in examples.rows] == ["highest"] * 3 + ["lowest"] * 3
    assert all("\n" not in cell and "\x1b" not in cell and len(cell) <= 40 for row in examples.rows for cell in row)
    assert examples.rows[0][1].startswith("...") and examples.rows[0][1].endswith("Assistant:")
    for row, example in zip(examples.rows, found["examples"]["top"][:3] + found["examples"]["bottom"][:3]):
        assert row[3] == f"{example['A']:.3f}" and row[2].startswith(example["completion"].split(",")[0].strip())


def test_an_error_of_training_is_not_called_one_of_prompts_left_out(weighed):
    run = weighed(made_up(), preset="published")
    assert "on prompts of its fit" in printed(report.read_advantages([run]))


def test_without_held_out_prompts_or_bad_completions(weighed):
    found = made_up()
    for key in ("heldout_error", "heldout_constant_error"):
        del found["fit"][key]
    for name in "VRA":
        del found["percentiles"][name]["bad"]
    found["same_as_threshold"] = float("nan")
    table, percentiles, _ = report.read_advantages([weighed(found)]).tables()
    assert table.rows[0][4] == "" and table.rows[0][-3:] == ["", "", ""]
    assert [row[0] for row in percentiles.rows] == ["V, good", "R, good", "A, good"]


def test_equal_rewards_have_no_variance_to_explain(weighed):
    """Beside an error of rounding alone, V would explain any share, as of -1,000,000 %."""
    run = weighed(made_up(heldout_targets=[0.27, 0.27], heldout_error=7e-9, heldout_constant_error=5e-16))
    row, = report.read_advantages([run]).table().rows
    assert row[-4:] == ["25.0%", "7e-09", "5e-16", ""]
    each, = report.read_advantages([weighed(made_up(targets=[0.5] * 5))]).runs
    assert each.row()[7] == "" and "all rewards are equal on prompts left out" in each.draw().get_suptitle()


def test_the_picture_has_something_in_every_panel(weighed, capsys):
    run = weighed(made_up())
    report.show_of_runs(report.read_advantages([run]))
    pixels = imread(run.directory / "advantages.png")
    height, width = pixels.shape[:2]
    assert width == 1200
    for rows in (slice(0, height // 2), slice(height // 2, height)):
        for columns in (slice(0, width // 2), slice(width // 2, width)):
            assert (pixels[rows, columns, :3].std(axis=2) > 0.1).mean() > 0.0005     # coloured, not text or frame
    written = (run.directory / "advantages.md").read_text()
    assert "**Advantages, before the first step**" in written and "| highest |" in written
    said = capsys.readouterr()
    assert "Advantages, before the first step" in said.out and "advantages.png" in said.out + said.err
    first = (run.directory / "advantages.png").read_bytes()
    report.show_of_runs(report.read_advantages([run]))
    assert (run.directory / "advantages.png").read_bytes() == first


def test_panels_say_what_they_should(weighed):
    each, = report.read_advantages([weighed(made_up())]).runs
    fit, epochs, distributions, kept = each.draw().axes
    assert "0.06" in fit.get_title("left") and "0.08" in fit.get_title("left")
    assert [line.get_xdata()[0] for line in epochs.lines if line.get_label().startswith("chosen: 2 epochs")] == [2]
    assert any(list(line.get_xdata()) == [0, 0] for line in distributions.lines)
    shown = {line.get_label(): len(line.get_xdata()) for line in kept.lines if line.get_label() in ("kept", "left out")}
    assert shown == {"kept": each.found["kept"], "left out": 20 - each.found["kept"]}


@pytest.mark.parametrize("changes", [
    {"epochs": 0, "error": 0.08, "explained": 0.0, "predictions": [0.5] * 5},
    {"targets": [0.5] * 5, "predictions": [0.5] * 5, "error_by_epoch": [0.0], "epochs": 0, "error": 0.0,
     "constant_error": 0.0, "explained": 0.0}])
def test_a_constant_v_can_be_drawn_without_a_warning(weighed, changes, recwarn):
    each, = report.read_advantages([weighed(made_up(**changes))]).runs
    each.draw().canvas.draw()
    assert not recwarn.list


def test_a_file_without_single_completions_has_the_upper_panels(weighed):
    found = made_up()
    del found["histogram"], found["points"]
    each, = report.read_advantages([weighed(found)]).runs
    assert len(each.draw().axes) == 2


def test_several_runs_are_a_line_each(weighed, capsys):
    runs = [weighed(made_up(), seed) for seed in (1, 2)]
    found = report.read_advantages([*runs, weighed(seed=3)])
    assert [row[0] for row in found.table().rows] == [f"a_lol/{run.directory.name}" for run in runs]
    assert len(found.tables()) == 1
    report.show_of_runs(found)
    assert all("| highest |" in (run.directory / "advantages.md").read_text() for run in runs)


def test_a_run_without_the_file_is_left_alone(weighed, make_run, capsys):
    runs = [weighed(), make_run()]
    before = [sorted(run.directory.iterdir()) for run in runs]
    report.show_of_runs(report.read_advantages(runs))
    assert capsys.readouterr() == ("", "")
    assert [sorted(run.directory.iterdir()) for run in runs] == before


@pytest.mark.parametrize("damage, said", [
    ('{"completions": 4', "Expecting"), ("", "Expecting"), ("[]", "completions is missing"),
    ("{}", "completions is missing"), (made_up() | {"dropped": "much"}, "dropped is missing or no number"),
    (made_up() | {"examples": {"top": []}}, "examples/top is missing"),
    (made_up() | {"fit": {**FIT, "error_by_epoch": None}}, "fit/error_by_epoch is missing")])
def test_a_damaged_file_is_one_message(weighed, damage, said):
    run = weighed(damage)
    with pytest.raises(RunError) as caught:
        report.read_advantages([run])
    message = str(caught.value)
    assert str(run.directory / "advantages.json") in message and said in message and "Delete it" in message
    assert "\n" not in message


def test_bytes_that_are_no_text_are_damage_too(weighed):
    run = weighed("x")
    (run.directory / "advantages.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match="advantages.json is damaged"):
        report.read_advantages([run])


def test_evaluate_shows_them_beside_the_samples(tmp_path, capsys):
    rows = [{"prompt": f"Question: what is {i % 50} plus {i % 7}?\n\nAnswer:",
             "completions": [f" The sum is {i % 50 + i % 7}.", " No idea, ask.", " Well, it is a number, or no?"],
             "rewards": [2, 1, 0]} for i in range(80)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = experiment.train(load_config([
        f"output_dir={tmp_path / 'outputs'}", f"cache_dir={tmp_path / 'cache'}", "scale=smoke", "method=a_lol",
        "task=custom", "data.source=completions", f"data.path={tmp_path / 'mine.jsonl'}", "scorer=hh_rule",
        "training.precision=fp32", "evaluation.num_bootstrap=10", "training.max_steps=2", "objective.value_epochs=2",
        "objective.value_targets=data", "init_from.overrides=['training.max_steps=2']"])).path
    assert evaluate.main([str(run), "--samples", "0"]) == 0
    out = capsys.readouterr().out
    assert out.index("Capability and cost") < out.index("Advantages, before the first step")
    assert len(imread(run / "advantages.png")) > 800
    (run / "advantages.json").write_text("{")
    assert evaluate.main([str(run), "--force"]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "advantages.json is damaged" in said.err and not said.out
