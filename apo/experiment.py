"""One experiment: the parts composed from a config, trained, and left in a run directory.

`train` is what `python train.py` does once the config is valid; stages and tests call it too.  It is safe to call
again at any time: a finished run is reported, an unfinished one goes on from its newest sound checkpoint.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from apo import provenance
from apo.config import run_directory, to_dict, to_yaml
from apo.console import duration, progress, say, warn
from apo.errors import ConfigError, RunError, UserError
from apo.registry import canonical
from apo.rundir import RunDirectory, command_line, now, read_json, write_atomic, write_json
from apo.schema import NOT_IDENTITY, Config
from apo.scorers.base import Scorer, make_scorer

PROJECT = Path(__file__).resolve().parent.parent


@dataclass
class RunOutcome:
    """What a run ended as; `metrics` is its last row of each metric."""

    path: Path
    state: str
    metrics: dict
    fresh: bool
    """False: it was finished before, and nothing was done."""


@dataclass
class Parts:
    """Everything a training run is made of."""

    tokenizer: object
    policy: object
    objective: object
    source: object
    heldout: object
    prompts: dict[str, list[str]]
    scorer: Scorer
    steps: int
    fingerprints: dict[str, str]
    sizes: dict


def train(config: Config) -> RunOutcome:
    run = RunDirectory(run_directory(config))
    with run.owned():
        if config.force:
            run.move_aside()
        scorer = make_scorer(config.scorer)
        identity = identify(config, scorer)
        _refuse_another_run(run, identity)
        if run.is_done():
            say(f"{run.path} is finished; nothing to do (force=true trains anew)")
            return RunOutcome(run.path, "done", last_metrics(run), fresh=False)
        try:
            _train_into(run, config, scorer, identity)
        except UserError as error:
            if run.status()["state"] != "preempted":
                run.set_status("failed", run.status().get("step", 0), run.status().get("max_steps", 0), str(error))
            raise
        except Exception as error:
            run.set_status("failed", run.status().get("step", 0), run.status().get("max_steps", 0), repr(error))
            raise
        return RunOutcome(run.path, "done", last_metrics(run), fresh=True)


def _train_into(run: RunDirectory, config: Config, scorer: Scorer, identity: dict) -> None:
    from apo.callbacks.loggers import make_loggers
    from apo.trainer import ScoredTextTrainer
    say(f"run directory: {run.path}")
    write_atomic(run.config_file, to_yaml(config))
    manifest = new_manifest(run, config, identity)
    write_json(run.manifest_file, manifest)
    parts = build(config, scorer)
    _refuse(run.path, differences(manifest.get("fingerprints") or parts.fingerprints, parts.fingerprints))
    write_json(run.manifest_file, manifest | {"fingerprints": parts.fingerprints, "sizes": parts.sizes})
    loggers = make_loggers(config, run)
    try:
        with progress(f"training {config.task} {config.method}", parts.steps) as bar:
            trainer = ScoredTextTrainer(
                parts.policy, parts.objective, parts.source, config.training, run=run, seed=config.seed,
                max_steps=parts.steps, tokens_per_step=config.training.effective_batch_size * config.data.block_size,
                extra_metrics=ChinchillaLoss(parts.policy), loggers=loggers, bar=bar,
                callbacks=[generation_callback(config, parts)])
            trainer.fit()
        save_final(run, parts)
    finally:
        for logger in loggers:
            logger.close()
    finish(run, parts.steps)


def generation_callback(config: Config, parts: Parts):
    from apo.callbacks.generate_and_score import GenerateAndScoreCallback
    return GenerateAndScoreCallback(config.evaluation, tokenizer=parts.tokenizer, scorer=parts.scorer,
                                    prompts=parts.prompts, heldout=parts.heldout, seed=config.seed,
                                    steps_per_epoch=parts.sizes.get("steps_per_epoch") or parts.steps)


def save_final(run: RunDirectory, parts: Parts) -> None:
    from apo.trainer import save_policy
    with run.folder(run.final) as folder:
        save_policy(parts.policy, folder)
        parts.tokenizer.save_pretrained(folder)


def finish(run: RunDirectory, steps: int) -> None:
    manifest = read_json(run.manifest_file)
    manifest["times"]["ended"] = now()
    manifest["why_ended"] = "all steps done"
    write_json(run.manifest_file, manifest)
    run.set_status("done", steps, steps)
    say(f"done: {run.path}")


# ---- the parts -------------------------------------------------------------------------------------------------------


def build(config: Config, scorer: Scorer) -> Parts:
    """Data, tokenizer, model and objective of a config; slow the first time, from the cache afterwards."""
    from apo.cache import Cache
    from apo.data.corpus import prepare
    from apo.models.load import load_policy
    cache = Cache(config.cache_dir)
    corpus = prepare(config.data, scorer, cache)
    tokenizer = make_tokenizer(config, corpus, cache)
    control = control_tokens(config)
    control_ids = add_control_tokens(tokenizer, control)
    train_store, heldout_store = corpus.tokenise(tokenizer, cache)
    objective = make_objective(config, train_store)
    source = make_source(config, train_store, tokenizer)
    sizes = source.describe()
    steps = training_steps(config, sizes.get("tokens_per_epoch"))
    policy = load_policy(config.model, tokenizer, config.seed, control_ids, objective.needs.value_head,
                         config.data.block_size)
    sizes |= {"parameters": sum(p.numel() for p in policy.model.parameters()), "steps": steps}
    return Parts(tokenizer, policy, objective, source, make_heldout(config, heldout_store, tokenizer), corpus.prompts,
                 scorer, steps, {"data": corpus.fingerprint, "tokenizer": tokenizer_fingerprint(tokenizer)}, sizes)


def make_tokenizer(config: Config, corpus, cache):
    from apo.data.tokenizer import train_tokenizer
    from apo.models.load import load_tokenizer
    return load_tokenizer(config.model) or train_tokenizer(corpus.texts("train"), config.model.vocab_size)


def tokenizer_fingerprint(tokenizer) -> str:
    """sha256 over the tokenizer's own serialised form."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def control_tokens(config: Config) -> list[str]:
    """The method's control tokens: in the data, or in what scenarios start from or ban."""
    conditional = config.data.conditional_training_config
    return [] if conditional.threshold is None else [conditional.aligned_prefix, conditional.misaligned_prefix]


