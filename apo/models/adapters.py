"""LoRA adapters through PEFT: new ones, the one of a PEFT folder trained on, and bases in 8 or 4 bits under them.

The base stays as it is loaded; what is trained is low-rank updates of the body's linear layers and the embedding rows
of new control tokens.  A folder of an adapter is PEFT's own (`adapter_model.safetensors`, `adapter_config.json`), so
PEFT and transformers load it; beside them `adapter_base.json` says how the base was loaded (bits, changed options),
because an adapter that was trained on a rounded base fits that base only.
"""

import copy
import json
import warnings
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import torch
from torch import nn

from apo.errors import ModelError, nearest
from apo.schema import LoraConfig, ModelConfig
from apo.seeds import stream_seed

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "adapter_base.json"
FILES = ["*.json", "adapter_model.*", "*.txt", "*.model", "*.jinja"]
"""Of an adapter on the hub: the adapter and its tokenizer."""
OURS, REFERENCE = "default", "reference"
"""Names of adapters inside the model: the one that is trained, and its frozen copy."""
KEPT = ("config", "quantization", "double_quantization")
"""What of the model's options makes the base, beside its name and revision.  Never leave to run its code."""
ROWS = "trainable_tokens_delta"


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter on disk, where one of the hub has been fetched to as well."""

    name: str
    """As it was asked for."""
    folder: Path
    settings: dict
    """PEFT's own, of adapter_config.json."""
    base_settings: dict = field(default_factory=dict)
    """Of adapter_base.json; {} for an adapter that others trained."""
    base_instead: str | None = None
    """What it is put on, in place of what it names."""

    @property
    def base(self) -> str:
        """Raises ModelError where it was a directory and is gone."""
        if self.base_instead is not None:
            return self.base_instead
        name = self.settings["base_model_name_or_path"]
        if Path(name).is_absolute() and not Path(name).exists():
            raise ModelError(f"{self.name} is an adapter on {name}, which is not there: name its new place as "
                             "model.base (evaluate.py: base=, merge_adapter.py: --base)")
        return name

    @property
    def base_revision(self) -> str | None:
        return self.settings.get("revision") if self.base_instead is None else None

    def base_config(self, config: ModelConfig | None = None) -> ModelConfig:
        """How its base is loaded: as it was; with `config`, as that says, over the options the adapter was trained
        with."""
        stored = {key: value for key, value in self.base_settings.items() if key in KEPT}
        where = {"name": self.base, "revision": self.base_revision}
        if config is None:
            return ModelConfig(**stored | where)
        return replace(config, config=stored.get("config", {}) | config.config, **where)


def find_adapter(name: str | None, revision: str | None = None, base: str | None = None) -> AdapterFolder | None:
    """What an adapter says of itself, where `name` is a PEFT folder or a hub name that has one; else None.

    `base`: what it is put on instead of what it names."""
    folder = None if name is None else Path(name) if Path(name).exists() else fetched(str(name), revision)
    if folder is None or not (folder / CONFIG).is_file():
        if base is not None:
            raise ModelError(f"model.base={base}: {name} is no adapter, and so stands on no other model; leave it out")
        return None
    settings = _read(folder / CONFIG)
    if settings.get("peft_type") != "LORA":
        raise ModelError(f"{name} is an adapter of the kind {settings.get('peft_type')}; only LORA is supported")
    if not (base or settings.get("base_model_name_or_path")):
        raise ModelError(f"{name} does not say which model it is an adapter of: name it as model.base (evaluate.py: "
                         "base=)")
    return AdapterFolder(str(name), folder, settings, _read(folder / BASE) if (folder / BASE).is_file() else {}, base)


