"""Train a language model on scored text: `python train.py --task pep8 --method conditional`; see also `--help`."""

from apo.launch import main

if __name__ == "__main__":
    raise SystemExit(main())
