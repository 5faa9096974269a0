"""What models can do beside the task: benchmarks of lm-eval (EleutherAI's harness), measured beside the evaluation.

    python evaluate.py RUN RUN capability=lm_eval capability.tasks=[lambada_openai]
    python evaluate.py RUN RUN capability.tasks=[mine] capability.include_path=my_tasks offline=true

An option of evaluate.py alone: training has no such node, and asking for it measures nothing else again.  Results go
into evaluation.json under `capability`, with a key of their own over what they depend on.  lm-eval and what it needs
(the extra `capability`) are imported only where something is to be measured.
"""

import importlib.metadata
import json
import logging
import os
import sys
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Iterable, Literal

from apo.cache import digest
from apo.console import say
from apo.errors import ConfigError, EvaluationError, UserError, nearest
from apo.models.fingerprint import file_digest, model_fingerprint
from apo.report.rescore import code_fingerprint
from apo.report.runs import Run, write
from apo.report.select import load_model
from apo.rundir import read_json

INSTALL = 'capability=lm_eval needs a package: pip install "lm-eval[hf]==0.4.13"'
ENVIRONMENT = {"HF_EVALUATE_OFFLINE": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0", "DISABLE_MULTIPROC": "1",
               "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Of lm-eval's metrics some are programs fetched from the hub by the package `evaluate`, which also counts its users:
neither here.  Its bootstrap would start a process per core."""
NUM_BOOTSTRAP = 1000
"""Resamples for the standard error of what is no mean (perplexity)."""
SEED = 1234
"""lm-eval's own, of few-shot examples and of tasks that sample."""


@dataclass
class Capability:
    """Options under `capability`."""

    tasks: list[str] = field(default_factory=list)
    """Names of lm-eval's tasks, groups and tags, or of tasks in `include_path`."""
    name: Literal["lm_eval"] = "lm_eval"
    include_path: str | None = None
    """A folder of task files (YAML, with their data beside them).  lm-eval's own 14,000 are read only for a name that
    is not in it."""
    num_fewshot: int | None = None
    """null: what each task says."""
    limit: int | None = None
    """Only the first so many documents of every task."""
    batch_size: int = 16
    """Rows per forward pass; does not change the result."""
    max_length: int | None = None
    """Tokens the model sees at once; longer contexts lose their beginning.  null: as long as the rows it was trained
    on; for a model not trained here, its own context."""
    as_trained: bool = True
    """Every context begins as a training document: end of text, then the method's control token.  false: as lm-eval
    has it, nothing before a context; this is what published numbers of hub models are."""

    def __post_init__(self):
        if not self.tasks:
            raise ConfigError("capability.tasks: name at least one, such as capability.tasks=[lambada_openai]")
        if self.include_path is not None and not Path(self.include_path).is_dir():
            raise ConfigError(f"capability.include_path: there is no folder {self.include_path}")
        for name in ("limit", "batch_size", "max_length"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"capability.{name}: expected 1 or more, got {getattr(self, name)}")


def is_capability(text: str) -> bool:
    """Whether an override is one of these options."""
    return text.split("=", 1)[0].lstrip("+~").partition(".")[0] == "capability"


def read(overrides: Iterable[str]) -> Capability | None:
    """From `capability=lm_eval`, `capability.tasks=[a,b]`, ...; None where there is none.  Raises ConfigError."""
    from apo.config import standalone
    words = [spelled_out(text) for text in overrides]
    return standalone(Capability, "capability", words) if words else None


def spelled_out(text: str) -> str:
    """`capability=X` is short for `.name=X`, and tasks may be a plain list with commas."""
    key, value = text.lstrip("+").split("=", 1)
    if key == "capability" and not value.startswith("{"):
        return f"capability.name={value}"
    return f"{key}=[{value}]" if key == "capability.tasks" and not value.startswith("[") else text


@dataclass
class Harness:
    """Measures runs, one after the other, with one index of tasks."""

    options: Capability
    force: bool = False
    _manager: Any = field(default=None, repr=False)

    def prepare(self, runs: Iterable[Run]) -> None:
        """Says what is wrong before anything is measured."""
        version()
        if any(not self.up_to_date(run, read_json(run.evaluation_path) or {}) for run in runs):
            with redirect_stdout(sys.stderr):
                self.load()

    def evaluate(self, run: Run, evaluation: dict[str, Any]) -> dict[str, Any]:
        """The run's evaluation with `capability` in it, on disk too; measured only if it must be."""
        if self.up_to_date(run, evaluation):
            say(f"{run.evaluation_path}: capability is measured already (--force does it again)")
            return evaluation
        settings = self.settings(run)
        say(f"{run.method} seed {run.seed}: lm-eval, {', '.join(self.options.tasks)}")
        found = {"key": digest(settings), "settings": settings, "tasks": self.measure(run)}
        evaluation = {**evaluation, "capability": found}
        write(run.evaluation_path, json.dumps(evaluation, indent=1) + "\n")
        return evaluation

    def up_to_date(self, run: Run, evaluation: dict[str, Any]) -> bool:
        return not self.force and evaluation.get("capability", {}).get("key") == digest(self.settings(run))

    def settings(self, run: Run) -> dict[str, Any]:
        """Everything the numbers depend on; of a hub data set its task's version stands for it."""
        evaluation, options = run.config.evaluation, asdict(self.options)
        del options["batch_size"]
        if self.options.include_path:
            options["files"] = file_digest(sorted(path for path in Path(self.options.include_path).rglob("*")
                                           if path.is_file()))
        data = run.config.data
        how = {"prefix": evaluation.prefix, "banned_tokens": evaluation.banned_tokens,
               "concat_token": data.concat_token, "by_line": data.segment_by == "line"}
        return {**options, "max_length": self.max_length(run), "how": how if options["as_trained"] else {},
                "lm_eval": version(), "model": model_fingerprint(run.model, run.config.model.revision),
                "code": digest([code_fingerprint(),
                                file_digest([Path(__file__), Path(__file__).with_name("harness.py")])])}

    def max_length(self, run: Run) -> int | None:
        return self.options.max_length or (None if run.bare else run.config.data.block_size)

    def measure(self, run: Run) -> dict[str, Any]:
        import torch
        with redirect_stdout(sys.stderr), torch.random.fork_rng():
            torch.manual_seed(SEED)
            tasks, model = self.load(), self.model(run)
            from lm_eval.evaluator import evaluate
            try:
                results = evaluate(lm=model, task_dict=tasks, limit=self.options.limit, bootstrap_iters=NUM_BOOTSTRAP)
            except (UserError, MemoryError):
                raise
            except Exception as error:  # a task's own files are the user's, and may ask for anything
                raise EvaluationError(f"lm-eval, {', '.join(self.options.tasks)}: {said(error)}") from error
        return {name: summary(name, results) for name in results["results"]}

    def model(self, run: Run) -> Any:
        """lm-eval's own wrapper around the run's model and tokenizer objects."""
        from lm_eval.models.huggingface import HFLM

        from apo.data.tokenizer import single_id
        from apo.evaluation import Template, as_trained
        from apo.report.harness import AsTrained
        from apo.schema import ScenarioConfig
        policy, tokenizer = load_model(run)
        config, kind = run.config, type("TrainedHere", (AsTrained, HFLM), {}) if self.options.as_trained else HFLM
        # A copy: lm-eval gives a tokenizer without padding one.
        made = kind(pretrained=policy.model, tokenizer=deepcopy(tokenizer), batch_size=self.options.batch_size,
                    max_length=self.max_length(run))
        made.template = Template.of(as_trained(ScenarioConfig(), config), config.evaluation, tokenizer)
        made.banned_ids = [single_id(tokenizer, token, "evaluation.banned_tokens")
                           for token in config.evaluation.banned_tokens]
        return made

    def load(self) -> Any:
        """lm-eval's tasks, their data read.  EvaluationError where one cannot be."""
        manager = self.manager()
        try:
            tasks = manager.load(list(self.options.tasks))
        except Exception as error:  # data files, data sets, task files: whatever is wrong with them
            raise EvaluationError(f"lm-eval cannot load {', '.join(self.options.tasks)}: {said(error)}{hint(error)}"
                                  ) from error
        for name, task in tasks["tasks"].items():
            if getattr(task, "UNSAFE_CODE", False):
                raise EvaluationError(f"capability.tasks: {name} runs the code that a model writes; not here")
            shots = self.options.num_fewshot
            if shots is not None or task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=shots or 0)
            task.set_fewshot_seed(seed=SEED)
        return tasks

    def manager(self) -> Any:
        """The index of tasks: the folder's alone where it has every name, else lm-eval's own too.  EvaluationError for
        a name nobody has."""
        if self._manager is None:
            from lm_eval.tasks import TaskManager
            logging.getLogger("lm_eval").setLevel(logging.ERROR)
            folder, wanted = self.options.include_path, self.options.tasks
            made = TaskManager(include_path=folder, include_defaults=False)
            if not set(wanted) <= set(made.all_tasks):
                made = TaskManager(include_path=folder)
            for name in wanted:
                if name not in made.all_tasks:
                    raise EvaluationError(f'capability.tasks: "{name}" is no task of lm-eval {version()}'
                                          f"{f' nor of {folder}' if folder else ''}.{nearest(name, made.all_tasks)}")
            self._manager = made
        return self._manager


