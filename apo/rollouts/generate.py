"""Text from a model: prompts in, continuations out, the same whatever the batch they stood in.

`generate` sorts prompts by length, reads each distinct prompt of a batch once, samples with `sampling.Sampler`, and
drops rows that have ended.  Three ways to the logits, the first that can: `LlamaDecoder` (its family, checked against
the model's own forward pass each time), `ModelDecoder` (any causal model with a key-value cache), and for beam search
or a model without such a cache transformers' own `generate`, whose sampling depends on the batch.

Row i's randomness depends on (seed, i) alone.  Other rows, their order and `batch_size` reach it only through the
rounding of matrix products; of 16,384 tokens sampled in batches of 32, 100 and 128 on a CPU none differed, in fp32 or
bf16.  The global random state of torch and numpy is left as it was, as is every module's training flag.

Shapes: N prompts, B rows of a batch, T tokens, V vocabulary.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Iterator, Literal

import torch
from torch import Tensor

from apo.errors import EvaluationError
from apo.host import computes_bf16
from apo.models.policy import evaluating, longest_context
from apo.rollouts.decoder import Decoder, ModelDecoder, Unsupported, attended
from apo.rollouts.fast_llama import LlamaDecoder
from apo.rollouts.sampling import Sampler, uniforms
from apo.schema import GenerationConfig

Precision = Literal["auto", "fp32", "bf16"]
COMPACT_AT = 1 / 8
"""Share of ended rows in a batch at which they leave it: moving the cache costs about one step."""


@dataclass(slots=True)
class Continuation:
    ids: list[int]
    """New tokens, the end-of-text token included if it was sampled; a stop string's last token stays whole."""
    finished: bool
    """Ended by itself (end of text or stop string), not by `max_new_tokens`."""


def generate(model, prompt_ids: list[list[int]], generation: GenerationConfig, *, tokenizer, seed: int,
             banned_token_ids: list[int] = (), batch_size: int = 128, precision: Precision = "auto",
             progress=None, numbers: list[int] | None = None) -> list[Continuation]:
    """One continuation per prompt, in the order of the prompts.

    precision: "fp32" computes in the weights' own precision; "bf16" computes matrix products in bf16 (weights and
    residual stream keep theirs); "auto" is bf16 where the hardware computes in it and the weights are fp32.
    progress: an object with `advance(rows)`, called as batches are done.
    numbers: below 2**63, one for each prompt, that its randomness depends on in place of its row.
    Raises EvaluationError where a prompt is empty or leaves no room in the model's context.
    """
    check_room(model, prompt_ids, generation.max_new_tokens)
    request = Request(generation, tokenizer, seed, list(banned_token_ids), end_token_ids(model, tokenizer))
    continuations: list[Continuation | None] = [None] * len(prompt_ids)
    device = next(model.parameters()).device
    dtype = compute_dtype(model, precision)
    with evaluating(model), torch.no_grad():
        complete, numerics = choose_engine(model, dtype, generation)
        with numerics:
            for rows in batches(prompt_ids, batch_size):
                drawn_by = rows if numbers is None else [numbers[row] for row in rows]
                texts = complete([prompt_ids[row] for row in rows], drawn_by, request, device)
                for row, continuation in zip(rows, texts):
                    continuations[row] = continuation
                if progress is not None:
                    progress.advance(len(rows))
    return continuations


@dataclass
class Request:
    """What is the same for every batch."""

    generation: GenerationConfig
    tokenizer: object
    seed: int
    banned_ids: list[int]
    end_ids: list[int]


def check_room(model, prompt_ids: list[list[int]], max_new_tokens: int) -> None:
    """Nothing is cut silently: a shortened prompt would be another prompt for this model than for the next."""
    limit = longest_context(model.config)
    for i, ids in enumerate(prompt_ids):
        if not ids:
            raise EvaluationError(f"prompt {i} has no tokens; a sample starts at least from the end-of-text token")
        if limit is not None and len(ids) + max_new_tokens > limit:
            room = limit - len(ids)
            what = f"lower max_new_tokens to {room} or less" if room > 0 else "leave it out or shorten it"
            raise EvaluationError(f"prompt {i} has {len(ids)} tokens and is to be continued by {max_new_tokens}, but "
                                  f"the model's context is {limit}: {what}")


def end_token_ids(model, tokenizer) -> list[int]:
    """The tokenizer's end of text, and what the model's own generation config adds to it (end of turn).  A config that
    does not know the tokenizer's (a fresh model's defaults) is not asked."""
    end = tokenizer.eos_token_id
    known = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if end is None:
        return []
    return known if isinstance(known, list) and end in known else [end]


