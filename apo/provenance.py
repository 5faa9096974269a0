"""Where a run came from: enough to see what differs between two runs, and to make one again.

Names of environment variables are kept, never values.
"""

import hashlib
import importlib.util
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "datasets", "numpy", "peft", "bitsandbytes",
            "hydra-core", "omegaconf", "pycodestyle", "wandb", "vllm")
ENVIRONMENT = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HOME", "HF_TOKEN", "HF_HUB_OFFLINE",
               "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_MODE", "APO_CACHE", "PYTHONHASHSEED",
               "CUBLAS_WORKSPACE_CONFIG", "TOKENIZERS_PARALLELISM")


def packages() -> dict[str, str]:
    """Installed versions of what decides the numbers."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}


def hardware() -> dict:
    import torch
    info = {"machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count(),
            "torch_threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        info["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return info


def environment() -> list[str]:
    """Names of the variables that are set and matter."""
    return [name for name in ENVIRONMENT if name in os.environ]


def git_state(root: Path) -> dict:
    """Commit and the sha256 of uncommitted changes; empty outside a checkout."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {}
    return {"commit": commit.strip(), "diff_sha256": hashlib.sha256(code_diff(root).encode()).hexdigest()}


def code_diff(root: Path) -> str:
    """Uncommitted changes to tracked files, and the names of untracked ones; empty outside a checkout."""
    diff = _git(root, "diff", "HEAD") or ""
    untracked = _git(root, "ls-files", "--others", "--exclude-standard") or ""
    return diff + "".join(f"untracked: {name}\n" for name in untracked.splitlines())


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def package_sha256(name: str) -> str:
    """sha256 over the source files of an importable package or module: a plug-in's code is part of a run's identity."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return "unknown"
    root = Path(spec.origin)
    files = [root]
    if spec.submodule_search_locations:
        files = sorted(file for pattern in ("*.py", "*.yaml", "*.yml") for file in root.parent.rglob(pattern))
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(root.parent)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
