"""Do the scores that a model is trained on still belong to its text?  PHF's input inspector.

Now and then the rows that come next are decoded, cut into their segments, scored anew, and the score that stands in
the rows is compared with the fresh one.  That catches a scorer that changed under its name, data that bring scores of
another scorer, and scores that slipped against the tokens.  Rows are looked at and not taken: training is the same to
the bit.

A segment that begins or ends outside the row cannot be judged, nor one whose tokens do not give back its text.  Where
the scorer judges a segment in the context of its document, the rest of that is read from the tokenised corpus; streamed
data have none, and there only documents that lie whole in a row are judged.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Callable, Iterator

import numpy as np

from apo.callbacks.base import Callback, Context, Measurement, callbacks
from apo.console import warn
from apo.data.scoring import segment_scores
from apo.errors import ConfigError
from apo.lazy import Lazy

store = Lazy("apo.data.store")

MOST_TOKENS = 20_000
"""A document longer than this is not scored for the sake of the few segments that lie in a row."""


@dataclass
class Segment:
    ids: list[int]
    stored: float
    whole: bool
    """Begins and ends within the row."""
    number: int
    """Of the tokenised corpus, where there is one."""
    text: str = ""
    fresh: float = float("nan")


@callbacks.register("inspector")
@dataclass
class Inspector(Callback):
    """Scores of the training rows against fresh ones."""

    num_rows: int = 4
    """Rows looked at each time, of those that the next step trains on."""
    tolerance: float = 1e-4
    """Difference above which scores are no longer the same; relative where the stored score is above 1."""
    examples: int = 8
    """Segments written to the samples, those with the largest difference first."""

    def __post_init__(self):
        if self.num_rows < 1 or self.tolerance < 0 or self.examples < 0:
            raise ConfigError("num_rows must be at least 1, tolerance and examples at least 0")

    def bind(self, context: Context) -> "Inspector":
        if context.scorer is None:
            raise ConfigError("callbacks.inspector: the data bring their scores and nothing scores them anew: name "
                              "what made them with scorer=")
        if context.config.data.standardise_rewards:
            raise ConfigError("callbacks.inspector: compares scores with what the scorer says, and "
                              "data.standardise_rewards has scaled them: leave one of the two out")
        return super().bind(context)

    def measure(self, policy, step: int, max_steps: int, check: Callable[[], None]) -> Measurement:
        rows = self.context.rows.peek(self.num_rows)
        documents = self.documents(rows)
        total = sum(map(len, documents))
        judged = self.judged(documents, rows.store)
        differences = np.array([abs(segment.stored - segment.fresh) for segment in judged])
        wrong = differences > self.tolerance * np.maximum(1, np.abs([segment.stored for segment in judged]))
        metrics = {"inspector/segments": len(judged), "inspector/left_out": total - len(judged)}
        if judged:
            metrics |= {"inspector/score_difference": float(differences.mean()),
                        "inspector/mismatches": float(wrong.mean())}
        if wrong.any():
            worst = judged[int(differences.argmax())]
            warn(f"step {step}: {wrong.sum()} of {len(judged)} segments of the training rows have another score than "
                 f"{self.context.config.scorer.get('name', 'the scorer')} gives them now; the largest difference is "
                 f"{differences.max():.4g}, stored {worst.stored:.4g} and fresh {worst.fresh:.4g}: "
                 f"{worst.text[:60]!r}")
        order = np.argsort(-differences, kind="stable")[:self.examples]
        rows = [{"prompt": "", "text": judged[i].text, "score": judged[i].fresh, "stored_score": judged[i].stored}
                for i in order]
        return Measurement(metrics, samples={"inspector": rows} if rows else {})

    def documents(self, rows) -> list[list[Segment]]:
        """What of each document lies in the rows (`apo.data.sampling.Peek`)."""
        found = []
        for ids_B, scores_B, segments_B, begins_B in zip(rows.ids_RB, rows.scores_RB, rows.segments_RB, rows.begins_RB):
            cuts = [0, *np.flatnonzero(begins_B), len(ids_B)]
            for begin, end in zip(cuts, cuts[1:]):
                if begin < end:
                    part = slice(begin, end)
                    found.append(list(self.cut(ids_B[part], scores_B[part], segments_B[part],
                                               begun=bool(begins_B[begin]), ended=end < len(ids_B))))
        return [document for document in found if document]

    def cut(self, ids_N, scores_N, segments_N, begun: bool, ended: bool) -> Iterator[Segment]:
        """Segments of one document.  `begun`: its first token is the one that stands before it."""
        if begun:
            ids_N, scores_N, segments_N = ids_N[1:], scores_N[1:], segments_N[1:]
        control = self.context.rows.view.control
        hidden = () if control is None else (control.aligned_id, control.misaligned_id)
        bounds = [0, *(np.flatnonzero(np.diff(segments_N)) + 1), len(ids_N)]
        for begin, end in zip(bounds, bounds[1:]):
            if begin < end:
                whole = (begin > 0 or begun) and (end < len(ids_N) or ended)
                ids = [token for token in ids_N[begin:end].tolist() if token not in hidden]
                yield Segment(ids, float(scores_N[begin]), whole, int(segments_N[begin]))

    def judged(self, documents: list[list[Segment]], tokens) -> list[Segment]:
        """Those that can be, with text and fresh score.  `tokens`: the tokenised corpus, or None."""
        if tokens is None:
            alone = all(len(document) == 1 for document in documents)
        else:
            alone = tokens.num_segments == tokens.num_documents
        whole = [segment for document in documents for segment in document if segment.whole]
        if alone or not self.context.scorer.in_context:
            whole = [segment for segment in whole if self.restored([segment])]
            self.fill([[segment] for segment in whole])
            return whole
        if tokens is None:
            return [segment for document in documents if all(segment.whole for segment in document)
                    and self.scored(document) for segment in document]
        return self.in_their_documents(whole, tokens)

    def in_their_documents(self, whole: list[Segment], tokens) -> list[Segment]:
        """Each judged beside all segments of the document it is of."""
        starts_S1, bounds_D1, found, read = tokens.segment_starts_S1, tokens.document_segments_D1, [], {}
        for segment in whole:
            document = int(np.searchsorted(bounds_D1, segment.number, side="right")) - 1
            first, end = int(bounds_D1[document]), int(bounds_D1[document + 1])
            if document not in read:
                others = [Segment(tokens.tokens_N[starts_S1[number]:starts_S1[number + 1]].tolist(), 0.0, True, number)
                          for number in range(first, end)]
                short = starts_S1[end] - starts_S1[first] <= MOST_TOKENS
                read[document] = others if short and self.scored(others) else None
            if read[document] is not None:
                same = read[document][segment.number - first]
                segment.text, segment.fresh = same.text, same.fresh
                found.append(segment)
        return found

    def scored(self, document: list[Segment]) -> bool:
        """Fills in texts and fresh scores of a whole document, where its tokens give back its text."""
        if not self.restored(document):
            return False
        self.fill([document])
        return True

    def fill(self, documents: list[list[Segment]]) -> None:
        """Fresh scores, as the data got theirs."""
        scores = segment_scores(self.context.scorer, [[segment.text for segment in document] for document in documents])
        for segment, score in zip(chain(*documents), chain(*scores)):
            segment.fresh = float(score)

    def restored(self, document: list[Segment]) -> bool:
        """Fills in the texts; does tokenising them give the tokens back?"""
        tokenizer = self.context.tokenizer
        for segment in document:
            segment.text = tokenizer.decode(segment.ids, clean_up_tokenization_spaces=False) if segment.ids else ""
        texts = [segment.text for segment in document]
        return store.token_ids(tokenizer, texts) == [segment.ids for segment in document]
