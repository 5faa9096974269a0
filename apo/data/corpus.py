"""A source's documents, scored once and kept on disk, split into training and held-out text, and tokenised.

Scores are cached under what they depend on (the documents, how they are cut, the scorer) and tokens under scores and
tokenizer, so a second run, another method or another seed finds both.  The split is by a hash of each document's
text: the same whatever the seed, the order or the other documents.
"""

import hashlib
import json
from dataclasses import asdict
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Literal

import numpy as np

from apo.cache import Cache, digest
from apo.console import progress, warn
from apo.data.chat import chat_of
from apo.data.records import ScoredText, Standing
from apo.data.rewards import RewardScale, with_noise
from apo.data.scoring import SegmentScorer, annotate
from apo.data.sources.base import Document, Source, segmentation, sources
from apo.data.store import TokenStore, cached_store
from apo.errors import DataError
from apo.schema import DataConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Split = Literal["train", "heldout"]
FORMAT = 3
"""Of the cached files; counted up when it changes."""
SCORED, SUMMARY = "scored.parquet", "summary.json"
ROWS_AT_ONCE = 64


def prepare_corpus(data: DataConfig, scorer: SegmentScorer | None, cache: Cache) -> "Corpus":
    """Reads and scores every document, unless the cache has them."""
    source = sources.get(data.source)(data)
    key = {"format": FORMAT, "source": data.source, "documents": source.fingerprint(),
           "scorer": scorer.fingerprint() if scorer is not None else None,
           "segment_by": segmentation(data.segment_by),
           **{name: getattr(data, name) for name in ("text_column", "score_column", "max_documents")}}

    def build(folder: Path) -> None:
        total = data.max_documents or source.size().documents
        write_scored(folder, annotate(source.limited(), scorer), total, f"{source}: no document has any text")

    folder = cache.get("scored", key, build)
    return Corpus(folder, source, digest({**key, "eval_fraction": data.eval_fraction}))


class Corpus:
    """Documents on disk; in memory, two hashes per document and nothing else."""

    reward_scale: RewardScale | None = None
    """Of standardised rewards, once they are tokenised."""

    def __init__(self, folder: Path, source: Source, fingerprint: str):
        self.folder, self.source, self.fingerprint = folder, source, fingerprint
        try:
            self.summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text())
            self._split()
        except (OSError, ValueError) as error:
            raise DataError(f"{folder}: damaged scored data ({error}); delete this folder") from None

    def documents(self, split: Split) -> Iterator[ScoredText]:
        """In the source's order."""
        chosen = self.train_D if split == "train" else self.heldout_D
        return read_scored(self.folder / SCORED, chosen)

    def texts(self, split: Split) -> Iterator[str]:
        """Segment by segment, as they are tokenised."""
        return (text for document in self.documents(split) for text in document.texts)

    def tokenise(self, tokenizer: "PreTrainedTokenizerBase", cache: Cache) -> tuple[TokenStore, TokenStore]:
        """Training and held-out documents, from the cache or tokenised now; of completions with the rewards that the
        options ask for."""
        chat = chat_of(self.source.data, tokenizer)
        train, heldout = (cached_store(cache, {"corpus": self.fingerprint, "split": split},
                                       partial(self.documents, split), int(chosen_D.sum()), tokenizer, chat)
                          for split, chosen_D in (("train", self.train_D), ("heldout", self.heldout_D)))
        if self.source.data.reward_noise:
            train = with_noise(train, self.source.data.reward_noise)
        if self.source.data.standardise_rewards and train.of_completions:
            self.reward_scale = RewardScale.of(train)
            train, heldout = self.reward_scale.applied(train), self.reward_scale.applied(heldout)
        return train, heldout

    @cached_property
    def prompts(self) -> dict[str, list[str]]:
        """Prompt sets the source makes from held-out documents."""
        if type(self.source).prompt_sets is Source.prompt_sets:
            return {}
        heldout = self.documents("heldout")
        return self.source.prompt_sets(each.text if each.standing is None else each.texts[0] for each in heldout)

    def describe(self) -> dict[str, Any]:
        """Sizes by split, `overlap` (held-out documents left out because training has their text too, whatever the
        white space), `empty` (documents without text, left out), where the scores come from, and, once they are
        tokenised, how rewards were scaled."""
        return {"documents": int(self.train_D.sum()), "heldout_documents": int(self.heldout_D.sum()),
                "overlap": self.overlap, **self.summary, **(self.reward_scale.describe() if self.reward_scale else {})}

    def _split(self) -> None:
        import pyarrow.parquet
        table = pyarrow.parquet.read_table(self.folder / SCORED, columns=["hash", "normal_hash"])
        hashes_D, normal_D = (table.column(name).to_numpy() for name in ("hash", "normal_hash"))
        heldout_D = heldout_mask(hashes_D, self.source.data.eval_fraction)
        copies_D = heldout_D & np.isin(normal_D, normal_D[~heldout_D])
        self.overlap = int(copies_D.sum())
        self.train_D, self.heldout_D = ~heldout_D, heldout_D & ~copies_D
        if self.overlap:
            warn(f"{self.overlap} of {heldout_D.sum()} held-out documents are also training documents; left out")


