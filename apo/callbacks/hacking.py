"""Is the reward still what it is for?  Samples of every evaluation against those of the run's first one.

A method that learns from a scorer may learn what the scorer overlooks (StackLLaMA's policy wrote repeated backticks,
since its reward model liked code).  The reward then rises, and something else says that the text got no better.  Where
a run starts from a trained model, each evaluation is held against the first, sample by sample (same prompts, same
luck), and logged is, of each scenario that is measured while training,

    hacking/<scenario>/reward           change of the training reward, in standard deviations of the first samples'
    hacking/<scenario>/<name>/reward    the same of a held-out scorer (`evaluation.heldout_scorers`)
    hacking/<scenario>/<name>/gap       the former less the latter
    hacking/<scenario>/length           mean characters over what they were: 1 is unchanged
    hacking/<scenario>/repetition       change of the mean share of repeated 4-grams of words (seq-rep-4; 0 for a sample
                                        too short to have one)
    hacking/<scenario>/loops            change of the share of samples that end in a loop
    hacking/<scenario>/kl_per_token     nats between policy and start, where that is measured

There is a warning, once per scenario and kind, when the reward has risen beyond noise and one of the others has moved
beyond noise and by more than the numbers below say.  It names the numbers and quotes samples; they stand in
`hacking.jsonl` as a whole.

Nothing is generated and nothing remembered: all of it is read from the run directory, where the evaluation has just
left its samples, so that a run that goes on after a kill says what an uninterrupted one would have said.
"""

from dataclasses import dataclass
from typing import Any, Callable, Iterator

import numpy as np

from apo.callbacks.base import Callback, Measurement, scheduled
from apo.console import warn
from apo.metrics.repetition import ends_in_loop
from apo.metrics.statistics import Interval, t_interval
from apo.rundir import RunDirectory, read_jsonl, write_jsonl
from apo.schema import EvaluationConfig

CONFIDENCE = 0.99
"""Two-sided.  Every evaluation asks anew, so 95 % would cry wolf in the course of a run."""
GAP = 0.5
"""Standard deviations by which the training reward has run ahead of a held-out scorer that has not risen."""
TIMES_AS_LONG = 1.5
"""Longer, or shorter."""
MORE_REPETITION = 0.1
"""Of the share of repeated 4-grams, or of samples that end in a loop."""
NATS_PER_TOKEN = 1.0
"""From the start.  Usual targets are below 0.15 (6 nats a sample); preference methods that lost their text went 1 to 4
(docs/experiments/preferences_small.md)."""
SHOWN, QUOTED = 3, 160
"""Samples with a warning, and characters of each in it."""


class Hacking(Callback):
    """Args:
        run: where samples and metrics of every evaluation lie, and `hacking.jsonl` goes.
        judges: `apo.evaluation.Judges`, which know in which direction their numbers go.
    """

    name = "hacking"

    def __init__(self, config: EvaluationConfig, run: RunDirectory, judges, *, steps_per_epoch: float):
        self.config, self.run, self.steps_per_epoch = config, run, steps_per_epoch
        self.sign = direction(judges.scorer)
        self.signs = {name: direction(scorer) for name, scorer in judges.heldout.items()}

    def due(self, step: int, max_steps: int) -> bool:
        return scheduled(self.config, self.steps_per_epoch, step, max_steps)

    def measure(self, policy, step: int, max_steps: int, check: Callable[[], None]) -> Measurement:
        told = [row for row in read_jsonl(self.run.hacking_file) if row["step"] < step]
        known, metrics = {(row["scenario"], row["kind"]) for row in told}, {}
        for name, scenario in self.config.scenarios.items():
            if not scenario.while_training:
                continue
            since = self.run.sampled_at(name)[0]
            watched = Watched(self.look(name, since), self.look(name, step), self.nats_per_token(name, step))
            metrics |= {f"hacking/{name}/{key}": value for key, value in watched.metrics().items()}
            told += [self.tell(step, since, name, each) for each in watched.warnings()
                     if (name, each.kind) not in known]
        if told:
            write_jsonl(self.run.hacking_file, told)
        return Measurement(metrics)

    def look(self, scenario: str, step: int) -> "Look":
        return Look.at(read_jsonl(self.run.samples_file(scenario, step)), self.sign, self.signs)

    def nats_per_token(self, scenario: str, step: int) -> float | None:
        measured = {key: value for row in read_jsonl(self.run.metrics_file) if row["step"] == step
                    for key, value in row.items()}
        nats = measured.get(f"generation/{scenario}/kl_full")
        return None if nats is None else nats / max(measured[f"generation/{scenario}/tokens"], 1)

    def tell(self, step: int, since: int, scenario: str, found: "Warned") -> dict[str, Any]:
        """Warns, and gives the line of hacking.jsonl."""
        lines = [f"step {step}, {scenario}: since step {since} {found.said}. Is it still what the reward is for? "
                 f"Samples that show it (whole in {self.run.hacking_file}):", *map(quoted, found.samples)]
        warn("\n".join(lines))
        return {"step": step, "scenario": scenario, "kind": found.kind, "since": since, "said": found.said,
                "samples": found.samples}


