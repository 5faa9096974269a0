"""The comparison in words and numbers: the same tables for a terminal (rich) and for a page (Markdown)."""

import math
import os
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apo.metrics.statistics import Interval
from apo.report.benchmarks import Benchmark, benchmarks
from apo.report.comparison import PARTS, Comparison, Difference, Method, ScenarioRow
from apo.report.fairness import shorten
from apo.rundir import read_jsonl

METRICS = {"num_hits": ("hits", "{:.0%}"), "parses": ("parses", "{:.0%}"),
           "parses_prefix": ("so far", "{:.0%}"), "length": ("length", "{:.0f}"),
           "win_rate": ("wins", "{:.0%}"), "kl_full": ("KL from start", "{:.1f}"),
           "distinct-1": ("distinct-1", "{:.2f}"), "self-bleu-5": ("self-BLEU", "{:.2f}"),
           "loops": ("loops", "{:.0%}"), "expected_max_toxicity": ("exp. max", "{:.3f}"),
           "toxicity_probability": ("tox. prob.", "{:.0%}"), "continuations_per_prompt": ("of", "{:.0f}")}
"""Columns beside the score, shown where the evaluation has them."""
ACROSS, MOST_PARTS = ("by_code/not_python", "by_code/style"), 8
"""Of the metrics that say what the score is made of: those that lie across the others; how many others are shown."""
WIDTH_WHEN_PIPED = 132
SAMPLE_LINES = 16
"""Longest sample shown side by side."""


@dataclass
class Table:
    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    split: int | None = None
    """Where it may be cut in two on a narrow terminal."""
    left: int = 1
    """Columns of words, which begin at the left; numbers end at the right."""


def tables(comparison: Comparison) -> list[Table]:
    """One table per scenario, two of what its score is made of, one of what the models cost and know, two of what
    they can do beside the task where that was measured, one of what differs between them."""
    found = []
    for scenario in comparison.scenarios:
        found += [scenario_table(comparison, scenario), *parts_tables(comparison, scenario)]
    found += [cost_table(comparison), *benchmark_tables(comparison)]
    if comparison.factors:
        found.append(factor_table(comparison))
    return found


def scenario_table(comparison: Comparison, scenario: str) -> Table:
    percent = f"{100 * comparison.confidence:g} %"
    better = "lower" if comparison.kind == "score" else "higher"
    present = {name: said for name, said in METRICS.items()
               if any(method.metric(scenario, name) for method in comparison.methods)}
    header = ["method", "seeds", f"{comparison.kind} [{percent}]"]
    if comparison.baseline:
        header += [f"- {comparison.baseline} [{percent}]", "p"]
    heldout = heldout_columns(comparison, scenario)
    split, rows = len(header), []
    for row in comparison.scenarios[scenario]:
        method = comparison.method(row.label)
        cells = [row.label, str(len(method.runs)), interval_in_words(row.score)]
        cells += difference_in_words(row.difference) if comparison.baseline else []
        cells += [mean_in_words(method.metric(scenario, name), "{:.3g}") for name in heldout.values()]
        rows.append(cells + [mean_in_words(method.metric(scenario, name), how) for name, (_, how) in present.items()])
    count = len(comparison.methods[0].evaluations[0]["scenarios"][scenario]["scores"])
    return Table(f"{comparison.task}, {scenario}: {count} samples a run, {better} is better",
                 header + [*heldout, *(title for title, _ in present.values())], rows,
                 scenario_notes(comparison, scenario, list(heldout)), split if heldout or present else None)


def heldout_columns(comparison: Comparison, scenario: str) -> dict[str, str]:
    """Title -> metric of every held-out scorer (`evaluation.heldout_scorers`) that judged some method's samples; one
    that rewards says so in the title."""
    names = dict.fromkeys(name for method in comparison.methods for run in method.runs
                          for name in run.config.evaluation.heldout_scorers)
    columns = {f"{name} {kind}": f"{name}/{kind}" for name in names for kind in ("score", "reward")}
    return {title: metric for title, metric in columns.items()
            if any(method.metric(scenario, metric) for method in comparison.methods)}


def scenario_notes(comparison: Comparison, scenario: str, heldout: list[str]) -> list[str]:
    note = [f"{', '.join(heldout)}: means by scorers that nothing was trained on or chosen by."] if heldout else []
    if comparison.baseline is None:
        return note
    return [verdict(comparison, comparison.scenarios[scenario]), basis(comparison.scenarios[scenario]), *note]


