"""Methods side by side: means with intervals, paired differences to a baseline, corrected for their number.

The unit of a claim is the training seed.  With two seeds or more, a method's interval is Student's t over its seeds'
means and its difference to the baseline a t over the differences seed by seed (same data order, same prompts, same
sampling seeds on both sides).  With one seed only the samples vary: a bootstrap over prompts (samples of one prompt
stay together), which says how sure we are about *these two models* and nothing about another training run.  p-values
are Holm-corrected over the methods compared with the baseline, scenario by scenario.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable

import numpy as np

from apo.errors import EvaluationError, nearest
from apo.identity import leaves, to_dict
from apo.metrics import statistics
from apo.metrics.code import by_code
from apo.metrics.pii import by_type
from apo.metrics.statistics import Interval, holm, paired_t
from apo.report import fairness
from apo.report.fairness import Factor
from apo.report.runs import Run
from apo.rundir import read_jsonl
from apo.schema import NOT_IDENTITY

PARTS = {"by_code/": by_code, "by_type/": by_type}
"""What the metrics that say what the score is made of begin with, and how a sample's parts follow from what the scorer
said of it."""

MOST_OPTIONS = 2
"""In which two configs of one method differ, for a label to name them."""
KL = re.compile(r"kl/([^/]+)/\w+_logp_mc")
"""What the callback `kl` calls its estimates; the part in brackets is the reference."""


@dataclass
class Method:
    """One row of every table: the runs of one method and config, over seeds."""

    label: str
    runs: list[Run]
    evaluations: list[dict[str, Any]]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    def by_seed(self) -> dict[int, dict[str, Any]]:
        return dict(zip(self.seeds, self.evaluations))

    def metric(self, scenario: str, name: str) -> list[float]:
        """One value per seed; shorter where some evaluation lacks it."""
        found = [evaluation["scenarios"][scenario]["metrics"].get(name) for evaluation in self.evaluations]
        return [value for value in found if value is not None]

    def heldout(self, name: str) -> list[float]:
        return [evaluation["heldout"][name] for evaluation in self.evaluations if name in evaluation["heldout"]]

    def measured(self, name: str) -> list[float]:
        """What a callback said."""
        found = [evaluation.get("measured", {}) for evaluation in self.evaluations]
        return [measured[name] for measured in found if name in measured]

    def tokens_trained(self) -> list[int]:
        return [tokens for tokens in (run.tokens_trained() for run in self.runs) if tokens is not None]


@dataclass
class Difference:
    """A method's mean score minus the baseline's.  `p` is two-sided and Holm-corrected."""

    interval: Interval
    p: float
    seeds: int


def differences_over_seeds(values: dict[str, dict[int, float]], baseline: str | None,
                           confidence: float) -> dict[str, Difference]:
    """To the baseline, of the methods (values by seed) that share two seeds with it or more: paired by seed, corrected
    (Holm) over the methods."""
    base, found = values.get(baseline, {}), {}
    for label, own in values.items():
        seeds = sorted(own.keys() & base.keys())
        if label != baseline and len(seeds) > 1:
            interval, p = paired_t([own[seed] for seed in seeds], [base[seed] for seed in seeds], confidence)
            found[label] = Difference(interval, p, len(seeds))
    for each, p in zip(found.values(), holm([each.p for each in found.values()]) if found else []):
        each.p = p
    return found


@dataclass
class ScenarioRow:
    label: str
    score: Interval
    difference: Difference | None
    """None for the baseline itself, and where nothing can be paired."""


@dataclass
class Comparison:
    task: str
    methods: list[Method]
    baseline: str | None
    confidence: float
    kind: str
    """`score`: lower is better; `reward`: higher is."""
    scenarios: dict[str, list[ScenarioRow]] = field(default_factory=dict)
    parts: dict[str, dict[str, dict[str, Difference]]] = field(default_factory=dict)
    """By scenario, part of the score (`by_code/E1`) and method: that part minus the baseline's, p not corrected."""
    factors: list[Factor] = field(default_factory=list)
    picture: Path | None = None
    """Where the PNG was written; its tables lie beside it."""

    def row(self, scenario: str, label: str) -> ScenarioRow:
        return next(row for row in self.scenarios[scenario] if row.label == label)

    def divergences(self) -> dict[str, str]:
        """Reference -> metric, of the KLs to a reference that every run has."""
        evaluations = [evaluation for method in self.methods for evaluation in method.evaluations]
        names = [name for name in evaluations[0].get("measured", {}) if KL.fullmatch(name)]
        return {KL.fullmatch(name)[1]: name for name in names
                if all(name in evaluation.get("measured", {}) for evaluation in evaluations)}

    def method(self, label: str) -> Method:
        return next(method for method in self.methods if method.label == label)


