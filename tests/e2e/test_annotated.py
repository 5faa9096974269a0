"""Annotated text is trained on as it is: `train.py --task custom data.path=OUTPUT`, no scorer named."""

import json
import random

from launching import run

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()


def test_conditional_training_on_an_annotated_corpus(tmp_path, monkeypatch):
    from apo.annotation.annotate import run as annotate
    from apo.annotation.request import read
    rng = random.Random(0)
    rows = [{"text": "".join(" ".join(rng.choices(WORDS, k=8)).capitalize() + rng.choice([".\n", "!\n"])
                             for _ in range(6))} for _ in range(80)]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "shouts.py").write_text("def score(text: str) -> float:\n    return text.count('!') / len(text)\n")
    monkeypatch.chdir(tmp_path)
    annotate(read(["scorer=shouts:score", "data.segment_by=sentence", "input=raw.jsonl", "output=a.parquet"]))
    log = tmp_path / "log"
    code = run(["--task", "custom", "--method", "conditional", "--scale", "smoke", "training.max_steps=3",
                f"data.path={tmp_path / 'a.parquet'}", "--output-dir", str(tmp_path / "outputs")], log)
    assert code == 0, log.read_text()
    [final] = (tmp_path / "outputs/custom/conditional").glob("*/final/config.json")
    assert final.is_file()
