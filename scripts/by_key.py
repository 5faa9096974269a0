"""Methods at each value of one option, such as noise in the reward: tables and a picture. docs/evaluation.md.

    python scripts/by_key.py outputs/hh/{nll,a_lol,reward_threshold} --by data.reward_noise --baseline reward_threshold

Takes runs, or folders of them; reads what they last measured, samples nothing.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apo.console import say
from apo.errors import UserError


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="by_key.py", description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("runs", nargs="+", metavar="RUN", help="run directories, or folders of them")
    made.add_argument("--by", required=True, metavar="KEY", help="the option")
    made.add_argument("--scenario", help="by default the one that picks the best checkpoint")
    made.add_argument("--baseline", metavar="METHOD", help="what the others are compared with (mle, or the first)")
    made.add_argument("--beside", metavar="NAME[,NAME]", help="metrics and sizes of the data shown beside")
    made.add_argument("--allow", default="", metavar="KEY[,KEY]", help="differences at one value that are meant")
    made.add_argument("--output", type=Path, default=Path("by_key"), metavar="FOLDER",
                      help="where by_key.png and by_key.md go (default by_key)")
    return made


def names(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        from apo.report import by_key
        from apo.report.select import select
        from apo.report.tables import show_tables
        found = by_key.build(select(options.runs), options.by, options.scenario, options.baseline, names(options.allow),
                             names(options.beside) if options.beside else by_key.BESIDE)
        show_tables(found.tables())
        found.save(options.output / "by_key.png")
        say(f"written: {found.picture} and .md")
        return 0
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
