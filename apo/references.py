"""Distributions over text that a model is compared with, as texts with their log-probabilities; and what the model
says of the same texts.

Three kinds of reference: the generator of a synthetic corpus, a causal language model, and a completions server.  Each
gives texts drawn from its full distribution (temperature 1, nothing cut off) with log p of what was drawn, in nats.
What was drawn is an *event*: a whole document with its end, or, where the drawing stopped at a number of tokens, a text
that a document begins with.  The model is asked for the probability of that same event.
"""

import json
import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Iterator

import torch

from apo.data.collate import Batch
from apo.data.sources.base import Source, lines
from apo.data.store import token_ids
from apo.data.tokenizer import single_id, tokenizer_fingerprint
from apo.errors import EvaluationError, ModelError
from apo.host import is_local
from apo.models.fingerprint import model_fingerprint
from apo.models.load import find_model, load_trained
from apo.models.policy import evaluating
from apo.rollouts.completions_server import Completion, CompletionsServer
from apo.rollouts.generate import Continuation, end_token_ids, generate
from apo.schema import GenerationConfig
from apo.seeds import stream_seed

FORMAT = 1
"""Of the cached texts; counted up when it changes."""
AT_ONCE = 64
"""Texts asked of a server between two looks for signals."""
KIND, TEXTS, TOKENIZER = "references", "texts.jsonl", "tokenizer.json"


@dataclass(slots=True)
class Text:
    """What was drawn from a reference."""

    segments: list[str]
    """Joined, the text.  One segment where the reference knows of none."""
    log_prob: float
    """Of the event, nats."""
    ended: bool
    """The document ended here, and its end is part of the event."""
    ids: list[int] | None = None
    """The tokens drawn, the end of text left out; None where there are none."""
    prompted: bool = False
    """The first segment is a prompt: what the event was drawn behind, and no part of it."""

    @property
    def broken(self) -> bool:
        """Drawn tokens that are not whole characters: as text they are something else."""
        whole = "".join(self.segments)
        return "\ufffd" in whole or any("\ud800" <= character <= "\udfff" for character in whole)


@dataclass
class Draw:
    """How many texts, how long, which ones."""

    count: int
    max_tokens: int
    seed: int
    batch_size: int = 128
    """Of a model's forward passes; changes no text."""

    def key(self) -> dict[str, int]:
        return {"count": self.count, "max_tokens": self.max_tokens, "seed": self.seed, "format": FORMAT}


# ---- references ------------------------------------------------------------------------------------------------------


class Reference(ABC):
    by_tokens = False
    """Texts come with token ids that mean something to a model of the same tokenizer."""

    @abstractmethod
    def key(self) -> dict[str, Any]:
        """Everything that decides its distribution, as far as it can be known without asking it."""

    @abstractmethod
    def draw(self, draw: Draw, device, progress) -> list[Text]:
        """`progress`: an object with `advance(texts)`."""

    def tokenizer(self) -> dict[str, Any]:
        """What the ids mean, of the texts drawn last."""
        return {}


class GeneratorReference(Reference):
    """The distribution that a synthetic corpus was drawn from.  New documents, not those of the corpus."""

    def __init__(self, source: Source):
        self.source = source

    def key(self) -> dict[str, Any]:
        return {"generator": self.source.name, "documents": self.source.fingerprint(), "entropy": self.entropy}

    @property
    def entropy(self) -> float:
        return self.source.generator.entropy()

    def draw(self, draw: Draw, device, progress) -> list[Text]:
        """Documents are short enough by themselves: `max_tokens` is not looked at."""
        made = self.source.generator.sample(draw.count, stream_seed(draw.seed, "kl"))
        progress.advance(len(made))
        return [Text(list(each.document.texts), each.log_prob, ended=True, prompted=each.document.standing is not None)
                for each in made]


