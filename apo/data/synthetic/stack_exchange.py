"""Functions of the standard library, what their docstrings say of them, and how good an answer is by that.

The table is read from the sources of the interpreter that runs (`apo/data/sources/stdlib.py`), parsed and never
imported: functions at the top of public modules, with a public name and a docstring that says something.  Of that, the
first paragraph of prose is kept, with the second where the first is short, up to 60 words; markup is taken out.

`reward(question, answer)` is on the scale of log2(1 + votes), -1 ... 5.  The function asked about is the first dotted
name with an opening parenthesis in the question that is in the table.  Of an answer:

    +2.5 * F1   of its words with those of the docstring, both without `COMMON` ones; a word that is in the answer
                oftener than in the docstring is wrong the times it is too many
    +2.5 * F1   of its pairs of neighbouring words with those of the docstring, counted alike: words in another order
                are worth less
    -1.5        for every phrase of `STOCK`, two at most
    -1.5        for shouting: more than half of its letters are capitals, and not of the docstring's
    -3 * share  of three-word sequences that came before in the answer, above 0.1 and above the docstring's own share
    -0.5        if it does not end in . ! or ?

cut to the range and rounded to two places.  An answer without a word is -1.  Nothing is known of a function that is not
in the table: an answer about it is at most 0, less what is taken off.
"""

import ast
import hashlib
import json
import platform
import re
from collections import Counter
from dataclasses import dataclass, fields
from functools import cache
from typing import Iterable, Iterator

from apo.data.sources.stdlib import StandardLibrary
from apo.data.synthetic.signs import ends, repeated, words
from apo.schema import DataConfig

LOWEST, HIGHEST = -1.0, 5.0
QUESTION, ANSWER = "Question:", "\n\nAnswer:"
LEFT_OUT = {"idlelib", "lib2to3", "distutils", "tkinter", "turtledemo", "turtle", "ensurepip", "pydoc_data"}
"""Packages for programs of their own."""
MIN_WORDS, SHORT, MAX_WORDS = 6, 20, 60
MAX_PARAMETERS = 4
STOCK = ("google it", "just google", "read the manual", "read the docs", "read the documentation", "look it up",
         "search engine", "homework", "this is a duplicate")
COMMON = frozenset("a an the of to in is are be it its this that and or as for with on by if from at was will not has "
                   "have which can may".split())
ASKED = re.compile(r"(?<![\w.])([A-Za-z_]\w*(?:\.\w+)+)\(")
MARKUP = re.compile(r":\w+:`~?([^`]*)`|`+([^`]+)`+|\*{1,2}(\w+)\*{1,2}")
_STOCK = [re.compile(rf"\b{phrase}\b") for phrase in STOCK]


@dataclass(frozen=True)
class Function:
    name: str
    """With its module."""
    signature: str
    """Name and parameters, without their defaults."""
    text: str
    """What the docstring says, on one line."""


@dataclass(frozen=True)
class Parts:
    """What a reward is made of; they add up to it before it is cut to its range."""

    words: float = 0.0
    pairs: float = 0.0
    stock: float = 0.0
    shouting: float = 0.0
    repetition: float = 0.0
    end: float = 0.0

    @property
    def reward(self) -> float:
        total = sum(getattr(self, each.name) for each in fields(self))
        return round(min(max(total, LOWEST), HIGHEST), 2) + 0.0


# ---- the table -------------------------------------------------------------------------------------------------------


@cache
def functions() -> dict[str, Function]:
    """By full name, in the order of the files.  A text that several functions share is kept for the first."""
    found: dict[str, Function] = {}
    texts: set[str] = set()
    for document in StandardLibrary(DataConfig(source="stdlib")).documents():
        module = document.origin.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        parts = module.split(".")
        if parts[0] not in LEFT_OUT and not any(part.startswith("_") for part in parts):
            for function in read(module, "".join(document.texts)):
                if function.name not in found and function.text not in texts:
                    found[function.name] = function
                    texts.add(function.text)
    return found