def verdict(comparison: Comparison, rows: list[ScenarioRow]) -> str:
    """Which methods beat the baseline, which lose to it, and which nobody can tell apart from it."""
    sign = 1 if comparison.kind == "score" else -1
    compared = {row.label: row.difference for row in rows if row.difference is not None}
    shown = {label: d for label, d in compared.items() if d.p < 1 - comparison.confidence}
    parts = {"better": [label for label, d in shown.items() if sign * d.interval.mean < 0],
             "worse": [label for label, d in shown.items() if sign * d.interval.mean > 0],
             "not to be told apart": [label for label in compared if label not in shown]}
    words = "; ".join(f"{name}: {', '.join(found)}" for name, found in parts.items() if found)
    return f"Against {comparison.baseline}, {words}." if words else "Nothing could be paired with the baseline."


def basis(rows: list[ScenarioRow]) -> str:
    seeds = sorted({row.difference.seeds for row in rows if row.difference is not None})
    if not seeds:
        return ""
    if seeds[-1] == 1:
        return ("One seed: the intervals are over samples of these very models (bootstrap, paired by prompt and index);"
                " another training run may differ by more. p: Holm.")
    return f"Intervals: Student's t over {seeds[-1]} seeds, differences paired by seed. p: Holm over the methods."


def parts_tables(comparison: Comparison, scenario: str) -> list[Table]:
    """The score by what it was given for, and the same against the baseline; nothing where the scorer does not say."""
    names = {name for method in comparison.methods for evaluation in method.evaluations
             for name in evaluation["scenarios"][scenario]["metrics"] if name.startswith(tuple(PARTS))}
    means = {name: [float(np.mean(method.metric(scenario, name) or [0])) for method in comparison.methods]
             for name in names}
    largest = sorted((name for name in names.difference(ACROSS) if any(means[name])),
                     key=lambda name: (-max(means[name]), name))
    if not largest:
        return []
    shown = largest[:MOST_PARTS] + [name for name in ACROSS if name in names]
    rows = [[method.label, *(f"{1000 * means[name][n]:.2f}" for name in shown)]
            for n, method in enumerate(comparison.methods)]
    note = ("not_python: of them, what no change of style could mend; style: what one could, all but indentation (E1), "
            "syntax (E9) and the end of the text (W292, W391).") if set(ACROSS) & names else ""
    return [Table(f"{scenario}: what the {comparison.kind} is made of, times 1000",
                  ["method", *map(part_in_words, shown)], rows, [note]),
            *part_difference_table(comparison, scenario, shown)]


