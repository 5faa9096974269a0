"""What a well-typed config can still get wrong: values out of range, and options that do not go together."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterator

from apo.errors import UserError, nearest
from apo.host import is_local
from apo.schema import Config, DataConfig

SCHEDULERS = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
              "inverse_sqrt")
"""transformers' schedules that need nothing but warm-up and steps: listed, because importing them takes seconds."""
OPTIMISERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "adamw_bnb_8bit", "adamw_8bit",
              "lion_8bit", "lion_32bit", "paged_adamw_32bit", "paged_adamw_8bit", "paged_lion_32bit",
              "paged_lion_8bit", "rmsprop", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit")
"""Those of transformers that torch and bitsandbytes bring."""
BUDGETS = ("num_tokens", "max_steps", "num_train_epochs")
BYTES_AND_END = 257
"""Smallest vocabulary of a byte-level tokenizer: every byte, and the end-of-text token."""


@dataclass(frozen=True)
class Limits:
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False

    def allow(self, number: float) -> bool:
        above = self.low is None or (number > self.low if self.low_open else number >= self.low)
        below = self.high is None or (number < self.high if self.high_open else number <= self.high)
        return above and below

    def __str__(self) -> str:
        low = self.low is not None and f"{'above' if self.low_open else 'at least'} {self.low:g}"
        high = self.high is not None and f"{'below' if self.high_open else 'at most'} {self.high:g}"
        return " and ".join(words for words in (low, high) if words)


POSITIVE, NOT_NEGATIVE, COUNT = Limits(0, low_open=True), Limits(0), Limits(1)
SHARE, BELOW_ONE, BETWEEN = Limits(0, 1), Limits(0, 1, high_open=True), Limits(0, 1, True, True)
ABOVE_ZERO_TO_ONE, PERCENT = Limits(0, 1, low_open=True), Limits(0, 100)

_OF_CLASS: dict[str, dict[Limits, str]] = {
    "TrainingConfig": {
        COUNT: "effective_batch_size per_device_train_batch_size max_steps logging_steps save_steps save_total_limit",
        POSITIVE: "num_tokens num_train_epochs learning_rate adam_epsilon max_grad_norm",
        NOT_NEGATIVE: "tokens_already_seen warmup_steps weight_decay",
        SHARE: "warmup_ratio",
        BELOW_ONE: "adam_beta1 adam_beta2",
    },
    "DataConfig": {COUNT: "max_documents pairs_per_prompt bucket_steps", Limits(2): "block_size ranking_length",
                   BELOW_ONE: "eval_fraction", SHARE: "reward_noise"},
    "SampledConfig": {COUNT: "num_prompts max_new_tokens", Limits(2): "per_prompt", POSITIVE: "temperature"},
    "JudgeConfig": {COUNT: "per_response max_tokens concurrency", NOT_NEGATIVE: "temperature",
                    ABOVE_ZERO_TO_ONE: "top_p"},
    "RolloutConfig": {COUNT: "prompts generations epochs max_new_tokens lengths", POSITIVE: "temperature",
                      ABOVE_ZERO_TO_ONE: "top_p", NOT_NEGATIVE: "top_k min_new_tokens missing_eos_penalty"},
    "ConditionalConfig": {SHARE: "drop_token_fraction"},
    "ModelConfig": {Limits(BYTES_AND_END): "vocab_size", BELOW_ONE: "dropout", NOT_NEGATIVE: "new_token_noise"},
    "LoraConfig": {COUNT: "r alpha", BELOW_ONE: "dropout"},
    "GenerationConfig": {
        NOT_NEGATIVE: "top_k min_new_tokens",
        COUNT: "num_beams max_new_tokens",
        POSITIVE: "temperature repetition_penalty",
        ABOVE_ZERO_TO_ONE: "top_p",
    },
    "ScenarioConfig": {COUNT: "num_samples"},
    "EvaluationConfig": {
        COUNT: "every_n_steps n_per_epoch batch_size num_bootstrap",
        NOT_NEGATIVE: "heldout_tokens on_steps",
        BETWEEN: "confidence",
    },
    "Config": {NOT_NEGATIVE: "seed"},
}
RANGES = {(cls, name): limits for cls, table in _OF_CLASS.items() for limits, names in table.items()
          for name in names.split()}


