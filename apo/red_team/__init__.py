"""Red teaming (PHF): an adversary looks for prompts that a model continues badly, and learns from those that did.

`attack_runs` attacks every model with the same first prompts, seeds and adversary, writes what was found into each
run's directory, and draws all models into one picture.
"""

from pathlib import Path
from typing import Any, Iterable

from apo.errors import EvaluationError
from apo.report.runs import Run
from apo.schema import ScenarioConfig


def attack_runs(runs: list[Run], settings: Any, adversary: str = "none", *, scenario: str | None = None,
                prompts: str | None = None, baseline: str | None = None, allow: Iterable[str] = (),
                output: str | Path | None = None, instruction: str | None = None, form: str | None = None,
                **options: Any) -> Any:
    """Attacks every run, or reads what was found, and writes the pictures with their tables.

    Args:
        settings: a `settings.Settings`.
        adversary: `none`, `model=NAME` or `server=URL`.
        scenario: whose sampling and prompts to use; None for the first with prompts.
        prompts: a JSONL file of {"text": ...} or a prompt set of the data, instead of the scenario's.
        baseline, allow: as for `report.compare`.
        output: the PNG of all models; None puts it where they lie together.  One model has its own, in its directory.
        instruction, form: of the list that a language model is shown.
        options: of `make_adversary`, for a server.

    Returns a `curves.Curves`.  Raises EvaluationError for an unfair comparison or for prompts that are not there.
    """
    from apo.models.load import quieten
    from apo.red_team.adversary import Listing, make_adversary
    from apo.red_team.attack import Attack, Target
    from apo.red_team.curves import Curves, Model
    from apo.report import check_configs
    allow = tuple(allow)
    check_configs(runs, baseline, allow)
    quieten()
    targets = [Target(run, label, chosen_scenario(run, scenario, prompts), settings)
               for label, run in labelled(runs)]
    initial = initial_prompts(targets, settings.initial, allow)
    listing = Listing.of(runs[0].config.task, initial, instruction, form)
    who = make_adversary(adversary, listing, settings, **options)
    attacks = [Attack(target, who, initial, settings) for target in targets]
    models = []
    for attack in attacks:
        result = attack.result()
        vars(attack.target).pop("_loaded", None)        # one model in memory at a time
        models.append(Model(attack.target.label, attack.directory, result))
        Curves.of([attack.target], models[-1:], adversary).save(attack.directory / "red_team.png")
    found = Curves.of(targets, models, adversary, baseline_of(runs, baseline))
    if len(models) > 1 or output:
        found.save(Path(output) if output else together(runs))
    return found


def chosen_scenario(run: Run, name: str | None, prompts: str | None) -> ScenarioConfig:
    """The scenario asked for, or the first with prompts, with `prompts` in the place of its own."""
    from dataclasses import replace

    from apo.evaluation import as_trained
    scenarios = run.config.evaluation.scenarios
    if name is not None and name not in scenarios:
        raise EvaluationError(f'--scenario {name}: {run.directory} has {", ".join(scenarios) or "none"}.')
    prompted = [each for each, scenario in scenarios.items() if scenario.prompts]
    name = name or next(iter([*prompted, *scenarios]), None)
    scenario = as_trained(scenarios[name] if name else ScenarioConfig(), run.config)
    if not (prompts or scenario.prompts):
        raise EvaluationError(f"{run.directory} has no prompts to begin with: name a JSONL file of "
                              '{"text": ...} with --prompts.')
    return replace(scenario, prompts=prompts or scenario.prompts)


def initial_prompts(targets: list[Any], number: int, allow: tuple[str, ...]) -> list[str]:
    """The first prompts that every pool begins with, the same for all models.  EvaluationError where they are not."""
    from apo.evaluation import load_prompts
    from apo.report.rescore import Rescorer
    rescorer, first = Rescorer(allow=allow), None
    for target in targets:
        source = target.scenario.prompts
        sets = {} if Path(source).is_file() else rescorer.corpus(target.run).prompts
        texts = (text for text in load_prompts("red_team", target.scenario, sets) if text.strip())
        found = list(dict.fromkeys(texts))[:number]
        if first is not None and found != first:
            raise EvaluationError(f"{target.run.directory} has other prompts under the name {source} than "
                                  f"{targets[0].run.directory}: name a file with --prompts.")
        first = found
    if not first:
        raise EvaluationError(f'the prompts "{targets[0].scenario.prompts}" are all empty.')
    return first


def labelled(runs: list[Run]) -> list[tuple[str, Run]]:
    """Every run with a name of its own: the method's, and the seed where a method has several."""
    from apo.report.comparison import group
    methods = group([(run, {}) for run in runs])
    return [(method.label if len(method.runs) == 1 else f"{method.label}, seed {run.seed}", run)
            for method in methods for run in method.runs]


def baseline_of(runs: list[Run], wanted: str | None) -> str | None:
    """The label of the model that the others are compared with; None where there is one model."""
    from apo.report.comparison import baseline_label, group
    methods = group([(run, {}) for run in runs])
    label = baseline_label(methods, wanted)
    return next((name for name, run in labelled(runs) if name == label or name.startswith(f"{label}, seed ")), None)


def together(runs: list[Run]) -> Path:
    from apo.report import default_output
    return default_output(runs).with_name("red_team.png")
