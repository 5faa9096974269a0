"""How far a model is from another distribution over texts: KL(reference || model), nats per document.

PHF's KLGPT3Callback, for references that exist.  Texts are drawn from the reference once and kept with their
log-probabilities; the model then says how likely each of them is, tokenised as in training, behind the method's prefix.
The mean of log p_reference - log p_model over texts is an unbiased estimate (Monte Carlo, hence `_mc`) of the KL
between the distributions of the events that were drawn.  What these are stands in the metric's name:

    kl/<name>/exact_logp_mc         documents of a synthetic corpus; log p of the text, over all ways of making it; of
                                    prompts with completions, that of the completion behind its prompt
    kl/<name>/exact_entropy_mc      the same KL: the model's mean -log p less the generator's exact entropy
    kl/<name>/token_logp_mc         sequences of tokens, which reference and model share
    kl/<name>/canonical_logp_mc     texts, each model by its own tokens: the reference's as drawn, ours the canonical
                                    tokenisation, whose probability is a lower bound on that of the text

each with `/se`, the standard error over texts.  The release shifts its mask by one against the labels; here the shift
stands in one place (`apo/models/policy.py`), and prefixes are context.  `KL/KL(<name>, model)` is the released name of
the last two.  See docs/evaluation.md.
"""

import math
import re
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Callable

from apo.callbacks.base import Callback, Checked, Context, Measurement, callbacks
from apo.console import progress
from apo.errors import ConfigError, EvaluationError, ModelError, nearest
from apo.lazy import Lazy

if TYPE_CHECKING:
    from apo.references import Draw, Drawn, Reference

references = Lazy("apo.references")

GENERATOR = "generator"
MODELS = "a run directory, a model directory or a hub name"


@dataclass
class ReferenceOptions:
    """What an entry of `callbacks.kl.references` may say."""

    model: str | None = None
    """A run directory, a model directory or a hub name; with `url`, the server's name for its model."""
    revision: str | None = None
    prefix: str = ""
    """Control token that the reference's own texts begin with."""
    url: str | None = None
    """Of a completions server that gives log-probabilities, as `http://localhost:8000/v1`."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key.  Not set: none is sent."""
    prompt: str = "<|endoftext|>"
    """What the server is given to begin a document with: the token that stands before documents in its training."""

    @classmethod
    def of(cls, name: str, options: Any) -> "ReferenceOptions":
        """Raises ConfigError."""
        known, at = [each.name for each in fields(cls)], f"references.{name}"
        if not isinstance(options, dict):
            raise ConfigError(f"{at}: expected a mapping such as {{model: gpt2}} or {{url: ..., model: ...}}, or {{}} "
                              f"for {GENERATOR}; got {options!r}")
        for key, value in options.items():
            if key not in known:
                raise ConfigError(f"{at}.{key}: no such option; there are {', '.join(known)}.{nearest(key, known)}")
            if not isinstance(value, str) and not (value is None and key in ("model", "revision", "url")):
                raise ConfigError(f"{at}.{key}: expected text, got {value!r}")
        made = cls(**options)
        if name == GENERATOR and options:
            raise ConfigError(f"{at}: is the corpus's own generator and has no options; give a model another name")
        if name != GENERATOR and made.model is None:
            raise ConfigError(f"{at}.model: missing: a directory or a hub name, or with url the server's name for it")
        return made