def out_of_range(value: Any, limits: Limits | None) -> str:
    """What is wrong with a well-typed value, or an empty string.  `{percentile: p}` has its own range everywhere."""
    if isinstance(value, dict):
        right = set(value) != {"percentile"} or PERCENT.allow(value["percentile"])
        return "" if right else f"a percentile must be {PERCENT}"
    numbers = value if isinstance(value, list) else [value]
    if limits is None or all(number is None or limits.allow(number) for number in numbers):
        return ""
    return f"must be {limits}"


def settled(config: Config, by_user: bool) -> Config:
    """The micro-batch made to fit the effective batch, unless the user named one that is smaller.

    It changes memory and speed, not the result, so it gives way: a micro-batch larger than the effective batch is
    lowered to it, and one of ours that does not divide it to the largest that does."""
    training = config.training
    micro = min(training.per_device_train_batch_size, training.effective_batch_size)
    if not by_user:
        micro = next(size for size in range(micro, 0, -1) if training.effective_batch_size % size == 0)
    return replace(config, training=replace(training, per_device_train_batch_size=micro))


def disagreements(config: Config) -> Iterator[tuple[str, str]]:
    """(option, what is wrong) for options that do not go together."""
    yield from _training(config)
    yield from _data(config)
    yield from _model(config)
    yield from _init_from(config)
    yield from _evaluation(config)
    yield from _templates(config)
    yield from _rollout(config)


def _training(config: Config) -> Iterator[tuple[str, str]]:
    training = config.training
    given = [name for name in BUDGETS if getattr(training, name) is not None]
    if len(given) != 1:
        have = " and ".join(f"training.{name}" for name in given) or "none is set"
        yield f"training.{given[-1] if given else BUDGETS[0]}", (
            f"exactly one of {', '.join(BUDGETS)} sets the budget; " + (f"{have} are set" if given else have))
    if training.num_tokens is not None and training.tokens_already_seen >= training.num_tokens:
        yield "training.tokens_already_seen", f"must be less than training.num_tokens={training.num_tokens:g}"
    micro, effective = training.per_device_train_batch_size, training.effective_batch_size
    if effective % micro:
        near = [size for size in range(1, effective + 1) if effective % size == 0]
        yield "training.per_device_train_batch_size", (
            f"must divide training.effective_batch_size={effective}, got {micro}; "
            f"{max(size for size in near if size <= micro)} and {min(size for size in near if size >= micro)} do")
    if training.optim not in OPTIMISERS:
        yield "training.optim", f'no optimiser "{training.optim}".{nearest(training.optim, OPTIMISERS)}'
    if training.lr_scheduler_type not in SCHEDULERS:
        yield "training.lr_scheduler_type", (f'no schedule "{training.lr_scheduler_type}".'
                                             f"{nearest(training.lr_scheduler_type, SCHEDULERS)}")


def _data(config: Config) -> Iterator[tuple[str, str]]:
    data, conditional = config.data, config.data.conditional_training_config
    yield from _source(data)
    yield from _view(config)
    if conditional.threshold is not None:
        tokens = (conditional.aligned_prefix, conditional.misaligned_prefix)
        if not all(tokens) or tokens[0] == tokens[1]:
            yield "data.conditional_training_config", (
                f"conditional training needs two different control tokens; aligned_prefix is {tokens[0]!r}, "
                f"misaligned_prefix is {tokens[1]!r}")
    elif config.evaluation.prefix and config.model.name is None:
        yield "data.conditional_training_config.threshold", (
            f"missing: a number or {{percentile: 50}}; without it the model never sees "
            f"evaluation.prefix={config.evaluation.prefix!r}")


def _view(config: Config) -> Iterator[tuple[str, str]]:
    """Whether the data have what the method trains on."""
    from apo.data.sources.base import sources
    from apo.identity import view_of
    try:
        view = view_of(config)
        record = sources.get(config.data.source).record
    except (UserError, TypeError, ValueError):
        return                  # said where it is wrong
    if config.data.loss_on == "all":
        yield from _loss_on(config, view, record)
    if config.data.chat_template != "plain":
        yield from _chat(config, record)
    if config.data.standardise_rewards and config.data.streaming:
        yield "data.standardise_rewards", "takes mean and deviation of all rewards, which streamed data do not tell"
    if config.data.reward_noise and config.data.streaming:
        yield "data.reward_noise", "deals out scores anew among all documents, which are not known of streamed data"
    if config.data.standardise_rewards and view == record == "scored_text":
        yield "data.standardise_rewards", (f"{config.method} trains on the scores of {config.data.source}, which are "
                                           "of texts without prompts and stay as they are: leave it out")
    if view == "scored_text" or record != "scored_text":
        return
    if not config.scorer:
        others = ", ".join(name for name in sources if sources.get(name).record != "scored_text")
        yield "scorer", (f"{config.method} compares completions, and {config.data.source} yields texts without "
                         "prompts. They can be sampled where a scorer ranks them: name one, or a source that has them: "
                         f"{others}")
    if config.data.streaming:
        yield "data.streaming", f"{config.method} compares completions, which are not streamed: set it to false"


