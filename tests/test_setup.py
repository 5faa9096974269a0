"""Pins, ranges, make, continuous integration and the doctor."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
ASKED_FOR = set("""
    torch transformers peft bitsandbytes datasets hydra-core omegaconf wandb scrubadub detoxify accelerate
    pycodestyle scipy matplotlib rich filelock pydantic pyarrow tensorboard scikit-learn joblib alt-profanity-check
    pytest pytest-socket ruff nltk
""".split())


@pytest.fixture(scope="module")
def doctor(load_script):
    return load_script("doctor")


@pytest.fixture(scope="module")
def pins(doctor) -> dict[str, str]:
    return {canonicalize_name(name): version for name, version in doctor.pins(ROOT / "requirements.txt").items()}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def declared() -> list[Requirement]:
    extras = project()["optional-dependencies"].values()
    return [Requirement(line) for line in [*project()["dependencies"], *(line for extra in extras for line in extra)]]


# ------------------------------------------------------------------------------------------------- pins and ranges

def test_every_line_is_an_exact_pin(pins):
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    lines = [line for line in lines if line]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)  # no URL, no option, no local tag such as +cpu
    assert len(lines) == len(pins)
    assert not [name for name in pins if name.startswith("nvidia") or name == "triton"]


def test_everything_asked_for_is_pinned(pins):
    assert not ASKED_FOR - set(pins)


UNPINNED = {"lm-eval", "vllm"}
"""Extras that no pin can live beside: lm-eval wants python-dateutil < 3, vllm brings CUDA and a torch of its own.
Their tests skip where they are missing, or have a stand-in."""


def test_pins_lie_in_the_ranges_of_pyproject(pins):
    wrong = [str(r) for r in declared() if r.name not in UNPINNED
             and not r.specifier.contains(pins.get(canonicalize_name(r.name), "0"), True)]
    assert not wrong and not UNPINNED & set(pins)


def test_pins_are_closed_under_dependencies(pins):
    """Whatever a pinned package needs here is pinned too, so a fresh install has nothing left to choose."""
    loose = set()
    for name in pins:
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed here")
        loose |= {f"{name} needs {r.name}" for r in map(Requirement, needs)
                  if (r.marker is None or r.marker.evaluate({"extra": ""})) and canonicalize_name(r.name) not in pins
                  and not r.name.startswith(("nvidia", "triton", "cuda"))}
    assert not loose


def test_every_imported_library_is_declared():
    providers = metadata.packages_distributions()
    known = {canonicalize_name(r.name) for r in declared()}
    missing = set()
    for path in [*ROOT.glob("apo/**/*.py"), *ROOT.glob("*.py"), *ROOT.glob("scripts/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
                [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {name.split(".")[0] for name in names}:
                if top in sys.stdlib_module_names or (ROOT / top).exists() or (ROOT / f"{top}.py").exists():
                    continue
                if not {canonicalize_name(name) for name in providers.get(top, [top])} & known:
                    missing.add(f"{path.relative_to(ROOT)}: {top}")
    assert not missing


# ------------------------------------------------------------------------------------------------------ make and CI

def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_make_help_lists_every_target():
    done = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {line.split()[1] for line in done.stdout.splitlines()} == targets()


def fake_checkout(folder: Path, test: str) -> Path:
    """A project with our CI, a Makefile whose `test` runs this interpreter's pytest, and one test."""
    (folder / ".ci").mkdir()
    (folder / ".ci/run").write_text((ROOT / ".ci/run").read_text())
    (folder / "test_it.py").write_text(test)
    (folder / "Makefile").write_text(f"test:\n\t@{sys.executable} -m pytest -p no:cacheprovider test_it.py\n")
    return folder


@pytest.mark.parametrize("test, good, closing", [
    ("def test_a(): pass", True, "1 passed"),
    ("def test_a(): assert 0\ndef test_b(): pass", False, "1 failed, 1 passed"),
    ("import nothing_of_the_kind", False, "1 error"),
])
def test_ci_fails_with_the_tests_and_closes_with_their_line(tmp_path, test, good, closing):
    done = subprocess.run(["bash", ".ci/run"], cwd=fake_checkout(tmp_path, test), capture_output=True, text=True)
    assert (done.returncode == 0) == good
    assert closing in done.stdout.splitlines()[-1]


