"""Score a trained model again, the same way for every model of a table, and remember the result.

Every run meets the same prompts and the same sampling seed, whatever seed it was trained with, so that samples can be
paired.  `evaluation.json` carries a key over everything the numbers depend on (settings, weights, scorer, data, the
code that samples and measures); a second call with the same key reads it and loads neither torch nor the model.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Iterable

from apo.cache import Cache, digest
from apo.console import progress, say
from apo.errors import EvaluationError
from apo.models.files import is_model
from apo.models.fingerprint import file_digest, model_fingerprint
from apo.report.fairness import under
from apo.report.runs import Run, write
from apo.report.select import give_home, load_model, with_its_scorers
from apo.rundir import read_json
from apo.schema import Config
from apo.stages import started_from

MEASURING_CODE = ("evaluation.py", "divergence.py", "references.py", "callbacks", "rollouts", "metrics", "models",
                  "data/heldout.py", "data/tokenizer.py")
"""What the numbers depend on beside the config; a change there makes an old evaluation.json stale."""
CAPABILITY = ("model", "prefix", "banned_tokens", "data", "code")
"""Settings under which benchmarks measured before still hold (`apo/report/capability.py`)."""
DATA = "fingerprints.data"


class Rescorer:
    """Evaluates runs one after the other and prepares data they share once."""

    def __init__(self, seed: int = 0, force: bool = False, allow: Iterable[str] = ()):
        self.seed, self.force, self.allow = seed, force, tuple(allow)
        self._corpora: dict[str, Any] = {}

    def evaluate(self, run: Run) -> dict[str, Any]:
        """The evaluation of one run, as it stands in its `evaluation.json`; measured only if it must be."""
        settings = self.settings(run)
        key = digest(settings)
        known = read_json(run.evaluation_path) or {}
        if known.get("key") == key and not self.force and samples_exist(run, known):
            say(f"{run.evaluation_path}: nothing has changed, not evaluated again (--force does)")
            return known
        give_home(run)
        measured = {"key": key, "settings": settings, **self.measure(run)}
        if "capability" in known and all(known["settings"].get(name) == settings[name] for name in CAPABILITY):
            measured["capability"] = known["capability"]
        write(run.evaluation_path, json.dumps(measured, indent=1) + "\n")
        return measured

    def settings(self, run: Run) -> dict[str, Any]:
        """Everything the numbers depend on.  EvaluationError where nothing judges samples."""
        from apo.evaluation import Judges, named_files
        judges = Judges.of(run.config)
        if judges.scorer is None:
            raise EvaluationError(f"{run.directory} has no scorer to judge samples with: name one with scorer=")
        evaluation = asdict(run.config.evaluation)
        kept = {key: evaluation[key] for key in ("scenarios", "metrics", "prefix", "banned_tokens", "heldout_tokens",
                                                 "heldout_scorers", "kl_from_start", "clean_threshold")}
        fingerprints, start = judges.fingerprints(), started_with(run)
        base = run.config.model.base if run.bare else None
        return {**kept, "seed": self.seed, "scorer": evaluation["scorer"] or run.config.scorer,
                "scorer_sha256": fingerprints.pop("scorer"), "heldout_sha256": fingerprints,
                "callbacks": run.config.callbacks, "callbacks_depend_on": depends_on(run.config),
                "named_files": named_files(run.config),
                "data": asdict(run.config.data), "data_sha256": run.manifest.get("fingerprints", {}).get("data"),
                "start": model_fingerprint(*start) if start else None,
                "base": model_fingerprint(base) if base else None,
                "model": model_fingerprint(run.model, run.config.model.revision), "code": code_fingerprint()}

    def measure(self, run: Run) -> dict[str, Any]:
        """Loads the model, samples and scores every scenario, writes the samples, measures held-out text."""
        from apo.evaluation import Judges, as_trained, run_scenario
        config, corpus = run.config, self.corpus(run)
        policy, tokenizer = load_model(run)
        judges, scenarios = Judges.of(config, corpus), {}
        start = self.start(run, policy)
        bound = self.callbacks(run, corpus, tokenizer)
        for name, scenario in config.evaluation.scenarios.items():
            scenario = as_trained(scenario, config)
            with progress(f"{run.method} seed {run.seed}, {name}", scenario.num_samples) as bar:
                result = run_scenario(name, scenario, policy=policy, tokenizer=tokenizer, judges=judges,
                                      evaluation=config.evaluation, prompts=corpus.prompts, seed=self.seed, step=None,
                                      start=start, progress=bar)
            write_samples(run.samples_path(name), result.samples)
            scenarios[name] = summary(name, scenario, result)
        return {"kind": judges.scorer.kind, "scenarios": scenarios,
                "heldout": self.heldout(run, corpus, policy, tokenizer),
                "measured": measurements(bound, policy),
                "parameters": policy.num_parameters}

    def start(self, run: Run, policy: Any) -> Any:
        """The policy that the run began with; None where it began with nothing, is not there any more, or had another
        vocabulary.  Under an adapter that the run has trained from nothing, that is the model it stands on, in its
        bits."""
        from apo.models.adapters import find_adapter, is_adapted
        from apo.models.load import load_trained
        from apo.models.reference import reference_of
        place = started_with(run)
        if place is None or not run.config.evaluation.kl_from_start:
            return None
        if is_adapted(policy.model) and find_adapter(*place) is None:
            return reference_of(policy, adapter_is_new=True)
        start = load_trained(*place)[0].to(policy.device)
        return start if start.head.weight.shape == policy.head.weight.shape else None

    def callbacks(self, run: Run, corpus: Any, tokenizer: Any) -> list[Any]:
        """Those of the config that look at the model alone, bound.  Raises UserError where one cannot be measured."""
        from apo.callbacks.base import Context, callbacks
        config = run.config
        made = [callbacks.get(name)(**options) for name, options in config.callbacks.items()]
        context = Context(config, tokenizer, corpus, scorer_of(run), cache_of(config))
        return [callback.bind(context) for callback in made if callback.of_model]

    def heldout(self, run: Run, corpus: Any, policy: Any, tokenizer: Any) -> dict[str, float]:
        """bits_per_byte and bits_per_byte_clean on held-out text; {} where it is switched off."""
        from apo.evaluation import heldout_bits_per_byte
        from apo.experiment import make_heldout
        if not run.config.evaluation.heldout_tokens:
            return {}
        _, store = corpus.tokenise(tokenizer, cache_of(run.config))
        text = make_heldout(run.config, store, tokenizer, tokenizer.eos_token_id)
        measured = heldout_bits_per_byte(policy, text, run.config.evaluation.batch_size)
        return {key.removeprefix("heldout/"): value for key, value in measured.items()}

    def corpus(self, run: Run) -> Any:
        """The run's data, prepared once for all runs that share it.  EvaluationError if it is no longer the same."""
        from apo.data.prepare import prepare
        trained = before_overrides(run)
        key = digest([asdict(trained.data), trained.scorer])
        if key not in self._corpora:
            self._corpora[key] = prepare(trained.data, scorer_of(run), cache_of(run.config))
        corpus, trained_on = self._corpora[key], run.manifest.get("fingerprints", {}).get("data")
        if trained_on is not None and trained_on != corpus.fingerprint and not under(DATA, self.allow):
            raise EvaluationError(f"{run.directory} was trained on other data than its config gives now: the files, "
                                  "the interpreter they come with or the code of the scorer have changed, and "
                                  "held-out text may have been trained on. Restore them, or accept it: "
                                  f"--allow {DATA}")
        return corpus


