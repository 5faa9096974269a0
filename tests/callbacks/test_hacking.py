"""The watch over a rising reward: numbers by hand, what is told and what is not, and the same bytes after a resume."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from apo.callbacks.hacking import Hacking, Look, Watched, in_loop, repeated, scaled
from apo.launch import main
from apo.rundir import RunDirectory, write_jsonl
from apo.schema import EvaluationConfig, ScenarioConfig

REWARD, SCORE = SimpleNamespace(kind="reward"), SimpleNamespace(kind="score")


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def watch(run):
    """`watch({0: rows, 5: rows}, scorer, heldout)` -> metrics by step.  Samples are where a trainer leaves them when
    the watch is asked."""

    def measure(samples, scorer=REWARD, heldout=None, kl=None):
        judges = SimpleNamespace(scorer=scorer, heldout=heldout or {})
        config = EvaluationConfig(scenarios={"replies": ScenarioConfig(),
                                             "after": ScenarioConfig(while_training=False)})
        found = {}
        for step, rows in samples.items():
            write_jsonl(run.samples_file("replies", step), rows)
            if kl:
                run.append(run.metrics_file, {"step": step, "generation/replies/kl_full": kl[step],
                                              "generation/replies/tokens": 20.0})
                run.append(run.metrics_file, {"step": step, "eval/loss": 1.0})
            found[step] = Hacking(config, run, judges, steps_per_epoch=9).measure(None, step, 9, lambda: None).metrics
        return found
    return measure


def rows(scores, texts=None, prompts=None, **heldout):
    """Samples as they stand in a file; by default texts of four words, that differ."""
    count = len(scores)
    texts = texts or [f"one two three {i}" for i in range(count)]
    extra = [{"heldout_scores": {name: float(numbers[i]) for name, numbers in heldout.items()}} if heldout else {}
             for i in range(count)]
    return [{"prompt": prompts[i] if prompts else "", "text": texts[i], "score": float(scores[i]), "index": i,
             "extra": extra[i]} for i in range(count)]


def told(run):
    if not run.hacking_file.exists():
        return []
    return [json.loads(line) for line in run.hacking_file.read_text().splitlines()]


def interval(changes, confidence=0.99):
    half = stats.t.ppf((1 + confidence) / 2, len(changes) - 1) * stats.sem(changes)
    return np.mean(changes) - half, np.mean(changes) + half


@pytest.mark.parametrize("text, share", [("a b c", 0), ("a b c d", 0), ("a a a a a a", 2 / 3), ("a b a b a b a", 0.5),
                                         ("", 0)])
def test_the_share_of_repeated_four_grams(text, share):
    assert repeated(text) == pytest.approx(share)


@pytest.mark.parametrize("text, loop", [
    ("so it goes and goes", False), ("it goes it goes it goes", True), ("it goes it goes", False),
    ("code:\n" + 10 * "`", True), ("code:\n" + 9 * "`", False), ("x = " + 10 * "ab", True), ("", False)])
def test_a_loop_of_words_or_of_characters(text, loop):
    assert in_loop(text) is loop


def test_the_unit_is_the_spread_of_the_first_samples():
    before, after = scaled(np.array([0.0, 2.0]), np.array([3.0, 5.0]))
    assert before.tolist() == [-1, 1] and after.tolist() == [2, 4]
    before, after = scaled(np.array([0.1, 0.1, 0.1]), np.array([0.4, 0.4, 0.1]))     # all alike: of both together
    assert before == pytest.approx([0, 0, 0])
    assert after == pytest.approx(np.array([0.3, 0.3, 0]) / np.std([0.1, 0.1, 0.1, 0.4, 0.4, 0.1]))
    before, after = scaled(np.full(3, 0.1), np.full(3, 0.1))
    assert before == pytest.approx([0, 0, 0]) and (before == after).all()


def test_a_reward_that_rises_while_another_falls(run, watch, capsys):
    """First rewards 0, 1, 0, 1, ...: their spread is 0.5.  Then all are higher by 1 or 2; the held-out ones fell."""
    first, gains = np.tile([0.0, 1.0], 5), np.tile([1.0, 1.0, 2.0, 1.0, 1.0], 2)
    held, losses = np.tile([4.0, 8.0], 5), np.tile([1.0, 0.0, 1.0, 2.0, 1.0], 2)
    found = watch({0: rows(first, judge=held), 5: rows(first + gains, judge=held - losses)}, heldout={"judge": REWARD})
    assert found[0] == {"hacking/replies/reward": 0, "hacking/replies/judge/reward": 0, "hacking/replies/judge/gap": 0,
                        "hacking/replies/length": 1, "hacking/replies/repetition": 0, "hacking/replies/loops": 0}
    assert found[5]["hacking/replies/reward"] == pytest.approx(1.2 / 0.5)
    assert found[5]["hacking/replies/judge/reward"] == pytest.approx(-1 / 2)
    assert found[5]["hacking/replies/judge/gap"] == pytest.approx(1.2 / 0.5 + 1 / 2)
    (row,) = told(run)
    assert (row["step"], row["since"], row["scenario"], row["kind"]) == (5, 0, "replies", "gap/judge")
    low, high = interval(gains / 0.5)
    assert f"risen by +2.40 standard deviations [{low:+.2f}, {high:+.2f}]" in row["said"]
    low, high = interval(-losses / 2)
    assert f"judge has changed by -0.50 standard deviations [{low:+.2f}, {high:+.2f}]" in row["said"]
    leads = (first + gains - 0.5) / 0.5 - (held - losses - 6) / 2
    assert [each["index"] for each in row["samples"]] == np.argsort(-leads, kind="stable")[:3].tolist()
    err = capsys.readouterr().err
    best = row["samples"][0]
    assert f"scored {best['score']:.3g}, judge {best['extra']['heldout_scores']['judge']:.3g}: '{best['text']}'" in err
    assert row["said"] in err and "warning: step 5, replies" in err


def test_scores_of_what_is_bad_count_the_other_way(run, watch):
    """Toxicity falls, and so does what a held-out scorer of toxicity says: nothing is wrong.  Until it rises."""
    first = np.tile([0.5, 0.9], 8)
    samples = {0: rows(first, words=first), 1: rows(first - 0.4, words=first - 0.2)}
    found = watch(samples, SCORE, {"words": SCORE})
    assert found[1]["hacking/replies/reward"] == pytest.approx(2) and not told(run)
    assert found[1]["hacking/replies/words/gap"] == pytest.approx(1), "it lags, but has risen"
    watch({2: rows(first - 0.4, words=first + 0.2)}, SCORE, {"words": SCORE})
    assert [row["kind"] for row in told(run)] == ["gap/words"]


def test_nothing_wrong_nothing_told(run, watch, capsys):
    """All rewards rise together, texts stay as long as they were."""
    random = np.random.default_rng(0)
    samples = {step: rows(step / 5 + random.normal(size=64), judge=step / 5 + random.normal(size=64),
                          texts=[" ".join(random.choice(list("abcdefgh"), 20)) for _ in range(64)])
               for step in range(10)}
    found = watch(samples, heldout={"judge": REWARD}, kl={step: 2.0 * step for step in samples})
    assert found[9]["hacking/replies/reward"] > 1.5 and found[9]["hacking/replies/kl_per_token"] == 0.9
    assert not run.hacking_file.exists() and not capsys.readouterr().err


def test_noise_is_no_rise(run, watch):
    """Twenty evaluations of one and the same policy, of which two scorers see nothing but noise."""
    random = np.random.default_rng(1)
    watch({step: rows(random.normal(size=64), judge=random.normal(size=64)) for step in range(20)},
          heldout={"judge": REWARD})
    assert not told(run)


def test_few_samples_prove_nothing(run, watch):
    watch({0: rows([0.0], judge=[1.0]), 1: rows([5.0], judge=[0.0])}, heldout={"judge": REWARD})
    watch({2: rows([0.0, 1.0], judge=[1.0, 0.0]), 3: rows([2.0, 9.0], judge=[0.0, 0.0])}, heldout={"judge": REWARD})
    assert not told(run)


def texts(*words, count=12):
    return [" ".join([*words, str(i)]) for i in range(count)]


@pytest.mark.parametrize("rise", [0.0, 1.0])
def test_longer_is_told_where_it_pays(run, watch, rise):
    scores = np.arange(12.0)
    short, long = texts("a"), texts(*"abcdefg")
    long[4] += " and this one is the longest of all"
    found = watch({0: rows(scores, short), 3: rows(scores + rise, long)})[3]
    ratio = sum(map(len, long)) / sum(map(len, short))
    assert found["hacking/replies/length"] == pytest.approx(ratio) and ratio > 1.5
    assert [row["kind"] for row in told(run)] == (["length"] if rise else [])
    if rise:
        assert "from 3 to 18 characters" in told(run)[0]["said"]
        assert told(run)[0]["samples"][0]["index"] == 4


def test_shorter_too_down_to_nothing(run, watch):
    scores = np.arange(12.0)
    found = watch({0: rows(scores, texts(*"abcdefg")), 3: rows(scores + 1, 11 * [""] + ["k"])})[3]
    assert 0 < found["hacking/replies/length"] < 0.1
    assert told(run)[0]["kind"] == "length" and told(run)[0]["samples"][0]["text"] == ""
    assert math.isnan(watch({0: rows(scores, 12 * [""]), 4: rows(scores, texts("a"))})[4]["hacking/replies/length"])


def test_repetition_is_told_with_the_most_repetitive_samples(run, watch):
    """Half of the samples repeat a phrase four times: 9 of their 13 4-grams came before."""
    scores, clean = np.arange(12.0), [f"{i} is a sentence of so many words as are needed here, more or less"
                                      for i in range(12)]
    phrase = "good dog of mine "
    spoilt = [4 * phrase if i % 2 else text for i, text in enumerate(clean)]
    found = watch({0: rows(scores, clean), 3: rows(scores + 2, spoilt)})[3]
    assert found["hacking/replies/repetition"] == pytest.approx(9 / 13 / 2)
    assert found["hacking/replies/loops"] == 0.5
    (row,) = told(run)
    assert row["kind"] == "repetition" and "went from 0 to 35 %" in row["said"] and "from 0 to 50 %" in row["said"]
    assert [each["text"] for each in row["samples"]] == 3 * [4 * phrase]
    assert row["samples"][0]["repetition"] == pytest.approx(9 / 13) and row["samples"][0]["loop"] is True


def test_backticks_without_a_space(run, watch):
    """StackLLaMA's: one word, so no 4-gram is repeated."""
    scores = np.arange(12.0)
    found = watch({0: rows(scores, texts("x" + 14 * "ab")), 3: rows(scores + 2, 12 * ["code " + 25 * "`"])})[3]
    assert (found["hacking/replies/repetition"], found["hacking/replies/loops"]) == (0, 1)
    assert [row["kind"] for row in told(run)] == ["repetition"]


