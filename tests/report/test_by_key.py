"""Methods at each value of an option, against numbers worked out by hand."""

import json

import pytest

from apo.errors import EvaluationError
from apo.report import by_key
from apo.report.tables import table_in_markdown


@pytest.fixture
def noisy(make_run):
    """`noisy("nll", 1, 0.2, 0.3)`: a run with that noise in its rewards whose last score is 0.3."""

    def build(method, seed, noise, score, **metrics):
        def edit(config):
            config.data.reward_noise = noise
        run = make_run(method, seed, edit)
        rows = [{"step": 0, "num_tokens": 0, "generation/functions/score": 0.9},
                {"step": 10, "num_tokens": 1000, "generation/functions/score": score,
                 **{f"generation/functions/{name}": value for name, value in metrics.items()}}]
        (run.directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return run
    return build


@pytest.fixture
def runs(noisy):
    found = []
    for noise in (0.2, 0.0):
        for seed in (1, 2, 3):
            found.append(noisy("reward_threshold", seed, noise, 0.5 + 0.1 * seed, tokens=10 * seed))
            found.append(noisy("a_lol", seed, noise, 0.5 + 0.1 * seed - 0.1 - (0.01 * seed if noise else 0.001 * seed)))
    return found


def test_each_value_has_its_own_paired_differences(runs):
    found = by_key.build(runs, "data.reward_noise", baseline="reward_threshold")
    assert found.kind == "score" and [level.value for level in found.levels] == [0.0, 0.2]
    clean, noise = found.levels
    assert clean.interval("reward_threshold", 0.95).mean == pytest.approx(0.7)
    for level, step in ((clean, 0.001), (noise, 0.01)):
        [(label, difference)] = level.differences(0.95).items()
        assert label == "a_lol" and difference.seeds == 3
        assert difference.interval.mean == pytest.approx(-0.1 - 2 * step)
        assert difference.interval.high - difference.interval.mean == pytest.approx(4.30265 * step / 3 ** 0.5, rel=1e-4)


def test_tables_and_picture(runs, tmp_path):
    found = by_key.build(runs, "data.reward_noise", baseline="reward_threshold", beside=["tokens"])
    values, differences, clean, noise = found.tables()
    assert values.header == ["method", "reward_noise 0.0", "reward_noise 0.2"]
    assert [row[0] for row in differences.rows] == ["a_lol"] and len(differences.rows[0]) == 5
    assert clean.rows == [["reward_threshold", "20"], ["a_lol", ""]]
    found.save(tmp_path / "there" / "by_key.png")
    assert (tmp_path / "there/by_key.png").stat().st_size > 5000
    assert table_in_markdown(values) in (tmp_path / "there/by_key.md").read_text()
    axes = found.draw().axes[0]
    drawn = {line.get_gid(): line.get_ydata() for line in axes.lines if line.get_gid()}
    assert list(drawn["a_lol"]) == pytest.approx([0.598, 0.58])


def test_holm_corrects_over_the_methods_of_one_value(runs, noisy):
    alone = by_key.build(runs, "data.reward_noise", baseline="reward_threshold").levels[0].differences(0.95)["a_lol"].p
    more = runs + [noisy("nll", seed, 0.0, 0.7 + 0.05 * (-1) ** seed) for seed in (1, 2, 3)]
    both = by_key.build(more, "data.reward_noise", baseline="reward_threshold").levels[0].differences(0.95)
    assert both["a_lol"].p == pytest.approx(2 * alone)


def test_what_differs_within_a_value_is_refused(runs, make_run):
    def other_rate(config):
        config.data.reward_noise, config.training.learning_rate = 0.2, 1e-5
    odd = make_run("nll", 1, other_rate)
    with pytest.raises(EvaluationError, match="learning_rate"):
        by_key.build([*runs, odd], "data.reward_noise")


@pytest.mark.parametrize("options, said", [({"key": "data.noise"}, "--by data.noise: no such option"),
                                           ({"scenario": "none"}, 'scenario "none"'),
                                           ({"baseline": "ppo"}, "--baseline ppo")])
def test_mistakes_are_said(runs, options, said):
    with pytest.raises(EvaluationError, match=said):
        by_key.build(runs, **{"key": "data.reward_noise", **options})


def test_the_command(runs, tmp_path, monkeypatch, capsys):
    from scripts import by_key as command
    monkeypatch.chdir(tmp_path)
    folders = [str(tmp_path / "pep8" / method) for method in ("reward_threshold", "a_lol")]
    assert command.main([*folders, "--by", "data.reward_noise", "--baseline", "reward_threshold"]) == 0
    assert "by data.reward_noise" in capsys.readouterr().out and (tmp_path / "by_key/by_key.png").exists()
    assert command.main([*folders, "--by", "data.nosie"]) == 2
    assert "no such option" in capsys.readouterr().err
