"""A comparison is fair or it is refused: what differs between the runs of one table, and whether it may.

Three kinds of difference.  What *is* the method (objective, filtering, control tokens and what sampling needs because
of them, and how it samples what it learns from) is what the table is about.  What only watches a run (how often it logs
or saves, the code's commit) is shown.  Everything else, from the learning rate to the data's fingerprint, would be a
second explanation of the result: it is refused until the researcher names it in `--allow`, and then it stands in the
report.
"""

import json
from dataclasses import dataclass
from typing import Any, Iterable

from apo.errors import EvaluationError, nearest
from apo.identity import leaves, to_dict
from apo.report.runs import Run
from apo.schema import NOT_IDENTITY

METHOD = ("objective", "init_from", "rollout", "data.filter_threshold", "data.conditional_training_config",
          "evaluation.prefix", "evaluation.banned_tokens")
WATCHING = ("training.logging_steps", "training.save_steps", "training.save_total_limit",
            "training.activation_checkpointing", "evaluation.every_n_steps", "evaluation.n_per_epoch",
            "evaluation.on_steps", "evaluation.at_start", "evaluation.at_end", "evaluation.best",
            "callbacks", "code", "packages")
UNSEEN = tuple(key for key in NOT_IDENTITY if key not in ("task", "seed")) + (
    "evaluation.confidence", "evaluation.num_bootstrap")
"""Never shown: where a run lives and how fast it goes.  Seeds are compared as sets, the task as any other fact."""
UNKNOWN = ("training", "model", "objective")
"""What nobody can know about a model that was not trained here; beside one, the runs are compared in the rest."""
TOKENS_MAY_DIFFER_BY = 0.01
"""Relative: the last packed row of a budget given in steps or epochs may be one more or less, and rows of unlike length
fill a budget in tokens to within a step."""


@dataclass
class Factor:
    """One thing that differs: `values` says it for every method of the table."""

    key: str
    values: dict[str, str]
    verdict: str
    """`method`, `noted`, `allowed` or `undeclared`."""


def under(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def facts(run: Run, evaluation: dict[str, Any], beside_bare: bool = False) -> dict[str, Any]:
    """Everything about a run that a reader of the table takes to be equal, as flat keys."""
    known = {key: value for key, value in leaves(to_dict(run.config)) if not under(key, UNSEEN) and key != "seed"}
    if beside_bare:
        known = {key: value for key, value in known.items() if not under(key, UNKNOWN)}
        known["training"] = "unknown" if run.bare else "here"
        known["model"] = run.model if run.bare else "trained here"
    else:
        fingerprints = run.manifest.get("fingerprints", {})
        known |= {"fingerprints.data": fingerprints.get("data"), "tokens_trained": run.tokens_trained(),
                  "fingerprints.tokenizer": fingerprints.get("tokenizer"),
                  "code": run.manifest.get("git", {}).get("commit")}
        packages = run.manifest.get("packages", {})
        known |= {f"packages.{name}": packages.get(name) for name in ("torch", "transformers")}
    for name in run.config.evaluation.scenarios:
        known[f"prompts.{name}"] = evaluation.get("scenarios", {}).get(name, {}).get("prompts_sha256")
    known["evaluation_seed"] = evaluation.get("settings", {}).get("seed")
    known["fingerprints.scorer"] = evaluation.get("settings", {}).get("scorer_sha256")
    return known


def differences(methods: dict[str, list[tuple[Run, dict[str, Any]]]], allow: Iterable[str] = ()) -> list[Factor]:
    """What differs between the methods of a table, each a list of (run, its evaluation) over seeds.

    Raises EvaluationError for a name in `allow` that is no key at all (a misspelt permission would go unnoticed).
    """
    allow = list(allow)
    beside_bare = any(run.bare for runs in methods.values() for run, _ in runs)
    known = {label: [facts(run, evaluation, beside_bare) for run, evaluation in runs]
             for label, runs in methods.items()}
    keys = list(dict.fromkeys(key for runs in known.values() for run in runs for key in run))
    check_allow(allow, keys)
    factors = [Factor("seed", {label: ", ".join(str(run.seed) for run, _ in runs)
                               for label, runs in methods.items()}, verdict("seed", allow))]
    for key in keys:
        factors.append(Factor(key, {label: said(key, runs) for label, runs in known.items()}, verdict(key, allow)))
    factors = [factor for factor in factors if not same(factor)]
    order = ["undeclared", "allowed", "method", "noted"]
    return sorted(factors, key=lambda factor: order.index(factor.verdict))


def check_allow(allow: list[str], keys: list[str]) -> None:
    names = {part for key in [*keys, "seed", *UNKNOWN] for part in (key, *parents(key))}
    for name in allow:
        if name not in names:
            raise EvaluationError(f'--allow {name}: no such key in the compared configs.{nearest(name, names)}')


def parents(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def verdict(key: str, allow: list[str]) -> str:
    if under(key, METHOD):
        return "method"
    if under(key, WATCHING):
        return "noted"
    return "allowed" if under(key, allow) else "undeclared"


def said(key: str, runs: list[dict[str, Any]]) -> str:
    """The value over the seeds of one method, in words; several where the seeds disagree."""
    values = list(dict.fromkeys(in_words(run.get(key)) for run in runs))
    return " / ".join(values)


def in_words(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def same(factor: Factor) -> bool:
    values = list(dict.fromkeys(factor.values.values()))
    each = [part for value in values for part in value.split(" / ")]
    if factor.key == "tokens_trained" and all(value.isdigit() for value in each):
        low, high = min(map(int, each)), max(map(int, each))
        return high - low <= TOKENS_MAY_DIFFER_BY * high
    return len(values) == 1 and (factor.key == "seed" or " / " not in values[0])


def refuse(factors: list[Factor]) -> None:
    """EvaluationError that lists what is undeclared and gives the option that would declare it."""
    undeclared = [factor for factor in factors if factor.verdict == "undeclared"]
    if not undeclared:
        return
    lines = [f"  - {factor.key}: " + "; ".join(f"{label} {shorten(value)}" for label, value in factor.values.items())
             for factor in undeclared]
    keys = ",".join(factor.key for factor in undeclared)
    raise EvaluationError("The runs differ in more than the method, so their difference would not be the method's:\n"
                          + "\n".join(lines) + f"\nTrain them alike, or declare it: --allow {keys}")


def shorten(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[:limit - 3] + "..."
