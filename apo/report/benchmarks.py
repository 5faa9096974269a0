"""What lm-eval measured (`apo.report.capability`), method by method: values, and differences to the baseline.

Like the score's: over seeds a t of each benchmark's value, paired by seed; within one seed a bootstrap over documents,
paired document by document, and only for metrics that are means over documents (a perplexity is none).
"""

from dataclasses import dataclass, field
from typing import Any

from apo.metrics import statistics
from apo.metrics.statistics import Interval
from apo.report.comparison import Bootstrap, Comparison, Difference, Method, Values, paired

OF_THE_MODEL = ("model", "how", "max_length")
"""Settings that may differ between the models of a table: which one it is and what training put before its text."""


@dataclass
class Benchmark:
    """One metric of one task."""

    task: str
    metric: str
    count: int
    """Documents."""
    higher_is_better: bool | None
    values: dict[str, Interval] = field(default_factory=dict)
    """By method: t over seeds; of one seed the value, one standard error of lm-eval's to each side where it has one."""
    differences: dict[str, Difference] = field(default_factory=dict)


def benchmarks(comparison: Comparison) -> list[Benchmark]:
    """Empty where not every model was measured in the same way."""
    measured = [evaluation.get("capability") for method in comparison.methods for evaluation in method.evaluations]
    if None in measured or any(common(each) != common(measured[0]) for each in measured):
        return []
    first = measured[0]["tasks"]
    found = [Benchmark(task, metric, about["count"], one["higher_is_better"])
             for task, about in first.items() for metric, one in about["metrics"].items()]
    base = next((method for method in comparison.methods if method.label == comparison.baseline), None)
    bootstrap = Bootstrap(comparison.confidence, comparison.methods[0].runs[0].config.evaluation.num_bootstrap)
    for each in found:
        for method in comparison.methods:
            each.values[method.label] = value(method, each, comparison.confidence)
            compared = None if base is None or method is base else difference(method, base, each, bootstrap)
            if compared is not None:
                each.differences[method.label] = compared
    return found


def common(capability: dict[str, Any]) -> dict[str, Any]:
    """How a model was measured, and on what, whichever it is."""
    asked = {name: about["documents"] for name, about in capability["tasks"].items()}
    return {"asked": asked, **{key: setting for key, setting in capability["settings"].items()
                               if key not in OF_THE_MODEL}}


def results(method: Method, benchmark: Benchmark) -> dict[int, dict[str, Any]]:
    """lm-eval's numbers by seed."""
    return {seed: evaluation["capability"]["tasks"][benchmark.task]["metrics"][benchmark.metric]
            for seed, evaluation in method.by_seed().items()}


def value(method: Method, benchmark: Benchmark, confidence: float) -> Interval:
    found = list(results(method, benchmark).values())
    if len(found) > 1:
        return statistics.t_interval([each["value"] for each in found], confidence)
    middle, error = found[0]["value"], found[0]["stderr"] or 0.0
    return Interval(middle, middle - error, middle + error)


def difference(method: Method, base: Method, benchmark: Benchmark, bootstrap: Bootstrap) -> Difference | None:
    ours, theirs = results(method, benchmark), results(base, benchmark)
    shared = ours.keys() & theirs.keys()
    if len(shared) != 1:
        return paired(*({seed: Values([each["value"]], [0]) for seed, each in side.items()}
                        for side in (ours, theirs)), bootstrap)
    sides = [side[seed]["documents"] for seed in shared for side in (ours, theirs)]
    if None in sides:
        return None
    return paired(*({0: Values(values, list(range(len(values))))} for values in sides), bootstrap)
