"""One experiment: the parts composed from a config, trained, and left in a run directory.

`train` is what `python train.py` does once the config is valid; stages and tests call it too.  It is safe to call
again at any time: a finished run is reported, an unfinished one goes on from its newest sound checkpoint.
"""

import json
import os
import sys
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from apo import provenance
from apo.budget import ChinchillaLoss, training_steps
from apo.console import progress, say, warn
from apo.data.sources.base import sources
from apo.disk import write_atomic
from apo.errors import Interrupted, RunError, UserError
from apo.host import reuse_freed_memory
from apo.identity import identity, run_directory, to_yaml, view_of
from apo.objectives.online import VIEW as ROUNDS
from apo.rundir import RunDirectory, command_line, now, read_json, write_json
from apo.schema import Config, ModelConfig
from apo.scorers.base import Scorer
from apo.stages import check_start, start_of, started_from, with_reward_models

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
    corpus: object
    scorer: Scorer | None
    """What annotates the corpus."""
    judges: object
    """What samples are judged by."""
    measured_beside: list
    """Callbacks that the view of the data brings with it."""
    steps: int
    fingerprints: dict[str, str]
    sizes: dict
    advantages: dict | None = None
    """Of a method that looks at them (`apo/advantages.py`)."""


def train(config: Config) -> RunOutcome:
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RunError("started as one of several processes (WORLD_SIZE), which runs do not support yet: start one")
    run = RunDirectory(run_directory(config))
    if config.force or not run.is_done():
        check_start(config)
    with run.owned():
        if config.force:
            run.move_aside()
        from apo.evaluation import scorers_of
        scorers = scorers_of(with_reward_models(config, train))
        who = identify(config, scorers)
        _refuse_another_run(run, who)
        if run.is_done():
            say(f"{run.path} is finished; nothing to do (force=true trains anew)")
            return RunOutcome(run.path, "done", last_metrics(run), fresh=False)
        try:
            _train_into(run, config, scorers, who)
        except Exception as error:
            _record_failure(run, error)
            raise
        return RunOutcome(run.path, "done", last_metrics(run), fresh=True)


def _record_failure(run: RunDirectory, error: Exception) -> None:
    """Why it ended, in status and manifest; a preempted run has written its own status."""
    why = str(error) if isinstance(error, UserError) else repr(error)
    if not isinstance(error, Interrupted):
        run.set_status("failed", run.status().get("step", 0), run.status().get("max_steps", 0), why)
    _end(run, why)


def _end(run: RunDirectory, why: str) -> None:
    manifest = read_json(run.manifest_file)
    if manifest:
        manifest["times"]["ended"], manifest["why_ended"] = now(), why
        write_json(run.manifest_file, manifest)


def _train_into(run: RunDirectory, config: Config, scorers: dict[str, Scorer], who: dict) -> None:
    from apo.models.load import quieten
    quieten()
    from apo.callbacks.loggers import make_loggers
    from apo.trainer import ScoredTextTrainer
    reuse_freed_memory()
    say(f"run directory: {run.path}")
    write_atomic(run.config_file, to_yaml(config))
    manifest = new_manifest(run, config, who)
    write_json(run.manifest_file, manifest)
    parts = build(config, scorers, start_of(config, train), run)
    _refuse(run.path, differences(manifest.get("fingerprints") or parts.fingerprints, parts.fingerprints))
    write_json(run.manifest_file, manifest | {"fingerprints": parts.fingerprints, "sizes": parts.sizes})
    if parts.advantages is not None:
        from apo.advantages import FILE
        write_json(run.path / FILE, parts.advantages)
    loggers = make_loggers(config, run)
    try:
        with progress(f"training {config.task} {config.method}", parts.steps) as bar:
            trainer = ScoredTextTrainer(
                parts.policy, parts.objective, parts.source, config.training, run=run, seed=config.seed,
                max_steps=parts.steps, tokens_per_step=round(parts.sizes["tokens_per_step"]),
                extra_metrics=ChinchillaLoss(parts.policy), loggers=loggers, bar=bar, tokenizer=parts.tokenizer,
                callbacks=[*generation_callbacks(config, parts, run), *parts.measured_beside,
                           *other_callbacks(config, parts)])
            trainer.fit()
        save_final(run, parts)
    finally:
        for logger in loggers:
            logger.close()
    finish(run, parts.steps)