def _rollout(config: Config) -> Iterator[tuple[str, str]]:
    """Whether what is sampled is what the method may learn from."""
    from apo.identity import option_class, view_of
    try:
        if view_of(config) != "rollout":
            return
        method, options = option_class("objective", config.objective["name"]), config.rollout
    except (UserError, TypeError, ValueError):
        return                  # said where it is wrong
    if options.lengths is not None and not (
            len(options.lengths) == 2 and options.lengths[0] <= options.lengths[1] <= options.max_new_tokens):
        yield "rollout.lengths", (f"[least, most], at most max_new_tokens={options.max_new_tokens}; got "
                                  f"{options.lengths}")
    if options.min_new_tokens > options.max_new_tokens:
        yield "rollout.min_new_tokens", f"must be at most max_new_tokens={options.max_new_tokens}"
    if config.data.streaming:
        yield "data.streaming", f"{config.method} answers training prompts, which are not streamed: set it to false"
    if config.data.block_size <= options.max_new_tokens:
        yield "rollout.max_new_tokens", (f"leaves no room for a prompt in data.block_size={config.data.block_size} "
                                         "tokens")
    yield from _judge(config)
    if not config.scorer and (options.judge.kind == "rule" or options.judge.kind == "none" and method.by_reward):
        yield "scorer", f"{config.method} learns from samples, and nothing judges them: name one"
    if options.with_original and not method.off_policy:
        yield "rollout.with_original", (f"{config.method} learns from what the policy writes and from nothing else: "
                                        "leave it out")
    if not method.off_policy:
        untrue = {name: getattr(options, name) for name, true in
                  (("temperature", 1.0), ("top_p", 1.0), ("top_k", 0), ("min_new_tokens", 0))
                  if getattr(options, name) != true}
        for name, value in untrue.items():
            yield f"rollout.{name}", (f"{config.method} rests on the probabilities of what the policy writes, and with "
                                      f"{name}={value:g} it would write from another distribution: leave it out")


def _judge(config: Config) -> Iterator[tuple[str, str]]:
    """Whether a judge has what it needs, and its template and pattern make sense."""
    from apo.judges.rubric import Rubric
    options = config.rollout.judge
    if options.kind == "none":
        return
    for name in {"server": ("url", "model"), "model": ("model",)}.get(options.kind, ()):
        if not getattr(options, name):
            yield f"rollout.judge.{name}", f"missing: a judge of kind {options.kind} needs it"
    if options.kind == "server" and options.url and config.offline and not is_local(options.url):
        yield "rollout.judge.url", "offline=true, and this is another machine"
    try:
        own = {"pattern": options.pattern, "low": options.low, "high": options.high}
        Rubric.from_file(Path(options.template), **own) if options.template else Rubric(**own)
    except UserError as error:
        yield "rollout.judge", str(error)


def _loss_on(config: Config, view: str, record: str) -> Iterator[tuple[str, str]]:
    """Where `data.loss_on=all` would say nothing."""
    if record == "scored_text":
        yield "data.loss_on", (f"{config.data.source} yields texts without prompts, which are in the loss as a whole: "
                               "leave it out")
    elif view != "scored_text" and not config.init_from.is_given:
        yield "data.loss_on", (f"{config.method} compares completions, and their prompts are in no loss of its own or "
                               "of a run it starts from: leave it out, or set init_from.method=mle")


