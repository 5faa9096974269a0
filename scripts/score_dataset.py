"""Score raw text, of any size, and write it as data to train on: docs/annotation.md.

    python scripts/score_dataset.py task=pep8 input='src/**/*.py' output=scored.parquet
    python scripts/score_dataset.py task=toxicity input=owner/dataset output=scored.jsonl.gz workers=8 shard=1/3
    python scripts/score_dataset.py scorer=my_module:my_function data.segment_by=sentence input=raw.jsonl output=s.jsonl
    python scripts/score_dataset.py merge=a.parquet,b.parquet,c.parquet output=whole.parquet

Killed, the same command goes on where it was; finished, it says so.  Then: train.py --task custom data.path=OUTPUT.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apo.errors import UserError


def main(words: list[str]) -> int:
    from apo.annotation.request import help_text, read
    from apo.launch import set_environment
    if {"--help", "-h", "help"} & set(words):
        print(help_text(__doc__))
        return 0
    set_environment("offline=true" in words)
    try:
        request = read(words)
        from apo.annotation.annotate import run
        run(request)
    except UserError as problem:
        if "debug=true" in words:
            raise
        print(problem, file=sys.stderr)
        return problem.exit_code
    except KeyboardInterrupt:
        print("stopped; what is scored is kept, and the same command goes on from it", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
