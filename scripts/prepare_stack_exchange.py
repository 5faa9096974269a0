"""Questions and pairs of answers to train on, from a Stack Exchange data dump.

    python scripts/prepare_stack_exchange.py coffee.stackexchange.com/Posts.xml out/
    python scripts/prepare_stack_exchange.py Posts.xml.gz out/ --site coffee.stackexchange.com --limit 10 --seed 1
    python scripts/prepare_stack_exchange.py questions.jsonl.gz out/

The input is a dump's Posts.xml, of any size and read as it comes, or JSON lines of questions with their answers (qid,
site, title, question and answers of answer_id, text, score, selected; text in HTML).  An answer's score is
round(log2(1 + net votes)), -1 where votes are negative, and one more if it is accepted.  Questions are divided, with
all their answers, into the folders finetune, reward, rl and evaluation of the output; each holds questions.jsonl.gz and
pairs.jsonl.gz, in Markdown, the latter with a better answer (response_j) and a worse one (response_k) in every row, at
most --limit of a question.  Both can be trained on with data.source=stack_exchange.

The same input gives the same bytes.  The output folder appears when it is whole; until then what is made lies beside it
in a folder whose name begins with a dot, with room for about the input twice over.
"""

import argparse
import gzip
import io
import json
import os
import shutil
import sqlite3
import sys
import xml.parsers.expat
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Iterator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apo.data.sources.base import BadRow, Row, text_at, told, whole_number_at
from apo.data.sources.file import checked_path, readable, rows_of
from apo.data.stack_exchange import LICENSE, SPLITS, Answer, Question, html_to_markdown, pairs, read_question
from apo.disk import fsync_tree
from apo.errors import DataError, RunError, UserError

CHUNK = 1 << 16
QUESTION, ANSWER = "1", "2"
TABLES = """
    pragma journal_mode = off; pragma synchronous = off; pragma cache_size = -32768;
    create table question (id integer primary key, title, body, accepted integer, author integer, license);
    create table answer (id integer primary key, parent integer, body, votes integer, author integer, license);
    create index answers on answer (parent, id);
    begin;
"""
ANSWERS = "select id, body, votes, author, license from answer where parent = ? order by id"
NUMBERS = ("Id", "ParentId", "Score", "OwnerUserId", "AcceptedAnswerId")
COUNTS = {
    "questions": "questions",
    "several": "with two answers or more",
    "answers": "answers",
    "negative": "of them with negative votes",
    "accepted": "of them accepted",
    "pairs": "pairs whose scores differ",
    "kept": "of them kept",
    "orphans": "answers without their question, left out",
    "empty": "answers without text, left out",
    "other": "posts of other kinds, left out",
}
"""Key -> how it is printed; those left out only where there are some."""


# ------------------------------------------------------------------------------------------------------------ Posts.xml

class PostsFile:
    """The parser of a Posts.xml: rows as they come and nothing kept of them.  A document type, and with it every
    entity of the document's own, is refused."""

    def __init__(self, path: Path):
        self.path, self.depth, self.rows = path, 0, []
        self.parser = xml.parsers.expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._refuse

    def __iter__(self) -> Iterator[Row]:
        opener = gzip.open if self.path.suffix == ".gz" else open
        with readable(self.path), opener(self.path, "rb") as file:
            while data := file.read(CHUNK):
                yield from self._fed(data, False)
            yield from self._fed(b"", True)

    def _fed(self, data: bytes, last: bool) -> list[Row]:
        self.rows = []
        try:
            self.parser.Parse(data, last)
        except xml.parsers.expat.ExpatError as error:
            reason = xml.parsers.expat.ErrorString(error.code)
            raise DataError(f"{self.path}, line {error.lineno}: not whole XML ({reason})") from None
        return self.rows

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self.depth and name != "posts":
            raise DataError(f"{self.path}: holds <{name}>, not <posts>; name the dump's Posts.xml")
        if self.depth == 1 and name == "row":
            self.rows.append((f"{self.path}, line {self.parser.CurrentLineNumber}", attributes))
        self.depth += 1

    def _end(self, name: str) -> None:
        self.depth -= 1

    def _refuse(self, *_: Any) -> None:
        raise DataError(f"{self.path}: has a document type (<!DOCTYPE ...>), which no dump has; it is not read")


