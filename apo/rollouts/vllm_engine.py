"""Rounds sampled by vLLM, behind the interface of `apo/rollouts/generate.py`: prompts in, `Continuation`s out.

**Never run against the real library.**  Written from vLLM's documentation and sources of 2026 (docs/vllm.md says which)
and tested against a stand-in with the signatures that stand there (`tests/rollouts/test_vllm_engine.py`).

The engine is a process that vLLM starts on the same device, so its random state is not the trainer's.  It wakes up for
a round and sleeps in between, when the trainer has the memory.  For each round the policy is written down as a model
directory, an adapter merged into it, and the engine reads that (`reload_weights`): of vLLM's ways to take up weights
the one that needs no code of ours in its process, and no name or layout of its layers.  Each round has a directory of
its own, since a version has gone on with what it had read of a path before (vllm-project/vllm#32718).

What ended a text is asked of our own test (`at_the_end`), so that both samplers stop alike.  Log-probabilities are
never asked of vLLM: the trainer computes its own.
"""

import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Iterator

import torch

from apo.errors import EvaluationError, ModelError
from apo.models.adapters import OURS, is_adapted
from apo.models.load import merged
from apo.rollouts.generate import Continuation, Request, at_the_end, check_room, compute_dtype, end_token_ids
from apo.schema import GenerationConfig
from apo.seeds import stream_seed

LOWEST = (0, 18)
"""Version: the documentation of that one has what `reload_weights` rests on (`model_loader.reload`)."""
SLEEP = 2
"""Level: weights and cache are given up, since the next round brings its own."""
NEVER = float("-inf")
"""Added to the logit of a token that is not to be sampled.  (`allowed_token_ids` takes 1,024 at most.)"""


def check_vllm() -> None:
    """Raises ModelError where vLLM cannot sample here, whatever the model: told before anything is trained."""
    try:
        version = metadata.version("vllm")
    except metadata.PackageNotFoundError:
        raise ModelError("rollout.backend=vllm needs a package that is not installed: pip install -e '.[vllm]', or "
                         "leave it at hf") from None
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < LOWEST:
        raise ModelError(f"rollout.backend=vllm: vllm {version} is too old to take up new weights round by round; "
                         f"install {'.'.join(map(str, LOWEST))} or later")
    if not torch.cuda.is_available():
        raise ModelError("rollout.backend=vllm needs a CUDA device, and there is none: leave it at hf")


def check_model(model, architectures) -> None:
    """Raises ModelError for a policy that vLLM cannot sample from.  `architectures`: that it knows."""
    whole = model.get_base_model() if is_adapted(model) else model
    if getattr(whole, "is_quantized", False):
        raise ModelError("rollout.backend=vllm reads whole weights, and those under this adapter are rounded: leave "
                         "model.quantization out, or rollout.backend at hf")
    kind = model.peft_config[OURS].peft_type if is_adapted(model) else "LORA"
    if str(getattr(kind, "value", kind)) != "LORA":
        raise ModelError(f"rollout.backend=vllm: an adapter of the kind {getattr(kind, 'value', kind)} cannot be "
                         "merged into weights, which is how one is handed over: leave rollout.backend at hf")
    if type(whole).__name__ not in architectures:
        raise ModelError(f"rollout.backend=vllm: vllm has no {type(whole).__name__}; leave rollout.backend at hf")