def batches(prompt_ids: list[list[int]], batch_size: int) -> Iterator[list[int]]:
    """Rows of similar length together, equal prompts side by side."""
    order = sorted(range(len(prompt_ids)), key=lambda row: (len(prompt_ids[row]), prompt_ids[row], row))
    for start in range(0, len(order), batch_size):
        yield order[start:start + batch_size]


def compute_dtype(model, precision: Precision) -> torch.dtype:
    """What matrix products are computed in."""
    if model.dtype != torch.float32 or precision == "fp32":
        return model.dtype
    return torch.bfloat16 if precision == "bf16" or computes_bf16(next(model.parameters()).device) else torch.float32


def choose_engine(model, dtype: torch.dtype, generation: GenerationConfig):
    """The fastest way that gives this model's own text, (prompts, rows, request, device) -> list[Continuation], and
    the context it computes in."""
    autocast = torch.autocast(model.device.type, dtype, enabled=dtype != model.dtype)
    vocab_size = model.config.get_text_config().vocab_size
    if generation.num_beams > 1:
        return TransformersGenerate(model), autocast
    try:
        decoder = LlamaDecoder(model, dtype)
        ids_BT = (torch.arange(18, device=model.device) * 7919 % vocab_size).view(2, 9)
        with autocast:
            own_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, -2:]
        if decoder.reproduces(ids_BT, own_BTV):
            return SamplingLoop(decoder, vocab_size), nullcontext()
    except Unsupported:
        pass
    return WithFallback(model, vocab_size), autocast


class SamplingLoop:
    """Samples from a Decoder."""

    def __init__(self, decoder: Decoder, vocab_size: int):
        self.decoder, self.vocab_size = decoder, vocab_size

    def __call__(self, prompts: list[list[int]], rows: list[int], request: Request, device) -> list[Continuation]:
        generation = request.generation
        sampler = Sampler(generation, request.end_ids, request.banned_ids, device)
        stops = Stops(request, device)
        draws = uniforms(request.seed, rows, generation.max_new_tokens).to(device) if generation.do_sample else None
        texts = Texts(prompts, generation.max_new_tokens, device)
        seen_BV = texts.seen(self.vocab_size) if generation.repetition_penalty != 1 else None
        live = torch.arange(len(rows), device=device)
        ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
        logits_BV = self._read(prompts, device)
        for step in range(generation.max_new_tokens):
            tokens_B = sampler(logits_BV, None if draws is None else draws[live, step], step, seen_BV)
            texts.append(live, tokens_B, step)
            newly = stops(tokens_B, texts.upto(live, step)) & ~ended
            texts.end(live[newly], step)
            ended |= newly
            num_ended = int(ended.sum())
            if num_ended == len(ended) or step + 1 == generation.max_new_tokens:
                break
            if seen_BV is not None:
                seen_BV.scatter_(1, tokens_B.unsqueeze(-1), True)
            if num_ended >= max(1, COMPACT_AT * len(ended)):
                keep = (~ended).nonzero().squeeze(-1)
                self.decoder.select(keep)
                live, ended, tokens_B = live[keep], ended[keep], tokens_B[keep]
                seen_BV = None if seen_BV is None else seen_BV[keep]
            logits_BV = self.decoder.step(tokens_B)
        return texts.continuations()

    def _read(self, prompts: list[list[int]], device) -> Tensor:
        """Logits after each prompt, of which each distinct one is read once."""
        place = {prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        ids_UT, padding_U = padded([list(prompt) for prompt in place], device)
        logits_UV = self.decoder.prefill(ids_UT, padding_U if padding_U.any() else None)
        if len(place) == len(prompts):
            return logits_UV
        copies = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=device)
        self.decoder.select(copies)
        return logits_UV[copies]


def padded(prompts: list[list[int]], device) -> tuple[Tensor, Tensor]:
    """Right-aligned ids [B, T] and the padding in front of each [B].  What stands there (0) is never looked at."""
    width = max(map(len, prompts))
    padding = [width - len(prompt) for prompt in prompts]
    ids = [[0] * blank + prompt for blank, prompt in zip(padding, prompts)]
    return torch.tensor(ids, device=device), torch.tensor(padding, device=device)