def from_posts(path: Path, site: str, database: sqlite3.Connection, counts: Counter) -> Iterator[Question]:
    """The questions in the order of their ids.  Answers may stand anywhere, so all posts pass through the database."""
    database.executescript(TABLES)

    def store(post: dict[str, str], origin: str) -> str | None:
        return _store(post, database)
    kinds = Counter(told(PostsFile(path), store))
    if not kinds:
        raise DataError(f"{path}: no rows; there is nothing to prepare")
    if not kinds["question"]:
        raise DataError(f"{path}: no questions (rows with PostTypeId=\"1\"); there is nothing to prepare")
    counts["other"] = kinds["other"]
    counts["orphans"] = kinds["answer"]
    for qid, title, body, accepted, author, license in database.execute("select * from question order by id"):
        answers = [Answer(number, html_to_markdown(text), votes, number == accepted, by, under,
                          f"https://{site}/a/{number}")
                   for number, text, votes, by, under in database.execute(ANSWERS, [qid])]
        counts["orphans"] -= len(answers)
        counts["empty"] += sum(not answer.text for answer in answers)
        yield Question(qid, site, f"{title}\n\n{html_to_markdown(body)}".strip(),
                       [answer for answer in answers if answer.text], author, license,
                       f"https://{site}/questions/{qid}")


def _store(post: dict[str, str], database: sqlite3.Connection) -> str:
    """Puts a post into the database and says what kind it is.  Raises BadRow."""
    kind = text_at(post, "PostTypeId")
    if kind not in (QUESTION, ANSWER):
        return "other"
    row: dict[str, Any] = {**post, **{name: _number(post, name) for name in NUMBERS if name in post}}
    number, author = whole_number_at(row, "Id"), row.get("OwnerUserId")
    shared = (text_at(row, "Body"), author, row.get("ContentLicense") or LICENSE)
    try:
        if kind == QUESTION:
            database.execute("insert into question (id, title, accepted, body, author, license) values (?,?,?,?,?,?)",
                             (number, row.get("Title", "").strip(), row.get("AcceptedAnswerId"), *shared))
            return "question"
        database.execute("insert into answer (id, parent, votes, body, author, license) values (?,?,?,?,?,?)",
                         (number, whole_number_at(row, "ParentId"), whole_number_at(row, "Score"), *shared))
        return "answer"
    except sqlite3.IntegrityError:
        raise BadRow(f"post {number} stands there twice") from None


def _number(post: dict[str, str], name: str) -> int:
    try:
        number = int(post[name])
    except ValueError:
        raise BadRow(f'"{name}" holds the text "{post[name][:30]}" where a whole number is needed') from None
    if abs(number) >= 1 << 63:
        raise BadRow(f'"{name}" holds a number of more than 64 bits')
    return number


# -------------------------------------------------------------------------------------------------------------- output

class Lines:
    """Gzipped JSON lines whose bytes depend on their rows alone."""

    def __init__(self, path: Path):
        path.parent.mkdir(exist_ok=True)
        self.raw = open(path, "wb")
        packed = gzip.GzipFile("", "wb", fileobj=self.raw, mtime=0)
        self.file = io.TextIOWrapper(packed, encoding="utf-8", newline="\n")

    def write(self, row: dict[str, Any]) -> None:
        self.file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self.file.close()
        self.raw.close()


def question_row(question: Question) -> dict[str, Any]:
    return {"qid": question.qid, "site": question.site, "question": question.text, "url": question.url,
            "license": question.license, "author_id": question.author_id,
            "answers": [{"answer_id": answer.answer_id, "text": answer.text, "votes": answer.votes,
                         "score": answer.score, "accepted": answer.accepted, "author_id": answer.author_id,
                         "license": answer.license, "url": answer.url} for answer in question.ranked()]}


