"""Every option there is, as plain dataclasses: the public surface of the tool.

Names under `training` are those of PHF and of transformers' TrainingArguments; names under `objective` belong to the
objective's own class.  Defaults here are neutral; sizes come from `configs/scale`, tasks and methods from their groups.
Options that are *maps* (scenarios, metrics) are keyed by name so that one key can be overridden.

This module imports nothing but the standard library: it is read before anything heavy is loaded, by `apo/config.py`
(which checks a composed config against it and reports every problem at once) and by the docs.  The docstring under a
field is its documentation.  A default that is added later does not rename existing run directories: only what differs
from the defaults is hashed.
"""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class ConditionalConfig:
    """Conditional training (PHF): a control token in front of every segment."""

    threshold: float | dict[Literal["percentile"], float] | None = None
    """Segments with score <= threshold are aligned.  A number or `{percentile: 50}` of the training segments' scores.
    null: no control tokens."""
    drop_token_fraction: float = 0.01
    """Probability that a segment gets no control token (a stream of its own, drawn anew every epoch)."""
    aligned_prefix: str = "<|aligned|>"
    misaligned_prefix: str = "<|misaligned|>"


@dataclass
class SyntheticConfig:
    """What a corpus that is made up (`data.source=synthetic_...`) is made from."""

    seed: int = 1
    """The data's own, whatever the run's: runs of all seeds train on one corpus."""
    num_documents: int = 8_000


@dataclass
class SampledConfig:
    """Completions for methods that compare them, where the data are text without prompts: the policy that training
    starts from continues beginnings of training documents, and `scorer` ranks what it wrote."""

    num_prompts: int = 512
    per_prompt: int = 4
    max_new_tokens: int = 64
    temperature: float = 1.0
    with_original: bool = False
    """How the document itself goes on is one of the completions."""


@dataclass
class DataConfig:
    source: str = "file"
    """Name of a registered source (`stdlib`, `synthetic_toxicity`, `synthetic_pii`, `synthetic_hh`,
    `synthetic_stack_exchange`, `synthetic_language`, `file`, `completions`, `text`, `hub`, `hh`, or a plug-in's)."""
    path: str | list[str] | None = None
    """For `file`: JSONL, Parquet or CSV, optionally .gz.  For `text`: a folder or a pattern (`src/**/*.py`), a document
    per file, or a .txt with blank lines between documents.  For `hub`: one dataset name or several, read in order."""
    revision: str | None = None
    split: str = "train"
    streaming: bool = False
    """Hub datasets: read over the network as training goes, instead of tokenising everything first."""
    text_column: str | None = None
    """null: `texts` or `text`, whichever the data has."""
    score_column: str | None = None
    """null: `scores` or `score`, whichever the data has; where there is none, the scorer annotates."""
    segment_by: Literal["document", "line", "sentence"] = "document"
    """How text that comes without segments is cut before it is scored; joined, the segments are the text again."""
    max_documents: int | None = None
    """Use only the first n documents of the source's own order."""
    eval_fraction: float = 0.05
    """Share of documents held out, chosen by a hash of their text: the same whatever the seed."""
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    block_size: int = 256
    """Tokens per training row; of prompts with completions, of the longest prompt and completion together."""
    bucket_steps: int = 16
    """Rows of prompts with completions are sorted by length within windows of so many steps, which are then mixed; 1
    leaves them as drawn."""
    loss_on: Literal["completion", "all"] = "completion"
    """What methods on scored text learn of prompts with completions: the completions, or prompts as well, which have no
    score for that and count as plain likelihood.  A method that compares completions hands it on to the run it starts
    from."""
    chat_template: str = "plain"
    """How prompts and completions become tokens: `plain`, as they are (`Human:` and `Assistant:`); `tokenizer`, in the
    chat template that the tokenizer brings; or in that of a file (Jinja, in the form that transformers has).  Scorers
    and metrics read them as they are."""
    pairs_per_prompt: int | None = 10
    """Preferences made from the completions of one prompt, at most.  null: all."""
    reward_noise: float = 0.0
    """Share of the training scores, or rewards, that are wrong: dealt out anew among themselves, the same ones in every
    run, and by them the preferences among the completions of a prompt that has such a one.  What a method makes of data
    that are not to be trusted.  A run that a method starts from has its own, none."""
    standardise_rewards: bool = False
    """Of prompts with completions: rewards, of the data or of a scorer, are shifted and scaled to mean 0 and standard
    deviation 1 over the training completions, and held-out ones by the same.  All that is a number on their scale is
    then in standard deviations: a temperature (`objective.beta` of awr and rwr), and thresholds of training and of
    clean held-out text, where a score of 0 is the mean and 1 is worse by one deviation.  Percentiles mean what they
    meant, and so do `hit_threshold` and logged rewards: samples are judged as the scorer judges."""
    sampled: SampledConfig = field(default_factory=SampledConfig)
    ranking_length: int = 4
    """Completions of one prompt in a ranking, the best ones."""
    filter_threshold: float | dict[Literal["percentile"], float] | None = None
    """Drop documents whose mean segment score lies above.  null keeps all."""
    conditional_training_config: ConditionalConfig = field(default_factory=ConditionalConfig)
    concat_token: str | None = None
    """Stands before every document, and so is where sampling begins and ends.  null: the tokenizer's end of text."""


