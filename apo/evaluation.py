"""The one way to sample, score and measure: while a model trains, and by evaluate.py.

A scenario (PHF) is a number of samples, maybe prompts, maybe a control token, and how to sample.  A sample starts as
training text did: end-of-text token, control token, then the prompt, tokenised segment by segment.  What comes out is
cleaned of end-of-text and control tokens, scored, and measured as a set.

`num_samples` means `num_samples`; prompts are cycled without replacement in an order fixed by the seed; and sample i's
randomness depends on (seed, i) alone.  So two methods, or two steps of one, are compared on the same prompts and the
same draws.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np
import torch

from apo.data.records import Sample
from apo.errors import EvaluationError, nearest
from apo.metrics import statistics
from apo.metrics.base import metrics as metric_registry
from apo.metrics.base import scored_text
from apo.rollouts.generate import Continuation, evaluating, generate
from apo.schema import EvaluationConfig, ScenarioConfig
from apo.scorers.base import checked
from apo.seeds import stream, stream_seed

SCORES_AT_ONCE = 64


@dataclass
class ScenarioResult:
    samples: list[Sample]
    metrics: dict[str, float]
    """`generation/<scenario>/...`: the same for the same policy, scenario and seed."""
    timings: dict[str, float]


def run_scenario(name: str, scenario: ScenarioConfig, *, policy, tokenizer, scorer, evaluation: EvaluationConfig,
                 prompts: dict[str, list[str]], seed: int, step: int | None, every_line: bool = False,
                 progress=None) -> ScenarioResult:
    """Sample, score and measure.

    Args:
        prompts: prompt sets by name, beside files of prompts.
        every_line: training put a control token before every line; the default of `prefix_every_line`.
        progress: an object with `advance(n)`, told of each sample.
    """
    start = time.monotonic()
    chosen = choose_prompts(name, scenario, prompts, seed)
    template = Template.of(scenario, evaluation, tokenizer, every_line)
    continuations = generate(policy.model, [template.ids(prompt) for prompt in chosen], scenario.generation,
                             tokenizer=tokenizer, seed=stream_seed(seed, f"sampling/{name}"),
                             banned_token_ids=template.banned_ids, batch_size=evaluation.batch_size, progress=progress)
    samples = [Sample(prompt=prompt, text=template.text(continuation), score=None, index=index, seed=seed, step=step,
                      scenario=name) for index, (prompt, continuation) in enumerate(zip(chosen, continuations))]
    score_samples(samples, scenario, scorer, evaluation)
    seconds = time.monotonic() - start
    measured = {f"generation/{name}/{key}": value for key, value in
                (measure(samples, scenario, scorer, evaluation) | measure_lengths(continuations)).items()}
    timings = {f"generation/{name}/samples_per_second": round(len(samples) / seconds, 2)}
    return ScenarioResult(samples, measured, timings)


# ---- prompts ---------------------------------------------------------------------------------------------------------


def choose_prompts(name: str, scenario: ScenarioConfig, prompts: dict[str, list[str]], seed: int) -> list[str]:
    """`num_samples` prompts, cycled in an order fixed by the seed; empty ones where the scenario has no prompts."""
    if scenario.prompts is None:
        return [""] * scenario.num_samples
    found = prompts.get(scenario.prompts)
    if found is None:
        found = prompt_file(name, scenario.prompts, prompts)
    if not found:
        raise EvaluationError(f'evaluation.scenarios.{name}: the prompt set "{scenario.prompts}" is empty')
    order = stream(seed, f"prompts/{name}").permutation(len(found))
    return [found[order[i % len(found)]] for i in range(scenario.num_samples)]


def prompt_file(scenario: str, name: str, sets: dict[str, list[str]]) -> list[str]:
    """A JSONL file of {"text": ...}."""
    path = Path(name)
    if not path.is_file():
        known = f"There are: {', '.join(sorted(sets))}" if sets else "This task's data have none"
        raise EvaluationError(f'evaluation.scenarios.{scenario}.prompts="{name}" is neither a file nor a prompt set.'
                              f"{nearest(name, sets)} {known}")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (json.JSONDecodeError, KeyError, TypeError):
            text = None
        if not isinstance(text, str) or not text:
            raise EvaluationError(f'{path}, row {number}: a prompt is a line {{"text": "..."}}')
        found.append(text)
    return found


@dataclass
class Template:
    """How a prompt becomes tokens, and tokens become text."""

    tokenizer: object
    prefix_id: int | None
    every_line: bool
    banned_ids: list[int]

    @classmethod
    def of(cls, scenario: ScenarioConfig, evaluation: EvaluationConfig, tokenizer, every_line: bool) -> "Template":
        prefix = evaluation.prefix if scenario.prefix is None else scenario.prefix
        banned = scenario.generation.banned_tokens
        banned = evaluation.banned_tokens if banned is None else banned
        lines = every_line if scenario.prefix_every_line is None else scenario.prefix_every_line
        return cls(tokenizer, token_id(tokenizer, prefix) if prefix else None, lines,
                   [token_id(tokenizer, token) for token in banned])

    def ids(self, prompt: str) -> list[int]:
        """End of text, then the prompt with the control token before it or before each of its lines.  A prompt that
        ends its line is followed by one more: the next line's."""
        prefix = [] if self.prefix_id is None else [self.prefix_id]
        ids = [self.tokenizer.eos_token_id]
        if not self.every_line:
            return ids + prefix + self._plain(prompt)
        lines = prompt.splitlines(keepends=True)
        for line in lines:
            ids += prefix + self._plain(line)
        return ids + (prefix if not lines or lines[-1].endswith("\n") else [])

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def text(self, continuation: Continuation) -> str:
        """Without end-of-text and control tokens."""
        return self.tokenizer.decode(continuation.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def token_id(tokenizer, token: str) -> int:
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise EvaluationError(f'"{token}" is not one token of this model: evaluation.prefix and banned_tokens name the '
                              "control tokens it was trained with (set them to \"\" and [] for a model without)")
    return ids[0]


# ---- scores and metrics ----------------------------------------------------------------------------------------------


def score_samples(samples: list[Sample], scenario: ScenarioConfig, scorer, evaluation: EvaluationConfig) -> None:
    """Sets `score`, and in `extra` the text that was scored and what the score is made of."""
    if scenario.score_prompt:
        for sample in samples:
            sample.extra["scored_text"] = sample.prompt + sample.text
    if scorer is None:
        return
    texts = [scored_text(sample) for sample in samples]
    explain = any(metric_registry.get(name).needs_explanation for name in evaluation.metrics)
    for start in range(0, len(samples), SCORES_AT_ONCE):
        part = slice(start, start + SCORES_AT_ONCE)
        explained = scorer.explain(texts[part]) if explain else [{}] * len(texts[part])
        for sample, score, parts in zip(samples[part], checked(scorer, texts[part]), explained):
            sample.score = score
            if explain:
                sample.extra["explain"] = parts


def measure(samples: list[Sample], scenario: ScenarioConfig, scorer, evaluation: EvaluationConfig) -> dict[str, float]:
    """PHF's numbers (mean, maximum, expected maximum of 25, share of hits) and the config's metrics."""
    found = {}
    if scorer is not None:
        scores = [sample.score for sample in samples]
        found = {scorer.kind: float(np.mean(scores)), f"{scorer.kind}_max": max(scores),
                 f"{scorer.kind}_max@25": float(np.mean(statistics.chunk_maxima(scores))),
                 "num_hits": float(np.mean([score > scenario.hit_threshold for score in scores]))}
    for name, options in evaluation.metrics.items():
        found |= metric_registry.get(name)(**options)(samples)
    return found


def measure_lengths(continuations: list[Continuation]) -> dict[str, float]:
    return {"tokens": float(np.mean([len(each.ids) for each in continuations])),
            "finished": float(np.mean([each.finished for each in continuations]))}


@torch.no_grad()
def heldout_bits_per_byte(policy, heldout, batch_size: int,
                          check: Callable[[], None] = lambda: None) -> dict[str, float]:
    """-log2 p of held-out text per UTF-8 byte: of all of it, and of the segments that score 0 or less.

    Comparable between tokenizers.  End-of-text and control tokens are context, never counted."""
    nats = {"all": 0.0, "clean": 0.0}
    with evaluating(policy):
        for batch in heldout.batches(batch_size):
            check()
            batch = batch.to(policy.device)
            stats = policy.token_stats(batch)
            nll_BT = -stats.logps_BT.double() * stats.mask_BT
            nats["all"] += float(nll_BT.sum())
            nats["clean"] += float((nll_BT * (batch.scores_BT <= 0)).sum())
    found = {"heldout/bits_per_byte": nats["all"] / heldout.bytes_all / np.log(2)}
    if heldout.bytes_clean:
        found["heldout/bits_per_byte_clean"] = nats["clean"] / heldout.bytes_clean / np.log(2)
    return found