def generation_callbacks(config: Config, parts: Parts, run: RunDirectory) -> list:
    """Sampling, and of a run that starts from a trained model the watch over what its samples become."""
    if not parts.objective.writes_text:
        return []
    from apo.callbacks.generate_and_score import GenerateAndScoreCallback
    from apo.callbacks.hacking import Hacking
    from apo.evaluation import as_trained
    from apo.models.reference import reference_of
    scenarios = {name: as_trained(scenario, config) for name, scenario in config.evaluation.scenarios.items()}
    trained_before = config.init_from.is_given or config.model.is_trained
    start = None
    if scenarios and trained_before and config.evaluation.kl_from_start:
        start = parts.objective.reference or reference_of(parts.policy)
    steps_per_epoch = parts.sizes.get("steps_per_epoch") or parts.steps
    found = [GenerateAndScoreCallback(replace(config.evaluation, scenarios=scenarios), tokenizer=parts.tokenizer,
                                      judges=parts.judges, prompts=parts.corpus.prompts, heldout=parts.heldout,
                                      seed=config.seed, start=start, steps_per_epoch=steps_per_epoch)]
    if scenarios and trained_before and parts.judges.scorer is not None:
        found.append(Hacking(config.evaluation, run, parts.judges, steps_per_epoch=steps_per_epoch))
    return found


def other_callbacks(config: Config, parts: Parts) -> list:
    """Those that the config names, each with what it may look at."""
    from apo.cache import Cache
    from apo.callbacks.base import Context, callbacks
    context = Context(config, parts.tokenizer, parts.corpus, parts.scorer, Cache(config.cache_dir), parts.source,
                      parts.sizes.get("steps_per_epoch"))
    return [callbacks.get(name)(**options).bind(context) for name, options in config.callbacks.items()]


def save_final(run: RunDirectory, parts: Parts) -> None:
    from apo.models.save import save_policy, save_reward_model
    with run.folder(run.final) as folder:
        (save_policy if parts.objective.writes_text else save_reward_model)(parts.policy, folder)
        parts.tokenizer.save_pretrained(folder)


def finish(run: RunDirectory, steps: int) -> None:
    _end(run, "all steps done")
    run.set_status("done", steps, steps)
    say(f"done: {run.path}")


# ---- the parts -------------------------------------------------------------------------------------------------------


def build(config: Config, scorers: dict[str, Scorer], model: ModelConfig, run: RunDirectory) -> Parts:
    """Data, tokenizer, model and objective of a config; slow the first time, from the cache afterwards.

    Args:
        scorers: as `apo.evaluation.scorers_of` gives them.
        model: what the policy starts from: the config's own, or what an earlier run left.
        run: where rounds of samples are kept.
    """
    from apo.cache import Cache
    from apo.data.chat import chat_key
    from apo.data.prepare import prepare
    from apo.data.thresholds import make_view
    from apo.data.tokenizer import add_control_tokens, set_end_of_text, tokenizer_fingerprint
    from apo.evaluation import Judges
    from apo.models.load import load_policy
    cache = Cache(config.cache_dir)
    scorer = scorers.get("scorer")
    corpus = prepare(config.data, scorer, cache)
    tokenizer = make_tokenizer(model, corpus, cache)
    set_end_of_text(tokenizer, config.data.concat_token)
    fingerprints = {"data": corpus.fingerprint, "tokenizer": tokenizer_fingerprint(tokenizer),
                    **chat_key(config.data, tokenizer)}
    known, vocabulary = tokenizer.get_vocab(), len(tokenizer)
    train_store, heldout_store = corpus.tokenise(tokenizer, cache)
    control_ids = add_control_tokens(tokenizer, control_tokens(config))
    view = make_view(config.data, train_store, tokenizer.eos_token_id, control_ids)
    objective = make_objective(config, train_store)
    new_ids = [token for name, token in zip(control_tokens(config), control_ids) if name not in known]
    policy = load_policy(model, tokenizer, vocabulary, config.seed, new_ids, objective.needs.value_head,
                         config.data.block_size)
    beside, advantages, share = [], None, 1.0
    if objective.needs.view == "scored_text":
        source = make_source(config, corpus, train_store, tokenizer, view)
        sizes = source.describe()
    elif objective.needs.view == ROUNDS:
        from apo.experience.make import rounds
        from apo.training_arguments import resolve_precision
        source = rounds(config, objective, corpus, train_store, policy, tokenizer, scorer, view.eos_id,
                        folder=run.rounds, timed=partial(run.append, run.timings_file),
                        precision=resolve_precision(config.training.precision))
        sizes = source.describe()
    else:
        from apo.callbacks.heldout_items import HeldoutItems
        from apo.compared import compared
        found = compared(config, objective, corpus, (train_store, heldout_store), policy, tokenizer, scorer,
                         view.eos_id, cache)
        source, sizes, advantages, share = found.train, found.sizes, found.advantages, found.steps
        fingerprints |= found.fingerprints
        if found.heldout is not None:
            beside.append(HeldoutItems(config.evaluation, objective, found.heldout, precision=found.precision,
                                       steps_per_epoch=source.steps_per_epoch,
                                       batch_size=config.training.per_device_train_batch_size))
    sizes = corpus.describe() | sizes
    steps = training_steps(config, sizes.get("tokens_per_epoch"), sizes.get("tokens_per_step"))
    if config.training.num_train_epochs is None:        # an epoch of what is kept is shorter by itself
        steps = max(int(steps * share + 1e-9), 1)
    sizes |= {"parameters": policy.num_parameters, "steps": steps}
    heldout = make_heldout(config, heldout_store, tokenizer, view.eos_id)
    judges = Judges.of(config, corpus, scorers)
    return Parts(tokenizer, policy, objective, source, heldout, corpus, scorer, judges, beside, steps, fingerprints,
                 sizes, advantages)