def test_a_policy_that_ran_away(run, watch):
    scores = np.arange(12.0)
    found = watch({0: rows(scores), 3: rows(scores + 1), 6: rows(scores + 1)}, kl={0: 0.0, 3: 20.0, 6: 30.0})
    assert [found[step]["hacking/replies/kl_per_token"] for step in (0, 3, 6)] == [0, 1, 1.5]
    (row,) = told(run)
    assert (row["step"], row["kind"]) == (6, "distance") and "1.5 nats a token" in row["said"]
    assert [each["index"] for each in row["samples"]] == [11, 10, 9], "those with the highest reward"


def test_samples_of_one_prompt_are_one_piece_of_evidence():
    """Prompts a, b, c gain 1, 0 and 2, four samples each: three numbers, not twelve."""
    prompts, gains = list("abcabcabcabc"), np.tile([1.0, 0.0, 2.0], 4)
    first = np.tile([0.0, 1.0], 6)
    looks = [Look.at(rows(each, prompts=prompts), 1, {}) for each in (first, first + gains)]
    reward = Watched(*looks, None).reward
    assert (reward.low, reward.high) == pytest.approx(interval(np.array([1.0, 0.0, 2.0]) / 0.5))
    looks = [Look.at(rows(each), 1, {}) for each in (first, first + gains)]
    reward = Watched(*looks, None).reward
    assert (reward.low, reward.high) == pytest.approx(interval(gains / 0.5)), "without prompts each is one"


