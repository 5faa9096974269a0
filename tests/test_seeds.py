"""Random streams: the same everywhere, and independent of each other."""

import os
import subprocess
import sys

import numpy as np

from apo.seeds import stream, stream_seed


def test_a_stream_is_the_same_in_another_process():
    script = "from apo.seeds import *; print(stream_seed(1, 'init'), *stream(3, 'order', 2).random(3))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True,
                         env={**os.environ, "PYTHONHASHSEED": "7"}).stdout.split()
    assert int(out[0]) == stream_seed(1, "init")
    assert [float(x) for x in out[1:]] == stream(3, "order", 2).random(3).tolist()


def test_streams_differ_by_seed_name_and_number():
    draws = [stream(*key).random() for key in [(1, "a"), (2, "a"), (1, "b"), (1, "a", 0), (1, "a", 1), (11, "a"),
                                               (1, "a", 1, 1), (1, "a", 11)]]
    assert len(set(draws)) == len(draws)
    assert 0 <= stream_seed(1, "a") < 2**63


def test_global_state_is_left_alone():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    stream(1, "x").random(10)
    assert (np.random.get_state()[1] == before).all()
