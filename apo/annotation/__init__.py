"""Raw text to scored text on disk, at any size: `python scripts/score_dataset.py` (docs/annotation.md).

`request.py` reads the command line, `rows.py` cuts and scores, `parts.py` keeps what is done, `output.py` writes and
reads the result, `card.py` describes it, and `annotate.py` puts them together.
"""
