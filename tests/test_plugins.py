"""A method and a task from a package of somebody else's: new files only, listed, trained, with no edit here."""

import json
import subprocess
import sys

import pytest

METHOD = '''
from dataclasses import dataclass
from apo.metrics import running
from apo.objectives.base import Loss, Objective, objectives

@objectives.register("focal")
@dataclass
class Focal(Objective):
    """-(1 - p)^gamma log p."""
    gamma: float = 2.0
    def compute_loss(self, policy, batch):
        stats = policy.token_stats(batch)
        weight_BT = (1 - stats.logps_BT.detach().exp()) ** self.gamma
        return Loss(-(weight_BT * stats.logps_BT * stats.mask_BT).sum(),
                    {"focal_weight": running.mean(weight_BT, stats.mask_BT)})
'''
SCORER = '''
from dataclasses import dataclass
from apo.data.sources.base import Document, Size, Source, sources
from apo.scorers.base import Scorer, scorers

@scorers.register("shouting")
@dataclass
class Shouting(Scorer):
    """Share of capital letters."""
    def score(self, texts):
        return [sum(c.isupper() for c in text) / max(len(text), 1) for text in texts]

@sources.register("shouts")
class Shouts(Source):
    def documents(self):
        for number in range(60):
            words = [f"word{(number * 7 + k) % 31} " for k in range(60)]
            yield Document(f"shouts, row {number + 1}", [w.upper() if number % 3 == 0 else w for w in words])
    def size(self):
        return Size(documents=60)
    def fingerprint(self):
        return "shouts-1"
'''
FILES = {
    "toy_plugin/__init__.py": "from toy_plugin import focal, shouts\n",
    "toy_plugin/focal.py": METHOD,
    "toy_plugin/shouts.py": SCORER,
    "toy_plugin/configs/method/focal.yaml":
        "# @package _global_\n# Focal loss: easy tokens weigh less.\nobjective:\n  name: focal\n",
    "toy_plugin/configs/task/shouts.yaml":
        "# @package _global_\n# Text with fewer capital letters.\ndata:\n  source: shouts\nscorer:\n  name: shouting\n"
        "evaluation:\n  scenarios:\n    unconditional:\n      num_samples: 4\n      generation: {max_new_tokens: 8}\n",
}


@pytest.fixture
def plugin(tmp_path):
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def train(root, cwd, *arguments):
    return subprocess.run([sys.executable, str(root / "train.py"), *arguments], cwd=cwd, capture_output=True, text=True,
                          timeout=300)


def test_listed_by_help(root, plugin):
    done = train(root, plugin, "--plugins", "toy_plugin", "--help")
    assert done.returncode == 0, done.stderr
    assert "focal" in done.stdout and "easy tokens weigh less" in done.stdout
    assert "shouts" in done.stdout and "fewer capital letters" in done.stdout
    assert "focal" not in train(root, plugin, "--help").stdout


def test_trained_two_steps_and_again_nothing(root, plugin):
    arguments = ["--plugins", "toy_plugin", "--task", "shouts", "--method", "focal", "--scale", "smoke",
                 "objective.gamma=1.5", "training.max_steps=2", "model.vocab_size=300"]
    done = train(root, plugin, *arguments)
    assert done.returncode == 0, done.stderr
    (run,) = (plugin / "outputs" / "shouts" / "focal").iterdir()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("focal_weight" in row for row in rows) and any("generation/unconditional/score" in row for row in rows)
    identity = json.loads((run / "manifest.json").read_text())["identity"]
    assert identity["objective.gamma"] == 1.5 and len(identity["plugin toy_plugin"]) == 64
    assert "nothing to do" in train(root, plugin, *arguments).stderr


def test_changed_code_is_another_run(root, plugin):
    arguments = ["--plugins", "toy_plugin", "--task", "shouts", "--method", "mle", "--scale", "smoke",
                 "training.max_steps=2", "model.vocab_size=300"]
    assert train(root, plugin, *arguments).returncode == 0
    file = plugin / "toy_plugin" / "shouts.py"
    file.write_text(file.read_text().replace("isupper", "islower"))
    done = train(root, plugin, *arguments)
    assert done.returncode == 2
    assert "plugin toy_plugin" in done.stderr and "scorer" in done.stderr and "force=true" in done.stderr
    assert "Traceback" not in done.stderr