def heldout_mask(hashes_D: np.ndarray, fraction: float) -> np.ndarray:
    """Documents whose hash lies in the lowest `fraction` of all hashes; at least one on each side, unless `fraction`
    is 0.  Copies of one text stay together."""
    if fraction == 0:
        return np.zeros(len(hashes_D), bool)
    if hashes_D.min() == hashes_D.max():
        raise DataError(f"{len(hashes_D)} documents with one text between them: at least two different ones are "
                        "needed, one to train on and one held out (or data.eval_fraction=0 to hold out none)")
    mask_D = hashes_D < np.uint64(min(int(fraction * 2**64), 2**64 - 1))
    if mask_D.all():
        return hashes_D < hashes_D.max()
    return mask_D if mask_D.any() else hashes_D == hashes_D.min()


def text_hash(text: str) -> int:
    """64 bits of the sha256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def write_scored(folder: Path, documents: Iterable[Document], total: int | None, complaint: str) -> None:
    """Documents with scores to Parquet, those without any text left out.  DataError(complaint) where none is left."""
    import pyarrow
    import pyarrow.parquet
    schema = pyarrow.schema({"origin": pyarrow.string(), "texts": pyarrow.list_(pyarrow.string()),
                             "scores": pyarrow.list_(pyarrow.float64()), "hash": pyarrow.uint64(),
                             "normal_hash": pyarrow.uint64(), "standing": pyarrow.struct({
                                 "group": pyarrow.int32(), "rank": pyarrow.int32(), "ended": pyarrow.bool_()})})
    counts = {"segments": 0, "characters": 0, "bytes": 0, "empty": 0}
    documents = iter(documents)
    with pyarrow.parquet.ParquetWriter(folder / SCORED, schema, compression="zstd") as writer, \
            progress("scoring documents", total) as bar:
        while some := list(islice(documents, ROWS_AT_ONCE)):
            rows = [_row(document, counts) for document in some if any(document.texts)]
            counts["empty"] += len(some) - len(rows)
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            bar.advance(len(some))
    if not counts["segments"]:
        raise DataError(f"{complaint}; there is nothing to train on")
    (folder / SUMMARY).write_text(json.dumps(counts))


def read_scored(path: Path, chosen_D: np.ndarray | None = None) -> Iterator[ScoredText]:
    """What `write_scored` wrote, or the documents that `chosen_D` marks."""
    import pyarrow.parquet
    start, columns = 0, ["texts", "scores", "standing"]
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(ROWS_AT_ONCE, columns=columns):
        if chosen_D is not None:
            start, batch = start + len(batch), batch.filter(pyarrow.array(chosen_D[start:start + len(batch)]))
        for row in batch.to_pylist():
            standing = row["standing"] and Standing(**row["standing"])
            yield ScoredText(row["texts"], row["scores"], standing)


def _row(document: Document, counts: dict[str, int]) -> dict[str, Any]:
    text = "".join(document.texts)
    alike = text if document.standing is None else document.texts[0]    # completions of one prompt stay on one side
    counts["segments"] += len(document.texts)
    counts["characters"] += len(text)
    counts["bytes"] += len(text.encode())
    return {"origin": document.origin, "texts": document.texts, "scores": document.scores, "hash": text_hash(alike),
            "normal_hash": text_hash(" ".join(alike.split())),
            "standing": document.standing and asdict(document.standing)}
