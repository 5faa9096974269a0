"""Score runs or models again, the same way for all, and compare them: table, intervals, picture.

    python evaluate.py outputs/pep8/mle/1a2b3c4d-s1 outputs/pep8/conditional/5e6f7a8b-s1
    python evaluate.py outputs/pep8 --baseline mle evaluation.scenarios.functions.num_samples=512
    python evaluate.py gpt2 distilgpt2 --task pep8 --allow model
    python evaluate.py --task hh --model path/of/an/adapter base=path/of/its/base
    python evaluate.py --task hh --model abaheti95/dpo_qlora_hh experiment=a_lol_hh_test
    python evaluate.py phf/pep8/mle phf/pep8/conditional scale=paper
    python evaluate.py outputs/pep8 capability=lm_eval capability.tasks=[lambada_openai]

Arguments without "=" are run directories, folders that hold some, model directories or hub names; the others override
`evaluation.*`, `scorer.*` and `callbacks.*` of every run, or ask for benchmarks (`capability.*`); of an experiment that
is named, a run takes what it says of `evaluation.*`.  docs/evaluation.md says how to read the result.
"""

import argparse
import re
import sys
from pathlib import Path

from apo.errors import UserError, nearest

OVERRIDE = re.compile(r"(~|\+{0,2})[\w./-]+=.*", re.DOTALL)


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """argparse's own, with the option that was probably meant."""
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        options = [option for action in self._actions for option in action.option_strings]
        hint = nearest(unknown[1], options) if unknown else ""
        self.exit(2, f"{self.prog}: {message}{hint or ''}\n(--help lists the options)\n")


def parser() -> Parser:
    made = Parser(prog="evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                  allow_abbrev=False)
    made.add_argument("names", nargs="*", metavar="RUN|MODEL|key=value")
    made.add_argument("--model", metavar="MODEL", action="append", default=[],
                      help="a bare model, as though it were named without --model")
    made.add_argument("--task", help="the task that bare models are measured on")
    made.add_argument("--method", help="how bare models are sampled: prefix and banned tokens (default mle)")
    made.add_argument("--baseline", metavar="METHOD|RUN", help="what the others are compared with (default mle)")
    made.add_argument("--output", metavar="PATH.png", help="the picture; its tables go beside it as .md")
    made.add_argument("--allow", metavar="KEY[,KEY]", default="",
                      help="differences to accept although they are not the method")
    made.add_argument("--also", metavar='"METHOD: key=value"', action="append", default=[],
                      help="another row: that method's runs under an override, such as another evaluation.prefix")
    made.add_argument("--seed", type=int, default=0, help="of the samples, the same for every run (default 0)")
    made.add_argument("--samples", type=int, default=3, metavar="N", help="prompts shown side by side (default 3)")
    made.add_argument("--force", action="store_true", help="measure again what evaluation.json already has")
    return made


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """(names, overrides): something that exists is a name even with "=" in it."""
    overrides = [word for word in words if OVERRIDE.fullmatch(word) and not Path(word).exists()]
    return [word for word in words if word not in overrides], overrides


def run(options: argparse.Namespace) -> None:
    from apo import report
    from apo.launch import set_environment
    from apo.report.capability import is_capability, read
    from apo.report.select import divided
    names, overrides = split([*options.names, *options.model])
    overrides = [re.sub(r"^base=", "model.base=", text) for text in overrides]
    capability = read([text for text in overrides if is_capability(text)])
    overrides = [text for text in overrides if not is_capability(text)]
    writing, judging = divided(names, overrides, options.task, options.method, options.also)
    set_environment(any(run.config.offline for run in writing + judging))
    allow, output = [key for key in options.allow.split(",") if key], options.output
    if writing:
        # before anything is sampled: a damaged file is said at once
        weighed, watched = report.read_advantages(writing), report.read_hacking(writing)
        comparison = report.compare_runs(writing, options.baseline, output, seed=options.seed, force=options.force,
                                         allow=allow, capability=capability)
        report.show(comparison, options.samples)
        report.show_of_runs(watched)
        report.show_of_runs(weighed)
        output = output and Path(output).with_stem(f"{Path(output).stem}-reward_models")
    if judging:
        report.show_reward_models(report.compare_reward_models(judging, output, force=options.force, allow=allow))


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
        print("stopped; what is measured so far is kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