class Texts:
    """Prompts and what has been sampled behind them, right-aligned at the first new token."""

    def __init__(self, prompts: list[list[int]], max_new_tokens: int, device):
        ids_BT, self.padding_B = padded(prompts, device)
        self.prompt_width = ids_BT.shape[1]
        self.ids_BT = torch.nn.functional.pad(ids_BT, (0, max_new_tokens))
        self.lengths_B = torch.full((len(prompts),), max_new_tokens, device=device)
        self.finished_B = torch.zeros(len(prompts), dtype=torch.bool, device=device)

    def append(self, rows: Tensor, tokens: Tensor, step: int) -> None:
        self.ids_BT[rows, self.prompt_width + step] = tokens

    def upto(self, rows: Tensor, step: int) -> Tensor:
        return self.ids_BT[rows, :self.prompt_width + step + 1]

    def end(self, rows: Tensor, step: int) -> None:
        self.lengths_B[rows] = step + 1
        self.finished_B[rows] = True

    def seen(self, vocab_size: int) -> Tensor:
        """[B, V] bool: the tokens of each prompt."""
        prompts_BT = self.ids_BT[:, :self.prompt_width]
        counts_BV = torch.zeros(len(prompts_BT), vocab_size, device=prompts_BT.device)
        return counts_BV.scatter_add_(1, prompts_BT, attended(prompts_BT, self.padding_B).float()) > 0

    def continuations(self) -> list[Continuation]:
        new = self.ids_BT[:, self.prompt_width:].tolist()
        return [Continuation(ids[:length], finished)
                for ids, length, finished in zip(new, self.lengths_B.tolist(), self.finished_B.tolist())]


class Stops:
    """End-of-text tokens and stop strings; transformers' own test for these, so that both engines stop alike."""

    def __init__(self, request: Request, device):
        self.end_ids = torch.tensor(request.end_ids, dtype=torch.long, device=device)
        self.strings = None
        if request.generation.stop_strings:
            from transformers import StopStringCriteria
            self.strings = StopStringCriteria(request.tokenizer, request.generation.stop_strings)

    def __call__(self, tokens_B: Tensor, ids_BT: Tensor) -> Tensor:
        stopped_B = torch.isin(tokens_B, self.end_ids)
        return stopped_B if self.strings is None else stopped_B | self.strings(ids_BT, None)


class WithFallback:
    """The generic loop; from the first batch on transformers' own if the model keeps no usable cache."""

    def __init__(self, model, vocab_size: int):
        self.model, self.engine = model, SamplingLoop(ModelDecoder(model), vocab_size)

    def __call__(self, *arguments) -> list[Continuation]:
        try:
            return self.engine(*arguments)
        except Unsupported:
            self.engine = TransformersGenerate(self.model)
            return self.engine(*arguments)


def at_the_end(prompts: list[list[int]], new_BS: Tensor, request: Request) -> list[Continuation]:
    """Of what another loop wrote, without what stands behind texts that ended: our test for the end, replayed."""
    stops, texts = Stops(request, new_BS.device), Texts(prompts, new_BS.shape[1], new_BS.device)
    rows = torch.arange(len(prompts), device=new_BS.device)
    for step, tokens_B in enumerate(new_BS.unbind(1)):
        texts.append(rows, tokens_B, step)
        newly = stops(tokens_B, texts.upto(rows, step)) & ~texts.finished_B
        texts.end(rows[newly], step)
    return texts.continuations()


class TransformersGenerate:
    """`model.generate`, on random state of its own."""

    def __init__(self, model):
        self.model = model

    def __call__(self, prompts: list[list[int]], rows: list[int], request: Request, device) -> list[Continuation]:
        ids_BT, padding_B = padded(prompts, device)
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed((request.seed * 1_000_003 + rows[0]) % 2**63)
            output_BT = self.model.generate(input_ids=ids_BT, attention_mask=attended(ids_BT, padding_B).long(),
                                            generation_config=self.options(request), tokenizer=request.tokenizer)
        return at_the_end(prompts, output_BT[:, ids_BT.shape[1]:], request)

    @staticmethod
    def options(request: Request):
        """Every option by name: what is left open, `generate` takes from the model's own file."""
        from transformers import GenerationConfig as Options
        generation = request.generation
        warpers = {key: getattr(generation, key) for key in ("temperature", "top_k", "top_p")}
        return Options(do_sample=generation.do_sample, num_beams=generation.num_beams,
                       repetition_penalty=generation.repetition_penalty, max_new_tokens=generation.max_new_tokens,
                       min_new_tokens=generation.min_new_tokens, eos_token_id=request.end_ids or None,
                       pad_token_id=request.end_ids[0] if request.end_ids else 0,
                       suppress_tokens=request.banned_ids or None, stop_strings=generation.stop_strings or None,
                       **(warpers if generation.do_sample else {}))