@cache
def fetched(name: str, revision: str | None) -> Path | None:
    """The folder of an adapter of the hub; None where the model has none or cannot be reached."""
    from huggingface_hub import snapshot_download
    from transformers.utils import cached_file
    try:
        found = cached_file(name, CONFIG, revision=revision, _raise_exceptions_for_gated_repo=False,
                            _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
        return found and Path(snapshot_download(name, revision=revision, allow_patterns=FILES))
    except (OSError, ValueError):
        return None


def _read(file: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ModelError(f"{file} cannot be read: {problem}") from None


def is_adapted(model: nn.Module) -> bool:
    return hasattr(model, "get_base_model")


# ---- bases in 8 or 4 bits --------------------------------------------------------------------------------------------


def quantised_loading(config: ModelConfig) -> dict:
    """Keyword arguments of `from_pretrained`; none where the base keeps its weights."""
    if config.quantization == "none":
        return {}
    try:
        import bitsandbytes  # noqa: F401
        from transformers import BitsAndBytesConfig
    except ImportError:
        raise ModelError(f"model.quantization={config.quantization} needs bitsandbytes: pip install "
                         "'bitsandbytes>=0.50'") from None
    if config.quantization == "8bit":
        options = BitsAndBytesConfig(load_in_8bit=True)
    else:
        compute = torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
        options = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=config.quantization,
                                     bnb_4bit_use_double_quant=config.double_quantization,
                                     bnb_4bit_compute_dtype=compute)
    place = {"device_map": {"": torch.cuda.current_device()}} if torch.cuda.is_available() else {}
    return {"quantization_config": options, **place}


def keep_layout(model: nn.Module) -> nn.Module:
    """On CPUs that multiply in bf16, bitsandbytes lays 4-bit weights out anew when a layer is first evaluated, for a
    kernel without a backward pass, and leaves them so: trained after that, gradients no longer reach the layers below,
    and nothing says so.  Also the numbers would differ before and after the first evaluation."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


# ---- what is adapted -------------------------------------------------------------------------------------------------


def linear_layers(model: nn.Module) -> list[str]:
    """Full names of the linear layers in the body: no embeddings, no head."""
    from transformers.pytorch_utils import Conv1D
    head = model.get_output_embeddings()
    body = {id(module) for module in model.base_model.modules()}
    return [name for name, module in model.named_modules()      # bitsandbytes' layers are nn.Linear by descent
            if isinstance(module, (nn.Linear, Conv1D)) and module is not head and id(module) in body]


def target_modules(model: nn.Module, named: list[str] | None = None) -> list[str]:
    """The layers to adapt, named as PEFT matches them: found in the model, or the user's, checked against it."""
    layers = linear_layers(model)
    if not layers:
        raise ModelError(f"{type(model).__name__} has no linear layers that LoRA could adapt")
    short = sorted({name.rpartition(".")[2] for name in layers})
    if named is None:
        meant = [name for name, _ in model.named_modules() if _matches(name, short)]
        return short if sorted(meant) == sorted(layers) else sorted(layers)
    absent = [name for name in named if not any(_matches(layer, [name]) for layer in layers)]
    if absent or not named:
        hints = "; ".join(f'no linear layer "{name}" in the body.{nearest(name, short)}' for name in absent)
        raise ModelError(f"model.lora.target_modules: {hints or 'the list is empty; null finds them.'} "
                         f"There are: {', '.join(short)}")
    return sorted(set(named))


def _matches(name: str, ends: list[str]) -> bool:
    return any(name == end or name.endswith("." + end) for end in ends)


def parameters_of(model: nn.Module, rank: int, named: list[str] | str | None = None) -> int:
    """Numbers in an adapter of the model, which may be one without weights."""
    names = target_modules(model, None if isinstance(named, str) else named)
    return sum(rank * sum(module.weight.shape) for name, module in model.named_modules() if _matches(name, names))


def token_rows(model: nn.Module, ids: list[int]) -> dict[str, list[int]] | None:
    """Embedding rows to train, by module: the input's, and the head's where it is not the same matrix."""
    if not ids:
        return None
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise ModelError(f"the head of {type(model).__name__} has a bias, with which PEFT cannot train single rows: "
                         "new control tokens need full training (leave model.lora.r out)")
    names = {id(module): name for name, module in model.named_modules()}
    rows = {names[id(inputs)]: list(ids)}
    return rows if head.weight is inputs.weight else rows | {names[id(head)]: list(ids)}


# ---- attaching -------------------------------------------------------------------------------------------------------


def attach(model: nn.Module, lora: LoraConfig, base: ModelConfig, seed: int, new_ids: list[int] = ()) -> nn.Module:
    """The model under a new adapter, which changes nothing yet: its second factors are zero."""
    peft = _peft()
    names = target_modules(model, lora.target_modules)
    by_name = dict(model.named_modules())
    adapted = [module for name, module in by_name.items() if _matches(name, names)]
    options = peft.LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names,
                              bias="none", task_type="CAUSAL_LM", trainable_token_indices=token_rows(model, new_ids),
                              fan_in_fan_out=all(type(module).__name__ == "Conv1D" for module in adapted))
    return _wrapped(model, options, base, seed)