def pair_row(question: Question, better: Answer, worse: Answer) -> dict[str, Any]:
    """`license` names every licence of the three posts."""
    licenses = dict.fromkeys([question.license, better.license, worse.license])
    return {"question": question.text, "response_j": better.text, "response_k": worse.text, "qid": question.qid,
            "site": question.site, "answer_id_j": better.answer_id, "answer_id_k": worse.answer_id,
            "license": ", ".join(licenses), "url": question.url}


def write(questions: Iterator[Question], folder: Path, limit: int, seed: int, counts: Counter) -> None:
    with ExitStack() as stack:
        files = {(split, name): stack.enter_context(closing(Lines(folder / split / f"{name}.jsonl.gz")))
                 for split in SPLITS for name in ("questions", "pairs")}
        for question in questions:
            split, answers = question.split, question.answers
            kept = pairs(answers, question.key, limit, seed)
            files[split, "questions"].write(question_row(question))
            for better, worse in kept:
                files[split, "pairs"].write(pair_row(question, better, worse))
            counts.update(questions=1, several=len(answers) >= 2, answers=len(answers), kept=len(kept),
                          negative=sum(answer.votes < 0 for answer in answers),
                          accepted=sum(answer.accepted for answer in answers),
                          pairs=len(kept) if len(kept) < limit else len(pairs(answers, question.key, None)))
            counts.update({f"{split} questions": 1, f"{split} pairs": len(kept)})


def prepare(source: Path, output: Path, site: str | None, limit: int, seed: int) -> Counter:
    """Raises UserError; then there is no output folder."""
    source = checked_path(source)
    is_xml = source.name.lower().endswith((".xml", ".xml.gz"))
    if source.suffix in (".7z", ".zip", ".bz2", ".xz"):
        raise DataError(f"{source}: unpack it first, and name its Posts.xml")
    if is_xml:
        site = site or (source.resolve().parent.name if "." in source.resolve().parent.name else None)
        if not site:
            raise DataError(f"{source}: says nowhere which site it is of; add --site NAME.stackexchange.com")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RunError(f"{output} is there already; name a folder that is not, or remove it")
    counts: Counter = Counter()
    partial = output.resolve().with_name(f".{output.resolve().name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        with closing(sqlite3.connect(partial / "posts.sqlite", isolation_level=None)) as database:
            questions = from_posts(source, site, database, counts) if is_xml else told(
                rows_of(source), lambda row, origin: _counted(row, site, counts))
            write(questions, partial, limit, seed, counts)
        (partial / "posts.sqlite").unlink(missing_ok=True)
        fsync_tree(partial)
        os.replace(partial, output.resolve())
    except (OSError, sqlite3.Error) as error:
        raise RunError(f"{output}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return counts


def _counted(row: dict[str, Any], site: str | None, counts: Counter) -> Question:
    question = read_question(row, site)
    counts["empty"] += len(row["answers"]) - len(question.answers)
    return question


# -------------------------------------------------------------------------------------------------------- command line

def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("input", type=Path, metavar="Posts.xml[.gz]|QUESTIONS.jsonl[.gz]")
    made.add_argument("output", type=Path, metavar="OUTPUT/")
    made.add_argument("--site", metavar="NAME", help="of a Posts.xml (default: the name of its folder), or of rows "
                                                     "that name none: links and the division follow it")
    made.add_argument("--limit", type=_positive, default=10, metavar="N", help="pairs of one question (default: 10)")
    made.add_argument("--seed", type=int, default=1, metavar="N", help="of the draw among more pairs (default: 1)")
    return made


def _positive(word: str) -> int:
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word} is not a positive whole number")
    return int(word)


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        counts = prepare(options.input, options.output, options.site, options.limit, options.seed)
    except UserError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    except KeyboardInterrupt:
        print("stopped; nothing is kept", file=sys.stderr)
        return 130
    for key, said in COUNTS.items():
        if counts[key] or not said.endswith("left out"):
            print(f"{counts[key]:>12,} {said}")
    for split in SPLITS:
        of_split = (f"{counts[f'{split} {name}']:,} {name}" for name in ("questions", "pairs"))
        print(f"{options.output / split}: {', '.join(of_split)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
