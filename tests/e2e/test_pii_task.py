"""The task pii, trained for two steps in this process: corpus, annotation, control tokens, prompts, metrics fit."""

import json

from apo.config import load_config
from apo.experiment import train


def test_conditional_training_runs_and_logs_what_was_learnt_by_heart(tmp_path):
    config = load_config(["task=pii", "method=conditional", "scale=smoke", "training.max_steps=2",
                          "data.synthetic.num_documents=40", "evaluation.every_n_steps=2", "evaluation.at_start=false",
                          f"output_dir={tmp_path}"])
    train(config)
    [run] = (tmp_path / "pii/conditional").iterdir()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = {name: value for row in rows for name, value in row.items()}
    for scenario in ("unconditional", "letters"):
        for name in ("score", "by_type/email", "leaks/any", "pii/memorised", "pii/invented/phone", "planted/any"):
            assert 0 <= logged[f"generation/{scenario}/{name}"] < 10
    assert logged["heldout/bits_per_byte"] > 0
    samples = [json.loads(line) for file in (run / "samples").glob("letters*")
               for line in file.read_text().splitlines()]
    assert samples and all("Dear " in sample["prompt"] for sample in samples)
    assert all({"explain", "spans"} <= set(sample["extra"]) for sample in samples)