def _chat(config: Config, record: str) -> Iterator[tuple[str, str]]:
    """Where there is no chat to be written, no template, or a reader that knows none."""
    from apo.identity import option_class
    if record == "scored_text":
        yield "data.chat_template", f"{config.data.source} yields texts without prompts: leave it out"
    elif not option_class("objective", config.objective["name"]).writes_text:
        yield "data.chat_template", f"what {config.method} trains is asked about plain transcripts: leave it out"
    elif config.data.chat_template == "tokenizer" and config.model.tokenizer is None and config.model.name is None:
        yield "data.chat_template", ("a tokenizer that is trained on the corpus has no chat template: name one that "
                                     "has (model.tokenizer, or model.name)")


def _templates(config: Config) -> Iterator[tuple[str, str]]:
    """Files with chat templates: whether they are there and write what they are given."""
    from apo.data.chat import NOT_FILES, template_problem
    scenarios = {f"evaluation.scenarios.{name}": each for name, each in config.evaluation.scenarios.items()}
    named = {"data.chat_template": config.data.chat_template,
             **{f"{at}.chat_template": scenario.chat_template for at, scenario in scenarios.items()}}
    for at, form in named.items():
        if form is not None and form not in NOT_FILES and (problem := template_problem(form)):
            yield at, problem


def _source(data: DataConfig) -> Iterator[tuple[str, str]]:
    """Built to hear what it has to say of its options: a source opens nothing before it is asked for documents."""
    from apo.data.sources.base import sources
    if data.source not in sources:
        yield "data.source", (f'no source "{data.source}".{nearest(data.source, sources)} '
                              f"There are: {', '.join(sources)}")
    elif (needed := sources.get(data.source).needs_path) and not data.path:
        yield "data.path", f"missing: {needed}"
    else:
        try:
            sources.get(data.source)(data)
        except UserError as error:
            yield from (("data.source", text) for text in getattr(error, "problems", [str(error)]))


def _model(config: Config) -> Iterator[tuple[str, str]]:
    model = config.model
    if model.from_scratch and model.name is None:
        yield "model.from_scratch", "needs model.name, whose architecture it takes; a fresh model has model.config"
    elif model.name is None and not model.config:
        yield "model.name", ("missing: a name on the hub or a directory (model=hub model.name=gpt2), or the size of a "
                             "fresh model in model.config")
    given = model.is_trained or config.init_from.is_given
    adapted = model.lora.r is not None
    if adapted and not given and (model.name or model.config):
        yield "model.lora.r", ("an adapter needs a model that is trained already and kept somewhere, and a fresh one "
                               "is neither: give one as model.name, or leave model.lora.r out")
    elif model.quantization != "none" and not given and (model.name or model.config):
        yield "model.quantization", "rounds weights that are given by model.name; a fresh model has none yet"
    elif model.quantization != "none" and not adapted and not Path(model.name or "", "adapter_config.json").is_file():
        yield "model.quantization", "rounded weights cannot be trained: set model.lora.r=16 (or model=qlora)"


def _init_from(config: Config) -> Iterator[tuple[str, str]]:
    start = config.init_from
    if start.run is None:
        return
    if start.method is not None:
        yield "init_from.run", (f"a run starts from one run, and init_from.method={start.method} is set too: leave one "
                                "out")
    for name in ("seed", "overrides"):
        if getattr(start, name) not in (None, []):
            yield f"init_from.{name}", "of a run that init_from.method trains; that of init_from.run is: leave it out"


def _evaluation(config: Config) -> Iterator[tuple[str, str]]:
    evaluation = config.evaluation
    chosen = evaluation.scenarios.get(evaluation.best or "")
    if chosen is not None and not chosen.while_training:
        yield "evaluation.best", f'"{evaluation.best}" is not measured while training and cannot pick the best'
    if evaluation.best is not None and evaluation.best not in evaluation.scenarios:
        there_are = ", ".join(evaluation.scenarios) or "none"
        yield "evaluation.best", (f'no scenario "{evaluation.best}".{nearest(evaluation.best, evaluation.scenarios)} '
                                  f"There are: {there_are}")
    for name, scenario in evaluation.scenarios.items():
        generation = scenario.generation
        if scenario.num_samples is None and scenario.prompts is None:
            yield f"evaluation.scenarios.{name}.num_samples", "null is every prompt once, and there are no prompts"
        if generation.min_new_tokens > generation.max_new_tokens:
            yield f"evaluation.scenarios.{name}.generation.min_new_tokens", (
                f"must be at most max_new_tokens={generation.max_new_tokens}, got {generation.min_new_tokens}")
