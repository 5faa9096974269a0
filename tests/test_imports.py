"""The rules about who may import what, checked on the source itself.

The drawing in docs/design.md is the truth: a mermaid graph whose boxes are files and folders and whose arrows are the
imports between them.  An import without an arrow fails here, and so does an arrow that no import uses, so the drawing
cannot lie in either direction.
"""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GROUND = "ground"
"""The room every other may import without an arrow."""
MAX_LINES = 450
HEAVY = {"torch", "transformers", "datasets", "wandb", "pandas"}
NEVER_AT_TOP = {"wandb", "tensorboard", "matplotlib", "ray", "vllm", "nltk", "bitsandbytes", "peft", "datasets",
                "detoxify", "scrubadub", "sklearn", "profanity_check", "lm_eval"}
ONLY_IN_CONFIG = {"hydra", "omegaconf"}


# ---------------------------------------------------------------------------------------------------------- the source

@dataclass(frozen=True)
class Import:
    file: str
    line: int
    module: str
    at_top: bool


def sources(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern) if "__pycache__" not in path.parts)


def code() -> list[Path]:
    return sources("apo/**/*.py", "train.py", "evaluate.py", "scripts/*.py", "benchmarks/*.py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_names(node: ast.AST, path: Path) -> list[str]:
    """Full module names of an import statement; `from apo import data` gives `apo.data`.  A text that is the name of a
    module of ours counts too: it is there to be imported by importlib."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"apo(\.\w+)+", node.value):
        return [node.value] if ROOT.joinpath(*node.value.split(".")).with_suffix(".py").is_file() else []
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = path.relative_to(ROOT).parent.parts
        kept = package[:len(package) - node.level + 1]
        base = ".".join([*kept, *filter(None, [node.module])])
    return [f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base for alias in node.names]


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def walk(node: ast.AST, at_top: bool = True):
    """Every node with whether it runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        yield child, at_top
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from walk(child, at_top and not inside)


@cache
def imports(path: Path) -> tuple[Import, ...]:
    return tuple(dict.fromkeys(Import(relative(path), node.lineno, name, at_top)
                               for node, at_top in walk(tree(path)) for name in imported_names(node, path)))


# --------------------------------------------------------------------------------------------------------- the drawing

@dataclass(frozen=True)
class Drawing:
    rooms: dict[str, list[str]]
    """Room -> its files, and folders with a slash at the end."""
    arrows: set[tuple[str, str]]

    def room_of(self, file: str) -> str | None:
        """The room with the longest path that the file is or lies in."""
        fitting = [(len(path), room) for room, paths in self.rooms.items() for path in paths
                   if file == path or (path.endswith("/") and file.startswith(path))]
        return max(fitting)[1] if fitting else None


def parse_drawing(text: str) -> Drawing:
    """Reads `room["path<br/>path"]` and `room --> room & room` from the first mermaid block of a Markdown text."""
    block = re.search(r"```mermaid\n(.*?)```", text, re.DOTALL).group(1)
    rooms, arrows = {}, set()
    for line in filter(None, map(str.strip, block.splitlines())):
        if box := re.fullmatch(r'(\w+)\["(.+)"\]', line):
            rooms[box[1]] = box[2].split("<br/>")
        elif arrow := re.fullmatch(r"(\w+) --> (\w+(?: & \w+)*)", line):
            arrows |= {(arrow[1], target) for target in arrow[2].split(" & ")}
        else:
            assert line.startswith("graph"), f"not understood in the drawing: {line}"
    return Drawing(rooms, arrows)


@pytest.fixture(scope="module")
def drawing() -> Drawing:
    return parse_drawing((ROOT / "docs/design.md").read_text(encoding="utf-8"))


def file_of(module: str) -> str | None:
    """`apo.data.records` -> apo/data/records.py; a name inside a module gives the module; None for foreign ones."""
    parts = module.split(".")
    if parts[0] not in ("apo", "train", "evaluate", "scripts"):
        return None
    path = ROOT.joinpath(*parts)
    return relative(path.with_suffix(".py")) if path.with_suffix(".py").is_file() else relative(path) + "/__init__.py"


def crossings(drawing: Drawing) -> dict[tuple[str, str], list[Import]]:
    """(room, room imported) -> where, for imports that leave their room for one above the ground."""
    found: dict[tuple[str, str], list[Import]] = {}
    for path in code():
        room = drawing.room_of(relative(path))
        for item in imports(path):
            target = file_of(item.module)
            if target is None or item.module == "apo":
                continue
            pair = (room, drawing.room_of(target))
            if pair[0] != pair[1] and (pair[1] != GROUND or pair[0] is None):
                found.setdefault(pair, []).append(item)
    return found


def test_every_file_has_a_room(drawing):
    homeless = [relative(path) for path in code() if drawing.room_of(relative(path)) is None]
    assert not homeless, f"in no box of docs/design.md's drawing: {homeless}"


def test_every_path_of_the_drawing_exists(drawing):
    missing = [path for paths in drawing.rooms.values() for path in paths if not (ROOT / path).exists()]
    assert not missing, f"drawn but not there: {missing}"


def test_the_ground_imports_nothing_of_ours_above_it(drawing):
    assert not [pair for pair in crossings(drawing) if pair[0] == GROUND]


def test_no_import_without_an_arrow(drawing):
    wrong = [f"{item.file}:{item.line} imports {item.module} ({pair[0]} --> {pair[1]})"
             for pair, items in crossings(drawing).items() if pair not in drawing.arrows for item in items]
    assert not wrong, "imports that docs/design.md does not draw:\n" + "\n".join(wrong)


def test_no_arrow_without_an_import(drawing):
    unused = sorted(drawing.arrows - set(crossings(drawing)))
    assert not unused, f"arrows of docs/design.md that no import uses: {unused}"


def test_the_drawing_has_no_way_back(drawing):
    """No cycle: every room can be taken away after the rooms above it."""
    arrows = set(drawing.arrows)
    assert arrows <= {(a, b) for a in drawing.rooms for b in drawing.rooms}, "an arrow to or from an unknown room"
    left = set(drawing.rooms)
    while left:
        tops = left - {target for source, target in arrows if source in left}
        assert tops, f"a circle among {sorted(left)}"
        left -= tops


def test_the_parser_sees_wrong_imports(tmp_path, monkeypatch):
    """The rules above would also pass if nothing were found; so: something that must be found."""
    (tmp_path / "apo/data").mkdir(parents=True)
    (tmp_path / "apo/objectives").mkdir()
    (tmp_path / "apo/objectives/base.py").write_text("")
    (tmp_path / "apo/data/a.py").write_text("def f():\n    from apo.objectives import base\n")
    (tmp_path / "apo/data/b.py").write_text("from ..objectives.base import X\n")
    (tmp_path / "apo/data/c.py").write_text("import importlib\nimportlib.import_module('apo.objectives.base')\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    text = '```mermaid\ngraph TD\n  data["apo/data/"]\n  objectives["apo/objectives/"]\n  objectives --> data\n```'
    found = crossings(parse_drawing(text))
    assert {(item.file, item.line, item.at_top) for item in found.pop(("data", "objectives"))} == {
        ("apo/data/a.py", 2, False), ("apo/data/b.py", 1, True), ("apo/data/c.py", 2, True)}
    assert not found


# ------------------------------------------------------------------------------------------------- libraries and names

def roots(module: str) -> str:
    return module.split(".")[0]


def test_only_config_knows_hydra():
    wrong = [f"{item.file}:{item.line}" for path in code() for item in imports(path)
             if roots(item.module) in ONLY_IN_CONFIG and item.file != "apo/config.py"]
    assert not wrong


def test_heavy_libraries_are_imported_where_they_are_used():
    wrong = [f"{item.file}:{item.line} {item.module}" for path in sources("apo/**/*.py", "train.py", "evaluate.py")
             for item in imports(path) if item.at_top and roots(item.module) in NEVER_AT_TOP]
    assert not wrong


@pytest.mark.parametrize("module", ["train", "evaluate", "apo.config", "apo.schema", "apo.objectives.base",
                                    "apo.scorers.base", "apo.metrics.base", "apo.data.sources.base"])
def test_the_config_is_checked_before_anything_heavy_is_loaded(module):
    if not is_module(module):
        pytest.skip(f"{module} is not there")
    script = f"import sys, {module}; print(*sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("registry", ["apo.objectives.base:objectives", "apo.scorers.base:scorers",
                                      "apo.metrics.base:metrics", "apo.data.sources.base:sources"])
