"""Stack Exchange: what an answer is worth, pairs of a better and a worse answer, and posts as Markdown.

A question and its answers come as a row of JSON in one of two schemas: raw, with HTML and a title of its own, or
prepared by `scripts/prepare_stack_exchange.py`, in Markdown.  `read_question` reads both into one `Question`.
"""

import hashlib
import math
import re
import warnings
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import combinations
from typing import Any, Sequence

from apo.data.sources.base import BadRow, list_at, text_at, whole_number_at
from apo.seeds import stream

SPLITS = {"finetune": 0.3, "reward": 0.3, "rl": 0.3, "evaluation": 0.1}
"""Shares of the questions: one part for each stage, so that no stage is trained or judged on what another has seen."""
LICENSE = "CC BY-SA"
"""Of every post, in the version that the post names; older dumps name none."""
MATH = re.compile(r"(\$\$.+?\$\$|\$[^$\n]+\$)", re.DOTALL)
LONGEST_RUN = re.compile("`{3,}")


# --------------------------------------------------------------------------------------------------------------- scores

def answer_score(net_votes: int, accepted: bool) -> int:
    """round(log2(1 + net votes)), -1 where votes are negative, and one more if the asker accepted (Askell et al. 2021).

    `round` is Python's, half to even; log2 of a whole number never lies at a half, so it is anyone's.
    """
    return (-1 if net_votes < 0 else round(math.log2(1 + net_votes))) + bool(accepted)


@dataclass(slots=True)
class Answer:
    answer_id: int
    text: str
    """Markdown."""
    votes: int
    """Those for it less those against."""
    accepted: bool
    author_id: int | None = None
    license: str = LICENSE
    url: str = ""

    @property
    def score(self) -> int:
        return answer_score(self.votes, self.accepted)


@dataclass(slots=True)
class Question:
    qid: int
    site: str
    text: str
    """Markdown: the title, a blank line, the body."""
    answers: list[Answer]
    author_id: int | None = None
    license: str = LICENSE
    url: str = ""

    @property
    def key(self) -> str:
        """Of all questions of all sites; what is drawn by chance depends on it and not on where the question stands."""
        return f"{self.site}/{self.qid}"

    @property
    def split(self) -> str:
        """The part of the data that it belongs to, with all its answers, for good."""
        place = int.from_bytes(hashlib.sha256(self.key.encode()).digest()[:8], "big") / 2**64
        for name, share in SPLITS.items():
            place -= share
            if place < 0:
                return name
        return name

    def ranked(self) -> list[Answer]:
        """The answers, best first; of equal ones the earlier."""
        return sorted(self.answers, key=lambda answer: (-answer.score, answer.answer_id))


def pairs(answers: Sequence[Answer], key: str, limit: int | None = 10, seed: int = 1) -> list[tuple[Answer, Answer]]:
    """(better, worse) of all answers of one question whose scores differ; of more than `limit`, so many drawn.

    The draw depends on the seed and the question's key alone: not on other questions, nor on the order of the answers.
    """
    first_to_last = sorted(answers, key=lambda answer: answer.answer_id)
    found = [(a, b) if a.score > b.score else (b, a) for a, b in combinations(first_to_last, 2) if a.score != b.score]
    if limit is None or len(found) <= limit:
        return found
    drawn = stream(seed, f"pairs of {key}").choice(len(found), limit, replace=False)
    return [found[i] for i in sorted(drawn)]


# ------------------------------------------------------------------------------------------------------------- Markdown

def html_to_markdown(html: str) -> str:
    """A post as Markdown: ATX headings, lines as long as they were, code as it was between fences.

    Formulas between dollars are left as they are.  HTML nested too deeply to be converted becomes its bare text.
    """
    soup = _parsed(html.replace("\r\n", "\n"))
    try:
        return _converter().convert_soup(soup).strip()
    except RecursionError:
        return soup.get_text().strip()


