"""What a run would be, without starting it: resolved config, sizes, steps, memory and time.  Opens no connection.

What cannot be known without the network is marked `unknown` with the reason, never guessed.  Memory and time are
estimates and say what they rest on.
"""

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from apo.budget import training_steps
from apo.console import duration
from apo.errors import ConfigError, ModelError, UserError
from apo.identity import run_directory, to_yaml, view_of
from apo.rundir import RunDirectory
from apo.schema import Config
from apo.stages import reward_model_configs, start_config, start_directory, start_of

ADAM_BYTES = 16
"""Per parameter: weight, gradient and two moments, fp32."""
BASE_BYTES = {"none": 4, "8bit": 1, "nf4": 0.53, "fp4": 0.53}
"""Per frozen parameter under an adapter."""
ACTIVATION_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
ACTIVATIONS_PER_WIDTH = 34
"""Numbers kept per token, layer and unit of width (Korthikanti et al. 2022, eq. 2, without the attention matrix)."""
UTILISATION = 0.4
"""Share of the measured matmul rate that training reaches; ours lie between 0.3 and 0.6."""


@dataclass
class Shape:
    parameters: int
    layers: int
    width: int
    vocabulary: int
    trained: int
    """Parameters that are not frozen: all, or an adapter's."""


@dataclass
class Cost:
    """What training costs, as far as it is known before anything is loaded."""

    steps: int | None
    tokens_per_step: int
    """At most, where rows are as long as their prompts and completions."""
    shape: Shape | None
    why: str
    """Why there is no shape."""
    precision: str = ""
    memory: float | None = None
    """Bytes."""
    rate: float | None = None
    """FLOP/s of a matrix product here."""
    seconds: float | None = None
    """On this machine, without evaluation."""


def cost(config: Config) -> Cost:
    steps = _steps(config, view_of(config) == "scored_text")
    tokens_per_step = config.training.effective_batch_size * config.data.block_size
    shape, why = _shape(config)
    found = Cost(steps, tokens_per_step, shape, why)
    if shape is not None:
        _estimate(found, config, shape)
    return found


def dry_run(config: Config) -> None:
    print(to_yaml(config), end="")                                          # noqa: T201
    print("---")                                                            # noqa: T201
    for name, value in facts(config).items():
        print(f"{name:<22} {value}")                                        # noqa: T201


def facts(config: Config) -> dict[str, str]:
    """Name -> what is known, in the order it is printed."""
    training, data = config.training, config.data
    rows = training.effective_batch_size
    most = "" if view_of(config) == "scored_text" else "at most "
    size, known = data_size(config), cost(config)
    steps, tokens_per_step, shape = known.steps, known.tokens_per_step, known.shape
    lines = {
        "run directory": str(run_directory(config)),
        "documents": size["documents"],
        "bytes of files": size["bytes"],
        "tokens per step": f"{most}{tokens_per_step:,} = {rows} rows x {data.block_size} tokens",
        "optimiser steps": f"{steps:,}" if steps else "unknown: they follow from the data's size in tokens",
        "training tokens": f"{most}{steps * tokens_per_step:,}" if steps else "unknown",
        "forward passes a step": f"{-(-training.effective_batch_size // training.per_device_train_batch_size)} of "
                                 f"{training.per_device_train_batch_size} rows (on one device)",
        "parameters": _parameters(shape) if shape else f"unknown: {known.why}",
    }
    for name, other in needed_runs(config).items():
        there = "finished" if RunDirectory(run_directory(other)).is_done() else "trained first"
        lines[name] = f"{run_directory(other)} ({there})"
    if directory := start_directory(config):
        lines["starts from"] = f"{directory} ({'finished' if RunDirectory(directory).is_done() else 'not there yet'})"
    return lines | _estimates(config, known)


def needed_runs(config: Config) -> dict[str, Config]:
    """Runs that are trained first where they are not there, by what they are for."""
    start = start_config(config)
    return ({} if start is None else {"starts from": start}) | reward_model_configs(config)


def _steps(config: Config, packed: bool) -> int | None:
    """Of tokens, only where all rows are of one length."""
    if config.training.max_steps is None and (config.training.num_tokens is None or not packed):
        return None
    return training_steps(config, None)