def test_listing_what_there_is_loads_nothing_heavy(registry):
    module, name = registry.split(":")
    if not is_module(module):
        pytest.skip(f"{module} is not there")
    script = f"import sys, {module}; assert list({module}.{name}); print(*sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


# -------------------------------------------------------------------------------------------------- nothing that calls

def calls(path: Path):
    """(dotted name, call) of every call whose function is a plain dotted name."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str):
    """The literal value of a keyword argument, or None."""
    values = [k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)]
    return values[0] if values else None


def test_nothing_is_evaluated():
    wrong = [f"{relative(path)}:{call.lineno} {name}" for path in code() for name, call in calls(path)
             if name in ("eval", "exec", "builtins.eval", "builtins.exec")]
    assert not wrong


def test_no_pickle():
    wrong = [f"{item.file}:{item.line}" for path in code() for item in imports(path)
             if roots(item.module) in ("pickle", "cPickle", "dill", "cloudpickle", "shelve", "joblib")]
    wrong += [f"{relative(path)}:{call.lineno}" for path in code() for _, call in calls(path)
              if keyword(call, "allow_pickle")]
    assert not wrong


def test_torch_load_stands_in_one_place_and_reads_only_weights():
    found = [(relative(path), call) for path in code() for name, call in calls(path)
             if name == "torch.load" or name.endswith(".torch.load")]
    assert len({file for file, _ in found}) <= 1, f"torch.load in {[f'{f}:{c.lineno}' for f, c in found]}"
    assert all(keyword(call, "weights_only") is True for _, call in found)


def test_no_remote_code_and_no_unsafe_weights():
    wrong = [f"{relative(path)}:{call.lineno} {name}" for path in code() for name, call in calls(path)
             if keyword(call, "trust_remote_code") is True or keyword(call, "weights_only") is False]
    assert not wrong


def test_no_config_can_name_a_callable():
    pattern = r"_target_\s*[\"']?\s*[:=\]]|hydra\.utils"
    wrong = [relative(path) for path in [*code(), *sources("configs/**/*.yaml", "configs/**/*.yml")]
             if re.search(pattern, path.read_text(encoding="utf-8"))]
    assert not wrong


# ----------------------------------------------------------------------------------------------------------- the house

def test_files_stay_short():
    long = {relative(path): n for path in code() if (n := path.read_text(encoding="utf-8").count("\n")) > MAX_LINES}
    assert not long


def test_what_a_metric_declares_somebody_reads():
    """A class variable of a metric is a word to the evaluation; one that nothing reads is to go."""
    declared = {node.target.id for path in sources("apo/metrics/*.py") for node in ast.walk(tree(path))
                if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).startswith("ClassVar")}
    read = {node.attr for path in code() for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
    assert "name" in declared and not declared - read


MACHINE = re.compile(r"(?<![\w.])/(?:work|root|home|tmp)/\w+|\.\./shared|--(?:extra-)?index-url[ =]\S*://\S+")


def text_of(path: Path) -> str:
    """Empty for pictures."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def test_nothing_names_a_machine():
    """Folders of one machine and addresses of package indexes have no place in a file of ours."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in tracked.stdout.splitlines() if not name.startswith("tests/")]
    wrong = [f"{relative(path)}: {found[0]}" for path in files if path.is_file()
             for found in MACHINE.finditer(text_of(path))]
    assert not wrong
