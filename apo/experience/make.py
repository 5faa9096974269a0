"""From a config to its batch source."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable

from apo.data.chat import chat_of
from apo.data.store import TokenStore, token_ids
from apo.evaluation import Template, as_trained, banned_ids
from apo.experience.judging import judge_of, writer_of
from apo.experience.merging import left_by
from apo.experience.new_prompts import NewPrompts
from apo.experience.prompts import Prompts, prompts_of
from apo.experience.rounds import Rounds
from apo.experience.writing import ByScorer, Writer, unjudged
from apo.models.reference import reference_of
from apo.objectives.online import Online
from apo.rollouts.generate import Continuation, generate
from apo.schema import Config, ScenarioConfig


def rounds(config: Config, objective: Online, corpus: Any, store: TokenStore, policy: Any, tokenizer: Any, scorer: Any,
           end_id: int, *, folder: Path, timed: Callable[[dict[str, Any]], None], precision: str,
           before: Path | None = None) -> Rounds:
    """Args:
        corpus: `apo.data.corpus.Corpus`, of which `store` are the training documents.
        policy: as training begins; where the objective needs it as a reference, it is kept now.
        scorer: what judges what is written.
        folder: where rounds are kept.
        timed: takes a line of what a round cost.
        precision: of training.
        before: where the run that this one starts from kept its rounds; None for one that is not named.
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
                    config.seed, sampler_of(config, folder))
    judge = unjudged if scorer is None else ByScorer(scorer)
    if options.judge.kind != "none":
        judge = judge_of(options.judge, scorer=scorer, policy=policy, tokenizer=tokenizer, seed=config.seed,
                         chat_template=config.data.chat_template, batch_size=config.evaluation.batch_size,
                         folder=folder)
    made = Rounds(options, objective, prompts, policy, writer, judge, config.seed,
                  config.training.effective_batch_size, config.training.per_device_train_batch_size, precision, folder,
                  timed)
    if options.new_prompts.kind != "none":
        made.new_prompts = _new_prompts(config, prompts, policy, tokenizer, end_id, folder)
    if before is not None:
        made.before = partial(left_by, before, objective.name, config.data.block_size)
    return made


def _new_prompts(config: Config, prompts: Prompts, policy: Any, tokenizer: Any, end_id: int,
                 folder: Path) -> NewPrompts:
    options, room = config.rollout.new_prompts, config.data.block_size - config.rollout.max_new_tokens
    writer = writer_of(options, policy=policy, tokenizer=tokenizer, chat_template=config.data.chat_template,
                       seed=config.seed, batch_size=config.evaluation.batch_size, doing="writing prompts")
    chat = chat_of(config.data, tokenizer)

    def ids_of(text: str) -> list[int]:
        ids = token_ids(tokenizer, [text]) if chat is None else chat.ids([chat.prompt(text)])
        return [end_id, *ids[0]]
    return NewPrompts(options, writer, [prompt.text for prompt in prompts.found], ids_of, room, config.seed, folder)


def sampler_of(config: Config, folder: Path) -> Callable[..., list[Continuation]]:
    """Who writes.  `folder`: of the run's rounds."""
    if config.rollout.backend == "hf":
        return generate
    from apo.rollouts.vllm_engine import VllmSampler
    return VllmSampler(folder / "vllm", config.data.block_size, config.rollout.gpu_memory_utilization)


def check_sampler(config: Config) -> None:
    """Raises ModelError where who is to write cannot be had here, as far as that is known without a model."""
    if config.rollout.backend == "vllm":
        from apo.rollouts.vllm_engine import check_vllm
        check_vllm()


def _scenario(config: Config, of_completions: bool) -> ScenarioConfig:
    """As samples are written in the evaluation that picks the best checkpoint, in the form of the training rows."""
    scenarios, name = config.evaluation.scenarios, config.evaluation.best
    chosen = scenarios.get(name or next(iter(scenarios), ""), ScenarioConfig()) if of_completions else ScenarioConfig()
    chosen = replace(as_trained(chosen, config), prefix="", chat_template=config.data.chat_template)
    if config.rollout.stop_strings is None:
        return chosen
    return replace(chosen, generation=replace(chosen.generation, stop_strings=config.rollout.stop_strings))
