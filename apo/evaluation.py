"""The one way to sample, score and measure a model, while it trains and afterwards, so that all are measured alike.

A scenario (PHF's word) is a way of sampling: prompts or none, maybe a control token, generation options.  Each sample
starts as training documents do: end of text, then the control token, then the prompt, tokenised segment by segment.
What is written behind it is cleaned of special and control tokens, scored, and described by metrics.  Prompts and
random numbers follow from (seed, scenario name), so two models of one seed meet the same prompts and the same luck.
"""

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from apo.console import warn
from apo.data.chat import NOT_FILES, Chat, chat_in, reply_to, template_file
from apo.data.dialogue import NotADialogue
from apo.data.records import Sample
from apo.data.sources.base import BadRow, lines, sources
from apo.data.sources.file import content_hash, rows_of
from apo.data.sources.hh import read_answers
from apo.data.tokenizer import single_id
from apo.divergence import kl_from_start
from apo.errors import DataError, EvaluationError, nearest
from apo.metrics.base import SampleMetric, metrics, scored_text
from apo.metrics.statistics import chunk_maxima
from apo.metrics.win_rate import BestAnswers
from apo.models.policy import evaluating
from apo.rollouts.generate import Continuation, generate
from apo.schema import Config, EvaluationConfig, ScenarioConfig
from apo.scorers.base import Scorer, checked
from apo.scorers.make import make_scorers
from apo.seeds import stream, stream_seed

if TYPE_CHECKING:
    from apo.data.heldout import HeldoutText
    from apo.models.policy import Policy


@dataclass
class ScenarioResult:
    samples: list[Sample]
    """`extra` holds `scored_text` where that is not the continuation, `explain` where the scorer says why, and `spans`
    where it says at what places."""
    metrics: dict[str, float]
    timings: dict[str, float]


@dataclass
class Judges:
    """What samples are judged and described by.  `scorer` is None where the data bring their scores and nothing judges
    new text; the held-out scorers stand beside it and have no say in anything."""

    scorer: Scorer | None
    heldout: dict[str, Scorer] = field(default_factory=dict)
    metrics: list[SampleMetric] = field(default_factory=list)
    answers: BestAnswers | None = None
    """Of data with completions: what samples are held against."""

    @classmethod
    def of(cls, config: Config, corpus=None, scorers: dict[str, Scorer] | None = None) -> "Judges":
        """Those of a config.

        Args:
            corpus: the training data, for metrics that look at it.
            scorers: what `scorers_of` gave before.
        """
        scorers = scorers_of(config) if scorers is None else scorers
        made = [metrics.get(name)(**options) for name, options in config.evaluation.metrics.items()
                if options is not None]
        scorer = scorers.get("evaluation.scorer") or scorers.get("scorer")
        answers = BestAnswers(corpus, scorer) if scorer and corpus is not None and of_completions(config) else None
        return cls(scorer, {name: scorers[f"{HELDOUT}{name}"] for name in config.evaluation.heldout_scorers},
                   [metric.bind(corpus) for metric in made], answers)

    def fingerprints(self) -> dict[str, str]:
        """Of every scorer, by what it is for."""
        scorers = {"scorer": self.scorer, **{f"heldout scorer {name}": each for name, each in self.heldout.items()}}
        return {name: scorer.fingerprint() for name, scorer in scorers.items() if scorer is not None}


HELDOUT = "evaluation.heldout_scorers."
ANSWERED = {"chosen", "prefix"}
"""What a row of hh-rlhf, or of PRO, has."""


def scorers_of(config: Config) -> dict[str, Scorer]:
    """Every scorer a config names, by the option that names it: `scorer`, `evaluation.scorer` and the held-out ones."""
    heldout = {f"{HELDOUT}{name}": options for name, options in config.evaluation.heldout_scorers.items()}
    return make_scorers({"scorer": config.scorer, "evaluation.scorer": config.evaluation.scorer, **heldout})


def named_files(config: Config) -> dict[str, str]:
    """sha256 of every file of prompts and every template, by the option that names it: what the config says only
    by its place."""
    scenarios = {f"evaluation.scenarios.{name}": each for name, each in config.evaluation.scenarios.items()}
    files = {f"{at}.prompts": Path(scenario.prompts) for at, scenario in scenarios.items() if scenario.prompts}
    forms = {"data.chat_template": config.data.chat_template,
             **{f"{at}.chat_template": scenario.chat_template for at, scenario in scenarios.items()}}
    files |= {at: template_file(form) for at, form in forms.items() if form and form not in NOT_FILES}
    for at, asked in (("rollout.judge", config.rollout.judge), ("rollout.new_prompts", config.rollout.new_prompts)):
        if asked.template:
            files[f"{at}.template"] = Path(asked.template)
    return {at: content_hash(path) for at, path in files.items() if path.is_file()}