@cache
def fingerprint() -> str:
    """Of the table and the interpreter it is from."""
    table = [(each.name, each.signature, each.text) for each in functions().values()]
    return hashlib.sha256(json.dumps([platform.python_version(), table]).encode()).hexdigest()


def read(module: str, source: str) -> Iterator[Function]:
    """The functions of a module's source; none of text that does not parse."""
    try:
        nodes = ast.parse(source).body
    except (SyntaxError, ValueError):
        return
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            text = cleaned(ast.get_docstring(node) or "")
            if len(text.split()) >= MIN_WORDS:
                name = f"{module}.{node.name}"
                yield Function(name, f"{name}({parameters(node.args)})", text)


def parameters(args: ast.arguments) -> str:
    names = [each.arg for each in (*args.posonlyargs, *args.args)]
    names += [f"*{args.vararg.arg}"] if args.vararg else []
    names += [each.arg for each in args.kwonlyargs] + ([f"**{args.kwarg.arg}"] if args.kwarg else [])
    return ", ".join(names[:MAX_PARAMETERS]) + (", ..." if len(names) > MAX_PARAMETERS else "")


def cleaned(docstring: str) -> str:
    """The first paragraphs of prose on one line, whole sentences up to MAX_WORDS words; empty where there are none."""
    kept: list[str] = []
    for paragraph in re.split(r"\n\s*\n", docstring.strip()):
        text = " ".join(paragraph.split())
        if re.search(r">>>|^\W|^$|--|^\w+\(.*\)( ->.*)?$|^(Args|Returns|Raises|Example|Note)s?:|[:,]$|^\w+:? - ", text):
            if kept:
                break
            continue
        text = re.sub(r"^[\w.]+\(.*?\)\s*->\s*\w+[:.]?\s+", "", text)
        text = MARKUP.sub(lambda match: match[match.lastindex], text).replace("`", "")
        kept.append(text if text.endswith((".", "!", "?")) else text + ".")
        if sum(len(text.split()) for text in kept) >= SHORT or len(kept) == 2:
            break
    return _shortened(" ".join(kept))


def _shortened(text: str) -> str:
    """Up to the last sentence that ends within MAX_WORDS words; cut there where none does."""
    words = text.split()
    if len(words) <= MAX_WORDS:
        return text
    ends = [i for i, word in enumerate(words[:MAX_WORDS], 1) if word.endswith((".", "!", "?")) and i >= MIN_WORDS]
    return " ".join(words[:ends[-1]]) if ends else " ".join(words[:MAX_WORDS]).rstrip(",;:") + "."


# ---- the rule --------------------------------------------------------------------------------------------------------


def reward(question: str, answer: str) -> float:
    """Of an answer to a question of the corpus; higher is better."""
    found = words(answer.lower())
    return parts(asked(question), answer).reward if found else LOWEST


def asked(question: str) -> Function | None:
    return next((functions()[name] for name in ASKED.findall(question) if name in functions()), None)


def parts(function: Function | None, answer: str) -> Parts:
    found = words(answer.lower())
    if not found:
        return Parts()
    truth = function.text if function else ""
    true = words(truth.lower())
    return Parts(
        words=2.5 * f1((word for word in found if word not in COMMON), (word for word in true if word not in COMMON)),
        pairs=2.5 * f1(zip(found, found[1:]), zip(true, true[1:])),
        stock=-1.5 * min(sum(bool(phrase.search(" ".join(found))) for phrase in _STOCK), 2),
        shouting=-1.5 * (capitals(answer) > 0.5 >= capitals(truth)),
        repetition=-3 * max(repeated(found) - max(repeated(true) if true else 0, 0.1), 0),
        end=0.0 if ends(answer) else -0.5)


def f1(found: Iterable, true: Iterable) -> float:
    """Harmonic mean of precision and recall, both over multisets; 0 where nothing is shared."""
    found, true = Counter(found), Counter(true)
    shared = (found & true).total()
    return 2 * shared / (found.total() + true.total()) if shared else 0.0


def capitals(text: str) -> float:
    """Their share of the letters."""
    letters = [letter for letter in text if letter.isalpha()]
    return sum(map(str.isupper, letters)) / len(letters) if letters else 0.0