class ModelReference(Reference):
    """A causal model and its own tokenizer.  Each text begins where the model's documents do."""

    by_tokens = True

    def __init__(self, name: str, revision: str | None, prefix: str):
        final = Path(name) / "final"
        self.name, self.revision, self.prefix = str(final) if final.is_dir() else name, revision, prefix

    def key(self) -> dict[str, Any]:
        return {"model": model_fingerprint(self.name, self.revision), "prefix": self.prefix}

    def draw(self, draw: Draw, device, progress) -> list[Text]:
        policy, tokenizer = load_trained(self.name, self.revision)
        policy.to(device)
        self._meaning = meaning(tokenizer)
        first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if first is None:
            raise EvaluationError(f"{self.name} has neither a begin- nor an end-of-text token to begin its texts with")
        begin = [first] + ([single_id(tokenizer, self.prefix, "the reference's prefix")] if self.prefix else [])
        generation = GenerationConfig(max_new_tokens=draw.max_tokens)
        drawn = generate(policy.model, [begin] * draw.count, generation, tokenizer=tokenizer, precision="fp32",
                         seed=stream_seed(draw.seed, "kl"), batch_size=draw.batch_size, progress=progress)
        rows = [Row(begin + each.ids, [False] * len(begin) + [True] * len(each.ids)) for each in drawn]
        width = len(begin) + draw.max_tokens
        ends = set(end_token_ids(policy.model, tokenizer))
        return [self._text(tokenizer, each, ends, log_prob)
                for each, log_prob in zip(drawn, log_probs(policy, rows, width, draw.batch_size, progress.check))]

    def tokenizer(self) -> dict[str, Any]:
        return self._meaning

    @staticmethod
    def _text(tokenizer, drawn: Continuation, ends: set[int], log_prob: float) -> Text:
        ids = drawn.ids[:-1] if drawn.finished and drawn.ids[-1] in ends else drawn.ids
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False) if ids else ""
        return Text([text], log_prob, len(ids) < len(drawn.ids), ids)


class ServerReference(Reference):
    """A completions server that gives log-probabilities.  What weights it serves nobody can know: texts are kept under
    its address and the model's name."""

    def __init__(self, url: str, model: str, api_key_env: str, prompt: str, offline: bool):
        self.server, self.prompt = CompletionsServer(url, model, api_key_env), prompt
        self.offline = offline and not is_local(url)

    def key(self) -> dict[str, Any]:
        return {"server": self.server.url, "model": self.server.model, "prompt": self.prompt}

    def draw(self, draw: Draw, device, progress) -> list[Text]:
        if self.offline:
            raise EvaluationError(f"offline=true, and the texts of {self.server.url} are not in the cache")
        found: list[Text] = []
        while len(found) < draw.count:
            some = self.server.complete(self.prompt, min(AT_ONCE, draw.count - len(found)), draw.max_tokens, 1.0, 1.0,
                                        seed=stream_seed(draw.seed, "kl", len(found)) % 2**31, logprobs=True)
            found += map(self._text, some)
            progress.advance(len(some))
        return found

    @staticmethod
    def _text(completion: Completion) -> Text:
        return Text([completion.text], math.fsum(completion.logprobs), completion.end_counted)


def meaning(tokenizer) -> dict[str, Any]:
    """Enough of a tokenizer to say whether ids mean the same to another."""
    special = {str(token_id): token.content for token_id, token in tokenizer.added_tokens_decoder.items()}
    return {"fingerprint": tokenizer_fingerprint(tokenizer), "special": special}


# ---- drawn once ------------------------------------------------------------------------------------------------------


@dataclass
class Drawn:
    """Texts of a reference from the cache."""

    texts: list[Text]
    tokenizer: dict[str, Any]

    def same_tokens(self, tokenizer) -> bool:
        """Do the ids drawn mean the same to this tokenizer?"""
        ours = meaning(tokenizer)
        if not self.tokenizer or self.tokenizer["fingerprint"] != ours["fingerprint"]:
            return False
        used = {token for text in self.texts for token in text.ids}
        return max(used, default=0) < len(tokenizer) and all(
            self.tokenizer["special"].get(str(token)) == ours["special"].get(str(token)) for token in used)


def find(reference: Reference, draw: Draw, cache) -> None:
    """Raises ModelError where a model is not there, unless its texts are: then it is not needed any more.  Whether a
    server answers is known when it is asked.  `cache`: as below."""
    try:
        if isinstance(reference, ModelReference):
            find_model(reference.name, reference.revision)
    except ModelError:
        if not cache.has(KIND, {**reference.key(), **draw.key()}):
            raise


