"""Metrics: numbers about a set of samples, numbers about a training step, and how sure we are of either.

`base.py` says what a metric of samples is (`diversity.py` and `code.py` hold them); `running.py` reduces a training
step's metrics on the device; `statistics.py` has the intervals and tests.
"""
