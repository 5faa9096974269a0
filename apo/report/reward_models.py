"""How well reward models tell the better of two completions: accuracy and calibration on held-out pairs of their data.

They write no text, so they are no rows of a table of samples but have one of their own.  A run's interval is over the
prompts of its pairs and says how well this very model is known; that of several seeds is Student's t over them.  All
seeds meet the same pairs, so it is about another training run and not about other pairs.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Iterable

import numpy as np

from apo.console import progress
from apo.errors import DataError, EvaluationError
from apo.metrics.preference import Calibration, calibration_curve, pair_accuracy
from apo.metrics.statistics import Interval, t_interval
from apo.models.fingerprint import model_fingerprint
from apo.report.comparison import Method, group
from apo.report.plots import COLOURS, MARKERS, STYLE, write_png
from apo.report.rescore import MEASURING_CODE, Rescorer, cache_of, code_fingerprint, scorer_of
from apo.report.runs import Run
from apo.report.select import in_its_place
from apo.report.tables import Table, interval_in_words

PAIRING_CODE = ("heldout_items.py", "compared.py", "sampled.py", "objectives", "data/ranked.py", "data/completions.py")
BINS = 10


class PairRescorer(Rescorer):
    """Measures a reward model on all held-out pairs of its data, and remembers it as `Rescorer` does."""

    def settings(self, run: Run) -> dict[str, Any]:
        from apo.stages import started_from
        config = run.trained
        return {"data": asdict(config.data), "data_sha256": run.manifest.get("fingerprints", {}).get("data"),
                "objective": config.objective, "precision": config.training.precision,
                **started_from(config), "model": model_fingerprint(run.model),
                "code": code_fingerprint(MEASURING_CODE + PAIRING_CODE)}

    def measure(self, run: Run) -> dict[str, Any]:
        """The margin of every pair, and the number of its prompt.  EvaluationError where nothing is held out."""
        from apo.compared import rows
        from apo.experiment import make_objective
        from apo.heldout_items import measure_items
        from apo.training_arguments import resolve_precision
        config, (policy, tokenizer) = run.trained, load_reward_model(run)
        objective = make_objective(config, None)
        try:
            heldout = rows(config, objective, self.heldout_store(run, tokenizer), tokenizer.eos_token_id)
        except DataError as error:
            raise EvaluationError(f"{run.directory} has no held-out pairs to be measured on: {error}") from None
        with progress(f"{run.method} seed {run.seed}, held-out pairs", heldout.num_items) as bar:
            measured = measure_items(policy, objective, heldout, np.arange(heldout.num_items),
                                     batch_size=config.training.per_device_train_batch_size,
                                     precision=resolve_precision(config.training.precision),
                                     confidence=run.config.evaluation.confidence, bar=bar)
        if measured.margins_P is None:
            raise EvaluationError(f"{run.directory}: {config.method} writes no text and compares no pairs; there is "
                                  "nothing that it could be measured on")
        return {"scenarios": {}, "metrics": measured.metrics, "margins": measured.margins_P.tolist(),
                "prompts": measured.prompts_P.tolist(), "parameters": policy.num_parameters}

    def heldout_store(self, run: Run, tokenizer: Any) -> Any:
        """Held-out completions: those of the data, or those that the start policy wrote when the run was trained."""
        from apo.compared import completions
        config, corpus, cache = run.trained, self.corpus(run), cache_of(run.config)
        stores = corpus.tokenise(tokenizer, cache)
        if not stores[0].of_completions:
            policy = start_policy(run, tokenizer)
            _, stores = completions(config, corpus, stores, policy, tokenizer, scorer_of(run), cache)
        return stores[1]


def load_reward_model(run: Run) -> tuple[Any, Any]:
    """(policy, tokenizer) of a run's `final/`, on the GPU if there is one."""
    import torch

    from apo.data.tokenizer import set_end_of_text
    from apo.models.load import quieten
    from apo.models.reward_model import load_reward_tokenizer
    from apo.models.save import load_reward_policy
    quieten()
    tokenizer = load_reward_tokenizer(run.model)
    set_end_of_text(tokenizer, run.config.data.concat_token)
    return load_reward_policy(run.model).to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def start_policy(run: Run, tokenizer: Any) -> Any:
    """As the run began.  RunError where what it began from is not there."""
    from apo.models.load import load_policy
    from apo.stages import start_of
    config = in_its_place(run.trained, run.directory)
    return load_policy(start_of(config, None), tokenizer, len(tokenizer), config.seed, value_head=True,
                       block_size=config.data.block_size)