def run_scenario(name: str, scenario: ScenarioConfig, *, policy: "Policy", tokenizer, judges: Judges,
                 evaluation: EvaluationConfig, prompts: dict[str, list[str]], seed: int, step: int | None = None,
                 start=None, progress=None) -> ScenarioResult:
    """Sample, score, measure.

    Args:
        prompts: prompt sets by name, for a scenario that names one.
        step: optimiser step of the model, written into the samples.
        start: the policy as its stage began, for the distance to it; None for a stage that began with nothing.
        progress: an object with `advance(samples)`.
    Raises EvaluationError for prompts that do not exist or do not fit, DataError for a prompt file that is damaged,
    ModelError for a control token the tokenizer does not know, ScorerError for scores that are not numbers.
    """
    template = Template.of(scenario, evaluation, tokenizer)
    chosen = choose(load_prompts(name, scenario, prompts), scenario.num_samples, seed, name)
    if scenario.prompts in prompts and too_long(chosen, template, scenario, policy):
        chosen = choose(fitting(name, prompts[scenario.prompts], template, scenario, policy), scenario.num_samples,
                        seed, name)
    banned = banned_ids(scenario, evaluation, tokenizer, f"banned token of scenario {name},")
    began, prompt_ids = time.perf_counter(), [template.ids(prompt) for prompt in chosen]
    try:
        continuations = generate(policy.model, prompt_ids, scenario.generation,
                                 tokenizer=tokenizer, seed=stream_seed(seed, f"generation/{name}"),
                                 banned_token_ids=banned, batch_size=evaluation.batch_size, progress=progress)
    except EvaluationError as error:
        raise EvaluationError(f"scenario {name}: {error}") from None
    seconds = time.perf_counter() - began
    samples = [Sample(prompt, template.text(prompt, continuation), None, index, seed, step, name)
               for index, (prompt, continuation) in enumerate(zip(chosen, continuations))]
    if scenario.score_prompt:
        for sample in samples:
            if sample.prompt:
                sample.extra["scored_text"] = sample.prompt + sample.text
    if judges.scorer is not None:
        score(samples, judges.scorer)
    numbers = headline([sample.score for sample in samples], scenario, judges.scorer)
    numbers |= second_opinions(samples, scenario, judges.heldout)
    numbers |= {key: value for metric in judges.metrics for key, value in metric(samples).items()}
    numbers |= endings(continuations)
    if judges.answers is not None:
        numbers |= judges.answers.win_rate(samples)
    if start is not None:
        numbers |= kl_from_start(policy, start, prompt_ids, continuations, evaluation.batch_size)
    return ScenarioResult(samples, {f"generation/{name}/{key}": number for key, number in numbers.items()},
                          {f"generation/{name}/samples_per_second": len(samples) / seconds})


def banned_ids(scenario: ScenarioConfig, evaluation: EvaluationConfig, tokenizer, what: str) -> list[int]:
    """Tokens that are never written: the scenario's own, else the method's.  `what`: what an error calls one."""
    own = scenario.generation.banned_tokens
    return [single_id(tokenizer, token, what) for token in (evaluation.banned_tokens if own is None else own)]


def as_trained(scenario: ScenarioConfig, config: Config) -> ScenarioConfig:
    """The scenario with its control token where training put it: before every line if lines were the segments, behind
    the prompt if completions were trained on; and its prompts in the form they were trained on."""
    every_line, after_prompt = scenario.prefix_every_line, scenario.prefix_after_prompt
    as_data = config.data.chat_template if scenario.prompts else "plain"
    return replace(scenario, chat_template=scenario.chat_template or as_data,
                   prefix_every_line=config.data.segment_by == "line" if every_line is None else every_line,
                   prefix_after_prompt=of_completions(config) if after_prompt is None else after_prompt)


def of_completions(config: Config) -> bool:
    """Whether the data are prompts with completions."""
    return sources.get(config.data.source).record == "ranking"


# ---- prompts ---------------------------------------------------------------------------------------------------------

def load_prompts(name: str, scenario: ScenarioConfig, prompts: dict[str, list[str]]) -> list[str]:
    """The scenario's prompts: [""] for none, a set of the source by its name, or a file (`read_prompts`)."""
    source = scenario.prompts
    if source is None:
        return [""]
    found = prompts[source] if source in prompts else None
    if found is None and not Path(source).is_file():
        there_are = ", ".join(prompts) or "none"
        raise EvaluationError(f'evaluation.scenarios.{name}.prompts: "{source}" is neither a file nor a prompt set of '
                              f"the data.{nearest(source, prompts)} Sets: {there_are}")
    found = read_prompts(Path(source)) if found is None else found
    if not found:
        raise EvaluationError(f'evaluation.scenarios.{name}.prompts: "{source}" holds no prompts')
    return found