def version() -> str:
    """Of lm-eval.  EvaluationError where it is not installed; sets what must be set before it is imported."""
    os.environ.update(ENVIRONMENT)
    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        raise EvaluationError(INSTALL) from None


def said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def hint(error: Exception) -> str:
    if isinstance(error, ConnectionError):
        return ". Without network, its data must be in the cache"
    if isinstance(error, AttributeError):
        return ". Tasks whose metric is a program on the hub, or runs what a model writes, are not measured here"
    return ""


def summary(name: str, results: dict[str, Any]) -> dict[str, Any]:
    """One task's metrics, and of each the value of every document where their mean is the metric; a group's metrics
    have none.  `documents`: a digest of what was asked, so that two models are paired on the same documents."""
    samples = sorted(results.get("samples", {}).get(name, []), key=lambda sample: sample["doc_id"])
    better = results["higher_is_better"].get(name, {})
    metrics = {}
    for key, value in results["results"][name].items():
        metric, _, filtered = key.partition(",")
        if not filtered or metric.endswith("_stderr"):
            continue
        stderr = results["results"][name].get(f"{metric}_stderr,{filtered}")
        metrics[key.removesuffix(",none")] = {
            "value": float(value), "stderr": float(stderr) if isinstance(stderr, (int, float)) else None,
            "higher_is_better": better.get(metric),
            "documents": by_document(samples, metric, filtered, float(value))}
    return {"version": results["versions"].get(name), "count": results["results"][name]["sample_len"],
            "documents": digest([sample["doc_hash"] for sample in samples])[:12], "metrics": metrics}


def by_document(samples: list[dict[str, Any]], metric: str, filtered: str, value: float) -> list[float] | None:
    found = [sample.get(metric) for sample in samples if sample["filter"] == filtered]
    if not found or not all(isinstance(each, (int, float)) for each in found):
        return None
    values = [float(each) for each in found]
    return values if abs(sum(values) / len(values) - value) < 1e-9 else None