def drawn(reference: Reference, draw: Draw, cache, device, progress) -> Drawn:
    """The reference's texts, from the cache or drawn now.  `cache`: `apo.cache.Cache`."""

    def build(folder: Path) -> None:
        texts = reference.draw(draw, device, progress)
        (folder / TEXTS).write_text("".join(json.dumps(asdict(text)) + "\n" for text in texts), encoding="utf-8")
        (folder / TOKENIZER).write_text(json.dumps(reference.tokenizer()), encoding="utf-8")

    folder = cache.get(KIND, {**reference.key(), **draw.key()}, build)
    try:
        texts = [Text(**json.loads(line)) for line in (folder / TEXTS).read_text(encoding="utf-8").splitlines()]
        return Drawn(texts, json.loads((folder / TOKENIZER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise EvaluationError(f"{folder}: damaged texts of a reference ({error}); delete this folder") from None


# ---- what the model says ---------------------------------------------------------------------------------------------


@dataclass
class Row:
    """Tokens, and whether the prediction of each counts."""

    ids: list[int]
    counted: list[bool]


@dataclass
class Layout:
    """How a text becomes tokens of the policy: as documents do in training."""

    tokenizer: Any
    end_id: int
    """Stands before every document, and so after every whole one."""
    prefix_id: int | None
    by_line: bool
    """Where a text comes in one piece: its lines are the segments."""

    @classmethod
    def of(cls, tokenizer, concat_token: str | None, prefix: str, by_line: bool) -> "Layout":
        prefix_id = single_id(tokenizer, prefix, "the prefix of callbacks.kl,") if prefix else None
        return cls(tokenizer, single_id(tokenizer, concat_token, "data.concat_token"), prefix_id, by_line)

    def row(self, text: Text, by_tokens: bool) -> Row:
        """[end-of-text] + for every segment [prefix] + its tokens, + [end-of-text] where the document ended.  Context
        are the first token, the prefixes, and a prompt, which has no prefix.  `by_tokens`: the very tokens that were
        drawn, where no prefix would have to be put between them."""
        prefix = [] if self.prefix_id is None else [self.prefix_id]
        if by_tokens and not (prefix and self.by_line):
            segments = [text.ids]
        else:
            whole = text.segments
            if self.by_line and len(whole) == 1:
                whole = lines(whole[0])
            segments = token_ids(self.tokenizer, whole) if whole else []
        ids, counted = [self.end_id], [False]
        if text.prompted:
            ids += segments[0]
            counted += [False] * len(segments[0])
        for segment in segments[text.prompted:] or [[]]:
            ids += prefix + segment
            counted += [False] * len(prefix) + [True] * len(segment)
        if text.ended:
            ids.append(self.end_id)
            counted.append(True)
        return Row(ids, counted)


@torch.no_grad()
def log_probs(policy, rows: list[Row], width: int, batch_size: int, check=lambda: None) -> list[float]:
    """Sum of log p over the counted tokens of each row, nats.

    A row longer than `width` is read in pieces of `width` tokens; neighbours share one, so that every token but the
    first is predicted once, from no more than the piece it stands in: the model as it was trained, which never saw
    further back.  Rows of like length are read together, padded on the right, where a causal model does not look.
    """
    pieces = sorted(((number, piece) for number, row in enumerate(rows) for piece in _pieces(row, width)),
                    key=lambda item: len(item[1].ids))
    sums = [0.0] * len(rows)
    with evaluating(policy):
        for start in range(0, len(pieces), batch_size):
            check()
            some = pieces[start:start + batch_size]
            batch = _batch([piece for _, piece in some]).to(policy.device)
            stats = policy.token_stats(batch)
            sums_B = torch.where(stats.mask_BT, stats.logps_BT.double(), 0).sum(1)
            for (number, _), total in zip(some, sums_B.tolist()):
                sums[number] += total
    return sums


def _pieces(row: Row, width: int) -> Iterator[Row]:
    for start in range(0, max(len(row.ids) - 1, 1), width - 1):
        yield Row(row.ids[start:start + width], row.counted[start:start + width])


def _batch(rows: list[Row]) -> Batch:
    width = max(len(row.ids) for row in rows)
    ids_BT = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows])
    mask_BT = torch.tensor([row.counted + [False] * (width - len(row.ids)) for row in rows])
    return Batch(ids_BT, torch.zeros(ids_BT.shape), mask_BT)