def build(evaluated: Iterable[tuple[Run, dict[str, Any]]], baseline: str | None = None,
          allow: Iterable[str] = ()) -> Comparison:
    """Groups runs into methods, refuses unfair company, computes every interval.

    `baseline`: a method's label or name, or a run directory; None takes `mle` where it is, else the first method.
    """
    methods = group(list(evaluated))
    label = baseline_label(methods, baseline)
    methods.sort(key=lambda method: method.label != label)
    first = methods[0].runs[0].config
    factors = fairness.differences({m.label: list(zip(m.runs, m.evaluations)) for m in methods}, allow)
    fairness.refuse(factors)
    comparison = Comparison(first.task, methods, label, first.evaluation.confidence,
                            methods[0].evaluations[0]["kind"], factors=factors)
    bootstrap = Bootstrap(first.evaluation.confidence, first.evaluation.num_bootstrap)
    for scenario in shared_scenarios(methods):
        comparison.scenarios[scenario] = scenario_rows(methods, comparison.baseline, scenario, bootstrap)
        comparison.parts[scenario] = part_differences(methods, comparison.baseline, scenario, bootstrap)
    return comparison


def group(evaluated: list[tuple[Run, dict[str, Any]]]) -> list[Method]:
    """Runs that differ in nothing but the seed, in the order given; labels made distinct by what differs."""
    groups: dict[tuple, list[tuple[Run, dict[str, Any]]]] = {}
    for run, evaluation in evaluated:
        groups.setdefault((run.method, run.variant, run.config_hash), []).append((run, evaluation))
    methods = []
    for pairs, label in zip(groups.values(), labels(list(groups), [pairs[0][0] for pairs in groups.values()])):
        pairs.sort(key=lambda pair: pair[0].seed)
        refuse_doubles(label, [run for run, _ in pairs])
        methods.append(Method(label, [run for run, _ in pairs], [evaluation for _, evaluation in pairs]))
    if not methods:
        raise EvaluationError("There is no run to compare.")
    return methods


def labels(keys: list[tuple[str, str, str]], runs: list[Run] = ()) -> list[str]:
    """The method's name; of its variant the first change, all of them where two would look the same; where they still
    do the options in which their runs (one of each) differ, if these are few, else the config's hash."""
    names = [f"{method} ({variant.split(' ')[0]})" if variant else method for method, variant, _ in keys]
    whole = [f"{method} ({variant})" if variant else method for method, variant, _ in keys]
    shown = [name if names.count(name) == 1 else full for name, full in zip(names, whole)]
    told_apart = {}
    for name in {name for name in shown if shown.count(name) > 1}:
        places = [place for place, other in enumerate(shown) if other == name]
        options = options_apart([runs[place] for place in places]) if runs else []
        told_apart |= dict(zip(places, options or [f"#{keys[place][2][:4]}" for place in places]))
    return [f"{name} {told_apart[place]}" if place in told_apart else name for place, name in enumerate(shown)]


