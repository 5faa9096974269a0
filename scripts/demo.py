"""The whole way once: two methods trained on real code, compared, and shown.  `make demo` runs it.

    python scripts/demo.py [any override of train.py, for instance scale=smoke]

It is `python train.py --task pep8 --method mle,conditional` and `python evaluate.py` on the two runs; run again, it
goes on where it was, and a finished demo only prints its result.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apo.console import duration, say
from apo.errors import UserError

METHODS = ("mle", "conditional")


def main(overrides: list[str]) -> int:
    start = time.monotonic()
    from apo.config import load_config, run_directory
    from apo.launch import set_environment
    try:
        configs = [load_config(["task=pep8", f"method={method}", "output_dir=outputs/demo", *overrides])
                   for method in METHODS]
        set_environment(offline=True)
        from apo import report
        from apo.experiment import train
        for config in configs:
            train(config)
        comparison = report.compare([run_directory(config) for config in configs], baseline=METHODS[0])
        report.show(comparison)
    except UserError as error:
        say(str(error))
        return error.exit_code
    say(f"the demo took {duration(time.monotonic() - start)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
