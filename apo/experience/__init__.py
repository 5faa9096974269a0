"""Learning from one's own samples: the batch source that writes what it serves.

    prompts.py       what is written behind, and what the data have there
    new_prompts.py   prompts that are written for a round, by the example of those (likeness.py: none twice)
    writing.py       the policy writes, a scorer judges
    judging.py       a language model judges
    merging.py       pairs of the round before, laid behind those of a round
    kept.py          a round on disk, before anything is trained on it
    rounds.py        the source: a round is written, judged, measured, made a lesson of, kept, and served as minibatches
"""