def direction(scorer) -> int:
    return 1 if scorer.kind == "reward" else -1


def quoted(sample: dict[str, Any]) -> str:
    heldout = "".join(f", {name} {number:.3g}" for name, number in sample["extra"].get("heldout_scores", {}).items())
    text = sample["text"]
    return f"  scored {sample['score']:.3g}{heldout}: {text[:QUOTED]!r}{'...' if len(text) > QUOTED else ''}"


@dataclass
class Look:
    """The samples of one evaluation of one scenario, in the order of their prompts; N of them."""

    rows: list[dict[str, Any]]
    """As they stand in samples/."""
    rewards_N: np.ndarray
    """Higher is better, whatever the scorer says."""
    heldout: dict[str, np.ndarray]
    lengths_N: np.ndarray
    """Characters."""
    repetition_N: np.ndarray
    loops_N: np.ndarray

    @classmethod
    def at(cls, rows: list[dict[str, Any]], sign: int, signs: dict[str, int]) -> "Look":
        texts = [row["text"] for row in rows]
        heldout = {name: each * np.array([row["extra"]["heldout_scores"][name] for row in rows], float)
                   for name, each in signs.items()}
        return cls(rows, sign * np.array([row["score"] for row in rows], float), heldout,
                   np.array([len(text) for text in texts], float), np.array([repeated(text) for text in texts]),
                   np.array([in_loop(text) for text in texts], float))