def data_size(config: Config) -> dict[str, str]:
    """Of the source, in words.  Raises ConfigError where its files are not there."""
    from apo.data.sources.base import sources
    try:
        source = sources.get(config.data.source)(config.data)
        size = source.size()
    except ConfigError:
        raise
    except UserError as error:
        raise ConfigError(str(error)) from error
    unknown = "unknown before it is read" if source.local else "unknown without the network"
    limit = config.data.max_documents
    documents = size.documents if limit is None or size.documents is None else min(limit, size.documents)
    return {"documents": f"{documents:,}" if documents is not None else unknown,
            "bytes": f"{size.bytes:,}" + (" before data.max_documents" if limit else "") if size.bytes else unknown}


def _shape(config: Config) -> tuple[Shape | None, str]:
    """The model's size from its config alone, or why it is not known."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from apo.models.adapters import find_adapter, parameters_of
    from apo.models.load import model_shape, quieten, update_config
    quieten()
    model, adapter = config.model, None
    if (directory := start_directory(config)) and RunDirectory(directory).is_done():
        model = start_of(config, None)
    try:
        if model.name is None:
            shape = model_shape(model, model.vocab_size, config.data.block_size)
        else:
            if Path(model.name).is_dir() and (adapter := find_adapter(model.name, base=model.base)):
                model = adapter.base_config(model)
            shape = AutoConfig.from_pretrained(model.name, revision=model.revision, local_files_only=True)
            update_config(shape, model)
    except (OSError, ValueError):
        return None, f"the config of {model.name} is not in the local cache"
    except ModelError:
        raise
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(shape)
    parameters = sum(p.numel() for p in empty.parameters())
    if adapter is not None:
        trained = parameters_of(empty, adapter.settings["r"], adapter.settings["target_modules"])
    elif model.lora.r is not None:
        trained = parameters_of(empty, model.lora.r, model.lora.target_modules)
    else:
        trained = parameters
    text = shape.get_text_config()
    return Shape(parameters, text.num_hidden_layers, text.hidden_size, text.vocab_size, trained), ""


def _parameters(shape: Shape) -> str:
    return f"{shape.parameters:,}" + (f", frozen, and {shape.trained:,} of an adapter"
                                      if shape.trained != shape.parameters else "")


def _estimates(config: Config, known: Cost) -> dict[str, str]:
    if known.shape is None:
        return dict.fromkeys(("memory", "training time"), "unknown: follows from the parameters")
    lines = {"memory": f"about {known.memory / 2**30:.2f} GiB (weights, gradients, moments; activations of "
                       f"{_rows(config)} rows)",
             "matmul rate here": f"{known.rate / 1e9:,.0f} GFLOP/s ({known.precision}, measured)"}
    if known.seconds is not None:
        lines["training time"] = f"about {duration(known.seconds)} on this machine, without evaluation"
    return lines


def _rows(config: Config) -> int:
    """Of a forward pass."""
    return min(config.training.per_device_train_batch_size, config.training.effective_batch_size)


def _estimate(found: Cost, config: Config, shape: Shape) -> None:
    from apo.training_arguments import resolve_precision
    precision = resolve_precision(config.training.precision)
    per_token = ACTIVATION_BYTES[precision] * (ACTIVATIONS_PER_WIDTH * shape.layers * shape.width + shape.vocabulary)
    frozen = BASE_BYTES[config.model.quantization] * shape.parameters if shape.trained != shape.parameters else 0
    found.precision, found.rate = precision, _rate(precision)
    found.memory = ADAM_BYTES * shape.trained + frozen + _rows(config) * config.data.block_size * per_token
    if found.steps:
        found.seconds = 6 * shape.parameters * found.steps * found.tokens_per_step / (found.rate * UTILISATION)


@cache
def _rate(precision: str) -> float:
    """Once for all runs that are looked at together."""
    return matmul_rate(precision)


def matmul_rate(precision: str, size: int = 1024, seconds: float = 0.3) -> float:
    """FLOP/s of a square matrix product on the device that would train."""
    import torch
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    size *= 8 if device == "cuda" else 1
    a = torch.randn(size, size, device=device, dtype=kind)
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    (a @ a), wait()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        a @ a
        wait()
        done += 1
    return done * 2 * size ** 3 / (time.perf_counter() - start)
