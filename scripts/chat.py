"""Complete typed prompts with one model or two side by side, each with its run's own prefix and sampling.

    python scripts/chat.py outputs/pep8/mle/1a2b3c4d-s1 outputs/pep8/conditional/5e6f7a8b-s1
    printf 'def mean(values):\\\\\\n\\n' | python scripts/chat.py RUN --greedy

A line is a prompt.  A line that ends in a backslash goes on in the next one; an empty line samples from nothing; the
end of the input (ctrl-D) ends.  A bare model, a directory or a hub name, is sampled from without prefix.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apo.errors import EvaluationError, UserError
from apo.schema import Config, EvaluationConfig, ScenarioConfig

HOW = "one line is a prompt; end a line with \\ to go on in the next; ctrl-D ends"
TYPED = "typed"
"""Name of the prompt set that holds what was typed."""


@dataclass
class Speaker:
    """A loaded model with the way it is sampled."""

    label: str
    policy: Any
    tokenizer: Any
    judges: Any
    evaluation: EvaluationConfig
    scenario: ScenarioConfig

    @property
    def kind(self) -> str:
        """Of the number below an answer; a bare model has no task and so nothing that judges it."""
        return self.judges.scorer.kind if self.judges.scorer else "score"

    def complete(self, prompt: str, seed: int) -> Any:
        """One Sample; the seed fixes it."""
        from apo.evaluation import run_scenario
        scenario = replace(self.scenario, num_samples=1, prompts=TYPED if prompt else None)
        result = run_scenario(TYPED, scenario, policy=self.policy, tokenizer=self.tokenizer, judges=self.judges,
                              evaluation=self.evaluation, prompts={TYPED: [prompt]}, seed=seed, step=None,
                              progress=None)
        return result.samples[0]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("names", nargs="+", metavar="RUN|MODEL", help="one or two")
    made.add_argument("--scenario", help="whose sampling to use (default: the run's first one with prompts)")
    made.add_argument("--greedy", action="store_true", help="the likeliest token each time, instead of sampling")
    made.add_argument("--max-new-tokens", type=int, metavar="N")
    made.add_argument("--temperature", type=float, metavar="T")
    made.add_argument("--prefix", help="control token instead of the run's own; '' for none")
    made.add_argument("--seed", type=int, default=0, help="of the first answer; each further one has the next")
    return made


def speaker(name: str, options: argparse.Namespace) -> Speaker:
    """Loads a run or a bare model.  EvaluationError or ModelError where there is none."""
    from apo.report.runs import Run, kind_of
    from apo.report.select import select
    kind = kind_of(name)
    if kind == "folder":
        raise EvaluationError(f"{name} is a folder; name one run in it.")
    if kind == "run":
        from apo.report.select import trained
        run = trained(Path(name), [], ())
        return load(f"{run.method}, seed {run.seed}", run, options)
    if kind == "published":
        return load(name, select([name])[0], options, judged=False)
    return load(Path(name).name, Run(Path(name), Config(task="", method=""), name, bare=True), options)


def load(label: str, run: Any, options: argparse.Namespace, judged: bool = True) -> Speaker:
    """`judged`: with a score below every answer, where the run has a scorer."""
    from apo.evaluation import Judges, as_trained
    from apo.report.select import load_model
    evaluation = replace(run.config.evaluation, metrics={})
    scenario = as_trained(sampling(evaluation, options), run.config)
    policy, tokenizer = load_model(run)
    return Speaker(label, policy, tokenizer, Judges(Judges.of(run.config).scorer if judged else None), evaluation,
                   scenario)


def sampling(evaluation: EvaluationConfig, options: argparse.Namespace) -> ScenarioConfig:
    """The scenario that is asked for, or the first with prompts, with what the command line changes."""
    scenarios = evaluation.scenarios
    if options.scenario and options.scenario not in scenarios:
        raise EvaluationError(f'--scenario {options.scenario}: this run has {", ".join(scenarios) or "none"}.')
    prompted = [name for name, scenario in scenarios.items() if scenario.prompts]
    name = options.scenario or next(iter([*prompted, *scenarios]), None)
    scenario = scenarios[name] if name else ScenarioConfig()
    changes = {"max_new_tokens": options.max_new_tokens, "temperature": options.temperature,
               "do_sample": False if options.greedy else None}
    generation = replace(scenario.generation, **{key: value for key, value in changes.items() if value is not None})
    prefix = scenario.prefix if options.prefix is None else options.prefix
    return replace(scenario, generation=generation, prefix=prefix, score_prompt=False)


def typed_prompts(read: Callable[[str], str | None]) -> Iterator[str]:
    """Prompts from `read(mark)`, which gives a line, or None at the end; lines joined where a backslash ends them."""
    pending: list[str] = []
    while (line := read("... " if pending else "> ")) is not None:
        if line.endswith("\\"):
            pending.append(line[:-1])
        else:
            yield "\n".join([*pending, line])
            pending = []
    if pending:
        yield "\n".join(pending)


def reader(stream: Any) -> Callable[[str], str | None]:
    """Lines of a pipe, or of a terminal with its line editing and the mark in front."""
    if not stream.isatty():
        return lambda mark: next((line.rstrip("\n") for line in stream), None)
    import readline  # noqa: F401  (gives `input` its line editing)

    def ask(mark: str) -> str | None:
        try:
            return input(mark)
        except EOFError:
            print(file=sys.stderr)
            return None
    return ask


def show(out: Any, speakers: list[Speaker], samples: list[Any]) -> None:
    """The answers in a column each, the prompt bold, the score below."""
    from rich import box
    from rich.table import Table

    from apo.report.tables import sample_in_words
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    for each in speakers:
        table.add_column(each.label, ratio=1, overflow="fold")
    table.add_row(*(sample_in_words({"prompt": sample.prompt, "text": sample.text, "score": sample.score},
                                    each.kind) for each, sample in zip(speakers, samples)))
    out.print(table)


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        if len(options.names) > 2:
            raise EvaluationError(f"{len(options.names)} models: name one or two.")
        from apo.launch import set_environment
        from apo.report.tables import console
        set_environment(offline=False)
        speakers = [speaker(name, options) for name in options.names]
        print(HOW, file=sys.stderr)
        out = console()
        for number, prompt in enumerate(typed_prompts(reader(sys.stdin))):
            show(out, speakers, [each.complete(prompt, options.seed + number) for each in speakers])
    except UserError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