def make_tokenizer(model: ModelConfig, corpus, cache):
    """The one the config names, or one trained on the corpus."""
    from apo.data.tokenizer import corpus_tokenizer
    from apo.models.load import load_tokenizer
    return load_tokenizer(model) or corpus_tokenizer(corpus, model.vocab_size, cache)


def make_source(config: Config, corpus, store, tokenizer, view):
    """Fixed rows where the data are tokenised beforehand, a stream where they are not."""
    options = {"block_size": config.data.block_size, "effective_batch_size": config.training.effective_batch_size,
               "seed": config.seed}
    if store is None:
        from apo.data.streaming import StreamedRows
        source = StreamedRows(corpus, tokenizer, view, **options)
    else:
        from apo.data.sampling import PackedRows
        source = PackedRows(store, view, **options)
    if config.training.tokens_already_seen:
        source.skip(int(config.training.tokens_already_seen))
    return source


def make_heldout(config: Config, store, tokenizer, eos_id: int):
    """Held-out text behind the method's own prefix, or None where it is switched off."""
    from apo.data.heldout import HeldoutText
    from apo.data.tokenizer import single_id
    if not config.evaluation.heldout_tokens:
        return None
    prefix = config.evaluation.prefix
    prefix_id = single_id(tokenizer, prefix, "evaluation.prefix") if prefix else None
    return HeldoutText(store, eos_id, prefix_id, config.data.block_size, config.evaluation.heldout_tokens,
                       config.evaluation.clean_threshold)


def control_tokens(config: Config) -> list[str]:
    """The method's control tokens; none where data.conditional_training_config has no threshold."""
    conditional = config.data.conditional_training_config
    return [] if conditional.threshold is None else [conditional.aligned_prefix, conditional.misaligned_prefix]


def make_objective(config: Config, store):
    """The objective with its thresholds as numbers."""
    from apo.data.thresholds import resolve
    from apo.objectives.base import objectives
    options = {key: value for key, value in config.objective.items() if key != "name"}
    objective = objectives.get(config.objective["name"])(**options)
    scores = None if store is None else store.known_scores_S
    resolved = {name: resolve(getattr(objective, name), scores, f"objective.{name}") for name in objective.thresholds}
    return replace(objective, **resolved)


# ---- the same run or another -----------------------------------------------------------------------------------------


def identify(config: Config, scorers: dict[str, Scorer]) -> dict:
    """What makes two runs the same, as far as it is known before anything is loaded: flat, so that it can be shown."""
    from apo.evaluation import named_files
    code = {f"plugin {name}": provenance.package_sha256(name) for name in config.plugins}
    code |= {name: scorer.fingerprint() for name, scorer in scorers.items()} | named_files(config)
    source = sources.get(config.data.source)(config.data)
    if source.local:
        code["documents"] = source.fingerprint()
    return identity(config) | code | started_from(config)


def differences(before: dict, after: dict) -> list[str]:
    absent = "(absent)"
    return [f"{key}: {before.get(key, absent)} -> {after.get(key, absent)}"
            for key in sorted(before.keys() | after.keys()) if before.get(key, absent) != after.get(key, absent)]