def _parsed(html: str) -> Any:
    from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning, ParserRejectedMarkup
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)      # a post may be nothing but a name
        try:
            return BeautifulSoup(html, "html.parser")
        except ParserRejectedMarkup:        # a marked section that is none, such as "<![x y"
            return BeautifulSoup(html.replace("<![", "&lt;!["), "html.parser")


def version() -> str:
    """What a conversion depends on beside the HTML."""
    return " ".join(f"{name} {metadata.version(name)}" for name in ("markdownify", "beautifulsoup4"))


@cache
def _converter() -> Any:
    import markdownify

    class Converter(markdownify.MarkdownConverter):
        def escape(self, text: str, parent_tags: set[str]) -> str:
            """Odd parts lie between dollars."""
            parts = MATH.split(text or "")
            return "".join(part if i % 2 else super(Converter, self).escape(part, parent_tags)
                           for i, part in enumerate(parts))

        def convert_pre(self, el: Any, text: str, parent_tags: set[str]) -> str:
            """With a fence longer than any in the code."""
            text = re.sub(r"\A(?:[ \t]*\n)+", "", text).rstrip()
            if not text:
                return ""
            fence = "`" * max([3, *(len(run) + 1 for run in LONGEST_RUN.findall(text))])
            return f"\n\n{fence}{_language(el)}\n{text}\n{fence}\n\n"

    return Converter(heading_style=markdownify.ATX, wrap=False)


def _language(pre: Any) -> str:
    """`lang-py` among the classes of a <pre> or its <code> says python."""
    code = pre.find("code")
    classes = [*(pre.get("class") or []), *((code.get("class") or []) if code else [])]
    named = (name[5:] for name in classes if name.startswith("lang-"))
    return next((name for name in named if re.fullmatch(r"[\w+#.-]+", name) and name != "none"), "")


# ----------------------------------------------------------------------------------------------------------------- rows

def read_question(row: dict[str, Any], site: str | None = None) -> Question:
    """Of either schema; `site` is that of rows that name none.  Raises BadRow.

    An answer that says nothing (an empty text) is left out.
    """
    qid = whole_number_at(row, "qid")
    site = site if site is not None and "site" not in row else text_at(row, "site")
    rows = list_at(row, "answers")
    raw = "title" in row or any("votes" not in answer for answer in rows)
    text = text_at(row, "question")
    if raw:
        title = text_at(row, "title").strip() if row.get("title") is not None else ""
        text = f"{title}\n\n{html_to_markdown(text)}"
    answers = []
    for number, answer in enumerate(rows, 1):
        try:
            answers.append(_read_answer(answer, number, raw, site))
        except BadRow as bad:
            raise BadRow(f"answer {number}: {bad}") from None
    if sum(answer.accepted for answer in answers) > 1:
        raise BadRow("several answers are accepted; a question has one at most")
    if len({answer.answer_id for answer in answers}) < len(answers):
        raise BadRow("two answers have one answer_id")
    return Question(qid, site, text.strip(), [answer for answer in answers if answer.text], _author(row),
                    _license(row), _url(row) or f"https://{site}/questions/{qid}")


def _read_answer(row: dict[str, Any], number: int, raw: bool, site: str) -> Answer:
    accepted = row.get("selected" if raw else "accepted", False)
    if not isinstance(accepted, bool):
        raise BadRow(f'"{"selected" if raw else "accepted"}" holds {accepted!r}, not true or false')
    answer_id = whole_number_at(row, "answer_id") if "answer_id" in row else number
    text = text_at(row, "text")
    return Answer(answer_id, html_to_markdown(text) if raw else text.strip(),
                  whole_number_at(row, "score" if raw else "votes"), accepted, _author(row), _license(row),
                  _url(row) or (f"https://{site}/a/{answer_id}" if "answer_id" in row else ""))


def _author(row: dict[str, Any]) -> int | None:
    return whole_number_at(row, "author_id") if row.get("author_id") is not None else None


def _license(row: dict[str, Any]) -> str:
    return text_at(row, "license") or LICENSE if row.get("license") is not None else LICENSE


def _url(row: dict[str, Any]) -> str:
    return text_at(row, "url") if row.get("url") is not None else ""
