"""Learning from one's own samples: the batch source that writes what it serves.

    prompts.py   what is written behind, and what the data have there
    writing.py   the policy writes, a scorer judges
    kept.py      a round on disk, before anything is trained on it
    rounds.py    the source: a round is written, judged, measured, made a lesson of, kept, and served as minibatches
"""