def _refuse_another_run(run: RunDirectory, who: dict) -> None:
    manifest = read_json(run.manifest_file)
    if manifest:
        _refuse(run.path, differences(manifest["identity"], who))
        threads = (manifest["hardware"].get("torch_threads"), provenance.hardware()["torch_threads"])
        if threads[0] != threads[1]:
            warn(f"this run was started with {threads[0]} threads and goes on with {threads[1]}: its last digits may "
                 "differ from an uninterrupted run's (set OMP_NUM_THREADS)")


def _refuse(path, different: list[str]) -> None:
    if different:
        listed = "\n".join(f"  {line}" for line in different)
        raise RunError(f"{path} holds another run; what differs:\n{listed}\n"
                       "force=true begins anew and keeps the old one beside it")


def new_manifest(run: RunDirectory, config: Config, who: dict) -> dict:
    """The manifest of a run that begins; one that goes on keeps its own, with the new start added."""
    known = read_json(run.manifest_file)
    start = {"started": now(), "command": command_line(), "git": provenance.git_state(PROJECT)}
    if known:
        known["times"].setdefault("resumed", []).append(start)
        known["why_ended"] = None
        return known
    write_atomic(run.path / "code.diff", provenance.code_diff(PROJECT))
    return {"command": start["command"], "config_hash": run.path.name.split("-")[0],
            "identity": who, "git": start["git"], "packages": provenance.packages(),
            "hardware": provenance.hardware(), "environment": provenance.environment(),
            "seeds": {"seed": config.seed, "streams": ["init", "new_tokens", "adapter", "order", "rows", "control",
                                                       "window", "dropout", "trainer", "prompts", "generation",
                                                       "heldout", "priority", "value", "rollout", "lengths",
                                                       "minibatches", "beginnings"]},
            "times": {"started": start["started"]}, "why_ended": None}


def last_metrics(run: RunDirectory) -> dict:
    """Every metric's last value."""
    metrics = {}
    if run.metrics_file.exists():
        for line in run.metrics_file.read_text(encoding="utf-8").splitlines():
            metrics |= json.loads(line)
    return metrics


# ---- what the command line asks for ----------------------------------------------------------------------------------


def dry_run(config: Config) -> None:
    from apo.dry_run import dry_run as show
    show(config)


def summary(results: list) -> None:
    """The table at the end of a multirun: every run, every failure.  `results`: (config, outcome or error) pairs."""
    from rich.console import Console
    from rich.table import Table
    table = Table("task", "method", "trained on", "seed", "state", "seconds", "score or reward", "bits/byte",
                  "run directory", box=None, pad_edge=False)
    for config, result in results:
        run = RunDirectory(run_directory(config))
        failed = isinstance(result, Exception)
        metrics = {} if failed else last_metrics(run)
        state = run.status()["state"] if not failed or run.status()["state"] == "preempted" else "failed"
        if isinstance(result, RunOutcome) and not result.fresh:
            state = "done before"
        table.add_row(config.task, config.method, f"{view_of(config)}s".replace("_", " "), str(config.seed), state,
                      seconds_of(run), score_of(config, metrics), _shown(metrics, "heldout/bits_per_byte"),
                      str(run.path))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    for config, result in results:
        if isinstance(result, Exception):
            say(f"{config.task} {config.method} seed {config.seed}: {result}")


def seconds_of(run: RunDirectory) -> str:
    """From its start to its end, what it starts from and its evaluations included; "-" of a run that went on later."""
    times = (read_json(run.manifest_file) or {}).get("times", {})
    if "ended" not in times or "resumed" in times:
        return "-"
    begin, end = (datetime.fromisoformat(times[name]) for name in ("started", "ended"))
    return f"{(end - begin).total_seconds():.0f}"


def score_of(config: Config, metrics: dict) -> str:
    """The metric that picks the best checkpoint: a score, or a reward, which says so; where nothing judges samples, the
    accuracy on held-out pairs."""
    scenario = f"generation/{config.evaluation.best or next(iter(config.evaluation.scenarios), '')}"
    if f"{scenario}/score" in metrics:
        return _shown(metrics, f"{scenario}/score")
    if isinstance(reward := metrics.get(f"{scenario}/reward"), float):
        return f"{reward:+.4g} reward"
    return f"{metrics['eval/accuracy']:.4g} accuracy" if "eval/accuracy" in metrics else "-"


def _shown(metrics: dict, key: str) -> str:
    return f"{metrics[key]:.4g}" if isinstance(metrics.get(key), float) else "-"
