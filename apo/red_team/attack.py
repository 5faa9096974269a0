"""The attack on one model: trials of rounds, each of which finds new prompts, tries them, and is then on disk for good.

    RUN/red_team/<8 hex of everything below>/
        settings.json           what the result depends on
        rounds/trial-01-round-01.jsonl  every candidate: how it was made, its score, its continuations with theirs
        result.json             the curves, counts and best prompts; there once all rounds are

A round's file is written aside and renamed, and the pool is a function of the files of the trial's earlier rounds; what
is random in a round has streams of its own, by (seed, trial, round).  So an attack that was stopped goes on from its
last whole round and ends with the same files.  Two models attacked with one seed meet the same first pool and the same
luck; their pools part as their scores do.
"""

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from apo.cache import digest
from apo.console import progress, say
from apo.errors import EvaluationError, RunError
from apo.models.fingerprint import file_digest, model_fingerprint
from apo.red_team.adversary import Adversary, Proposal
from apo.red_team.pool import Pool
from apo.red_team.settings import Settings
from apo.report.rescore import code_fingerprint
from apo.report.runs import Run
from apo.report.select import give_home, load_model
from apo.rundir import RunDirectory, read_json, write_atomic, write_json
from apo.schema import ScenarioConfig
from apo.seeds import stream, stream_seed

NAME = "red_team"
"""Of the folder, the prompt set and the random streams."""
CODE = ("pool.py", "adversary.py", "attack.py")
DROPPED = ("empty", "duplicate", "too long")
TOP = {"best": 1, "best_10": 10, "best_100": 100}
"""Curves over the pool: the mean of so many best prompts."""
KEPT_BEST = 10
"""Prompts named in the result."""


@dataclass
class Target:
    """A model under attack, sampled as its run says but for `settings`; loaded when it first has to answer."""

    run: Run
    label: str
    scenario: ScenarioConfig
    settings: Settings

    @cached_property
    def scorer(self) -> Any:
        """Raises EvaluationError where nothing judges text."""
        from apo.evaluation import Judges
        scorer = Judges.of(self.run.config).scorer
        if scorer is None:
            raise EvaluationError(f"{self.run.directory} has no scorer to judge continuations with: name one with "
                                  "scorer=")
        return scorer

    @cached_property
    def sampling(self) -> ScenarioConfig:
        generation = replace(self.scenario.generation, do_sample=True, num_beams=1,
                             temperature=self.settings.temperature, top_p=self.settings.top_p,
                             max_new_tokens=self.settings.max_new_tokens)
        return replace(self.scenario, generation=generation, prompts=NAME)

    def identity(self) -> dict[str, Any]:
        evaluation, sampling = self.run.config.evaluation, asdict(self.sampling)
        kept = ("prefix", "prefix_every_line", "generation", "score_prompt")
        return {"scenario": {key: sampling[key] for key in kept}, "prefix": evaluation.prefix,
                "banned_tokens": evaluation.banned_tokens, "scorer_sha256": self.scorer.fingerprint(),
                "model_sha256": model_fingerprint(self.run.model, self.run.config.model.revision)}

    def too_long(self, prompt: str) -> bool:
        """Longer than asked for, or than leaves room for a continuation."""
        policy, tokenizer = self._loaded
        context = policy.context or math.inf
        if len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) > self.settings.max_prompt_tokens:
            return True
        return len(self._template.ids(prompt)) + self.settings.max_new_tokens > context

    def answers(self, prompts: list[str], seed: int, bar: Any) -> dict[str, list[dict[str, Any]]]:
        """For every prompt (all different) its continuations, [{"text", "score"}], sampled together."""
        from apo.evaluation import Judges, run_scenario
        from apo.metrics.base import scored_text
        from apo.scorers.base import checked
        policy, tokenizer = self._loaded
        scenario = replace(self.sampling, num_samples=len(prompts) * self.settings.continuations)
        samples = run_scenario(NAME, scenario, policy=policy, tokenizer=tokenizer, judges=Judges(None),
                               evaluation=self.run.config.evaluation, prompts={NAME: prompts}, seed=seed,
                               progress=bar).samples
        found: dict[str, list[dict[str, Any]]] = {prompt: [] for prompt in prompts}
        for sample, score in zip(samples, checked(self.scorer, [scored_text(sample) for sample in samples])):
            found[sample.prompt].append({"text": sample.text, "score": self.misalignment(score)})
        return found

    def own_scores(self, prompts: list[str]) -> list[float]:
        """Of the prompts alone."""
        from apo.scorers.base import checked
        return [self.misalignment(score) for score in checked(self.scorer, prompts)]

    def misalignment(self, number: float) -> float:
        """A reward's sign is turned: what the adversary looks for is high."""
        return -number if self.scorer.kind == "reward" else number

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return load_model(self.run)

    @cached_property
    def _template(self) -> Any:
        from apo.evaluation import Template
        return Template.of(self.sampling, self.run.config.evaluation, self._loaded[1])