def part_difference_table(comparison: Comparison, scenario: str, shown: list[str]) -> list[Table]:
    """A row for each part in `shown`, a column for each method; none where nothing can be paired."""
    found = {part: comparison.parts.get(scenario, {}).get(part, {}) for part in shown}
    labels = [method.label for method in comparison.methods if any(method.label in each for each in found.values())]
    if not labels:
        return []
    rows = [[part_in_words(part), *(times_1000(each[label]) if label in each else "" for label in labels)]
            for part, each in found.items()]
    seeds = max(each.seeds for part in found.values() for each in part.values())
    how = f"Student's t over {seeds} seeds" if seeds > 1 else "Bootstrap over the samples of one seed"
    return [Table(f"{scenario}: difference to {comparison.baseline} by part, times 1000 "
                  f"[{100 * comparison.confidence:g} %]", ["part", *labels], rows,
                  [f"{how}, paired. Each interval by itself, not corrected for their number."],
                  1 + (len(labels) + 1) // 2)]


def part_in_words(name: str) -> str:
    """`by_code/E1` -> E1."""
    return name.partition("/")[2]


def times_1000(difference: Difference) -> str:
    interval = difference.interval
    return interval_in_words(Interval(1000 * interval.mean, 1000 * interval.low, 1000 * interval.high), signed=True)


def cost_table(comparison: Comparison) -> Table:
    divergences = comparison.divergences()
    rows = [[method.label, mean_in_words(method.heldout("bits_per_byte"), "{:.3f}"),
             mean_in_words(method.heldout("bits_per_byte_clean"), "{:.3f}"),
             *(mean_in_words(method.measured(name), "{:.2f}") for name in divergences.values()),
             mean_in_words(method.tokens_trained(), "{:,.0f}"),
             mean_in_words([each["parameters"] for each in method.evaluations], "{:,.0f}")]
            for method in comparison.methods]
    header = ["method", "bits per byte", "bits per byte, clean", *(f"KL({name})" for name in divergences),
              "training tokens", "weights"]
    # One for all runs, unless a difference was allowed.
    clean = sorted({run.config.evaluation.clean_threshold for method in comparison.methods for run in method.runs})
    notes = ["Bits per byte of held-out text, lower is better; clean: segments with a score of "
             f"{' or '.join(f'{threshold:g}' for threshold in clean)} or less (evaluation.clean_threshold)."]
    if divergences:
        notes.append("KL(reference || model), nats per text, lower is better.")
    return Table("Capability and cost", header, rows, notes)


def benchmark_tables(comparison: Comparison) -> list[Table]:
    """lm-eval's numbers, a row for each metric and a column for each method; nothing where they were not asked for."""
    found = benchmarks(comparison)
    if not found:
        return []
    settings = comparison.methods[0].evaluations[0]["capability"]["settings"]
    labels = [method.label for method in comparison.methods]
    seeds = max(len(method.runs) for method in comparison.methods)
    said = ("Intervals: Student's t over seeds." if seeds > 1 else "One seed: +- is one standard error over documents.")
    begins = ("every context begins as a training document does" if settings["as_trained"] else
              "contexts as lm-eval has them, nothing before them")
    rows = [[benchmark_name(each), *(benchmark_value(each.values[label], seeds) for label in labels)] for each in found]
    made = [Table(f"lm-eval {settings['lm_eval']}", ["benchmark", *labels], rows, [f"{said} {begins.capitalize()}."],
                  1 + (len(labels) + 1) // 2)]
    compared = [label for label in labels if any(label in each.differences for each in found)]
    if compared:
        rows = [[benchmark_name(each), *(difference_in_words(each.differences.get(label))[0] for label in compared)]
                for each in found if each.differences]
        note = "Paired by seed (t) or, within one seed, by document (bootstrap). Not corrected for their number."
        made.append(Table(f"lm-eval: difference to {comparison.baseline} [{100 * comparison.confidence:g} %]",
                          ["benchmark", *compared], rows, [note], 1 + (len(compared) + 1) // 2))
    return made


def benchmark_name(benchmark: Benchmark) -> str:
    better = {True: ", higher is better", False: ", lower is better", None: ""}[benchmark.higher_is_better]
    return f"{benchmark.task}: {benchmark.metric} of {benchmark.count}{better}"


def benchmark_value(value: Interval, seeds: int) -> str:
    if seeds > 1:
        return interval_in_words(value)
    error = value.high - value.mean
    if abs(value.mean) >= 1e6:      # an untrained model's perplexity
        return f"{value.mean:.2g}"
    digits = decimals(2 * error, abs(value.mean))
    return f"{value.mean:.{digits}f}" + (f" +- {error:.{digits}f}" if error else "")


def factor_table(comparison: Comparison) -> Table:
    rows = [[factor.key, *(shorten(value, 24) for value in factor.values.values()), factor.verdict]
            for factor in comparison.factors]
    return Table("What differs between the runs", ["key", *(method.label for method in comparison.methods), ""], rows)


def difference_in_words(difference: Difference | None) -> list[str]:
    if difference is None:
        return ["", ""]
    return [interval_in_words(difference.interval, signed=True),
            "< 0.001" if difference.p < 0.001 else f"{difference.p:.3f}"]


def interval_in_words(interval: Interval, signed: bool = False) -> str:
    """`0.0117 [0.0108, 0.0126]`: as many digits as the interval's width gives a meaning to."""
    digits = decimals(interval.high - interval.low, abs(interval.mean))
    form = f"{{:{'+' if signed else ''}.{digits}f}}"
    return f"{form.format(interval.mean)} [{form.format(interval.low)}, {form.format(interval.high)}]"


def decimals(width: float, mean: float) -> int:
    """Two digits of the width, and one more where the mean, `mean` in size, would otherwise show less than two; three
    of the mean where the width is zero or unknown."""
    for_mean = 1 - math.floor(math.log10(mean)) if mean else 0
    if not math.isfinite(width) or width <= 0:
        return min(max(for_mean + 1, 0), 8) if mean else 3
    for_width = 1 - math.floor(math.log10(width))
    return min(max(for_width, min(for_mean, for_width + 1), 0), 8)


def mean_in_words(values: list[float], form: str) -> str:
    return form.format(np.mean(values)) if values else ""


def markdown(comparison: Comparison) -> str:
    return "\n".join(table_in_markdown(table) for table in tables(comparison))


def table_in_markdown(table: Table) -> str:
    lines = [table.header, ["---"] * table.left + ["--:"] * (len(table.header) - table.left), *table.rows]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    notes = "".join(f"\n{note}\n" for note in table.notes if note)
    return f"**{table.title}**\n\n{body}\n{notes}"


def console() -> Any:
    """rich's, to stdout; wide enough for the tables where no terminal says how wide it is."""
    from rich.console import Console
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH_WHEN_PIPED
    return Console(width=width, highlight=False)


def show(comparison: Comparison, out: Any = None) -> None:
    show_tables(tables(comparison), out)


def show_tables(shown: list[Table], out: Any = None) -> None:
    """Prints every table, in two parts where one would not fit the width."""
    from rich.text import Text
    out = out or console()
    for table in shown:
        out.print(Text(table.title, style="bold"))
        for part in fitting(table, out.width):
            out.print(drawn(part))
        for note in filter(None, table.notes):
            out.print(Text(note, style="dim"))
        out.print()


def drawn(table: Table) -> Any:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text
    made = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(table.header):
        made.add_column(Text(name), justify="left" if number < table.left else "right", overflow="fold")
    for row in table.rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def fitting(table: Table, width: int) -> list[Table]:
    """The table, or, where it is too wide, its first columns and then the rest with the names again."""
    needed = [3 + max(map(len, column)) for column in zip(table.header, *table.rows)]
    if sum(needed) <= width or table.split is None:
        return [table]
    rest = [[line[0], *line[table.split:]] for line in [table.header, *table.rows]]
    return [Table(table.title, table.header[:table.split], [row[:table.split] for row in table.rows]),
            Table(table.title, rest[0], rest[1:])]


def show_samples(comparison: Comparison, scenario: str, count: int = 3, out: Any = None) -> None:
    """The first `count` prompts, each with what every model made of it, in columns: nobody has picked them."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text
    out = out or console()
    methods = as_many_as_fit(comparison, scenario, out.width)
    samples = {method.label: read_jsonl(method.runs[0].samples_path(scenario)) for method in methods}
    if not all(samples.values()):
        return
    table = RichTable(title=f"{scenario}: the same prompt and seed, model by model", title_justify="left",
                      title_style="bold", box=box.SIMPLE_HEAD, show_lines=True, pad_edge=False, expand=True)
    for method in methods:
        table.add_column(Text(method.label), ratio=1, overflow="fold")
    for index in first_of_each_prompt(samples[methods[0].label], count):
        table.add_row(*(sample_in_words(samples[method.label][index], comparison.kind) for method in methods))
    out.print(table)


def as_many_as_fit(comparison: Comparison, scenario: str, width: int, least: int = 48) -> list[Method]:
    """The baseline, then the others from the best on, second looks last, `least` characters each."""
    sign = 1 if comparison.kind == "score" else -1
    order = sorted(((row, comparison.method(row.label)) for row in comparison.scenarios[scenario]),
                   key=lambda pair: (pair[0].label != comparison.baseline, bool(pair[1].runs[0].variant),
                                     sign * pair[0].score.mean))
    return [method for _, method in order[:max(2, width // least)]]


def first_of_each_prompt(samples: list[dict[str, Any]], count: int) -> list[int]:
    """Indices of the first `count` samples with prompts of their own; without prompts simply the first ones."""
    first: dict[str, int] = {}
    for index, sample in enumerate(samples):
        first.setdefault(sample["prompt"] or str(index), index)
    return list(first.values())[:count]


def printable(text: str) -> str:
    """An untrained model writes control characters, which a terminal would obey."""
    return "".join(character if character.isprintable() or character == "\n" else " " if character == "\t" else "\ufffd"
                   for character in text)


def sample_in_words(sample: dict[str, Any], kind: str) -> Any:
    from rich.text import Text
    prompt, text = printable(sample["prompt"]), printable(sample["text"])
    lines = (prompt + text).rstrip().split("\n")
    cut = [*lines[:SAMPLE_LINES], "..."] if len(lines) > SAMPLE_LINES else lines
    shown = Text("\n".join(cut))
    shown.stylize("bold", 0, min(len(prompt), len(shown)))
    score = sample.get("score")
    return shown.append(f"\n[{kind} {score:.4g}]" if score is not None else "", style="italic cyan")