def make_objective(config: Config, store):
    """The objective with its thresholds as numbers."""
    from apo.data.thresholds import resolve
    from apo.objectives.base import objectives
    options = {key: value for key, value in config.objective.items() if key != "name"}
    objective = objectives.get(config.objective["name"])(**options)
    resolved = {name: resolve(getattr(objective, name), store.segment_scores, f"objective.{name}")
                for name in objective.thresholds if getattr(objective, name) is not None}
    return replace(objective, **resolved)


def training_steps(config: Config, tokens_per_epoch: float | None) -> int:
    """Optimiser steps of the whole run, from tokens, steps or epochs, whichever the config sets."""
    training = config.training
    if training.max_steps is not None:
        return training.max_steps
    tokens = training.num_tokens
    if tokens is not None:
        tokens -= training.tokens_already_seen
    elif tokens_per_epoch is None:
        raise ConfigError("training.num_train_epochs needs data of known size: set training.num_tokens")
    else:
        tokens = training.num_train_epochs * tokens_per_epoch
    steps = int(tokens // (training.effective_batch_size * config.data.block_size))
    if steps < 1:
        raise ConfigError(f"a budget of {tokens:g} tokens is less than one step of {training.effective_batch_size} x "
                          f"{config.data.block_size} tokens: raise training.num_tokens")
    return steps


class ChinchillaLoss:
    """The loss that Hoffmann et al. (2022, eq. 10) fitted for N parameters and D tokens; PHF logs it beside the own."""

    def __init__(self, policy):
        self.parameters = sum(p.numel() for p in policy.model.parameters())

    def __call__(self, tokens: int) -> dict[str, float]:
        return {"chinchilla_loss": 1.69 + 406.4 / self.parameters ** 0.34 + 410.7 / max(tokens, 1) ** 0.28}


# ---- the same run or another ------------------------------------------------------------------------------------------


def identify(config: Config, scorer: Scorer) -> dict:
    """What makes two runs the same, as far as it is known before anything is loaded: flat, so that it can be shown."""
    flat = {key: value for key, value in flatten(to_dict(config)).items()
            if not any(key == name or key.startswith(name + ".") for name in NOT_IDENTITY)}
    plugins = {f"plugin {name}": provenance.package_sha256(name) for name in config.plugins}
    return flat | {"scorer fingerprint": scorer.fingerprint()} | plugins


def flatten(tree: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}; empty maps and lists stay values."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def differences(before: dict, after: dict) -> list[str]:
    absent = "(absent)"
    return [f"{key}: {before.get(key, absent)} -> {after.get(key, absent)}"
            for key in sorted(before.keys() | after.keys()) if before.get(key, absent) != after.get(key, absent)]


def _refuse_another_run(run: RunDirectory, identity: dict) -> None:
    manifest = read_json(run.manifest_file)
    if manifest:
        _refuse(run.path, differences(manifest["identity"], identity))
        threads = (manifest["hardware"].get("torch_threads"), provenance.hardware()["torch_threads"])
        if threads[0] != threads[1]:
            warn(f"this run was started with {threads[0]} threads and goes on with {threads[1]}: its last digits may "
                 "differ from an uninterrupted run's (set OMP_NUM_THREADS)")


def _refuse(path, different: list[str]) -> None:
    if different:
        listed = "\n".join(f"  {line}" for line in different)
        raise RunError(f"{path} holds another run; what differs:\n{listed}\n"
                       "force=true begins anew and keeps the old one beside it")


def new_manifest(run: RunDirectory, config: Config, identity: dict) -> dict:
    """The manifest of a run that begins; one that goes on keeps its own, with the new start added."""
    known = read_json(run.manifest_file)
    start = {"started": now(), "command": command_line(), "git": provenance.git_state(PROJECT)}
    if known:
        known["times"].setdefault("resumed", []).append(start)
        known["why_ended"] = None
        return known
    write_atomic(run.path / "code.diff", provenance.code_diff(PROJECT))
    return {"command": start["command"], "config_hash": run.path.name.split("-")[0],
            "identity": identity, "git": start["git"], "packages": provenance.packages(),
            "hardware": provenance.hardware(), "environment": provenance.environment(),
            "seeds": {"seed": config.seed, "streams": ["init", "new_tokens", "order", "rows", "control", "dropout",
                                                       "sampling"]},
            "times": {"started": start["started"]}, "why_ended": None}


def last_metrics(run: RunDirectory) -> dict:
    """Every metric's last value."""
    metrics = {}
    if run.metrics_file.exists():
        for line in run.metrics_file.read_text(encoding="utf-8").splitlines():
            metrics |= json.loads(line)
    return metrics