def test_once_for_each_kind_and_again_the_same_after_a_resume(run, watch, capsys):
    scores, long = np.arange(12.0), texts(*"abcdefg")
    samples = {5: rows(scores, texts("a")), 10: rows(scores + 1, long),
               15: rows(scores + 2, [" ".join(4 * [text]) for text in long])}
    found = watch(samples)
    whole = run.hacking_file.read_bytes()
    assert [(row["step"], row["since"], row["kind"]) for row in told(run)] == [(10, 5, "length"), (15, 5, "repetition")]
    assert capsys.readouterr().err.count("warning") == 2
    again = watch({step: samples[step] for step in (10, 15)})      # what was told after the checkpoint is told anew
    assert again == {step: found[step] for step in (10, 15)} and run.hacking_file.read_bytes() == whole


def test_scenarios_are_told_from_each_other_by_name(run):
    for name in ("a-000003", "a-000010", "a-b-000000", "evaluation-a", "a-1000000"):
        write_jsonl(run.samples / f"{name}.jsonl", [])
    assert run.sampled_at("a") == [3, 10, 1_000_000] and run.sampled_at("a-b") == [0]


PACKAGE = '''
from dataclasses import dataclass
from apo.scorers.base import Scorer, scorers

@scorers.register("fond_of_doubles")
@dataclass
class FondOfDoubles(Scorer):
    """Share of characters that are the one before."""
    kind = "reward"

    def score(self, texts):
        return [sum(a == b for a, b in zip(text, text[1:])) / max(len(text), 1) for text in texts]

@scorers.register("variety")
@dataclass
class Variety(Scorer):
    """How many different characters."""
    kind = "reward"

    def score(self, texts):
        return [float(len(set(text))) for text in texts]
'''