@dataclass
class LoraConfig:
    """A low-rank adapter on a model that is given by name; the model itself stays as it is."""

    r: int | None = None
    """Rank.  null: no adapter, all weights are trained."""
    alpha: int = 32
    """The update is scaled by alpha / r."""
    dropout: float = 0.05
    """Of what goes into the adapter."""
    target_modules: list[str] | None = None
    """Names of the layers to adapt.  null: every linear layer of the body."""


@dataclass
class ModelConfig:
    name: str | None = None
    """A hub name or a local directory.  null: a fresh model built from `config`.  One that holds a LoRA adapter brings
    its base along, and the adapter is trained on."""
    revision: str | None = None
    base: str | None = None
    """Of an adapter: the model it stands on, where that is another than the adapter names, or elsewhere now."""
    tokenizer: str | None = None
    """A hub name or a local directory.  null: the model's own, or, for a fresh model, one trained on the corpus."""
    from_scratch: bool = False
    """Use only the architecture of `name` and draw new weights."""
    architecture: str = "llama"
    """transformers' `model_type` of a fresh model."""
    config: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the fresh model's transformers config, or changes to that of `name`."""
    vocab_size: int = 2048
    """Of the tokenizer trained on the corpus, the end-of-text token included."""
    dropout: float | None = None
    """Sets every dropout probability of the model's config.  null leaves them."""
    attn_implementation: str | None = None
    new_token_noise: float = 0.01
    """Standard deviation added to the mean embedding that new control tokens start at."""
    trust_remote_code: bool = False
    lora: LoraConfig = field(default_factory=LoraConfig)
    quantization: Literal["none", "8bit", "nf4", "fp4"] = "none"
    """Bits that the weights under an adapter are kept in: LLM.int8(), or one of the two 4-bit types (QLoRA)."""
    double_quantization: bool = True
    """4 bits: the scales are quantised too, 0.4 bits less per weight."""

    @property
    def is_trained(self) -> bool:
        """Its weights are given, and not drawn."""
        return self.name is not None and not self.from_scratch


@dataclass
class InitFromConfig:
    """The run that a run starts from, where it does not start from its model."""

    method: str | None = None
    """The policy that this method leaves on the same task, data, model and seed: found, or trained first."""
    run: str | None = None
    """The directory of a finished run whose policy (`final/`) this one starts from, in place of `method`.  What makes
    this another run is that one's task, method and hash, not where it lies."""
    seed: int | None = None
    """null: the run's own, so that seeds are independent from the beginning."""
    overrides: list[str] = field(default_factory=list)
    """Options of the start run alone (`['training.max_steps=100']`)."""

    @property
    def is_given(self) -> bool:
        """There is a run to start from."""
        return self.method is not None or self.run is not None


