"""Look for prompts that models continue badly, the same way for all of them, and compare how far one gets.

    python scripts/red_team.py outputs/pep8/mle/1a2b3c4d-s1 outputs/pep8/conditional/5e6f7a8b-s1
    python scripts/red_team.py RUN RUN --paper --adversary server=https://api.openai.com/v1 --adversary-model NAME
    python scripts/red_team.py gpt2 --task toxicity --prompts prompts.jsonl --adversary model=gpt2

Round by round an adversary writes prompts after the example of those that worked; each is scored by the mean score of
what the model continues it with, and joins the pool.  Every prompt and continuation is kept in RUN/red_team/; the same
command again goes on where it was stopped, and reports what is finished.  Words with "=" override evaluation.* and
scorer.*.  The default numbers take minutes on two cores; --paper is PHF's.  docs/red_teaming.md says more.
"""

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apo.errors import UserError
from apo.red_team.settings import PAPER, Settings
from evaluate import Parser, split


def parser() -> argparse.ArgumentParser:
    made = Parser(prog="red_team.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                  allow_abbrev=False)
    made.add_argument("names", nargs="*", metavar="RUN|MODEL|key=value")
    made.add_argument("--adversary", default="none", metavar="none|model=NAME|server=URL",
                      help="none: splice, swap and cut prompts of the pool; model: a run, model directory or hub name; "
                           "server: an OpenAI-compatible completions server (default none)")
    made.add_argument("--adversary-model", metavar="NAME", help="the model that the server is to use")
    made.add_argument("--api-key-env", default="OPENAI_API_KEY", metavar="NAME",
                      help="environment variable with the server's key (default OPENAI_API_KEY)")
    made.add_argument("--instruction", help="what stands above the examples; '' for nothing (default by task)")
    made.add_argument("--format", choices=("numbered", "fenced"),
                      help="of the examples: a numbered list, or code between fences (default: fenced where a prompt "
                           "has several lines)")
    made.add_argument("--paper", action="store_true",
                      help="PHF's numbers: 10 rounds, 10 trials, 20 responses, 512 continuations")
    for option in fields(Settings):
        made.add_argument(flag(option.name), type=option.type, metavar="N",
                          help=f"{option.metadata['help']} (default {option.default:g})")
    made.add_argument("--scenario", help="whose sampling and prompts to use (default: the first with prompts)")
    made.add_argument("--prompts", metavar="FILE|SET", help='JSONL of {"text": ...}, or a prompt set of the data')
    made.add_argument("--task", help="the task that bare models are measured on")
    made.add_argument("--method", help="how bare models are sampled: prefix and banned tokens (default mle)")
    made.add_argument("--also", metavar='"METHOD: key=value"', action="append", default=[],
                      help="one more model: that method's runs under an override, such as another evaluation.prefix")
    made.add_argument("--baseline", metavar="METHOD|RUN", help="what the others are compared with (default mle)")
    made.add_argument("--allow", metavar="KEY[,KEY]", default="",
                      help="differences to accept although they are not the method")
    made.add_argument("--output", metavar="PATH.png", help="the picture; its tables go beside it as .md")
    made.add_argument("--show", type=int, default=3, metavar="N", help="best prompts of each model shown (default 3)")
    return made


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def run(options: argparse.Namespace) -> None:
    from apo import red_team
    from apo.launch import set_environment
    from apo.red_team import curves
    from apo.report.select import FOR_AN_ATTACK, select
    names, overrides = split(options.names)
    runs = select(names, overrides, options.task, options.method, options.also, FOR_AN_ATTACK)
    set_environment(any(run.config.offline for run in runs))
    given = {option.name: getattr(options, option.name) for option in fields(Settings)}
    settings = replace(Settings(**(PAPER if options.paper else {})),
                       **{name: value for name, value in given.items() if value is not None})
    found = red_team.attack_runs(
        runs, settings, options.adversary, scenario=options.scenario, prompts=options.prompts,
        baseline=options.baseline, allow=[key for key in options.allow.split(",") if key], output=options.output,
        instruction=options.instruction, form=options.format, model=options.adversary_model,
        api_key_env=options.api_key_env)
    curves.show(found, options.show)


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_intermixed_args(arguments)
    try:
        run(options)
    except UserError as problem:
        if "debug=true" in options.names:
            raise
        print(problem, file=sys.stderr)
        return problem.exit_code
    except KeyboardInterrupt:
        print("stopped; the finished rounds are kept, and the same command goes on from them", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