def read_prompts(path: Path) -> list[str]:
    """A file of {"text": ...} (PHF's), {"prompt": {"text": ...}} (RealToxicityPrompts), or rows of hh-rlhf or PRO: of
    them everything up to the last turn of the assistant; in any format that data are read in.  Further keys are
    ignored, empty lines skipped.  Raises DataError with file and row."""
    found = []
    for origin, row in rows_of(path):
        try:
            if isinstance(row, BadRow):
                raise row
            found.append(prompt_in(row))
        except BadRow as bad:
            raise DataError(f"{origin}: {bad}") from None
    return found


def prompt_in(row: dict) -> str:
    """Raises BadRow."""
    prompt = row.get("prompt")
    text = row.get("text", prompt.get("text") if isinstance(prompt, dict) else prompt)
    if text is None and ANSWERED & row.keys():
        try:
            return read_answers(row).prompt
        except NotADialogue as reason:
            raise BadRow(f"no prompt with answers to it ({reason}); scripts/prepare_hh.py leaves such rows "
                         "out") from None
    if not isinstance(text, str):
        raise BadRow(f'expected {{"text": "..."}}, {{"prompt": {{"text": "..."}}}} or a row of hh-rlhf or PRO, '
                     f"got {str(row)[:60]}")
    return str(text)


def too_long(prompts: list[str], template: "Template", scenario: ScenarioConfig, policy: "Policy") -> list[str]:
    """Those that leave no room in the model's context for what is to be written."""
    if policy.context is None:
        return []
    room = policy.context - scenario.generation.max_new_tokens
    return [prompt for prompt in prompts if len(template.ids(prompt)) > room]


def fitting(name: str, prompts: list[str], template: "Template", scenario: ScenarioConfig,
            policy: "Policy") -> list[str]:
    """A set made from data may hold prompts that are too long to be answered, as training rows may be too long to be
    trained on: they are left out, and said.  In a file of prompts each is meant, and one that does not fit an error."""
    left_out = set(too_long(prompts, template, scenario, policy))
    found = [prompt for prompt in prompts if prompt not in left_out]
    if not found:
        return prompts
    warn(f"scenario {name}: {len(left_out)} of {len(prompts)} prompts leave no room for "
         f"{scenario.generation.max_new_tokens} tokens in the model's context; left out")
    return found


def choose(prompts: list[str], num_samples: int | None, seed: int, name: str) -> list[str]:
    """Exactly `num_samples` prompts: all of them once, in an order fixed by seed and scenario, then all of them again
    in another, so that no prompt comes up twice before every other has once.  None: all of them once."""
    chosen: list[str] = []
    cycle, num_samples = 0, len(prompts) if num_samples is None else num_samples
    while len(chosen) < num_samples:
        order = stream(seed, f"prompts/{name}", cycle).permutation(len(prompts))
        chosen += [prompts[i] for i in order[:num_samples - len(chosen)]]
        cycle += 1
    return chosen


@dataclass
class Template:
    """How a prompt becomes tokens, as in training, and tokens become text again."""

    tokenizer: object
    prefix_ids: list[int]
    by_line: bool
    after_prompt: bool
    hidden_ids: frozenset[int]
    """Special and control tokens: never part of a text."""
    chat: Chat | None = None
    """Writes prompts and answers; None: they are written as they are."""
    stop_strings: tuple[str, ...] = ()
    """Where a text ends; they are no part of it."""

    @classmethod
    def of(cls, scenario: ScenarioConfig, evaluation: EvaluationConfig, tokenizer) -> "Template":
        prefix = evaluation.prefix if scenario.prefix is None else scenario.prefix
        prefix_ids = [single_id(tokenizer, prefix, "evaluation.prefix")] if prefix else []
        special = [token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special]
        return cls(tokenizer, prefix_ids, bool(scenario.prefix_every_line), bool(scenario.prefix_after_prompt),
                   frozenset([*tokenizer.all_special_ids, *special, *prefix_ids]),
                   chat_in(scenario.chat_template or "plain", tokenizer), tuple(scenario.generation.stop_strings))

    def ids(self, prompt: str) -> list[int]:
        """End of text; then the prefix and the prompt, or, with the prefix on every line, prefix and line by turns.
        There a prompt that ends its last line is followed by the prefix of the line to be written.  Behind a prompt
        that is answered, the prefix of the answer."""
        if self.chat is not None and prompt:
            return [self.tokenizer.eos_token_id] + self.chat.ids([self.chat.prompt(prompt)])[0] + self.prefix_ids
        if self.after_prompt:
            return [self.tokenizer.eos_token_id] + self._plain(prompt) + self.prefix_ids
        segments = [prompt]
        if self.by_line:
            segments = lines(prompt)
            if not prompt or prompt.endswith("\n"):
                segments.append("")
        ids = [self.tokenizer.eos_token_id]
        for segment in segments:
            ids += self.prefix_ids + self._plain(segment)
        return ids

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def text(self, prompt: str, continuation: Continuation) -> str:
        """What was written, up to where a stop string ended it.  Decoded behind the prompt, since some tokenizers drop
        the space a text begins with; an answer to a chat as it stands in a transcript."""
        written = [token for token in continuation.ids if token not in self.hidden_ids]
        if self.chat is not None and prompt:
            return reply_to(prompt, self._stopped(self._decode(written)))
        asked = self._plain(prompt)
        before, whole = self._decode(asked), self._decode(asked + written)
        return self._stopped(whole[len(before):] if whole.startswith(before) else self._decode(written))

    def _stopped(self, text: str) -> str:
        """In front of the first stop string; its last token may hold more than its end."""
        return text[:min((at for stop in self.stop_strings if (at := text.find(stop)) >= 0), default=len(text))]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False) if ids else ""


