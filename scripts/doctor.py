"""What this machine has, and what would fail on it: `python scripts/doctor.py`.

Leaves with 1 when something that `make demo` or `make test` needs is missing or wrong, else with 0.  It must work where
the rest does not, so it imports nothing of ours, and torch and rich only if they are there.  Of tokens it tells the
names, never the values.  It opens no connection unless asked to with --network.
"""

import argparse
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "KAGGLE_KEY")
SWITCHES = ("APO_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "OMP_NUM_THREADS",
            "CUDA_VISIBLE_DEVICES")
GB = 1e9
DEMO_MEMORY_GB, DEMO_DISK_GB = 4, 2
"""What `make demo` takes, rounded up: two processes' worth of torch and two small models; two runs' checkpoints."""


@dataclass
class Finding:
    section: str
    what: str
    value: str
    fails: str = ""
    """What would fail because of this, or empty."""
    fatal: bool = False
    """`make demo` or `make test` is among what would fail."""


def size(n_bytes: float) -> str:
    return f"{n_bytes / GB:.1f} GB" if n_bytes >= 0.1 * GB else f"{n_bytes / 1e6:.1f} MB"


# --------------------------------------------------------------------------------------------------------- the machine

def cpu_name_and_flags() -> tuple[str, set[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), set()
    name = re.search(r"model name\s*: (.*)", text)
    flags = re.search(r"(?:flags|Features)\s*: (.*)", text)
    return name[1] if name else platform.machine(), set(flags[1].split()) if flags else set()


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Memory this process may use: the machine's, or its container's limit."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return total


def machine() -> list[Finding]:
    name, flags = cpu_name_and_flags()
    bf16 = sorted(flag for flag in flags if "bf16" in flag)
    memory = memory_bytes()
    small = memory is not None and memory < DEMO_MEMORY_GB * GB
    return [
        Finding("machine", "system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        Finding("machine", "CPU", name),
        Finding("machine", "cores", str(cores())),
        Finding("machine", "bf16 on the CPU", ", ".join(bf16) or "no: trains in fp32, at about half the speed"),
        Finding("machine", "memory", size(memory) if memory else "unknown",
                f"make demo: less than {DEMO_MEMORY_GB} GB of memory" if small else "", fatal=small),
        *gpus(),
    ]


def gpus() -> list[Finding]:
    none = "scale=small and scale=paper: no GPU; they compose (--dry-run), but a run would take days"
    if importlib.util.find_spec("torch") is None:
        return [Finding("machine", "GPU", "unknown: torch is not installed", none)]
    import torch
    if not torch.cuda.is_available():
        build = "a CPU build of torch" if torch.version.cuda is None and torch.version.hip is None else "none found"
        return [Finding("machine", "GPU", f"none ({build})", none)]
    return [Finding("machine", f"GPU {i}", f"{p.name}, {size(p.total_memory)}, bf16 "
                    f"{'yes' if torch.cuda.is_bf16_supported() else 'no'}")
            for i in range(torch.cuda.device_count()) for p in [torch.cuda.get_device_properties(i)]]


# -------------------------------------------------------------------------------------------------------- the packages

def python() -> list[Finding]:
    old = sys.version_info < (3, 11)
    return [Finding("python", "version", platform.python_version(),
                    "everything: Python 3.11 or newer is needed" if old else "", fatal=old),
            Finding("python", "where", sys.prefix)]


def pins(path: Path) -> dict[str, str]:
    """Name -> version of the `name==version` lines of a requirements file."""
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", path.read_text(encoding="utf-8"), re.MULTILINE))


def installed(name: str) -> str | None:
    """Version without its local tag (+cpu, +cu128), or None."""
    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


def packages(wanted: dict[str, str]) -> list[Finding]:
    have = {name: installed(name) for name in wanted}
    missing = [name for name in wanted if have[name] is None]
    wrong = [f"{name} {have[name]} (tested: {version})" for name, version in wanted.items()
             if have[name] not in (None, version)]
    cure = "`make venv` or pip install -r requirements.txt puts it right"
    return [
        Finding("packages", "as in requirements.txt", f"{len(wanted) - len(missing) - len(wrong)} of {len(wanted)}"),
        *[Finding("packages", "missing", few(missing), f"{few(missing)}: not installed; {cure}", fatal=True)
          for _ in missing[:1]],
        *[Finding("packages", "other version", few(wrong), f"untested versions: {few(wrong)}; {cure}")
          for _ in wrong[:1]],
    ]


def few(names: list[str], n: int = 6) -> str:
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")


# ------------------------------------------------------------------------------------------------- folders and the disk

def folder_size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                continue
    return total


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(path for path in [folder, *folder.parents] if path.exists())


def why_not_writable(folder: Path) -> str:
    """Empty where a file can be made in the folder, or the folder in the nearest above it."""
    place = existing(folder.absolute())
    try:
        with tempfile.NamedTemporaryFile(dir=place):
            return ""
    except OSError as error:
        return f"{place}: {error.strerror}"


def own_cache() -> Path:
    return Path(os.environ.get("APO_CACHE") or Path.home() / ".cache" / "apo")


def hub_home() -> Path:
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")


def folders(output_dir: Path) -> list[Finding]:
    found = []
    for what, folder, needed in (("runs", output_dir, True), ("cache of ours", own_cache(), True),
                                 ("cache of the hub", hub_home(), False)):
        trouble = why_not_writable(folder)
        text = f"{folder}, {size(folder_size(folder)) if folder.exists() else 'not there yet'}"
        found.append(Finding("folders", what, text, f"{what}: cannot write in {trouble}" if trouble else "",
                             fatal=bool(trouble) and needed))
    for what, folder in (("free for runs", output_dir), ("free for the cache", own_cache())):
        free = shutil.disk_usage(existing(folder.absolute())).free
        full = free < DEMO_DISK_GB * GB
        found.append(Finding("folders", what, size(free),
                             f"make demo: less than {DEMO_DISK_GB} GB free at {folder}" if full else "", fatal=full))
    return found


# -------------------------------------------------------------------------------------------- tokens and the connection

def tokens() -> list[Finding]:
    present = [name for name in TOKENS if os.environ.get(name)]
    if (hub_home() / "token").exists():
        present.append("the hub's token file")
    hub = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "the hub's token file"} & set(present)
    return [
        Finding("environment", "tokens present (names)", ", ".join(present) or "none",
                "" if hub else "hub models: no token (HF_TOKEN); gated models will fail"),
        Finding("environment", "switches set", ", ".join(name for name in SWITCHES if name in os.environ) or "none",
                "" if os.environ.get("WANDB_API_KEY") else "logger.wandb=true: no WANDB_API_KEY in the environment; "
                "unless `wandb login` was done, it writes offline"),
    ]


def network(ask: bool) -> list[Finding]:
    if not ask:
        return [Finding("environment", "network", "not tried (--network tries)")]
    hosts = {"the hub": os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
             "wandb": os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")}
    found = []
    for what, address in hosts.items():
        trouble = why_not_reachable(address)
        found.append(Finding("environment", f"network: {what}", trouble or "reached",
                             f"downloads and uploads: {what} was not reached" if trouble else ""))
    return found


def why_not_reachable(address: str) -> str:
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return ""  # an answer, if not a page: there is a way
    except (OSError, ValueError) as error:
        return f"not reached: {getattr(error, 'reason', error)}"
    return ""


# ------------------------------------------------------------------------------------------------------------- showing

def show(findings: list[Finding]) -> None:
    """A table with rich, or plain lines where rich is among what is missing."""
    if importlib.util.find_spec("rich") is None:
        for f in findings:
            print(f"{f.section:<12} {f.what:<24} {f.value}")
        return
    from rich.console import Console
    from rich.table import Table
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    section = None
    for f in findings:
        mark = "[red]wrong[/red]" if f.fatal else "[yellow]note[/yellow]" if f.fails else "[green]ok[/green]"
        table.add_row("" if f.section == section else f.section, f.what, mark, escaped(f.value))
        section = f.section
    Console(highlight=False).print(table)


def escaped(text: str) -> str:
    """Without rich's markup: a path may hold square brackets."""
    return text.replace("[", r"\[")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What this machine has, and what would fail on it.")
    parser.add_argument("--network", action="store_true", help="also try to reach the hub and wandb")
    parser.add_argument("--output-dir", type=Path, default=ROOT / "outputs", help="where runs will be written")
    parser.add_argument("--requirements", type=Path, default=ROOT / "requirements.txt", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    findings = [*machine(), *python(), *packages(pins(options.requirements)), *folders(options.output_dir), *tokens(),
                *network(options.network)]
    show(findings)
    fatal, limits = [[f.fails for f in findings if f.fails and f.fatal == kind] for kind in (True, False)]
    if limits:
        print("\nWould fail, or do less, here (make demo and make test need none of it):")
        print("\n".join(f"  - {line}" for line in limits))
    if fatal:
        print("\nStands in the way of make demo or make test:")
        print("\n".join(f"  - {line}" for line in fatal))
        return 1
    print("\nmake demo and make test: nothing in the way.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