def test_ci_fails_when_pytest_never_ends(tmp_path):
    done = subprocess.run(["bash", ".ci/run"], cwd=fake_checkout(tmp_path, "import os; os._exit(3)"),
                          capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stdout.splitlines()[-1] == "pytest did not reach its end"


def copy_of_make(folder: Path) -> Path:
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        (folder / name).write_text((ROOT / name).read_text())
    return folder


def test_make_says_when_python_is_too_old(tmp_path):
    copy_of_make(tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "cat", "cksum", "make", "touch", "rm"):
        (tools / name).symlink_to(shutil.which(name))
    for name in ("python3.11", "python3"):
        (tools / name).write_text("#!/bin/sh\nexit 1\n")
        (tools / name).chmod(0o755)
    done = subprocess.run(["make", "test"], cwd=tmp_path, capture_output=True, text=True, env={"PATH": str(tools)})
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_reinstalls_only_when_the_pins_change(tmp_path):
    copy_of_make(tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho \"$@\" >> calls\n")
    python.chmod(0o755)

    def calls() -> list[str]:
        (tmp_path / "calls").write_text("")
        subprocess.run(["make", "venv"], cwd=tmp_path, check=True, capture_output=True)
        return (tmp_path / "calls").read_text().splitlines()

    assert [line.split()[:3] for line in calls()] == [["-m", "pip", "install"]] * 2
    os.utime(tmp_path / "requirements.txt")
    assert calls() == []
    (tmp_path / "requirements.txt").write_text("torch==0\n")
    assert len(calls()) == 2


# ------------------------------------------------------------------------------------------------------------ doctor

def doctors_words(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "scripts/doctor.py", *arguments], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, **environment}, timeout=120)


def test_doctor_finds_nothing_wrong_here_and_tells_no_secret(tmp_path):
    done = doctors_words("--output-dir", str(tmp_path / "not/yet"), HF_TOKEN="hf_secret", WANDB_API_KEY="secret too")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "HF_TOKEN, WANDB_API_KEY" in done.stdout
    assert "secret" not in done.stdout
    assert "gated" not in done.stdout
    assert not (tmp_path / "not").exists()  # it looks, it makes nothing


def test_doctor_names_what_a_token_is_missing_for():
    assert "gated models will fail" in doctors_words().stdout


def test_doctor_finds_missing_and_other_versions(tmp_path, doctor, capsys):
    (tmp_path / "requirements.txt").write_text("no-such-package==1.0\npackaging==0.1\n")
    assert doctor.main(["--requirements", str(tmp_path / "requirements.txt")]) == 1
    shown = capsys.readouterr().out
    assert "no-such-package: not installed" in shown
    assert "packaging" in shown and "(tested: 0.1)" in shown


def test_doctor_finds_a_folder_it_cannot_write_in(tmp_path, doctor, monkeypatch):
    def refuse(dir=None):
        raise OSError(30, "Read-only file system")
    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    found = [finding for finding in doctor.folders(tmp_path) if finding.what == "runs"]
    assert found[0].fatal and found[0].fails == f"runs: cannot write in {tmp_path}: Read-only file system"


def test_doctor_finds_a_full_disk(tmp_path, doctor, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1e8})())
    assert [finding.fatal for finding in doctor.folders(tmp_path) if finding.what == "free for runs"] == [True]


def test_doctor_stays_offline_unless_asked(doctor, monkeypatch):
    asked = []
    monkeypatch.setattr(doctor, "why_not_reachable", lambda address: asked.append(address) or "not reached: why")
    assert "not tried" in doctor.network(False)[0].value and not asked
    assert all(finding.fails and not finding.fatal for finding in doctor.network(True)) and len(asked) == 2


def test_doctor_counts_a_cache(tmp_path, doctor):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_bytes(b"x" * 1000)
    (tmp_path / "link").symlink_to(tmp_path / "a/b")
    assert 1000 <= doctor.folder_size(tmp_path) < 1500