# ---- numbers ---------------------------------------------------------------------------------------------------------

def score(samples: list[Sample], scorer: Scorer) -> None:
    """Fills in `score` (in the scorer's own direction) and what belongs to it in `extra`."""
    texts = [text_for(scorer, sample) for sample in samples]
    explained = type(scorer).explain is not Scorer.explain      # a text with nothing wrong has no parts either
    located = type(scorer).spans is not Scorer.spans
    for sample, number, parts, spans in zip(samples, checked(scorer, texts), scorer.explain(texts),
                                            scorer.spans(texts)):
        sample.score = number
        if explained:
            sample.extra["explain"] = parts
        if located:
            sample.extra["spans"] = spans


def text_for(scorer: Scorer, sample: Sample) -> str:
    return sample.prompt + sample.text if scorer.reads_prompt else scored_text(sample)


def headline(scores: list[float], scenario: ScenarioConfig, scorer: Scorer | None) -> dict[str, float]:
    """PHF's four numbers of misalignment (`num_hits` is a share, whatever its name); for a reward, its mean; nothing
    where the data bring their scores and no scorer judges new text."""
    if scorer is None:
        return {}
    if scorer.kind == "reward":
        return {"reward": mean(scores)}
    return {"score": mean(scores), "score_max": max(scores), "score_max@25": mean(chunk_maxima(scores)),
            "num_hits": mean([float(number > scenario.hit_threshold) for number in scores])}


def second_opinions(samples: list[Sample], scenario: ScenarioConfig, scorers: dict[str, Scorer]) -> dict[str, float]:
    """The headline by every held-out scorer, and in every sample what it said."""
    numbers: dict[str, float] = {}
    for name, scorer in scorers.items():
        scores = checked(scorer, [text_for(scorer, sample) for sample in samples])
        for sample, number in zip(samples, scores):
            sample.extra.setdefault("heldout_scores", {})[name] = number
        numbers |= {f"{name}/{key}": value for key, value in headline(scores, scenario, scorer).items()}
    return numbers


def endings(continuations: list[Continuation]) -> dict[str, float]:
    return {"finished": mean([float(continuation.finished) for continuation in continuations]),
            "tokens": mean([float(len(continuation.ids)) for continuation in continuations])}


def mean(numbers: list[float]) -> float:
    return math.fsum(numbers) / len(numbers)


@torch.no_grad()
def heldout_bits_per_byte(policy: "Policy", heldout: "HeldoutText", batch_size: int) -> dict[str, float]:
    """Bits that the model needs per byte of held-out text, comparable whatever the tokenizer; and the same over the
    clean segments (`evaluation.clean_threshold`), what a model that avoids the rest should still know.  In the
    weights' own precision.  `bits_per_byte_clean` is left out where no segment is clean."""
    nats = clean_nats = 0.0
    with evaluating(policy):
        for batch in heldout.batches(batch_size):
            batch = batch.to(policy.device)
            stats = policy.token_stats(batch)
            nats_BT = torch.where(stats.mask_BT, -stats.logps_BT.double(), 0)
            nats += nats_BT.sum().item()
            clean_nats += nats_BT[batch.scores_BT <= heldout.clean_threshold].sum().item()
    numbers = {"heldout/bits_per_byte": nats / math.log(2) / heldout.bytes_all}
    if heldout.bytes_clean:
        numbers["heldout/bits_per_byte_clean"] = clean_nats / math.log(2) / heldout.bytes_clean
    return numbers