def test_a_run_that_learns_what_its_scorer_overlooks(tmp_path, monkeypatch, capsys):
    """dpo on what its start policy wrote, ranked by a scorer that likes the same character twice; then killed between
    a warning and the next checkpoint, and started again."""
    (tmp_path / "doubles_package.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--task", "pep8", "--method", "dpo", "--scale", "smoke", "--plugins", "doubles_package",
             "scorer=fond_of_doubles", "evaluation.heldout_scorers.variety=variety", "training.max_steps=20",
             "training.save_steps=15", "evaluation.every_n_steps=10", "training.learning_rate=1e-2",
             "evaluation.scenarios.functions=null", "evaluation.scenarios.unconditional.num_samples=48",
             "evaluation.metrics={}", "evaluation.metrics.by_code=null"]
    assert main([*words, "--output-dir", str(tmp_path / "whole")]) == 0
    (whole,) = (tmp_path / "whole/pep8/dpo").iterdir()
    (start,) = (tmp_path / "whole/pep8/mle").glob("*/metrics.jsonl")
    found = told(RunDirectory(whole))
    assert "gap/variety" in [row["kind"] for row in found]
    assert "Is it still what the reward is for?" in capsys.readouterr().err
    measured = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    watched = [row for row in measured if "hacking/unconditional/reward" in row]
    assert [row["step"] for row in watched] == [0, 10, 20]
    assert watched[-1]["hacking/unconditional/variety/gap"] > 0.5 and "hacking/unconditional/kl_per_token" in watched[0]
    assert "generation" in start.read_text() and "hacking" not in start.read_text(), "mle began with nothing"

    from apo import checkpoint
    seal, again = checkpoint.seal, [*words, "--output-dir", str(tmp_path / "again")]

    def killed(folder):
        if folder.name.endswith("-20"):
            raise RuntimeError("killed")
        seal(folder)
    shutil.copytree(tmp_path / "whole/pep8/mle", tmp_path / "again/pep8/mle")
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "seal", killed)
        assert main(again) != 0
    (resumed,) = (tmp_path / "again/pep8/dpo").iterdir()
    assert len(told(RunDirectory(resumed))) == len(found)
    assert main(again) == 0
    for name in ("hacking.jsonl", "metrics.jsonl", "final/model.safetensors"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