@dataclass
class RewardModels:
    """Measured reward models, those of one config side by side."""

    methods: list[Method]
    confidence: float
    picture: Path | None = None

    @classmethod
    def of(cls, runs: list[Run], force: bool = False, allow: Iterable[str] = ()) -> "RewardModels":
        rescorer = PairRescorer(force=force, allow=allow)
        return cls(group([(run, rescorer.evaluate(run)) for run in runs]), runs[0].config.evaluation.confidence)

    def accuracy(self, evaluation: dict[str, Any]) -> Interval:
        return pair_accuracy(evaluation["margins"], evaluation["prompts"], self.confidence)

    def calibration(self, evaluation: dict[str, Any]) -> Calibration:
        return calibration_curve(evaluation["margins"], evaluation["prompts"], BINS, self.confidence)

    def table(self) -> Table:
        percent = f"[{100 * self.confidence:g} %]"
        rows = [row for method in self.methods for row in self.rows(method)]
        return Table("Reward models on the held-out pairs of their data",
                     ["task", "run", "seed", "pairs", "prompts", f"accuracy {percent}", "calibration error"], rows,
                     ["Accuracy: share of pairs whose better completion has the higher reward, ties half. Of a run: "
                      "Wilson's interval, pairs of one prompt taken together. Of several seeds: Student's t over them, "
                      "on the same pairs.",
                      "Calibration error: mean over pairs of the distance between the model's probability and the "
                      f"observed share, in {BINS} bins of probability."], left=2)

    def rows(self, method: Method) -> list[list[str]]:
        made = []
        for run, evaluation in zip(method.runs, method.evaluations):
            made.append([run.config.task, f"{method.label}/{run.directory.name}", str(run.seed),
                         *(f"{evaluation['metrics'][name]:,}" for name in ("pairs", "prompts")),
                         interval_in_words(self.accuracy(evaluation)),
                         f"{self.calibration(evaluation).expected_error:.3f}"])
        if len(made) > 1:
            accuracies = [self.accuracy(each).mean for each in method.evaluations]
            errors = [self.calibration(each).expected_error for each in method.evaluations]
            made.append([made[0][0], f"{method.label}, mean of {len(method.runs)} seeds", "", "", "",
                         interval_in_words(t_interval(accuracies, self.confidence)), f"{np.mean(errors):.3f}"])
        return made

    def draw(self) -> Any:
        """How often each model is right against how sure it is, a colour for each config and a curve for each seed.
        Every artist of a run carries its directory's name as `gid`."""
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(7, 6.4), dpi=100, facecolor="white", layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.subplots()
            axes.plot([0.5, 1], [0.5, 1], color="#888888", linestyle="--", linewidth=1)
            for n, method in enumerate(self.methods):
                colour, marker = COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)]
                for run, evaluation in zip(method.runs, method.evaluations):
                    self.curve(axes, evaluation, run, colour, marker, "" if run is not method.runs[0] else method.label)
            axes.set(title="Calibration on held-out pairs", xlabel="probability the model gives to the completion it "
                     "prefers", ylabel=f"share of pairs where that is the better one, {100 * self.confidence:g} % "
                     "interval", xlim=(0.49, 1.01), ylim=(-0.02, 1.02))
            axes.legend(loc="lower right")
        return figure

    def curve(self, axes: Any, evaluation: dict[str, Any], run: Run, colour: str, marker: str, label: str) -> None:
        bins = self.calibration(evaluation).bins
        observed = [each.observed for each in bins]
        arms = [[each.mean - each.low for each in observed], [each.high - each.mean for each in observed]]
        bars = axes.errorbar([each.confidence for each in bins], [each.mean for each in observed], yerr=arms,
                             color=colour, marker=marker, markersize=6, linewidth=1.4, elinewidth=1, capsize=2,
                             alpha=0.8, label=label or None)
        bars.lines[0].set_gid(run.directory.name)

    def save(self, path: Path) -> None:
        from apo.report.runs import write
        from apo.report.tables import table_in_markdown
        write_png(self.draw(), path)
        write(path.with_suffix(".md"), table_in_markdown(self.table()))
        self.picture = path
