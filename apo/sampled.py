"""Prompts with completions for a task that has only scored text: the start policy continues beginnings of training
documents, and the scorer ranks what it wrote.

Made once and kept under all it depends on: the policy's weights, the documents, the scorer, the options and the run's
seed.  What comes out is a corpus of completions like any other, so every method that trains on preferences or rankings
trains on every task.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

import numpy as np

from apo.cache import Cache, digest
from apo.console import progress, say
from apo.data.corpus import FORMAT, Corpus, write_scored
from apo.data.sources.base import Document
from apo.data.tokenizer import tokenizer_fingerprint
from apo.errors import DataError
from apo.reference_logps import weights_digest
from apo.rollouts.generate import generate
from apo.schema import GenerationConfig, SampledConfig
from apo.scorers.base import Scorer, checked, checked_segments
from apo.seeds import stream, stream_seed

if TYPE_CHECKING:
    from apo.models.policy import Policy

LEAST, MOST = 20, 200
"""Characters of a beginning that is cut inside a segment."""


def sampled_corpus(options: SampledConfig, corpus: Corpus, policy: "Policy", tokenizer, scorer: Scorer, seed: int,
                   batch_size: int, cache: Cache) -> Corpus:
    """Raises DataError where the documents are too short to have a beginning, or nothing is better than anything."""
    key = {"format": FORMAT, "corpus": corpus.fingerprint, "weights": weights_digest(policy),
           "tokenizer": tokenizer_fingerprint(tokenizer), "scorer": scorer.fingerprint(), "seed": seed,
           **asdict(options)}

    def build(folder: Path) -> None:
        prompts = beginnings(corpus, options.num_prompts, seed)
        say(f"sampling {options.per_prompt} continuations of each of {len(prompts)} beginnings of training documents")
        documents = ranked(prompts, options, policy, tokenizer, scorer, seed, batch_size)
        write_scored(folder, documents, None, f"{corpus.source}: its policy wrote nothing")

    return Corpus(cache.get("sampled", key, build), corpus.source, digest(key))


@dataclass
class Beginning:
    prompt: str
    segments: list[str]
    """Joined, the prompt."""
    rest: list[str]
    """The segments that follow it in the document."""


def beginnings(corpus: Corpus, count: int, seed: int) -> list[Beginning]:
    """What training documents begin with: up to four segments and never all; of a document in one piece, some words.
    In an order drawn from the seed."""
    rng, found = stream(seed, "beginnings"), {}
    for document in corpus.documents("train"):
        segments = [text for text in document.texts if text]
        if len(segments) > 1:
            end = int(rng.integers(1, min(4, len(segments) - 1) + 1))
            begin, rest = segments[:end], segments[end:]
        else:
            begin = [cut_at_space("".join(segments), int(rng.integers(LEAST, MOST + 1)))]
            rest = ["".join(segments)[len(begin[0]):]]
        prompt = "".join(begin)
        if prompt.strip():
            found.setdefault(prompt, Beginning(prompt, begin, rest))
    if not found:
        raise DataError(f"{corpus.source}: no training document is long enough to be continued")
    order, all_found = rng.permutation(len(found))[:count], list(found.values())
    return [all_found[i] for i in order]


def cut_at_space(text: str, at: int) -> str:
    """The words that end before character `at`; at most half of the text."""
    return text[:min(at, len(text) // 2)].rpartition(" ")[0]


def ranked(prompts: list[Beginning], options: SampledConfig, policy: "Policy", tokenizer, scorer: Scorer, seed: int,
           batch_size: int) -> Iterator[Document]:
    """The different continuations of every prompt, the best first."""
    generation = GenerationConfig(temperature=options.temperature, max_new_tokens=options.max_new_tokens)
    asked = [ids_of(tokenizer, each) for each in prompts for _ in range(options.per_prompt)]
    with progress("sampling continuations", len(asked)) as bar:
        written = generate(policy.model, asked, generation, tokenizer=tokenizer, seed=stream_seed(seed, "sampled"),
                           batch_size=batch_size, progress=bar)
    for number, beginning in enumerate(prompts):
        some = written[number * options.per_prompt:(number + 1) * options.per_prompt]
        texts = {text: each.finished for each in some if (text := decoded(tokenizer, each.ids))}
        if options.with_original:
            texts |= original(tokenizer, beginning, options.max_new_tokens)
        scores = scores_of(scorer, beginning.prompt, list(texts)) if texts else []
        for rank, i in enumerate(np.argsort(scores, kind="stable")):
            text, numbers = list(texts)[i], [math.nan, scores[i]]
            yield Document(f"beginning {number + 1}", [beginning.prompt, text], numbers, rank, texts[text])


def ids_of(tokenizer, beginning: Beginning) -> list[int]:
    """Behind the end of the text before, segment by segment, as in training."""
    inside = tokenizer(beginning.segments, add_special_tokens=False)["input_ids"]
    return [tokenizer.eos_token_id, *(token for ids in inside for token in ids)]


def original(tokenizer, beginning: Beginning, max_tokens: int) -> dict[str, bool]:
    """How the document goes on, up to `max_tokens`, and whether that is its end."""
    text = "".join(beginning.rest)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return {text: True} if len(ids) <= max_tokens else {decoded(tokenizer, ids[:max_tokens]): False}


def decoded(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) if ids else ""


def scores_of(scorer: Scorer, prompt: str, texts: list[str]) -> list[float]:
    """Misalignment of each continuation: where segments are judged in their context, in that of the prompt."""
    if scorer.reads_prompt:
        numbers = checked(scorer, [prompt + text for text in texts])
    elif scorer.in_context:
        numbers = [checked_segments(scorer, [prompt, text])[1] for text in texts]
    else:
        numbers = checked(scorer, texts)
    return [-number for number in numbers] if scorer.kind == "reward" else numbers
