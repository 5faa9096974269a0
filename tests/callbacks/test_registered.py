"""Callbacks that a config names: found by name, bound to their run, measured when scenarios are and by evaluate.py."""

import json
import sys

import pytest

from apo.callbacks.base import scheduled
from apo.launch import main
from apo.schema import EvaluationConfig

PACKAGE = '''
from dataclasses import dataclass
from apo.callbacks.base import Callback, Measurement, callbacks

@callbacks.register("census")
@dataclass
class Census(Callback):
    """Counts documents and weights."""
    times: int = 1
    of_model = True

    def measure(self, policy, step, max_steps, check):
        check()
        documents = sum(1 for _ in self.context.corpus.documents("train"))
        return Measurement({"census/documents": documents * self.times, "census/rows": float(bool(self.context.rows)),
                            "census/weights": sum(p.numel() for p in policy.parameters())})
'''


@pytest.mark.parametrize("step, due", [(0, True), (1, False), (5, True), (7, True), (10, True), (12, True)])
def test_the_schedule_of_evaluations(step, due):
    evaluation = EvaluationConfig(every_n_steps=5, on_steps=[7])
    assert scheduled(evaluation, 4, step, 12) is due


def test_n_per_epoch_counts_within_the_run():
    evaluation = EvaluationConfig(n_per_epoch=2, at_start=False, at_end=False)
    assert [step for step in range(13) if scheduled(evaluation, 6, step, 12)] == [3, 6, 9, 12]
    assert [step for step in range(13) if scheduled(evaluation, 100, step, 12)] == [6, 12]


def test_a_callback_of_a_package_is_measured_and_measured_again(tmp_path, monkeypatch, capsys):
    (tmp_path / "census_package.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["--task", "pep8", "--method", "mle", "--scale", "smoke", "--plugins", "census_package",
             "--output-dir", str(tmp_path / "out"), "training.max_steps=2", "evaluation.every_n_steps=1"]
    assert main([*words, "callbacks.census.tims=2"]) == 2
    assert 'Did you mean "times"?' in capsys.readouterr().err
    assert main([*words, "callbacks.census.times=2"]) == 0
    (run,) = (tmp_path / "out/pep8/mle").iterdir()
    rows = [row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "census/rows" in row]
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert all(row["census/documents"] % 2 == 0 and row["census/rows"] == 1 for row in rows)

    from apo.report.rescore import Rescorer
    from apo.report.select import select
    evaluation = Rescorer().evaluate(select([str(run)])[0])
    assert evaluation["measured"] == {key: value for key, value in rows[-1].items() if key.startswith("census/")} | {
        "census/rows": 0.0}
    sys.modules.pop("census_package")
