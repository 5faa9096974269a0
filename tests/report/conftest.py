"""Run directories without training: what the report reads, written by hand with known numbers."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml

from apo.identity import config_hash
from apo.report.runs import Run
from apo.schema import Config, ScenarioConfig


@pytest.fixture
def make_run(tmp_path):
    """`make_run("mle", seed=1, edit=lambda config: ...)` -> a Run whose directory holds config, manifest, metrics and a
    `final/` without weights."""

    def build(method: str = "mle", seed: int = 1, edit=lambda config: None, tokens: int = 4000,
              scores=(0.03, 0.02)) -> Run:
        config = Config(task="pep8", method=method, seed=seed)
        config.objective, config.scorer, config.data.source = {"name": "mle"}, {"name": "pep8"}, "stdlib"
        config.training.max_steps, config.model.config = 10, {"hidden_size": 32}
        config.evaluation.scenarios = {"functions": ScenarioConfig(num_samples=40, prompts="functions")}
        config.evaluation.num_bootstrap = 500
        edit(config)
        directory = tmp_path / "pep8" / method / f"{config_hash(config)}-s{seed}"
        (directory / "final").mkdir(parents=True, exist_ok=True)
        write_json(directory / "final/config.json", {})
        (directory / "config.yaml").write_text(yaml.safe_dump(asdict(config)))
        manifest = {"fingerprints": {"data": "d" * 64, "tokenizer": "t" * 64},
                    "git": {"commit": "abc"}, "packages": {"torch": "2.13.0"}}
        write_json(directory / "manifest.json", manifest)
        rows = [{"step": 0, "num_tokens": 0, "generation/functions/score": 0.5}, {"step": 5, "num_tokens": tokens // 2,
                "loss": 2.0}] + [{"step": 10 * n, "num_tokens": tokens * n // len(scores),
                                  "generation/functions/score": score} for n, score in enumerate(scores, 1)]
        (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Run(directory, config, str(directory / "final"), manifest, {"state": "done"},
                   trained=config)
    return build


@pytest.fixture
def make_evaluation():
    """`make_evaluation(mean=0.02, seed=1)`: scores around a mean, prompts numbered 0, 1, ..., two samples each."""

    def build(mean: float = 0.02, seed: int = 1, samples: int = 40, bits: float = 1.5, scores=None, **changes) -> dict:
        noise = np.random.default_rng(seed).normal(0, 0.004, samples)
        scores = list(np.clip(mean + noise, 0, None)) if scores is None else list(scores)
        functions = {"metrics": {"score": float(np.mean(scores)), "num_hits": 0.5, "parses": 0.25, "length": 210.0,
                                 "distinct-1": 0.6, "self-bleu-5": 0.4},
                     "scores": scores, "prompts": [n // 2 for n in range(len(scores))], "prompts_sha256": "p",
                     "hit_threshold": 0.0}
        return {"key": "k", "kind": "score", "settings": {"seed": 0, "scorer_sha256": "s"}, "parameters": 3_900_000,
                "scenarios": {"functions": functions},
                "heldout": {"bits_per_byte": bits + 0.1, "bits_per_byte_clean": bits}} | changes
    return build


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value))