def options_apart(runs: list[Run]) -> list[str]:
    """`(loss_type=ipo)` of each, by the options in which they differ; nothing where these are many or tell too little.
    """
    flat = [dict(leaves(to_dict(run.trained or run.config))) for run in runs]
    differing = [key for key in dict.fromkeys(key for each in flat for key in each)
                 if not fairness.under(key, NOT_IDENTITY) and len({str(each.get(key)) for each in flat}) > 1]
    names = [key.rsplit(".", 1)[-1] for key in differing]
    told = [", ".join(f"{name}={each.get(key)}" for name, key in zip(names, differing)) for each in flat]
    few = 0 < len(differing) <= MOST_OPTIONS and len(set(told)) == len(runs)
    return [f"({words})" for words in told] if few else []


def refuse_doubles(label: str, runs: list[Run]) -> None:
    for one, other in zip(runs, runs[1:]):
        if one.seed == other.seed:
            raise EvaluationError(f"{label} with seed {one.seed} is there twice: {one.directory} and "
                                  f"{other.directory}. Name only one of them.")


def baseline_label(methods: list[Method], wanted: str | None) -> str | None:
    """None where there is a single method and so nothing to compare with."""
    if wanted is None:
        default = next((method.label for method in methods if method.runs[0].method == "mle"), methods[0].label)
        return default if len(methods) > 1 else None
    for method in methods:
        if wanted in (method.label, method.runs[0].method) or any(same_place(run, wanted) for run in method.runs):
            return method.label
    known = [method.label for method in methods]
    raise EvaluationError(f'--baseline {wanted}: not among the compared methods, which are {", ".join(known)}.'
                          f"{nearest(wanted, known)}")


def same_place(run: Run, name: str) -> bool:
    return Path(name).resolve() == run.directory.resolve() or name == run.model


def shared_scenarios(methods: list[Method]) -> list[str]:
    every = [set(evaluation["scenarios"]) for method in methods for evaluation in method.evaluations]
    return [name for name in methods[0].evaluations[0]["scenarios"] if all(name in names for names in every)]


@dataclass
class Bootstrap:
    confidence: float
    draws: int
    seed: int = 0


def scenario_rows(methods: list[Method], baseline: str | None, scenario: str,
                  bootstrap: Bootstrap) -> list[ScenarioRow]:
    base = next((method for method in methods if method.label == baseline), None)
    rows = []
    for method in methods:
        compared = None if base is None or method is base else difference(method, base, scenario, bootstrap)
        rows.append(ScenarioRow(method.label, score_interval(method, scenario, bootstrap), compared))
    compared = [row.difference for row in rows if row.difference is not None]
    for each, corrected in zip(compared, statistics.holm([each.p for each in compared])):
        each.p = float(corrected)
    return rows


def score_interval(method: Method, scenario: str, bootstrap: Bootstrap) -> Interval:
    """t over seeds' means; for one seed a BCa bootstrap over its prompts."""
    samples = [evaluation["scenarios"][scenario] for evaluation in method.evaluations]
    if len(samples) > 1:
        return statistics.t_interval([np.mean(each["scores"]) for each in samples], bootstrap.confidence)
    return statistics.bootstrap_mean(units(samples[0]["scores"], samples[0]["prompts"]), seed=bootstrap.seed,
                                     confidence=bootstrap.confidence, num_bootstrap=bootstrap.draws)


def difference(method: Method, base: Method, scenario: str, bootstrap: Bootstrap) -> Difference | None:
    """Of the score."""
    ours, theirs = ({seed: Values(each["scenarios"][scenario]["scores"], each["scenarios"][scenario]["prompts"])
                     for seed, each in side.by_seed().items()} for side in (method, base))
    return paired(ours, theirs, bootstrap)


@dataclass
class Values:
    """A number of every sample, and of each the number of its prompt."""

    values: list[float]
    prompts: list[int]


