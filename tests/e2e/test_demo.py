"""`make demo`'s script at smoke scale: trains, compares, shows; run again it only shows."""

import os
import subprocess
import sys

from launching import ROOT


def demo(folder):
    environment = {**os.environ, "COLUMNS": "160"}
    environment.pop("WANDB_MODE", None)         # transformers announces it on stdout
    return subprocess.run([sys.executable, str(ROOT / "scripts" / "demo.py"), "scale=smoke", "training.max_steps=2"],
                          cwd=folder, capture_output=True, text=True, timeout=600, env=environment)


def test_ends_in_table_picture_and_samples_side_by_side(tmp_path):
    done = demo(tmp_path)
    assert done.returncode == 0, done.stderr
    picture = tmp_path / "outputs" / "demo" / "pep8" / "comparison.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and str(picture.name) in done.stderr
    for word in ("mle", "conditional", "95 %", "bits per byte", "def "):
        assert word in done.stdout, word
    again = demo(tmp_path)
    assert again.returncode == 0 and again.stderr.count("nothing to do") == 2
    assert "not evaluated again" in again.stderr
    assert again.stdout == done.stdout
