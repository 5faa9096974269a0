"""How much of the private data in labelled text the scorer `pii` finds, by type.

    python scripts/pii_recall.py                                    # the synthetic corpus, where everything is known
    python scripts/pii_recall.py a.jsonl b.jsonl.gz                 # {"text", "spans": [{"type", "start", "end"}]}
    python scripts/pii_recall.py --detectors email,phone,address FILE

A labelled value counts as *found* where a filth of its kind overlaps it, as *touched* where any filth does.  What
touches no label at all is counted last; where not everything private is labelled, that need not be a mistake.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Iterator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apo.data.sources.base import BadRow, sources
from apo.data.sources.file import rows_of
from apo.errors import DataError, UserError, nearest
from apo.schema import DataConfig, SyntheticConfig
from apo.scorers.base import Scorer, Span, quoted
from apo.scorers.make import make_scorer

KINDS = {"EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "US_SSN": "social_security_number",
         "SOCIAL_SECURITY_NUMBER": "social_security_number", "CREDIT_CARD": "credit_card",
         "CREDIT_CARD_NUMBER": "credit_card", "URL": "url", "DOMAIN_NAME": "url", "STREET_ADDRESS": "address",
         "DATE_OF_BIRTH": "date_of_birth", "PERSON": "name", "PERSON_NAME": "name", "ORGANIZATION": "organization",
         "ORGANIZATION_NAME": "organization", "SOCIAL_MEDIA_HANDLE": "twitter"}
"""Labels of known data sets in the scorer's words.  A label that is a word of the scorer's stays."""
Labelled = tuple[str, list[Span]]


@dataclass
class Recall:
    """Counts by label."""

    labelled: Counter = field(default_factory=Counter)
    found: Counter = field(default_factory=Counter)
    touched: Counter = field(default_factory=Counter)
    filths: Counter = field(default_factory=Counter)
    beside: Counter = field(default_factory=Counter)
    """Filths by their kind, and those of them that touch no label."""
    characters: int = 0


def recall(documents: Iterable[Labelled], scorer: Scorer) -> Recall:
    counts = Recall()
    for text, labels in documents:
        counts.characters += len(text)
        [filths] = scorer.spans([text])
        for label in labels:
            touching = [filth.type for filth in filths if overlap(filth, label)]
            counts.labelled[label.type] += 1
            counts.touched[label.type] += bool(touching)
            counts.found[label.type] += KINDS.get(label.type, label.type) in touching
        for filth in filths:
            counts.filths[filth.type] += 1
            counts.beside[filth.type] += not any(overlap(filth, label) for label in labels)
    return counts


def overlap(a: Span, b: Span) -> bool:
    return a.begin < b.end and b.begin < a.end


def synthetic(documents: int) -> Iterator[Labelled]:
    synthetic = SyntheticConfig(num_documents=documents)
    source = sources.get("synthetic_pii")(DataConfig(source="synthetic_pii", synthetic=synthetic))
    for each in source.planted():
        yield "".join(each.document.texts), [Span(*planted[:3]) for planted in each.planted]


def labelled(path: Path) -> Iterator[Labelled]:
    """Raises DataError for a file that cannot be read and for a row without text or spans."""
    for origin, row in rows_of(path):
        if isinstance(row, BadRow):
            raise DataError(f"{origin}: {row}")
        for column, kind, what in (("text", str, "text"), ("spans", list, 'a list of {"type", "start", "end"}')):
            if column not in row:
                raise DataError(f'{origin}: no "{column}", which is to be {what}.{nearest(column, row)}')
            if not isinstance(row[column], kind):
                raise DataError(f'{origin}: "{column}" is to be {what}, got {quoted(row[column])}')
        yield row["text"], [_span(span, len(row["text"]), origin) for span in row["spans"]]


def _span(span: Any, length: int, origin: str) -> Span:
    match span:
        case {"type": str(kind), "start": int(begin), "end": int(end)} if 0 <= begin <= end <= length:
            return Span(kind, begin, end)
    raise DataError(f'{origin}: a span is {{"type": ..., "start": ..., "end": ...}}, characters from 0 to {length}, '
                    f"where the text ends; got {quoted(span, 100)}")


def table(name: str, counts: Recall, least: int) -> str:
    """Markdown; labels that come up less often than `least` are summed up."""
    often = sorted(name for name, count in counts.labelled.items() if count >= least)
    rows = [f"**{name}**: {counts.characters:,} characters, {sum(counts.filths.values()):,} filths, "
            f"{sum(counts.beside.values()):,} of them beside every label", "",
            "| label | values | found | recall | touched by any |", "|---|---|---|---|---|"]
    for label in often:
        total, found = counts.labelled[label], counts.found[label]
        rows.append(f"| {label} | {total:,} | {found:,} | {found / total:.0%} | {counts.touched[label] / total:.0%} |")
    rest = [label for label in counts.labelled if label not in often]
    if rest:
        rows.append(f"| {len(rest)} rarer labels | {sum(counts.labelled[label] for label in rest):,} | | | |")
    beside = ", ".join(f"{kind} {count:,}" for kind, count in counts.beside.most_common() if count)
    return "\n".join([*rows, "", f"Beside every label: {beside or 'nothing'}.", ""])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="labelled JSON lines; none: the synthetic corpus")
    parser.add_argument("--detectors", default="default", help="a set (default, phf) or names with commas between them")
    parser.add_argument("--documents", type=int, default=9_000, help="of the synthetic corpus (default: all 9,000)")
    parser.add_argument("--least", type=int, default=10, help="labels that come up less often are not shown")
    options = parser.parse_args(arguments)
    names = options.detectors.split(",")
    try:
        scorer = make_scorer({"name": "pii", "detectors": options.detectors if options.detectors in ("default", "phf")
                              else names})
        scorer.fingerprint()
        # Read whole before anything is scored: a bad row of the last file is told at once, and not after the first.
        corpora = {str(path): list(labelled(path)) for path in options.files} or {
            "synthetic_pii": synthetic(options.documents)}
        for name, documents in corpora.items():
            print(table(name, recall(documents, scorer), options.least))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