@dataclass
class VllmSampler:
    """Called like `generate`."""

    folder: Path
    """Where weights are written for the engine to read; emptied before and after."""
    longest: int
    """Tokens of prompt and continuation together, at most."""
    memory: float
    """Share of the device's memory."""
    engine: Any = field(default=None, init=False)
    """`vllm.LLM`, from the first round on."""
    rounds: int = field(default=0, init=False)

    def __call__(self, model, prompt_ids: list[list[int]], generation: GenerationConfig, *, tokenizer, seed: int,
                 banned_token_ids: list[int] = (), batch_size: int = 128, progress=None,
                 numbers: list[int] | None = None) -> list[Continuation]:
        """One continuation per prompt, all asked for at once; `batch_size` are written at a time.

        Continuation i depends on (seed, i, or its number) and on the weights; but what stands beside it in the engine
        decides how vLLM rounds, so that a second run may write other texts.
        Raises EvaluationError as `generate` does, ModelError for a model or an engine that will not do.
        """
        if generation.num_beams > 1:
            raise EvaluationError(f"num_beams={generation.num_beams}: vllm samples, and searches no beams")
        check_room(model, prompt_ids, generation.max_new_tokens)
        request = Request(generation, tokenizer, seed, list(banned_token_ids), end_token_ids(model, tokenizer))
        with self._awake(model, tokenizer, batch_size) as engine:
            outputs = engine.generate([{"prompt_token_ids": ids} for ids in prompt_ids],
                                      [parameters(request, number) for number in numbers or range(len(prompt_ids))],
                                      use_tqdm=False)
        continuations = read(outputs, prompt_ids, request, batch_size)
        if progress is not None:
            progress.advance(len(prompt_ids))
        return continuations

    @contextmanager
    def _awake(self, model, tokenizer, batch_size: int) -> Iterator[Any]:
        """The engine with the model's weights as they are now."""
        from vllm import ModelRegistry
        check_model(model, ModelRegistry.get_supported_archs())
        shutil.rmtree(self.folder, ignore_errors=True)      # of a run that was killed
        written = self.folder / f"weights-{self.rounds}"
        try:
            write(model, tokenizer, written)
            torch.cuda.empty_cache()                        # what the trainer holds and does not use
            if self.engine is None:
                self.engine = self._started(written, compute_dtype(model, "auto"), batch_size)
            else:
                self._reload(written)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.rounds += 1
        try:
            yield self.engine
        finally:
            self.engine.sleep(level=SLEEP)

    def _started(self, written: Path, dtype: torch.dtype, batch_size: int):
        from vllm import LLM
        try:
            return LLM(model=str(written), tokenizer=str(written), dtype=str(dtype).removeprefix("torch."), seed=0,
                       gpu_memory_utilization=self.memory, max_model_len=self.longest, max_num_seqs=batch_size,
                       enable_sleep_mode=True, enable_prefix_caching=True,
                       # Else options and ends of text that the directory names would be added to ours.
                       generation_config="vllm")
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"vllm did not start ({_first_line(error)}); its own lines above say why. Where memory is "
                             f"short, change rollout.gpu_memory_utilization={self.memory:g}, rollout.prompts or "
                             "evaluation.batch_size") from error

    def _reload(self, written: Path) -> None:
        """The memory of the cache only after the weights are in place: in between both would stand in it twice."""
        self.engine.wake_up(tags=["weights"])
        self.engine.collective_rpc("reload_weights", kwargs={"weights_path": str(written)})
        self.engine.wake_up(tags=["kv_cache"])
        if not self.engine.reset_prefix_cache():
            raise ModelError("vllm did not forget what it had computed with the last round's weights; leave "
                             "rollout.backend at hf")


def write(model, tokenizer, folder: Path) -> None:
    """A model directory as safetensors; an adapter is merged into a copy of its base, on the CPU."""
    folder.mkdir(parents=True)
    (merged(model) if is_adapted(model) else model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def parameters(request: Request, number: int):
    """Of one completion.  The ends of text are ours alone: `ignore_eos` takes vLLM's away."""
    from vllm import SamplingParams
    generation = request.generation
    return SamplingParams(
        n=1, seed=stream_seed(request.seed, "completion", number),
        temperature=generation.temperature if generation.do_sample else 0.0, top_p=generation.top_p,
        top_k=generation.top_k, repetition_penalty=generation.repetition_penalty,
        min_tokens=generation.min_new_tokens, max_tokens=generation.max_new_tokens,
        stop=generation.stop_strings or None, stop_token_ids=request.end_ids, ignore_eos=True,
        logit_bias=dict.fromkeys(request.banned_ids, NEVER) or None,
        detokenize=bool(generation.stop_strings))       # only a stop string needs the text


def read(outputs, prompt_ids: list[list[int]], request: Request, batch_size: int) -> list[Continuation]:
    """vLLM's completions as ours.  Raises ModelError for what was not asked for."""
    if len(outputs) != len(prompt_ids):
        raise ModelError(f"vllm was asked for {len(prompt_ids)} completions and gave {len(outputs)}")
    found = []
    for output in (each.outputs[0] for each in outputs):
        ids = list(output.token_ids)
        if output.finish_reason not in ("stop", "length") or not ids:
            raise ModelError(f"vllm broke off a completion after {len(ids)} tokens ({output.finish_reason})")
        if banned := set(ids) & set(request.banned_ids):
            raise ModelError(f"vllm wrote token {min(banned)}, which it was told not to; leave rollout.backend at hf")
        found.append(Continuation(ids, output.finish_reason == "stop"))
    if not request.generation.stop_strings:
        return found
    return [each for start in range(0, len(found), batch_size)
            for each in _cut(found[start:start + batch_size], prompt_ids[start:start + batch_size], request)]


def _cut(found: list[Continuation], prompts: list[list[int]], request: Request) -> list[Continuation]:
    """At the first stop string, as our sampler would have seen it; where it sees none, as vLLM said."""
    width = max(len(each.ids) for each in found)
    padded_BS = torch.tensor([each.ids + [0] * (width - len(each.ids)) for each in found])
    again = at_the_end(prompts, padded_BS, request)
    return [mine if len(mine.ids) <= len(theirs.ids) and mine.finished else theirs
            for mine, theirs in zip(again, found)]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