def paired(ours: dict[int, Values], theirs: dict[int, Values], bootstrap: Bootstrap) -> Difference | None:
    """Over the seeds both have; None where there is no such seed or the prompts are not the same."""
    pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
    if not pairs:
        return None
    if len(pairs) > 1:
        interval, p = statistics.paired_t([np.mean(a.values) for a, _ in pairs], [np.mean(b.values) for _, b in pairs],
                                          bootstrap.confidence)
        return Difference(interval, p, len(pairs))
    a, b = pairs[0]
    if a.prompts != b.prompts:
        return None
    interval, p = statistics.paired_bootstrap(units(a.values, a.prompts), units(b.values, b.prompts),
                                              confidence=bootstrap.confidence, num_bootstrap=bootstrap.draws,
                                              seed=bootstrap.seed)
    return Difference(interval, p, 1)


def part_differences(methods: list[Method], baseline: str | None, scenario: str,
                     bootstrap: Bootstrap) -> dict[str, dict[str, Difference]]:
    """{part: {method: its difference to the baseline}}, paired like the score's.  A method is left out where its
    evaluation has no parts or, with a single seed, where its samples do not say what each was scored for; a part where
    both sides have none of it."""
    base = next((method for method in methods if method.label == baseline), None)
    found: dict[str, dict[str, Difference]] = {}
    for method in methods:
        if base is None or method is base:
            continue
        one_seed = len(set(method.seeds) & set(base.seeds)) == 1
        ours, theirs = (parts_by_sample(side, scenario) if one_seed else parts_by_seed(side, scenario)
                        for side in (method, base))
        for part in ours:
            sides = (ours[part], theirs.get(part, {}))
            there_is_some = any(any(each.values) for side in sides for each in side.values())
            compared = paired(*sides, bootstrap) if there_is_some else None
            if compared is not None:
                found.setdefault(part, {})[method.label] = compared
    return found


def parts_by_seed(method: Method, scenario: str) -> dict[str, dict[int, Values]]:
    """The evaluation's means, all that a t over seeds needs."""
    found: dict[str, dict[int, Values]] = {}
    for seed, evaluation in method.by_seed().items():
        for name, value in evaluation["scenarios"][scenario]["metrics"].items():
            if name.startswith(tuple(PARTS)):
                found.setdefault(name, {})[seed] = Values([value], [0])
    return found


def parts_by_sample(method: Method, scenario: str) -> dict[str, dict[int, Values]]:
    """Every sample's own, for a bootstrap within a seed."""
    found: dict[str, dict[int, Values]] = {}
    for run, evaluation in zip(method.runs, method.evaluations):
        prompts = evaluation["scenarios"][scenario]["prompts"]
        explanations = [sample.get("extra", {}).get("explain") for sample in read_jsonl(run.samples_path(scenario))]
        if len(explanations) != len(prompts) or None in explanations:
            continue
        logged = evaluation["scenarios"][scenario]["metrics"]
        for parts_of in (each for start, each in PARTS.items() if any(name.startswith(start) for name in logged)):
            every = [parts_of(explanation) for explanation in explanations]
            for name in every[0]:
                found.setdefault(name, {})[run.seed] = Values([parts[name] for parts in every], prompts)
    return found


def units(scores: list[float], prompts: list[int]) -> np.ndarray:
    """What a bootstrap over prompts may draw independently; the mean is that of `scores`.

    Samples of one prompt are alike, so the prompt is the unit.  Some prompts have one sample more than others, and
    their plain means would not average to the mean over samples: each prompt enters as the linearised ratio
    `mean + P/N * sum(score - mean)` (P prompts, N samples).  With one prompt (sampling from nothing) or one sample
    per prompt the samples themselves are the units.
    """
    values, numbers = np.asarray(scores, float), np.asarray(prompts)
    distinct = np.unique(numbers)
    if len(distinct) in (1, len(values)):
        return values
    mean = values.mean()
    sums = np.bincount(np.searchsorted(distinct, numbers), weights=values - mean, minlength=len(distinct))
    return mean + len(distinct) / len(values) * sums