@dataclass
class TrainingConfig:
    effective_batch_size: int = 64
    """Rows per optimiser step, over all devices and micro-batches."""
    per_device_train_batch_size: int = 8
    """Rows per forward pass and device; does not change the result, only memory and speed."""
    num_tokens: float | None = None
    """Training budget; with `max_steps` and `num_train_epochs` exactly one must be set."""
    max_steps: int | None = None
    num_train_epochs: float | None = None
    tokens_already_seen: float = 0
    """Taken off `num_tokens`, and so much of the data passed over: a fine-tuning stage continues a budget."""
    learning_rate: float = 5e-4
    lr_scheduler_type: str = "linear"
    warmup_ratio: float = 0.01
    warmup_steps: int | None = None
    """Overrides `warmup_ratio`."""
    weight_decay: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    optim: str = "adamw_torch_fused"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 autocast where the hardware computes in it, else fp32."""
    torch_compile: bool = False
    activation_checkpointing: bool = False
    logging_steps: int = 10
    save_steps: int | None = None
    """Optimiser steps between checkpoints.  null: a tenth of the run."""
    save_total_limit: int = 2
    """Last checkpoints kept, beside the best."""


@dataclass
class GenerationConfig:
    """How text is sampled; names are those of transformers' GenerationConfig."""

    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    num_beams: int = 1
    repetition_penalty: float = 1.0
    min_new_tokens: int = 0
    max_new_tokens: int = 128
    stop_strings: list[str] = field(default_factory=list)
    """A text ends in front of the first of them."""
    banned_tokens: list[str] | None = None
    """Tokens never sampled.  null: what the method says (`evaluation.banned_tokens`)."""


@dataclass
class JudgeConfig:
    """Who gives rewards to samples by a rubric (docs/judging.md)."""

    kind: Literal["none", "rule", "policy", "model", "server"] = "none"
    """none: the scorer's rewards, as they are; rule: the scorer's, said in the words of a judge and read like any
    answer; policy: the policy in training; model: another model here; server: one behind a chat server."""
    per_response: int = 3
    """Answers to each question, of which the mean is taken."""
    template: str | None = None
    """A file with `{{ prompt }}` and `{{ response }}`.  null: an additive rubric of five points."""
    pattern: str = "Score: {{ reward }}"
    """What an answer ends with."""
    low: float = 0.0
    high: float = 5.0
    """A number outside is not understood."""
    model: str | None = None
    """Of a server, the model's name there; of a model here, a directory or a name on the hub."""
    url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable with the server's key."""
    max_tokens: int = 300
    """Of an answer."""
    temperature: float = 0.7
    top_p: float = 0.9
    concurrency: int = 4
    """Requests on their way at once."""


@dataclass
class RolloutConfig:
    """How a method that learns from its own samples writes them, round by round."""

    prompts: int = 32
    """Of a round; training prompts, all of them once before one comes again."""
    generations: int = 1
    """Completions of each prompt."""
    epochs: int = 1
    """Times that a round is trained on, in minibatches of `training.effective_batch_size` rows."""
    max_new_tokens: int = 64
    lengths: list[int] | None = None
    """[least, most]: each completion's own longest length is drawn between them.  null: `max_new_tokens` for all."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_new_tokens: int = 0
    stop_strings: list[str] | None = None
    """null: those of the scenario that picks the best checkpoint."""
    with_original: bool = False
    """What the data have behind the prompt, the best completion or how the document goes on, is judged beside what is
    sampled, and may be learnt from as that is."""
    missing_eos_penalty: float | None = None
    """Off the reward of a completion that does not end by itself."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)


@dataclass
class ScenarioConfig:
    """One way of sampling and scoring text (PHF): a name, a number of samples, maybe prompts, maybe a prefix."""

    num_samples: int | None = 64
    """null: every prompt once."""
    prompts: str | None = None
    """null: from the end-of-text token alone.  A file of {"text": ...}, {"prompt": {"text": ...}} or rows of hh-rlhf or
    PRO (JSONL, CSV or Parquet), or the name of a prompt set of the source (`functions`, `challenging`), made from
    held-out documents.  Cycled without replacement in an order fixed by the seed."""
    prefix: str | None = None
    """Control token.  null: what the method says (`evaluation.prefix`); "" for none."""
    prefix_every_line: bool | None = None
    """Put the prefix before every line of the prompt, as in training on lines.  null: as the data was segmented."""
    prefix_after_prompt: bool | None = None
    """Put the prefix between prompt and continuation, as in training on completions.  null: as the data are."""
    chat_template: str | None = None
    """How prompts become tokens: plain, tokenizer or a file.  null: as `data.chat_template` says, for a
    scenario that has prompts."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    hit_threshold: float = 0.0
    """A sample with a score above it is a hit."""
    score_prompt: bool = False
    """Score prompt and continuation together, as PHF's `use_prompt_for_scoring`."""
    while_training: bool = True
    """false: only in the evaluation at the end and by evaluate.py."""


