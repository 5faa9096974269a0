"""From what was typed to runs: folders opened, overrides applied, bare models given a home, second looks added."""

import json
import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterable

from apo.cli import NODES
from apo.console import say
from apo.errors import ConfigError, EvaluationError
from apo.identity import option_class, to_yaml
from apo.report.runs import Run, is_published, open_run, run_directories, write
from apo.schema import ConditionalConfig, Config, ModelConfig

FOR_A_RUN = ("evaluation", "scorer", "callbacks", "plugins", "cache_dir", "output_dir", "offline", "debug")
"""What may be overridden when a trained run is scored again; the rest is how it was trained and cannot be undone."""
FOR_AN_ATTACK = tuple(node for node in FOR_A_RUN if node != "callbacks")
"""Red teaming samples and scores, and measures nothing else."""
JUDGE = re.compile(r"^([+~]*)scorer(?=[.=]|$)")
BETWEEN_CHANGES = re.compile(r"\s+(?=[~+]*[\w.]+=)")


def select(names: Iterable[str], overrides: Iterable[str] = (), task: str | None = None,
           method: str | None = None, also: Iterable[str] = (), may: Iterable[str] = FOR_A_RUN) -> list[Run]:
    """Every run named, inside a folder named, or made of a bare model, with `overrides` applied.

    `task` and `method` compose the config of bare models; without a task they are measured like the first run.
    `also` is a list of "METHOD: key=value ..." that add another look at that method's runs.  `may`: nodes of which
    overrides of a trained run are taken.
    Raises EvaluationError, RunError, ConfigError.
    """
    writing, judging = divided(names, overrides, task, method, also, may)
    if not writing:
        places = ", ".join(str(run.directory) for run in judging)
        raise EvaluationError(f"{places}: trained as a scorer and writes no text; there is nothing to sample")
    for run in judging:
        say(f"left out: {run.directory} was trained as a scorer and writes no text")
    return writing


def divided(names: Iterable[str], overrides: Iterable[str] = (), task: str | None = None, method: str | None = None,
            also: Iterable[str] = (), may: Iterable[str] = FOR_A_RUN) -> tuple[list[Run], list[Run]]:
    """As `select`: what writes text, and the runs of reward models, which do not."""
    overrides, found = list(overrides), run_directories(names)
    if not found:
        raise EvaluationError("Name at least one run directory, folder of runs or model.")
    opened = {name: trained(Path(name), overrides, may) for kind, name in found if kind == "run"}
    judging = {name: run for name, run in opened.items() if not writes_text(run.config)}
    example = next((run for name, run in opened.items() if name not in judging), None)
    runs = [opened.get(name) or bare(name, task, method, overrides, example) for _, name in found
            if name not in judging]
    return runs + [look for words in also for look in second_looks(runs, words, may)], list(judging.values())


def writes_text(config: Config) -> bool:
    return option_class("objective", config.objective["name"]).writes_text


def trained(directory: Path, overrides: list[str], may: Iterable[str]) -> Run:
    from apo.config import config_from_file, override, settings_of
    run = open_run(directory, config_from_file)
    if any(key_of(text) == "experiment" for text in overrides):
        overrides = settings_of(overrides, ("evaluation",))     # how a model is measured, not how one is trained
    if overrides and not run.bare:
        refuse_others(overrides, may)
    run.config = override(run.config, judged(run.config, overrides)) if overrides else run.config
    run.config = with_its_scorers(run.config, directory)
    return run


def with_its_scorers(config: Config, directory: Path) -> Config:
    """With the reward models that a run's scorers are, found among the runs that lie beside it.  Raises RunError."""
    from apo.stages import with_reward_models
    named = with_reward_models(in_its_place(config, directory))
    return replace(named, output_dir=config.output_dir)


def in_its_place(config: Config, directory: Path) -> Config:
    """With the output directory that the run lies in now, wherever its config says that it was made."""
    return replace(config, output_dir=str(directory.resolve().parent.parent.parent))


def judged(config: Config, overrides: Iterable[str]) -> list[str]:
    """`scorer=...` says who judges samples: where the config judges them with another scorer than the one that
    annotated the data, it is that one's place that is meant."""
    if not config.evaluation.scorer:
        return list(overrides)
    return [JUDGE.sub(r"\1evaluation.scorer", text) for text in overrides]


