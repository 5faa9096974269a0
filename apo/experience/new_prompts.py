"""New prompts for a round, written by the example of the data's own (self-instruct; Yuan et al. 2024).

Each request shows some prompts and asks for one more.  What comes is left out, and counted, where it cannot be read, is
too long, has an unwanted word, or is nearly one that there is: the data's, an earlier round's or this one's.  What is
missing then is asked for again, up to a number of requests.  Request i of round r depends on (seed, r, i) and on what
was kept before it, and the answer on the request and the writer.

A round's prompts are in a file before they are answered, so a run that goes on asks nobody twice; what a server was
paid for is kept the moment it comes.
"""

import json
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Callable

from apo.disk import write_atomic
from apo.errors import DataError, EvaluationError, RunError
from apo.experience.likeness import Texts, words_of
from apo.experience.prompts import Prompt
from apo.judges import Answers, FewShot, ModelWriter, ServerWriter
from apo.metrics.running import Stat, ratio
from apo.schema import NewPromptsConfig
from apo.seeds import stream, stream_seed

NAME = "prompts-{:06d}.jsonl"
ANSWERS = "prompt-answers.jsonl"


@dataclass
class Counts:
    """Of a round: asked = kept + all that is left out."""

    asked: int = 0
    kept: int = 0
    duplicates: int = 0
    too_long: int = 0
    empty: int = 0
    unparsable: int = 0
    unwanted: int = 0
    failed: int = 0
    """Requests without an answer."""

    def metrics(self) -> dict[str, Stat]:
        """Means over rounds, where a line of the log is about several."""
        return {f"new_prompts/{field.name}": ratio(getattr(self, field.name), 1) for field in fields(self)}

    def lost(self) -> str:
        words = {"unparsable": "could not be read", "empty": "were empty", "too_long": "were too long",
                 "duplicates": "were nearly one that there is", "unwanted": "had an unwanted word",
                 "failed": "had no answer"}
        return ", ".join(f"{getattr(self, name)} {said}" for name, said in words.items() if getattr(self, name))


@dataclass(frozen=True)
class Frame:
    """What stands around every prompt of the data, such as `Human:` and `Assistant:`, and is not to be written."""

    before: str
    after: str

    @classmethod
    def of(cls, texts: list[str]) -> "Frame":
        """Up to a colon or the end of a line, and from the end of a line on: less is an accident of words."""
        begins, ends = os.path.commonprefix(texts), os.path.commonprefix([text[::-1] for text in texts])[::-1]
        before = re.match(r"(?:.*[:\n]\s*)?", begins, re.DOTALL)[0]
        after = ends[ends.find("\n"):] if "\n" in ends else ""
        frame = cls(before, after)
        return frame if all(frame._fits(text) for text in texts) else cls("", "")

    def _fits(self, text: str) -> bool:
        return bool(text[len(self.before):len(text) - len(self.after)].strip()
                    and len(text) > len(self.before) + len(self.after))

    def inside(self, text: str) -> str:
        return text[len(self.before):len(text) - len(self.after)].strip()

    def around(self, inside: str) -> str:
        return self.before + inside + self.after

    def is_broken_by(self, inside: str) -> bool:
        """It begins another turn."""
        return any(part and part in inside for part in (self.before.strip(), self.after.strip()))