def attach_found(model: nn.Module, adapter: AdapterFolder, base: ModelConfig, seed: int = 0,
                 new_ids: list[int] = ()) -> nn.Module:
    """The model under the adapter of a folder, trainable; `new_ids` are tokens that it did not have."""
    peft = _peft()
    options = peft.PeftConfig.from_pretrained(str(adapter.folder))
    options.inference_mode = False
    known = saved_rows(adapter)
    options.trainable_token_indices = token_rows(model, [*known, *(token for token in new_ids if token not in known)])
    wrapped = _wrapped(model, options, base, seed)
    try:
        weights = peft.utils.load_peft_weights(str(adapter.folder), device="cpu")
    except (OSError, ValueError) as problem:
        raise ModelError(f"{adapter.name} has no adapter weights that can be read: {problem}") from problem
    _load(wrapped, weights, adapter.name)
    return wrapped


def saved_rows(adapter: AdapterFolder) -> list[int]:
    """Ids of the tokens whose embeddings the adapter brings."""
    rows = adapter.settings.get("trainable_token_indices") or []
    return list(next(iter(rows.values()))) if isinstance(rows, dict) else list(rows)


def _peft():
    try:
        import peft
    except ImportError:
        raise ModelError("adapters need peft: pip install 'peft>=0.21'") from None
    return peft


def _wrapped(model: nn.Module, options, base: ModelConfig, seed: int) -> nn.Module:
    options.base_model_name_or_path = str(Path(base.name).resolve()) if Path(base.name).exists() else base.name
    options.revision = base.revision
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)   # PEFT asks by the old name
        torch.manual_seed(stream_seed(seed, "adapter"))
        wrapped = _peft().get_peft_model(model, options, adapter_name=OURS)
    wrapped.loaded_as = base
    return wrapped.train(model.training)


def _load(model: nn.Module, weights: dict[str, torch.Tensor], place) -> None:
    """Every weight of the adapter from `weights`.  Rows of tokens that are new since then keep what they start at."""
    from peft import set_peft_model_state_dict
    own = adapter_weights(model)
    for key, value in own.items():
        if ROWS in key:
            weights[key] = torch.cat([weights.get(key, value[:0]).to(value), value[len(weights.get(key, ())):]])
    unlike = sorted(own.keys() ^ weights.keys()) or sorted(key for key in own if own[key].shape != weights[key].shape)
    if unlike:
        raise ModelError(f"the adapter in {place} does not fit its base: {unlike[0]} is missing, too many or of "
                         "another shape")
    set_peft_model_state_dict(model, weights, adapter_name=OURS)


# ---- on disk ---------------------------------------------------------------------------------------------------------


def adapter_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict
    return get_peft_model_state_dict(model, adapter_name=OURS, save_embedding_layers=False)


def save_adapter(model: nn.Module, folder: Path) -> None:
    """The adapter alone, as PEFT writes it, and how its base was loaded."""
    from safetensors.torch import save_file
    weights = {key: value.detach().contiguous() for key, value in adapter_weights(model).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    options = copy.copy(model.peft_config[OURS])
    options.inference_mode = True
    if isinstance(options.target_modules, set):
        options.target_modules = sorted(options.target_modules)
    options.save_pretrained(str(folder))
    settings = {key: value for key, value in asdict(model.loaded_as).items() if key in KEPT}
    (folder / BASE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def restore_adapter(model: nn.Module, folder: Path) -> None:
    from safetensors.torch import load_file
    _load(model, load_file(folder / WEIGHTS), folder)
