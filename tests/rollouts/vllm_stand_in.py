"""What stands for vLLM where there is none: the parts of its interface that `apo/rollouts/vllm_engine.py` calls.

Names and defaults of arguments are those of vLLM's sources as they were read (`vllm/entrypoints/llm.py`,
`vllm/sampling_params.py`, `reload_weights` of `vllm/v1/worker/gpu_model_runner.py`; docs/vllm.md has the commits),
and so are the checks: an argument that is not named here is a TypeError, as one that vLLM does not have is there.  What
it writes comes from the weights it was last told to read, through our own sampler, one completion at a time.  That the
real one takes these calls, and what it does then, no test of ours has seen.
"""

from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Callable

from apo.rollouts.generate import generate
from apo.schema import GenerationConfig

ENGINE_ARGUMENTS = {"max_model_len", "max_num_seqs", "max_num_batched_tokens", "enable_sleep_mode",
                    "enable_prefix_caching", "generation_config", "load_format", "distributed_executor_backend",
                    "enable_lora", "max_lora_rank", "disable_log_stats"}
"""Of EngineArgs, that LLM hands on."""


@dataclass
class SamplingParams:
    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None

    def __post_init__(self):
        if not 0.0 <= self.temperature <= 2.0 or not 0.0 < self.top_p <= 1.0 or self.top_k < -1:
            raise ValueError("temperature, top_p or top_k")
        if self.min_tokens > self.max_tokens or self.max_tokens < 1:
            raise ValueError("min_tokens or max_tokens")
        if self.stop and not self.detokenize:
            raise ValueError("stop strings are only supported when detokenize is True.")
        if self.stop is not None and not all(self.stop):
            raise ValueError("stop cannot contain an empty string.")


@dataclass
class Seen:
    """What was asked of the engines, in order."""

    made: list[dict] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    requests: list[list] = field(default_factory=list)
    """(prompt, SamplingParams) of each round."""


class LLM:
    """`shared`, of the stand-in: what is seen, and what goes wrong."""

    shared: "Shared"

    def __init__(self, model, *, runner="auto", convert="auto", tokenizer=None, tokenizer_mode="auto",
                 skip_tokenizer_init=False, trust_remote_code=False, tensor_parallel_size=1, dtype="auto",
                 quantization=None, revision=None, tokenizer_revision=None, seed=0, gpu_memory_utilization=0.9,
                 cpu_offload_gb=0, enforce_eager=False, hf_overrides=None, compilation_config=None, **kwargs):
        if unknown := set(kwargs) - ENGINE_ARGUMENTS:
            raise TypeError(f"EngineArgs has no {unknown}")
        if self.shared.start is not None:
            raise self.shared.start
        self.options = {"dtype": dtype, "seed": seed, "gpu_memory_utilization": gpu_memory_utilization, **kwargs}
        self.shared.seen.made.append(self.options)
        from transformers import AutoTokenizer
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        self.awake, self.model = {"weights", "kv_cache"}, None
        self._read(model)

    def _read(self, path):
        from transformers import AutoModelForCausalLM
        self.model = AutoModelForCausalLM.from_pretrained(path)
        self.shared.seen.calls.append(f"read {path.rpartition('/')[2]}")

    def sleep(self, level=1, mode="abort"):
        assert self.options["enable_sleep_mode"] and level == 2
        self.awake, self.model = set(), None
        self.shared.seen.calls.append("sleep")

    def wake_up(self, tags=None):
        assert tags is not None and set(tags) <= {"weights", "kv_cache"}
        self.awake |= set(tags)
        self.shared.seen.calls.append(f"wake {' '.join(tags)}")

    def collective_rpc(self, method, timeout=None, args=(), kwargs=None):
        def reload_weights(weights_iterator=None, weights_path=None, is_checkpoint_format=True):
            assert self.awake == {"weights"} and weights_iterator is None and is_checkpoint_format
            self._read(weights_path)
        assert method == "reload_weights"
        return [reload_weights(*args, **(kwargs or {}))]

    def reset_prefix_cache(self, reset_running_requests=False, reset_connector=False):
        self.shared.seen.calls.append("forget")
        return self.shared.forgets

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None, priority=None,
                 tokenization_kwargs=None):
        assert self.awake == {"weights", "kv_cache"} and not use_tqdm and lora_request is None
        if len(sampling_params) != len(prompts):
            raise ValueError("The lengths of prompts and params must be the same.")
        self.shared.seen.requests.append([(prompt["prompt_token_ids"], params)
                                          for prompt, params in zip(prompts, sampling_params)])
        return [self.shared.spoil(SimpleNamespace(outputs=[self._one(prompt["prompt_token_ids"], params)]))
                for prompt, params in zip(prompts, sampling_params)]

    def _one(self, prompt_ids, params):
        assert params.n == 1 and params.ignore_eos and params.logprobs is None
        assert len(prompt_ids) + params.max_tokens <= self.options["max_model_len"]
        assert all(bias == float("-inf") for bias in (params.logit_bias or {}).values())
        options = GenerationConfig(do_sample=params.temperature > 0, temperature=params.temperature or 1.0,
                                   top_p=params.top_p, top_k=params.top_k, min_new_tokens=params.min_tokens,
                                   max_new_tokens=params.max_tokens, stop_strings=params.stop or [])
        [made] = generate(self.model, [prompt_ids], options, tokenizer=self.tokenizer, seed=params.seed,
                          banned_token_ids=list(params.logit_bias or {}), precision="fp32")
        return SimpleNamespace(token_ids=made.ids, finish_reason="stop" if made.finished else "length", text="")


@dataclass
class Shared:
    seen: Seen = field(default_factory=Seen)
    start: Exception | None = None
    """Instead of an engine."""
    forgets: bool = True
    spoil: Callable = lambda output: output
    """Takes each output, and gives what comes instead."""


def stand_in() -> tuple[ModuleType, Shared]:
    """A module `vllm` and what it shares with its tests."""
    shared, module = Shared(), ModuleType("vllm")
    module.SamplingParams = SamplingParams
    module.LLM = type("LLM", (LLM,), {"shared": shared})
    module.ModelRegistry = SimpleNamespace(get_supported_archs=lambda: {"LlamaForCausalLM", "GPT2LMHeadModel"})
    return module, shared