@dataclass
class NewPrompts:
    options: NewPromptsConfig
    writer: ModelWriter | ServerWriter
    own: list[str]
    """The data's prompts."""
    ids_of: Callable[[str], list[int]]
    """Tokens of a prompt, as those of the data; raises DataError where it can have none."""
    room: int
    """Tokens that leave room for a completion."""
    seed: int
    folder: Path
    """Of the rounds."""

    def __post_init__(self):
        self.form = FewShot.of(self.options.template, self.options.pattern)
        self.frame = Frame.of(self.own)
        inside = dict.fromkeys(map(self.frame.inside, self.own))
        self.examples = [text for text in inside if not self.frame.is_broken_by(text)]
        if not self.examples:
            raise DataError("rollout.new_prompts: no prompt of the data can be shown as an example, for all are of "
                            "several turns: leave it out")
        self.unwanted = {word.lower() for word in self.options.unwanted_words}

    def of_round(self, number: int, key: str, count: int, check: Callable[[], None]) -> tuple[list[Prompt], Counts]:
        """So many prompts, from the disk or written now and put there.

        key: what the round is made from; of another key they are written anew.
        Raises DataError where too few are found, EvaluationError where the writer has no room for a request,
        ServerError where a server does not answer."""
        path = self.folder / NAME.format(number)
        rows = _rows(path) if path.exists() else [{}]
        if rows[0].get("key") != key or rows[0].get("kept") != count:
            before = [self.frame.inside(row["prompt"]) for earlier in range(number)
                      for row in self._of_earlier(earlier)]
            texts, counts = self._write(number, count, before, check)
            rows = [{"key": key, **asdict(counts)}, *({"prompt": text} for text in texts)]
            write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        counts = Counts(**{name: value for name, value in rows[0].items() if name != "key"})
        return [Prompt(self.ids_of(row["prompt"]), row["prompt"], []) for row in rows[1:]], counts

    def _of_earlier(self, number: int) -> list[dict[str, Any]]:
        path = self.folder / NAME.format(number)
        if not path.exists():
            raise RunError(f"{path} is gone, and new prompts are to be others than those; begin the run anew with "
                           "force=true")
        return _rows(path)[1:]

    def _write(self, number: int, count: int, written: list[str],
               check: Callable[[], None]) -> tuple[list[str], Counts]:
        """`written`: in earlier rounds."""
        known, counts, found = Texts(self.options.similarity), Counts(), []
        for text in [*map(self.frame.inside, self.own), *written]:
            known.add(text)
        most = self.options.attempts * count
        while len(found) < count and counts.asked < most:
            check()
            requests = range(counts.asked, counts.asked + min(count - len(found), most - counts.asked))
            counts.asked += len(requests)
            for answer in self._answers(number, requests, [*written, *found]):
                text, reason = self._read(answer, known)
                if reason:
                    setattr(counts, reason, getattr(counts, reason) + 1)
                else:
                    known.add(text)
                    found.append(text)
        counts.kept = len(found)
        if counts.kept < count:
            raise DataError(
                f"round {number}: {counts.asked} requests for {count} new prompts gave {counts.kept}: "
                f"{counts.lost()}. A small model cannot do this: let a larger one or a server write them "
                "(rollout.new_prompts.kind), allow more requests or more likeness (attempts, similarity), show fewer "
                "examples (shots), or leave rollout.new_prompts out")
        return [self.frame.around(text) for text in found], counts

    def _answers(self, number: int, requests: range, written: list[str]) -> list[str | None]:
        questions = [self.form.ask(self._shown(number, request, written)) for request in requests]
        numbers = [stream_seed(self.seed, "new_prompts", number, request) for request in requests]
        try:
            if isinstance(self.writer, ModelWriter):
                return self.writer.answer(questions, numbers)
            with Answers(self.folder / ANSWERS) as self.writer.answers:
                return self.writer.answer(questions, numbers)
        except EvaluationError as problem:
            raise EvaluationError(f"{problem} Fewer examples (rollout.new_prompts.shots) make it shorter.") from None

    def _shown(self, number: int, request: int, written: list[str]) -> list[str]:
        """The examples of a request, in an order drawn for it."""
        random = stream(self.seed, "examples", number, request)

        def some(texts: list[str], most: int) -> list[str]:
            return [texts[place] for place in random.permutation(len(texts))[:most]]
        earlier = some(written, self.options.written_shots)
        shown = [*some(self.examples, self.options.shots - len(earlier)), *earlier]
        return [shown[place] for place in random.permutation(len(shown))]

    def _read(self, answer: str | None, known: Texts) -> tuple[str, str]:
        """The prompt, and the name of the count that it goes into if it is none."""
        if answer is None:
            return "", "failed"
        text = self.form.read(answer)
        if text is None or self.frame.is_broken_by(text):
            return "", "unparsable"
        words = words_of(text)
        if not words:
            return "", "empty"
        if self.unwanted & set(words):
            return "", "unwanted"
        try:
            length = len(self.ids_of(self.frame.around(text)))
        except DataError:
            return "", "unparsable"
        if length > min(self.room, self.options.max_length or self.room):
            return "", "too_long"
        return text, "duplicates" if known.has_like(text) else ""


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except ValueError:
        raise RunError(f"{path} is damaged; begin the run anew with force=true") from None