def measurements(callbacks: list[Any], policy: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for callback in callbacks:
        found |= callback.measure(policy, 0, 0, lambda: None).metrics
    return found


def started_with(run: Run) -> tuple[str, str | None] | None:
    """(model, revision) that a run started from, if it is to be had without a download."""
    config = run.trained or run.config
    if run.bare:
        return None
    if before := started_from(config).get("init_from.run"):
        places = [run.directory.parents[2] / before, *filter(None, [config.init_from.run])]
        finals = [final for final in (Path(place) / "final" for place in places) if is_model(final)]
        return (str(finals[0]), None) if finals else None
    trained = config.model.is_trained and is_model(Path(config.model.name))
    return (config.model.name, config.model.revision) if trained else None


def depends_on(config: Config) -> dict[str, Any]:
    """What callbacks measure with, such as the weights of another model; only of those that say so."""
    from apo.callbacks.base import Context, callbacks
    made = {name: callbacks.get(name)(**options) for name, options in config.callbacks.items()}
    found = {name: callback.depends_on(Context(config, None, None, None, None))
             for name, callback in made.items() if callback.of_model}
    return {name: facts for name, facts in found.items() if facts}


def cache_of(config: Config) -> Cache:
    return Cache(Path(config.cache_dir) if config.cache_dir else None)


def summary(name: str, scenario: Any, result: Any) -> dict[str, Any]:
    """What tables and pairing need of a scenario, without the texts.  `prompts`: number of each sample's prompt."""
    prompts = [sample.prompt for sample in result.samples]
    number = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
    metrics = {key.removeprefix(f"generation/{name}/"): value for key, value in result.metrics.items()}
    return {"metrics": metrics, "scores": [sample.score for sample in result.samples],
            "prompts": [number[prompt] for prompt in prompts], "prompts_sha256": digest(prompts)[:12],
            "hit_threshold": scenario.hit_threshold}


def write_samples(path: Path, samples: list[Any]) -> None:
    write(path, "".join(json.dumps(asdict(sample)) + "\n" for sample in samples))


def samples_exist(run: Run, evaluation: dict[str, Any]) -> bool:
    return all(run.samples_path(name).is_file() for name in evaluation["scenarios"])


def before_overrides(run: Run) -> Config:
    """The config before any override, its scorers named."""
    return with_its_scorers(run.trained or run.config, run.directory)


def scorer_of(run: Run) -> Any:
    """What annotated a run's data; None where they bring their scores."""
    from apo.scorers.make import make_scorer
    scorer = before_overrides(run).scorer
    return make_scorer(scorer) if scorer else None


def code_fingerprint(names: Iterable[str] = MEASURING_CODE) -> str:
    package = Path(__file__).parent.parent
    paths = (package / name for name in names)
    return file_digest(file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path]))