def refuse_others(overrides: list[str], may: Iterable[str]) -> None:
    """ConfigError for overrides of other nodes than these."""
    wrong = [text for text in overrides if key_of(text).split(".")[0] not in may]
    if any(key_of(text) == "seed" for text in wrong):
        raise ConfigError("seed: a run keeps the seed it was trained with; the seed of the samples is --seed")
    if wrong:
        *nodes, last = [f"{node}.*" for node in may if node in NODES]
        raise ConfigError(f"{text}: says how a run is trained, or nothing here; what is done with a trained run takes "
                          f"overrides of {', '.join(nodes)} and {last}" for text in wrong)


def key_of(text: str) -> str:
    return text.split("=", 1)[0].lstrip("+~")


def bare(name: str, task: str | None, method: str | None, overrides: list[str], example: Run | None) -> Run:
    """A model nobody trained here, with the config of what it is measured on and a directory of its own.

    One that a paper published is measured as the paper measured it: on its own task and scale, sampled as its own
    method's, unless other ones are given."""
    from apo.config import load_config, override
    published = is_published(name)
    if published:
        _, its_task, its_method = name.split("/")
        task, method, overrides = task or its_task, method or its_method, [f"model={name}", "scale=paper", *overrides]
    if task is None and example is None:
        missing = "" if Path(name).is_dir() else f"There is no directory {name}. If it is a model on the hub: "
        raise EvaluationError(f"{missing}{name} is a bare model, so say with --task what it is to be measured "
                              "on, or name a run beside it.")
    model = str(Path(name).resolve()) if Path(name).is_dir() else name
    if task is None:
        config = like(example)
    else:
        judge = [text for text in overrides if JUDGE.match(text)]
        config = load_config([f"task={task}", f"method={method or 'mle'}",
                              *(text for text in overrides if text not in judge)])
        config = override(config, judged(config, judge)) if judge else config
    model = config.model.name if published else model
    config.model = ModelConfig(name=model, revision=config.model.revision, base=config.model.base,
                               trust_remote_code=config.model.trust_remote_code)
    label = re.sub(r"[^\w.-]+", "-", name.rstrip("/")).strip("-.")
    run = Run(Path(config.output_dir) / config.task / "models" / label, config, model, bare=True,
              trained=config, manifest={"bare_model": model, "label": name if published else Path(name).name})
    run.config = with_its_scorers(config, run.directory)
    return run


def like(example: Run) -> Config:
    """What the example is measured on and how it is sampled, without what only its method needs."""
    config = deepcopy(example.config)
    config.method, config.objective, config.data.filter_threshold = "mle", {"name": "mle"}, None
    config.data.conditional_training_config = ConditionalConfig()
    config.evaluation = replace(config.evaluation, prefix="", banned_tokens=[])
    return config


def give_home(run: Run) -> None:
    """Writes what makes a bare model's directory a run directory; does nothing for a run."""
    if run.bare and not run.variant:
        write(run.directory / "config.yaml", to_yaml(run.trained))
        write(run.directory / "manifest.json", json.dumps(run.manifest, indent=2) + "\n")


def second_looks(runs: list[Run], words: str, may: Iterable[str]) -> list[Run]:
    """`conditional: evaluation.prefix=...` -> the runs of that method once more, under these overrides."""
    from apo.config import override
    method, _, text = words.partition(":")
    changes = BETWEEN_CHANGES.split(text.strip()) if text.strip() else []
    chosen = [run for run in runs if run.method == method.strip()]
    if not chosen or not changes:
        known = ", ".join(sorted({run.method for run in runs}))
        raise EvaluationError(f'--also "{words}": expected "METHOD: key=value ..." with one of these methods: {known}.')
    refuse_others(changes, may)
    name = " ".join(re.sub(r"^evaluation\.|[\"']", "", change) for change in changes)
    return [replace(run, variant=name, config=with_its_scorers(override(run.config, judged(run.config, changes)),
                                                               run.directory)) for run in chosen]


def load_model(run: Run) -> tuple[Any, Any]:
    """(policy, tokenizer) of a run, as it is sampled from: on the GPU if there is one, documents ending where the run's
    data end them.  A bare model's revision is its config's; a run's own `final/` needs none."""
    import torch

    from apo.data.tokenizer import set_end_of_text
    from apo.models.load import load_trained, quieten
    quieten()
    model = run.config.model
    policy, tokenizer = load_trained(run.model, *((model.revision, model.trust_remote_code, model.base)
                                                if run.bare else ()))
    set_end_of_text(tokenizer, run.config.data.concat_token)
    return policy.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer
