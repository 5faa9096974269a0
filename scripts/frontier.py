"""Methods at equal distance from where they began: tables and a picture of reward (or score) by KL. docs/evaluation.md.

    python scripts/frontier.py outputs/stack_exchange/{dpo,kto,simpo,pro} --kl 1,2,4 --baseline dpo --output frontier

Takes runs, or folders of them, that were sampled as they trained and start from a trained model; reads what they
measured, samples nothing.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apo.console import say
from apo.errors import EvaluationError, UserError


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="frontier.py", description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("runs", nargs="+", metavar="RUN", help="run directories, or folders of them")
    made.add_argument("--scenario", help="by default the one that picks the best checkpoint")
    made.add_argument("--kl", default="1,2,4", metavar="NATS[,NATS]", help="distances to compare at (default 1,2,4)")
    made.add_argument("--baseline", metavar="METHOD", help="what the others are compared with (default the first)")
    made.add_argument("--allow", default="", metavar="KEY[,KEY]", help="differences between the runs that are meant")
    made.add_argument("--output", type=Path, default=Path("frontier"), metavar="FOLDER",
                      help="where frontier.png and frontier.md go (default frontier)")
    return made


def distances(text: str) -> list[float]:
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        raise EvaluationError(f"--kl {text}: expected numbers of nats, such as 1,2,4") from None
    if not all(0 < kl < float("inf") for kl in found):
        raise EvaluationError(f"--kl {text}: a distance is a number above 0")
    return sorted(set(found))


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        kls = distances(options.kl)
        from apo.report import frontier
        from apo.report.select import select
        from apo.report.tables import factor_table, show_tables
        found = frontier.build(select(options.runs), options.scenario, kls, options.baseline,
                               [key for key in options.allow.split(",") if key])
        show_tables([*found.tables(), *([factor_table(found)] if found.factors else [])])
        found.save(options.output / "frontier.png")
        say(f"written: {found.picture} and .md")
        return 0
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
