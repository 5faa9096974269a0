"""Sufficient statistics: merging micro-batches gives what one pass over everything gives."""

import json

import numpy as np
import torch

from apo.metrics import running


def everything(x, y, mask):
    return {"mean": running.mean(x, mask), "std": running.std(x, mask), "min": running.minimum(x, mask),
            "max": running.maximum(x, mask), "corr": running.correlation(x, y, mask),
            "dist": running.histogram(x, mask, (-1.0, -0.5, 0.0, 0.5, 1.0))}


def test_merged_parts_equal_the_whole():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 7, generator=generator), torch.randn(9, 7, generator=generator)
    mask = torch.rand(9, 7, generator=generator) < 0.6
    merged = running.Running()
    for part in (slice(0, 1), slice(1, 6), slice(6, 9)):
        merged.add(everything(x[part], y[part], mask[part]))
    read = merged.read()
    chosen, other = x[mask].double().numpy(), y[mask].double().numpy()
    assert np.isclose(read["mean"], chosen.mean()) and np.isclose(read["std"], chosen.std(ddof=1))
    assert read["min"] == chosen.min() and read["max"] == chosen.max()
    assert np.isclose(read["corr"], np.corrcoef(chosen, other)[0, 1])
    expected, _ = np.histogram(np.clip(chosen, -0.99, 0.99), bins=[-1, -0.5, 0, 0.5, 1])
    assert read["dist"]["counts"] == expected.tolist()
    assert merged.read() == {}


def test_state_survives_json_to_the_bit():
    first, second = running.Running(), running.Running()
    x = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    first.add(everything(x, x * 2, torch.ones(5, 5, dtype=torch.bool)))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert first.read() == second.read()


def test_constant_side_has_no_correlation():
    metrics = running.Running()
    metrics.add({"corr": running.correlation(torch.ones(4), torch.arange(4.0))})
    assert np.isnan(metrics.read()["corr"])
