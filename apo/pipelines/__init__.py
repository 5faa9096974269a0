"""Pipelines: runs that follow one another, each started from what earlier ones left.

A *stage* is a task, a method and overrides: an ordinary run, in a directory of its own.  It starts from the policy of
an earlier stage (`init_from.run`) and may have further directories of earlier stages in its options (a reward model as
its scorer).  As a run's directory is a function of its config, all of them are known, and checked, before anything is
trained; a stage that changes gives another name to itself and to those that depend on it, and to no other.  Nothing
else ties stages together: a rerun skips a stage because its run is done, and goes on inside one because that run does.

    file.py        how a pipeline is written: a file of stages, or a list of methods
    options.py     the command line's options, by the stages they are for
    stages.py      what a pipeline is once its stages have configs
    composing.py   from a request to that
    running.py     stage after stage, the record of them, and the table at the end
    drawing.py     a plan of it, before anything is trained
"""
