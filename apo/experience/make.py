"""From a config to its batch source."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

from apo.data.store import TokenStore
from apo.evaluation import Template, as_trained, banned_ids
from apo.experience.judging import judge_of
from apo.experience.prompts import prompts_of
from apo.experience.rounds import Rounds
from apo.experience.writing import ByScorer, Writer, unjudged
from apo.models.reference import reference_of
from apo.objectives.online import Online
from apo.schema import Config, ScenarioConfig


def rounds(config: Config, objective: Online, corpus: Any, store: TokenStore, policy: Any, tokenizer: Any, scorer: Any,
           end_id: int, *, folder: Path, timed: Callable[[dict[str, Any]], None], precision: str) -> Rounds:
    """Args:
        corpus: `apo.data.corpus.Corpus`, of which `store` are the training documents.
        policy: as training begins; where the objective needs it as a reference, it is kept now.
        scorer: what judges what is written.
        folder: where rounds are kept.
        timed: takes a line of what a round cost.
        precision: of training.
    """
    options = config.rollout
    prompts = prompts_of(corpus, store, tokenizer, end_id, room=config.data.block_size,
                         new_tokens=options.max_new_tokens, count=config.data.sampled.num_prompts, seed=config.seed)
    if not objective.off_policy:
        policy.without_dropout()
    if objective.needs.reference_model:
        objective.reference = reference_of(policy)
    scenario = _scenario(config, store.of_completions)
    writer = Writer(options, tokenizer, Template.of(scenario, config.evaluation, tokenizer),
                    scenario.generation.stop_strings,
                    banned_ids(scenario, config.evaluation, tokenizer, "banned token"), config.evaluation.batch_size,
                    config.seed)
    judge = unjudged if scorer is None else ByScorer(scorer)
    if options.judge.kind != "none":
        judge = judge_of(options.judge, scorer=scorer, policy=policy, tokenizer=tokenizer, seed=config.seed,
                         chat_template=config.data.chat_template, batch_size=config.evaluation.batch_size,
                         folder=folder)
    return Rounds(options, objective, prompts, policy, writer, judge, config.seed,
                  config.training.effective_batch_size, config.training.per_device_train_batch_size, precision, folder,
                  timed)


def _scenario(config: Config, of_completions: bool) -> ScenarioConfig:
    """As samples are written in the evaluation that picks the best checkpoint, in the form of the training rows."""
    scenarios, name = config.evaluation.scenarios, config.evaluation.best
    chosen = scenarios.get(name or next(iter(scenarios), ""), ScenarioConfig()) if of_completions else ScenarioConfig()
    chosen = replace(as_trained(chosen, config), prefix="", chat_template=config.data.chat_template)
    if config.rollout.stop_strings is None:
        return chosen
    return replace(chosen, generation=replace(chosen.generation, stop_strings=config.rollout.stop_strings))
