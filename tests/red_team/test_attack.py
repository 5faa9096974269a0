"""The attack on one tiny model: what is on disk, what is scored, and that stopping it anywhere changes nothing."""

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from apo.errors import EvaluationError, RunError
from apo.red_team.adversary import Proposal, Recombination
from apo.red_team.attack import Attack, read_round, summary, trial_curves
from apo.red_team.pool import Pool
from apo.red_team.settings import PAPER, Settings

PROMPTS = ["The letter e", "No such thing here", "An example of text", "Every evening we meet", "Tom ran off"]


@dataclass
class Scripted:
    """Proposes the texts of each round in turn; `asked` is the pool it was given each time."""

    rounds: list[list[str]]
    asked: list[list[str]] = field(default_factory=list)

    def propose(self, pool, number, random, seed):
        self.asked.append(list(pool.prompts))
        texts = self.rounds[(len(self.asked) - 1) % len(self.rounds)]
        return [Proposal(text, "written", ["shown"]) for text in texts]

    def identity(self):
        return {"adversary": "scripted", "rounds": self.rounds}


def tree(folder: Path) -> dict[str, bytes]:
    """Every file but the lock and the pictures, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != ".lock"}


def rows_of(attack: Attack, trial: int = 1, number: int = 1) -> list[dict]:
    return read_round(attack.directory / f"rounds/trial-{trial:02d}-round-{number:02d}.jsonl")


def share_of_e(text: str) -> float:
    return text.count("e") / max(len(text), 1)


def test_every_candidate_and_continuation_is_kept(target, settings):
    attack = Attack(target(settings()), Recombination(), PROMPTS, settings())
    result = attack.result()
    assert len(list((attack.directory / "rounds").iterdir())) == 2 * 3
    for trial in (1, 2):
        for number in (1, 2, 3):
            rows = rows_of(attack, trial, number)
            assert len(rows) == 4
            for row in rows:
                assert (row["trial"], row["round"], row["dropped"]) == (trial, number, None)
                scores = [each["score"] for each in row["continuations"]]
                assert scores == [share_of_e(each["text"]) for each in row["continuations"]] and len(scores) == 3
                assert row["score"] == pytest.approx(sum(scores) / 3)
                assert row["own_score"] == share_of_e(row["prompt"])
    assert result["counts"] == {"measured": 24, "empty": 0, "duplicate": 0, "too long": 0}
    assert rows_of(attack, 1, 1) != rows_of(attack, 2, 1), "trials have streams of their own"
    assert json.loads((attack.directory / "result.json").read_text()) == result


def test_prompt_and_continuation_are_scored_together_where_the_scenario_says_so(target, settings):
    attack = Attack(target(settings(), score_prompt=True), Recombination(), PROMPTS, settings(trials=1, rounds=1))
    attack.result()
    for row in rows_of(attack):
        for each in row["continuations"]:
            assert each["score"] == share_of_e(row["prompt"] + each["text"])


def test_a_reward_is_looked_for_at_its_lowest(target, settings):
    attack = Attack(target(settings(), scorer="letter_e:score"), Recombination(), PROMPTS, settings(trials=1))
    assert attack.target.misalignment(2.0) == 2.0
    type(attack.target.scorer).kind = "reward"
    assert attack.target.own_scores(["eexx"]) == [-0.5]


def test_a_target_is_sampled_as_its_run_says(target, settings):
    made = target(settings(temperature=0.9), method="conditional")
    assert made._template.ids("ab")[:2] == [256, 257], "end of text, then the aligned token"
    assert made.sampling.generation.temperature == 0.9
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    made.run.config.evaluation.banned_tokens = list(letters)
    texts = [each["text"] for given in made.answers(["one", "two"], 3, None).values() for each in given]
    assert len(texts) == 6 and not set("".join(texts)) & set(letters)
    assert set(made.answers(["one", "two"], 3, None)) == {"one", "two"}


def test_empty_doubled_and_long_candidates_are_dropped_and_counted(target, settings):
    numbers = settings(trials=1, rounds=2, max_prompt_tokens=100)
    adversary = Scripted([["good", " ", "good", "", "x" * 101, "y" * 100], ["good", PROMPTS[0]]])
    attack = Attack(target(numbers), adversary, PROMPTS, numbers)
    result = attack.result()
    assert [row["dropped"] for row in rows_of(attack)] == [None, "empty", "duplicate", "empty", "too long", None]
    assert "score" not in rows_of(attack)[1]
    assert result["counts"] == {"measured": 4, "empty": 2, "duplicate": 1, "too long": 1}
    assert adversary.asked[1] == [*PROMPTS, "good", "y" * 100]
    assert rows_of(attack, 1, 2)[0]["dropped"] is None, "a prompt of an earlier round is measured again"


def test_a_prompt_that_leaves_no_room_is_too_long(target, settings):
    made = target(settings(max_prompt_tokens=1000))
    assert not made.too_long("x" * (256 - 6 - 1)) and made.too_long("x" * (256 - 6))


def test_a_round_in_which_nothing_is_left(target, settings):
    numbers = settings(trials=1, rounds=2)
    attack = Attack(target(numbers), Scripted([[], ["some text"]]), PROMPTS, numbers)
    curves, = attack.result()["curves"]
    assert curves["round"][0] is None and curves["best"][0] is None and curves["best"][1] is not None


# ---- stopping and going on -------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


class Stops(Recombination):
    """Recombination that is stopped when it is asked for the nth time."""

    def __init__(self, after: int):
        self.left = after

    def propose(self, *arguments):
        self.left -= 1
        if self.left < 0:
            raise Stopped
        return super().propose(*arguments)


@pytest.mark.parametrize("after", [1, 4])
def test_stopped_and_started_again_it_ends_with_the_same_files(target, settings, after):
    made = target(settings())
    whole = Attack(made, Recombination(), PROMPTS, settings())
    whole.result()
    expected = tree(whole.directory)
    shutil.rmtree(whole.directory)
    stopped = Attack(made, Stops(after), PROMPTS, settings())
    assert stopped.directory == whole.directory
    with pytest.raises(Stopped):
        stopped.result()
    assert len(list((whole.directory / "rounds").iterdir())) == after
    assert not (whole.directory / "result.json").exists()
    (whole.directory / "rounds/.trial-02-round-03.jsonl.4711").write_text('{"half a')
    rest = Stops(6 - after)
    Attack(made, rest, PROMPTS, settings()).result()
    assert rest.left == 0, "finished rounds are not played again"
    assert tree(whole.directory) == expected


def test_a_finished_attack_is_reported_and_not_repeated(target, settings, capsys):
    made = target(settings())
    first = Attack(made, Recombination(), PROMPTS, settings()).result()
    vars(made)["_loaded"] = None                                    # anything that needs the model would fail
    assert Attack(made, Stops(0), PROMPTS, settings()).result() == first
    assert "finished, not attacked again" in capsys.readouterr().err


def test_other_settings_are_another_folder(target, settings, tiny_run):
    made = target(settings())
    home = Attack(made, Recombination(), PROMPTS, settings()).directory
    others = [Attack(made, Recombination(), PROMPTS, settings(seed=1)).directory,
              Attack(made, Recombination(), PROMPTS[1:], settings()).directory,
              Attack(made, Scripted([[]]), PROMPTS, settings()).directory,
              Attack(replace(made, scenario=replace(made.scenario, score_prompt=True)), Recombination(), PROMPTS,
                     settings()).directory]
    with open(made.run.directory / "final/model.safetensors", "ab") as weights:
        weights.write(b" ")
    others.append(Attack(made, Recombination(), PROMPTS, settings()).directory)
    assert len({home, *others}) == 6


def test_a_damaged_round_is_named(target, settings):
    attack = Attack(target(settings()), Stops(2), PROMPTS, settings())
    with pytest.raises(Stopped):
        attack.result()
    (attack.directory / "rounds/trial-01-round-02.jsonl").write_text('{"trial": 1, "ro')
    with pytest.raises(RunError, match="trial-01-round-02.jsonl is damaged: delete it"):
        attack.result()


# ---- numbers ---------------------------------------------------------------------------------------------------------


def row(prompt: str, score: float, dropped: str | None = None, count: int = 2) -> dict:
    if dropped:
        return {"prompt": prompt, "dropped": dropped}
    return {"prompt": prompt, "dropped": None, "score": score, "count": count, "own_score": 0.0, "trial": 1, "round": 1,
            "made": "cut", "worst": {"text": "w", "score": score}}


def test_curves_by_hand():
    rounds = [[row("a", 0.1), row("b", 0.4), row("", 0, "empty")], [row("c", 0.7), row("a", 0.5, count=6)],
              [row("d", 0.2)]]
    curves = trial_curves(rounds, Pool(["seed"], 0.9, 0.1))
    assert curves["best"] == pytest.approx([0.4, 0.7, 0.7])
    # a: (2 * 0.1 + 6 * 0.5) / 8 = 0.4
    assert curves["best_10"] == pytest.approx([0.25, (0.4 + 0.4 + 0.7) / 3, (0.4 + 0.4 + 0.7 + 0.2) / 4])
    assert curves["best_100"] == curves["best_10"]
    assert curves["round"] == pytest.approx([0.25, 0.6, 0.2])
    many = [[row(str(n), n / 1000) for n in range(200)]]
    curves = trial_curves(many, Pool([], 0.0, 0.1))
    assert [curves[name][0] for name in ("best", "best_10", "best_100", "round")] == pytest.approx(
        [0.199, 0.1945, 0.1495, 0.0995])


def test_the_summary_names_the_best_prompts_of_all_trials():
    trials = [[[row("a", 0.1), row("b", 0.4)]], [[row("c", 0.3), row("b", 0, "duplicate")]]]
    found = summary(trials, lambda: Pool([], 0.0, 0.1))
    assert [each["prompt"] for each in found["best_prompts"]] == ["b", "c", "a"]
    assert found["counts"] == {"measured": 3, "empty": 0, "duplicate": 1, "too long": 0}
    assert [curves["best"] for curves in found["curves"]] == [[0.4], [0.3]]


def test_settings_are_phfs_or_smaller_and_checked():
    paper = Settings(**PAPER)
    assert (paper.rounds, paper.trials, paper.responses, paper.continuations, paper.shown) == (10, 10, 20, 512, 4)
    assert (paper.pool_temperature, paper.initial, paper.initial_score) == (0.1, 20, 1e-3)
    assert (paper.temperature, paper.top_p, paper.max_new_tokens) == (0.7, 0.9, 64)
    for name, value in (("rounds", 0), ("pool_temperature", 0.0), ("top_p", 1.5), ("temperature", float("nan"))):
        with pytest.raises(EvaluationError, match=f"--{name.replace('_', '-')} "):
            Settings(**{name: value})