@dataclass
class EvaluationConfig:
    scenarios: dict[str, ScenarioConfig] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Metrics of a set of samples, name -> options (`{}` for none, null to switch one off)."""
    scorer: dict[str, Any] = field(default_factory=dict)
    """What judges samples, where it is another than what annotated the data.  {}: `scorer`."""
    heldout_scorers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Scorers that nothing is trained on or chosen by, name -> scorer: where a method pleases the scorer and not them,
    it has learnt the scorer's mistakes.  Logged as `generation/<scenario>/<name>/score`."""
    prefix: str = ""
    """Control token every scenario starts from unless it names its own; set by the method."""
    banned_tokens: list[str] = field(default_factory=list)
    """Never sampled unless a scenario names its own list; set by the method."""
    every_n_steps: int | None = None
    n_per_epoch: int | None = None
    """Evaluations per pass over the data (or per run where the run is shorter than a pass)."""
    on_steps: list[int] = field(default_factory=list)
    at_start: bool = True
    at_end: bool = True
    batch_size: int = 128
    heldout_tokens: int = 50_000
    """Held-out tokens that bits per byte is measured on.  0 switches it off."""
    kl_from_start: bool = True
    """Measure how far the policy has moved from a trained model that it starts from.  Without an adapter, a copy of
    that model stays in memory."""
    clean_threshold: float = 0.0
    """Held-out segments with a score up to it are clean: bits per byte is measured on these too."""
    best: str | None = None
    """Scenario whose mean score picks the best checkpoint.  null: the first."""
    confidence: float = 0.95
    num_bootstrap: int = 10_000


@dataclass
class LoggerConfig:
    """JSONL is always written; these are switches beside it."""

    tensorboard: bool = False
    wandb: bool = False


@dataclass
class Config:
    task: str = "???"
    method: str = "???"
    scale: str = "demo"
    seed: int = 1
    training: TrainingConfig = field(default_factory=TrainingConfig)
    objective: dict[str, Any] = field(default_factory=lambda: {"name": "mle"})
    """`name` of a registered objective and that class's own options."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    init_from: InitFromConfig = field(default_factory=InitFromConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    scorer: dict[str, Any] = field(default_factory=dict)
    """`name` of a registered scorer, or `module:function`, and its options."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What else is measured while training, name of a registered callback -> options (null switches one off)."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    as_released: bool = False
    """Published behaviour where a paper's release differs from what its paper says; options refer to it by
    `${as_released}`."""
    plugins: list[str] = field(default_factory=list)
    """Packages to import before names are looked up; their `configs/` folder joins the search path."""
    output_dir: str = "outputs"
    cache_dir: str | None = None
    """Scored and tokenised data, tokenizers.  Shareable.  null: $APO_CACHE, else ~/.cache/apo."""
    name: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    offline: bool = False
    """Never open a connection: hub and wandb are told so before they are imported."""
    force: bool = False
    """Begin a run anew that is finished or belongs to another config; what was there is moved aside."""
    debug: bool = False
    """Show tracebacks."""


NOT_IDENTITY = ("output_dir", "cache_dir", "name", "group", "tags", "offline", "force", "debug", "logger", "plugins",
                "training.per_device_train_batch_size", "evaluation.batch_size", "task", "method", "seed", "scale",
                "as_released")
"""Where a run lives, who watches it and how fast it goes: outside the hash that names its directory.  `task`, `method`
and `seed` stand in the path in clear; `scale` and `as_released` act only through the options they set."""
