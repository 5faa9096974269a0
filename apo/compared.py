"""What methods train on that compare completions: rows of prompts with completions, training and held out, and what the
policy said of each completion before its first step.

The task's own completions, or, where it has only text, continuations that the policy wrote (`apo/sampled.py`).
"""

from contextlib import contextmanager
from dataclasses import dataclass

from apo.cache import Cache
from apo.console import warn
from apo.data.chat import chat_key
from apo.data.labelled import LabelledRows, labelled
from apo.data.ranked import RankedRows, preferences, rankings
from apo.data.tokenizer import tokenizer_fingerprint
from apo.errors import DataError
from apo.objectives.base import Objective
from apo.reference_logps import reference_logps, weights_digest
from apo.sampled import sampled_corpus
from apo.schema import Config
from apo.training_arguments import resolve_precision

VIEWS = {
    "preference": (RankedRows, lambda store, data: preferences(store, data.pairs_per_prompt)),
    "ranking": (RankedRows, lambda store, data: rankings(store, data.ranking_length)),
    "label": (LabelledRows, lambda store, data: labelled(store)),
}
"""By what a method `needs`: the rows, and what they are made of."""


@dataclass
class Compared:
    train: RankedRows
    heldout: RankedRows | None
    """None where no held-out prompt has completions to compare."""
    sizes: dict
    """What is known of their rows and rewards."""
    precision: str
    """In which the reference was asked, that of training: before the first step policy and reference are equal."""


def compared(config: Config, objective: Objective, corpus, stores: tuple, policy, tokenizer, scorer, end_id: int,
             cache: Cache) -> Compared:
    """Args:
        stores: the corpus's tokenised documents, training and held out.
        policy: as training begins.
        end_id: of the token in front of every prompt.
    Raises DataError where no completion of the training data is better than another.
    """
    with on_its_device(policy):
        corpus, stores = completions(config, corpus, stores, policy, tokenizer, scorer, cache)
        train = rows(config, objective, stores[0], end_id)
        scale = corpus.reward_scale.describe() if corpus.reward_scale else {}
        found = Compared(train, None, train.describe() | scale, resolve_precision(config.training.precision))
        try:
            found.heldout = rows(config, objective, stores[1], end_id)
        except DataError as error:
            warn(f"nothing is measured on held-out items: {str(error).replace('training data', 'held-out data')}")
        if objective.needs.reference:
            key = {"corpus": corpus.fingerprint, "tokenizer": tokenizer_fingerprint(tokenizer),
                   "weights": weights_digest(policy), **chat_key(config.data, tokenizer)}
            for split, each in (("train", found.train), ("heldout", found.heldout)):
                if each is not None:
                    each.keep_reference(reference_logps(policy, each, {**key, "split": split}, cache, found.precision,
                                                        config.training.per_device_train_batch_size))
    return found


def completions(config: Config, corpus, stores: tuple, policy, tokenizer, scorer, cache: Cache) -> tuple:
    """(corpus, stores) of prompts with completions: the task's own, or what the policy, as training begins, writes."""
    if not stores[0].of_completions:
        corpus = sampled_corpus(config.data.sampled, corpus, policy, weights_digest(policy), tokenizer, scorer,
                                config.seed, config.evaluation.batch_size, cache)
        stores = corpus.tokenise(tokenizer, cache)
    return corpus, stores


def rows(config: Config, objective: Objective, store, end_id: int) -> RankedRows:
    """The store's completions as the objective's view has them."""
    made, found = VIEWS[objective.needs.view]
    return made(store, found(store, config.data), max_length=config.data.block_size, end_id=end_id,
                effective_batch_size=config.training.effective_batch_size, seed=config.seed,
                bucket_steps=config.data.bucket_steps)


@contextmanager
def on_its_device(policy):
    """On the GPU, if there is one, although training has not taken it there yet."""
    import torch
    home = policy.device
    policy.to("cuda" if torch.cuda.is_available() else "cpu")
    try:
        yield
    finally:
        policy.to(home)