@callbacks.register("kl")
@dataclass
class KL(Callback):
    """KL(reference || model)."""

    of_model = True

    reference: str | None = None
    """One reference: `generator`, the distribution that a synthetic corpus is drawn from, or a causal model by run
    directory, model directory or hub name.  null: those of `references`; `generator` where there are none."""
    references: dict[str, Any] = field(default_factory=dict)
    """Several, or one with options, by a name that becomes that of the metric: `references.gpt2.model=gpt2`,
    `references.davinci={url: "http://localhost:8000/v1", model: davinci-002}`, `references.generator={}`.  Options:
    model, revision, prefix, url, api_key_env, prompt."""
    num_samples: int = 1024
    """Texts drawn from each reference (PHF: 4096)."""
    max_tokens: int = 64
    """A model's or server's texts are cut there (PHF); the cut text is compared as what a longer one begins with."""
    seed: int = 0
    """Of the texts; the same for every run, so that all are measured on the same ones."""
    prefix: str | None = None
    """Control token before the text, or before each of its segments as in training.  null: what the method says
    (`evaluation.prefix`); "" for none."""
    prefix_every_line: bool | None = None
    """null: where training had lines for segments."""

    def __post_init__(self):
        if self.num_samples < 2:
            raise ConfigError("num_samples: at least 2, one gives no standard error")
        if self.max_tokens < 1:
            raise ConfigError("max_tokens: at least 1")
        self.named()

    def named(self) -> dict[str, ReferenceOptions]:
        """Every reference by the name of its metrics."""
        found = {name: ReferenceOptions.of(name, options) for name, options in self.references.items()
                 if options is not None}
        if self.reference is not None and self.reference.startswith(("http://", "https://")):
            raise ConfigError(f"reference: a server needs the name of its model too: "
                              f'references.mine={{url: "{self.reference}", model: ...}}')
        if self.reference == GENERATOR or self.reference is None and not found:
            found[GENERATOR] = ReferenceOptions()
        elif self.reference is not None and slug(self.reference) in found:
            raise ConfigError(f'reference: "{slug(self.reference)}" is among the references already')
        elif self.reference is not None:
            found[slug(self.reference)] = ReferenceOptions(model=self.reference)
        wrong = [name for name in found if slug(name) != name]
        if wrong:
            raise ConfigError(f'references: "{wrong[0]}" becomes part of a metric\'s name, so it has letters, digits, '
                              "dots, hyphens and underscores only")
        return found

    def bind(self, context: Context) -> "KL":
        if GENERATOR in self.named() and context.corpus.source.generator is None:
            raise ConfigError(f"callbacks.kl.reference: nothing knows the distribution of {context.corpus.source}, "
                              f"which was found and not generated; set it to {MODELS}")
        if GENERATOR in self.named() and context.config.data.chat_template != "plain":
            raise ConfigError(f"callbacks.kl.reference={GENERATOR}: asks the model in the data's plain text, and "
                              "data.chat_template has trained it in another; leave one of the two out")
        for name, options in self.named().items():
            with self.naming(name):
                references.find(self.make(name, options, context), self.draw(context), context.cache)
        return super().bind(context)

    @contextmanager
    def naming(self, name: str):
        """What is wrong with the model of a reference, as a ConfigError that says which option names it."""
        try:
            yield
        except ModelError as error:
            option = f"references.{name}.model" if name in self.references else "reference"
            raise ConfigError(f"callbacks.kl.{option}={self.named()[name].model}: {error}; set it to {MODELS}, or "
                              f"callbacks.kl.reference={GENERATOR} where the corpus has one") from error

    def depends_on(self, context: Context) -> dict[str, Any]:
        found = {}
        for name, options in self.named().items():
            if options.model:
                with self.naming(name):
                    found[name] = self.make(name, options, context).key()
        return found

    def make(self, name: str, options: ReferenceOptions, context: Context) -> "Reference":
        if options.url:
            return references.ServerReference(options.url, options.model, options.api_key_env, options.prompt,
                                              context.config.offline)
        if options.model:
            return references.ModelReference(options.model, options.revision, options.prefix)
        return references.GeneratorReference(context.corpus.source)

    def draw(self, context: Context) -> "Draw":
        return references.Draw(self.num_samples, self.max_tokens, self.seed, context.config.evaluation.batch_size)

    def measure(self, policy, step: int, max_steps: int, check: Callable[[], None]) -> Measurement:
        metrics: dict[str, float] = {}
        for name, options in self.named().items():
            reference = self.make(name, options, self.context)
            with progress(f"drawing from {name}", self.num_samples) as bar:
                drawn = references.drawn(reference, self.draw(self.context), self.context.cache, policy.device,
                                         Checked(bar, check))
            check()
            metrics |= self.compare(name, reference, drawn, policy, check)
        return Measurement(metrics)

    def compare(self, name: str, reference: "Reference", drawn: "Drawn", policy, check) -> dict[str, float]:
        by_tokens = drawn.same_tokens(self.context.tokenizer)
        texts = [text for text in drawn.texts if by_tokens or not text.broken]
        left_out = len(drawn.texts) - len(texts)
        if len(texts) < max(2, left_out):
            raise EvaluationError(f"callbacks.kl: {left_out} of {len(drawn.texts)} texts of {name} "
                                  "hold broken characters, and its tokenizer is not the model's: nothing to compare")
        rows = [self.layout().row(text, by_tokens) for text in texts]
        width = self.width(policy)
        ours = references.log_probs(policy, rows, width, self.context.config.evaluation.batch_size, check)
        difference = estimate([text.log_prob - log_prob for text, log_prob in zip(texts, ours)])
        numbers = {"count": len(texts), "left_out": left_out,
                   "cut_at_max_tokens": sum(not text.ended for text in texts) / len(texts),
                   "longer_than_context": sum(len(row.ids) > width for row in rows) / len(rows)}
        if isinstance(reference, references.GeneratorReference):
            entropy, (mean, error) = reference.entropy, estimate([-log_prob for log_prob in ours])
            numbers |= named("exact_logp_mc", difference) | named("exact_entropy_mc", (mean - entropy, error))
            return {f"kl/{name}/{key}": value for key, value in (numbers | {"entropy": entropy}).items()}
        numbers |= named("token_logp_mc" if by_tokens else "canonical_logp_mc", difference)
        return {f"kl/{name}/{key}": value for key, value in numbers.items()} | {f"KL/KL({name}, model)": difference[0]}

    def layout(self):
        config, tokenizer = self.context.config, self.context.tokenizer
        prefix = config.evaluation.prefix if self.prefix is None else self.prefix
        by_line = config.data.segment_by == "line" if self.prefix_every_line is None else self.prefix_every_line
        return references.Layout.of(tokenizer, config.data.concat_token, prefix, by_line)

    def width(self, policy) -> int:
        """Tokens read at once: a training row, or the model's context where that is less."""
        limit = policy.context
        return min(self.context.config.data.block_size, limit or self.context.config.data.block_size)


def estimate(numbers: list[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    mean = math.fsum(numbers) / len(numbers)
    variance = math.fsum((number - mean) ** 2 for number in numbers) / (len(numbers) - 1)
    return mean, math.sqrt(variance / len(numbers))


def named(estimator: str, numbers: tuple[float, float]) -> dict[str, float]:
    return {estimator: numbers[0], f"{estimator}/se": numbers[1]}


def slug(name: str) -> str:
    """A name fit for a metric: the last part of a path, or of a run's `final/` the run."""
    parts = [part for part in name.split("/") if part]
    while len(parts) > 1 and parts[-1] == "final":
        parts.pop()
    return re.sub(r"[^\w.-]+", "-", parts[-1]) if parts else ""