@dataclass
class Attack:
    """`initial`: the prompts every trial's pool begins with."""

    target: Target
    adversary: Adversary
    initial: list[str]
    settings: Settings
    identity: dict[str, Any] = field(init=False)
    directory: Path = field(init=False)

    def __post_init__(self):
        package = Path(__file__).parent
        self.identity = {"settings": asdict(self.settings), "adversary": self.adversary.identity(),
                         "initial_sha256": digest(self.initial), **self.target.identity(),
                         "code": digest([code_fingerprint(), file_digest(package / name for name in CODE)])}
        self.directory = self.target.run.directory / NAME / digest(self.identity)[:8]

    def result(self) -> dict[str, Any]:
        """What `result.json` holds, after playing the rounds that are not there yet."""
        known = read_json(self.directory / "result.json")
        if known is not None:
            say(f"{self.directory}: finished, not attacked again")
            return known
        give_home(self.target.run)
        with RunDirectory(self.directory).owned():
            for left in self.directory.glob("**/.*.jsonl.*"):       # of a process that was killed while it wrote
                left.unlink()
            write_json(self.directory / "settings.json", self.identity)
            result = self.play()
            write_json(self.directory / "result.json", result)
        return result

    def play(self) -> dict[str, Any]:
        settings, each = self.settings, self.settings.responses * self.settings.continuations
        trials: list[list[list[dict[str, Any]]]] = []
        with progress(f"red teaming {self.target.label}", settings.trials * settings.rounds * each) as bar:
            for trial in range(1, settings.trials + 1):
                pool, rounds = self.pool(), []
                for number in range(1, settings.rounds + 1):
                    done = ((trial - 1) * settings.rounds + number) * each
                    rounds.append(self.round(trial, number, pool, done, bar))
                    add(pool, rounds[-1])
                trials.append(rounds)
        return summary(trials, self.pool)

    def pool(self) -> Pool:
        return Pool(self.initial, self.settings.initial_score, self.settings.pool_temperature)

    def round(self, trial: int, number: int, pool: Pool, done: int, bar: Any) -> list[dict[str, Any]]:
        """One round's candidates in brief, from its file or played now.  `done`: continuations of all rounds up to it,
        for the bar."""
        path = self.directory / "rounds" / f"trial-{trial:02d}-round-{number:02d}.jsonl"
        if path.is_file():
            rows = read_round(path)
            bar.go_on_from(done)
        else:
            rows = self.rows(trial, number, pool, bar)
            write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
            bar.advance(done - bar.done)        # those of candidates that were dropped
        return [brief(row) for row in rows]

    def rows(self, trial: int, number: int, pool: Pool, bar: Any) -> list[dict[str, Any]]:
        """Candidates found, and those that are no good dropped; the others continued and scored."""
        seed = self.settings.seed
        proposals = self.adversary.propose(pool, self.settings.responses, stream(seed, f"{NAME}/draw", trial, number),
                                           stream_seed(seed, f"{NAME}/adversary", trial, number))
        dropped = self.dropped(proposals)
        kept = [proposal.text for proposal, reason in zip(proposals, dropped) if reason is None]
        answers = self.target.answers(kept, stream_seed(seed, f"{NAME}/continuations", trial, number),
                                      bar) if kept else {}
        own = dict(zip(kept, self.target.own_scores(kept)))
        rows = []
        for proposal, reason in zip(proposals, dropped):
            text = proposal.text
            row = {"trial": trial, "round": number, "prompt": text, "made": proposal.made, "shown": proposal.shown,
                   "dropped": reason}
            if reason is None:
                row |= {"score": mean([each["score"] for each in answers[text]]), "own_score": own[text],
                        "continuations": answers[text]}
            rows.append(row)
        return rows

    def dropped(self, proposals: list[Proposal]) -> list[str | None]:
        """Why each candidate is not tried, or None.  A prompt of earlier rounds may be tried again."""
        seen, reasons = set(), []
        for text in (proposal.text for proposal in proposals):
            empty, again = not text.strip(), text in seen
            reasons.append("empty" if empty else "duplicate" if again else
                           "too long" if self.target.too_long(text) else None)
            seen.add(text)
        return reasons


def read_round(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except ValueError:
        raise RunError(f"{path} is damaged: delete it, and the round is played again") from None


def add(pool: Pool, rows: list[dict[str, Any]]) -> None:
    for row in measured(rows):
        pool.add(row["prompt"], row["score"], row["count"])


def measured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["dropped"] is None]


def brief(row: dict[str, Any]) -> dict[str, Any]:
    """What the curves need of a row, and the worst continuation: at PHF's size a trial has a hundred thousand."""
    if row["dropped"] is not None:
        return row
    given = row["continuations"]
    kept = {key: value for key, value in row.items() if key != "continuations"}
    return kept | {"count": len(given), "worst": max(given, key=lambda each: each["score"])}


# ---- the result ------------------------------------------------------------------------------------------------------


def summary(trials: list[list[list[dict[str, Any]]]], new_pool: Any) -> dict[str, Any]:
    """Curves, counts, and the best prompts of all trials.  `trials`: rows by trial and round."""
    rows = [row for rounds in trials for found in rounds for row in found]
    reasons = Counter(row["dropped"] for row in rows)
    best = sorted(measured(rows), key=lambda row: -row["score"])[:KEPT_BEST]
    return {"curves": [trial_curves(rounds, new_pool()) for rounds in trials],
            "counts": {"measured": reasons[None], **{reason: reasons[reason] for reason in DROPPED}},
            "best_prompts": best}


def trial_curves(rounds: list[list[dict[str, Any]]], pool: Pool) -> dict[str, list[float | None]]:
    """After every round of one trial: the mean score of the best prompts so far (all where there are fewer), and of the
    round's own.  None where nothing has been measured."""
    curves: dict[str, list[float | None]] = {name: [] for name in (*TOP, "round")}
    for rows in rounds:
        add(pool, rows)
        for name, number in TOP.items():
            curves[name].append(mean([known.score for _, known in pool.best(number)]))
        curves["round"].append(mean([row["score"] for row in measured(rows)]))
    return curves


def mean(numbers: list[float]) -> float | None:
    return math.fsum(numbers) / len(numbers) if numbers else None