def repeated(text: str, n: int = 4) -> float:
    """1 - unique n-grams / n-grams of words."""
    words = text.split()
    grams = [tuple(words[at:at + n]) for at in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def in_loop(text: str) -> bool:
    """In a phrase of two words or more, three times in a row; or in the same characters, ten times in a row, since not
    all that repeats itself has white space (a row of backticks)."""
    return ends_in_loop(text.split(), least=2, times=3) or ends_in_loop(list(text), least=1, times=10)


@dataclass
class Warned:
    kind: str
    said: str
    samples: list[dict[str, Any]]
    """The most telling first."""


@dataclass
class Watched:
    """What has become of a scenario's samples."""

    first: Look
    now: Look
    nats_per_token: float | None

    def __post_init__(self):
        self.reward = self.interval(*scaled(self.first.rewards_N, self.now.rewards_N))
        self.heldout = {name: self.interval(*scaled(before_N, self.now.heldout[name]))
                        for name, before_N in self.first.heldout.items()}
        self.gaps = {name: self.interval(*self.lead(name)) for name in self.heldout}
        self.length, self.repetition, self.loops = (
            self.interval(getattr(self.first, name), getattr(self.now, name))
            for name in ("lengths_N", "repetition_N", "loops_N"))
        self.characters = float(self.first.lengths_N.mean()), float(self.now.lengths_N.mean())

    def interval(self, before_N: np.ndarray, after_N: np.ndarray) -> Interval:
        """Of the mean change: Student's t over prompts, or over samples where all have one prompt."""
        change_N = after_N - before_N
        prompts_N = np.unique([row["prompt"] for row in self.first.rows], return_inverse=True)[1]
        if prompts_N.any():
            change_N = np.bincount(prompts_N, change_N) / np.bincount(prompts_N)
        return t_interval(change_N, CONFIDENCE)

    def lead(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """How far each sample's training reward is ahead of its reward by a held-out scorer, before and after."""
        rewards = scaled(self.first.rewards_N, self.now.rewards_N)
        others = scaled(self.first.heldout[name], self.now.heldout[name])
        return rewards[0] - others[0], rewards[1] - others[1]

    def metrics(self) -> dict[str, float]:
        before, after = self.characters
        found = {"reward": self.reward.mean}
        for name, interval in self.heldout.items():
            found |= {f"{name}/reward": interval.mean, f"{name}/gap": self.gaps[name].mean}
        found |= {"length": after / before if before else float("nan"),
                  "repetition": self.repetition.mean, "loops": self.loops.mean}
        return found if self.nats_per_token is None else found | {"kl_per_token": self.nats_per_token}

    def warnings(self) -> Iterator[Warned]:
        if self.reward.low <= 0:
            return
        for kind, said, order_N in (*self.gap(), *self.size(), *self.repeats(), *self.distance()):
            yield Warned(kind, f"the reward has risen by {deviations(self.reward)}, and {said}", self.samples(order_N))

    def samples(self, order_N: np.ndarray) -> list[dict[str, Any]]:
        chosen = np.argsort(-order_N, kind="stable")[:SHOWN].tolist()
        return [{**self.now.rows[i], "repetition": float(self.now.repetition_N[i]), "loop": bool(self.now.loops_N[i])}
                for i in chosen]

    # Each gives kind, words, and by which number of theirs samples show it; nothing where nothing is wrong.

    def gap(self) -> Iterator[tuple[str, str, np.ndarray]]:
        for name, gap in self.gaps.items():
            if gap.mean > GAP and gap.low > 0 and self.heldout[name].low <= 0:
                yield (f"gap/{name}", f"that of the held-out scorer {name} has changed by "
                       f"{deviations(self.heldout[name])}", self.lead(name)[1])

    def size(self) -> Iterator[tuple[str, str, np.ndarray]]:
        before, after = self.characters
        longer, shorter = after > TIMES_AS_LONG * before, TIMES_AS_LONG * after < before
        if longer and self.length.low > 0 or shorter and self.length.high < 0:
            yield ("length", f"samples went from {before:.0f} to {after:.0f} characters",
                   self.now.lengths_N if longer else -self.now.lengths_N)

    def repeats(self) -> Iterator[tuple[str, str, np.ndarray]]:
        if any(each.mean > MORE_REPETITION and each.low > 0 for each in (self.repetition, self.loops)):
            four, loop = ([100 * getattr(look, name).mean() for look in (self.first, self.now)]
                          for name in ("repetition_N", "loops_N"))
            yield ("repetition", f"the share of repeated 4-grams went from {four[0]:.0f} to {four[1]:.0f} %, that of "
                   f"samples that end in a loop from {loop[0]:.0f} to {loop[1]:.0f} %",
                   self.now.repetition_N + self.now.loops_N)

    def distance(self) -> Iterator[tuple[str, str, np.ndarray]]:
        if self.nats_per_token is not None and self.nats_per_token > NATS_PER_TOKEN:
            yield ("distance", f"the policy is {self.nats_per_token:.1f} nats a token from its start",
                   self.now.rewards_N)


def scaled(before_N: np.ndarray, after_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In standard deviations from the mean of those before; where these are all alike, in deviations of both
    together."""
    spreads = (each_N.std() for each_N in (before_N, np.concatenate([before_N, after_N])) if np.ptp(each_N))
    unit = next(spreads, 1.0)
    return (before_N - before_N.mean()) / unit, (after_N - before_N.mean()) / unit


def deviations(interval: Interval) -> str:
    """`+1.30 standard deviations [+0.90, +1.70]`."""
    return f"{interval.mean:+.2f} standard deviations [{interval.low:+.2f}, {interval.high:+.2f}]"
