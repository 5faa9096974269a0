"""What methods on completions train on: rows of prompts with completions, training and held out, and what the policy
said of each completion before its first step.

The task's own completions, or, where it has only text, continuations that the policy wrote (`apo/sampled.py`).
"""

from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import numpy as np

from apo.advantages import Advantages
from apo.budget import training_steps
from apo.cache import Cache
from apo.console import say, warn
from apo.data.chat import chat_key
from apo.data.labelled import LabelledRows, labelled
from apo.data.ranked import RankedRows, preferences, rankings
from apo.data.scored import ScoredRows
from apo.data.scored import completions as completions_of
from apo.data.tokenizer import tokenizer_fingerprint
from apo.errors import DataError
from apo.evaluation import Template, as_trained, banned_ids, of_completions
from apo.models.reference import reference_of
from apo.objectives.base import Known, NothingToDraw, Objective, PromptValue
from apo.reference_logps import reference_logps, reference_token_logps, weights_digest
from apo.reference_value import Writing, reference_value
from apo.sampled import sampled_corpus
from apo.schema import Config, GenerationConfig, ScenarioConfig
from apo.training_arguments import resolve_precision

READ_AT_ONCE = 4
"""Times as many prompts as rows in training: without gradients they need far less memory."""
VIEWS = {
    "preference": (RankedRows, lambda store, data: preferences(store, data.pairs_per_prompt)),
    "ranking": (RankedRows, lambda store, data: rankings(store, data.ranking_length)),
    "label": (LabelledRows, lambda store, data: labelled(store)),
    "completion": (ScoredRows, lambda store, data: completions_of(store)),
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
    advantages: dict | None = None
    """What stands in `advantages.json`, where the objective looks at what the reference is expected to earn."""
    steps: float = 1.0
    """Share of the run's steps that is made."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    """Of what is served, where that depends on numbers computed before training: on another machine they may differ in
    the last digit, and a cursor would point into another list."""


def compared(config: Config, objective: Objective, corpus, stores: tuple, policy, tokenizer, scorer, end_id: int,
             cache: Cache) -> Compared:
    """Args:
        stores: the corpus's tokenised documents, training and held out.
        policy: as training begins.
        end_id: of the token in front of every prompt.
    Raises DataError where no completion of the training data is better than another.
    """
    needs = objective.needs
    with on_its_device(policy):
        corpus, stores = completions(config, corpus, stores, policy, tokenizer, scorer, cache)
        train = rows(config, objective, stores[0], end_id)
        found = Compared(train, None, {}, resolve_precision(config.training.precision))
        try:
            found.heldout = rows(config, objective, stores[1], end_id)
        except DataError as error:
            warn(f"nothing is measured on held-out items: {str(error).replace('training data', 'held-out data')}")
        key = {"corpus": corpus.fingerprint, "tokenizer": tokenizer_fingerprint(tokenizer),
               **chat_key(config.data, tokenizer)}
        if config.data.reward_noise:        # completions then stand in another order, and documents are known by number
            key["reward_noise"] = config.data.reward_noise
        if needs.reference or needs.reference_tokens or needs.prompt_value:
            key["weights"] = weights_digest(policy)
        if needs.view == "completion":
            choose(config, objective, found, corpus, policy, tokenizer, scorer, key, cache)
        sizes = corpus.describe() | train.describe()
        train.reach = training_steps(config, sizes["tokens_per_epoch"], sizes["tokens_per_step"])
        both = [(split, each) for split, each in (("train", train), ("heldout", found.heldout)) if each is not None]
        for split, each in both:
            asked = ({**key, "split": split}, cache, found.precision, config.training.per_device_train_batch_size)
            if needs.reference_tokens:
                each.keep_reference_tokens(reference_token_logps(policy, each, *asked))
            elif needs.reference:
                each.keep_reference(reference_logps(policy, each, *asked))
        if needs.reference_model:
            objective.reference = reference_of(policy)
    scale = corpus.reward_scale.describe() if corpus.reward_scale else {}
    found.sizes |= train.describe() | scale
    return found


def choose(config: Config, objective: Objective, found: Compared, corpus, policy, tokenizer, scorer, key: dict,
           cache: Cache) -> None:
    """Rewards on the objective's scale, V of every prompt where it asks for it, and what it then draws from."""
    train = found.train
    raw_P = train.rewards_D[train.documents_P]

    def scale(raw):
        """Of the scorer, to the objective's scale: as the data's, standardised where theirs are."""
        if corpus.reward_scale is not None:
            raw = (raw - corpus.reward_scale.mean) / corpus.reward_scale.std
        return objective.rewards(raw, raw_P)

    for each in (train, found.heldout):
        if each is not None:
            each.rewards_D = objective.rewards(each.rewards_D, raw_P)
    rewards_P, good_P, values_P = train.rewards_D[train.documents_P], train.good_P, np.full(len(raw_P), np.nan)
    fit = None
    if value := objective.needs.prompt_value:
        fit = reference_value(value, policy, (train, found.heldout), corpus,
                              writing(config, value, policy, tokenizer, scorer), scale, config.seed, key, cache)
        values_P = train.values_D[train.documents_P]
    draw = objective.draw(Known(rewards_P, values_P, good_P))
    if fit is not None:
        advantages = Advantages(rewards_P, values_P, good_P, draw, fit, train.documents_P)
        say(advantages.describe())
        found.sizes |= advantages.sizes()
        found.advantages = advantages.summary() | {
            "examples": advantages.extremes(lambda document: train.text_of(document, tokenizer))}
    train.keep(draw.kept_P, draw.weights_P)
    if fit is not None:
        found.fingerprints["completions served"] = train.fingerprint()
    found.steps = draw.steps
    if found.heldout is not None:
        keep_alike(objective, found.heldout)


def keep_alike(objective: Objective, heldout: ScoredRows) -> None:
    """Of held-out completions, those that the objective would draw from, each once; all where it finds none of them
    worth anything."""
    values_P = np.full(heldout.num_items, np.nan) if heldout.values_D is None else heldout.values_D[heldout.documents_P]
    with suppress(NothingToDraw):
        heldout.keep(objective.draw(Known(heldout.rewards_D[heldout.documents_P], values_P, heldout.good_P)).kept_P)


def writing(config: Config, value: PromptValue, policy, tokenizer, scorer) -> Writing:
    """How the reference answers, in order to be judged: as in the scenario that picks the best checkpoint, where the
    data are prompts with completions; as completions are sampled, where they are text."""
    if of_completions(config):
        scenarios = config.evaluation.scenarios
        name = config.evaluation.best or next(iter(scenarios), None)
        scenario = as_trained(scenarios[name], config) if name else as_trained(ScenarioConfig(), config)
        generation = scenario.generation
    else:
        scenario = as_trained(ScenarioConfig(), config)
        generation = GenerationConfig(max_new_tokens=config.data.sampled.max_new_tokens)
    generation = replace(generation, do_sample=value.temperature > 0, temperature=value.temperature or 1.0, top_p=1.0,
                         top_k=0)
    # in the form of the rows that are asked about, whatever the scenario's: the one that V is kept under
    template = Template.of(replace(scenario, prefix="", chat_template=config.data.chat_template), config.evaluation,
                           tokenizer)
    return Writing(generation, template, tokenizer, scorer, config.evaluation.batch_size,
                   banned_ids(scenario, config.evaluation, tokenizer, "banned token"),
                   READ_AT_ONCE * config.training.per_device_train_batch_size)


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
