"""Models and tokenizers from a config: fresh ones of any transformers architecture, or any causal model by name.

Random draws have streams of their own (`init`, `new_tokens`), so that two methods with the same seed start from the
same weights although one of them has control tokens the other lacks.
"""

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from apo.console import warn
from apo.errors import ModelError
from apo.models import adapters
from apo.models.policy import DROPOUT_SUFFIXES, Policy, longest_context
from apo.schema import ModelConfig
from apo.seeds import stream_seed


def load_tokenizer(config: ModelConfig):
    """The tokenizer that the config names; None where one is to be trained on the corpus."""
    name = config.tokenizer or config.name
    if name is None:
        return None
    from transformers import AutoTokenizer
    revision = config.revision if config.tokenizer is None else None
    name, revision = _tokenizer_place(name, revision, config.base if name == config.name else None)
    tokenizer = _from_hub(AutoTokenizer, name, revision=revision, trust_remote_code=config.trust_remote_code)
    if tokenizer.eos_token is None:
        raise ModelError(f"the tokenizer of {name} has no end-of-text token; choose another with model.tokenizer=")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(config: ModelConfig, tokenizer, vocab_size: int, seed: int, new_ids: list[int] = (),
                value_head: bool = False, block_size: int = 0) -> Policy:
    """The policy as training starts.

    Args:
        vocab_size: of the tokenizer, its own added tokens included, before control tokens were added.
        new_ids: of the control tokens it did not have; the embedding grows by as many rows as they need.
        block_size: the longest training row, which must fit the model's context.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    fresh = not config.is_trained
    adapter = None if fresh else adapters.find_adapter(config.name, config.revision, config.base)
    if adapter is not None:
        _tell_differences(config, adapter)
        config = adapter.base_config(config)
    _refuse_lora(config, fresh, adapter)
    model_config = _model_config(AutoConfig, config, tokenizer, vocab_size, block_size)
    context = longest_context(model_config)
    if context and block_size > context:
        raise ModelError(f"data.block_size={block_size} is longer than the model's context of {context} tokens; "
                         f"lower it, or set model.config.max_position_embeddings")
    arguments = {"attn_implementation": config.attn_implementation} if config.attn_implementation else {}
    if fresh:
        with torch.random.fork_rng():
            torch.manual_seed(stream_seed(seed, "init"))
            model = AutoModelForCausalLM.from_config(model_config, **arguments)
    else:
        model = _base(config, model_config, arguments)
    if adapter is not None:
        add_token_rows(model, adapters.saved_rows(adapter), 0, seed)
    add_token_rows(model, list(new_ids), config.new_token_noise, seed)
    if adapter is not None:
        model = adapters.attach_found(model, adapter, config, seed, list(new_ids))
    elif config.lora.r is not None:
        model = adapters.attach(model, config.lora, config, seed, list(new_ids))
    policy = Policy(model, value_head)
    policy.adapter_is_new = adapter is None
    policy.check_head()
    return policy


def model_shape(config: ModelConfig, vocab_size: int, block_size: int):
    """The transformers config of a fresh model, without weights: for the estimates of a dry run."""
    from transformers import AutoConfig
    return _fresh_config(AutoConfig, config, {"vocab_size": vocab_size}, block_size)


def quieten() -> None:
    """Libraries that talk while they work: bars of their own inside ours, and hints that lead nowhere here."""
    from transformers.utils import logging as transformers_logging
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)   # at import it suggests a package that asks the hub
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def load_trained(directory: str | Path, revision: str | None = None, trust_remote_code: bool = False,
                 base: str | None = None):
    """(policy, tokenizer) of a run's `final/` or checkpoint, of any model directory or PEFT folder, or a hub name.
    `base`: of an adapter, as in `find_adapter`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    name = str(directory)
    place, place_revision = _tokenizer_place(name, revision, base)
    tokenizer = _from_hub(AutoTokenizer, place, revision=place_revision, trust_remote_code=trust_remote_code)
    adapter = adapters.find_adapter(name, revision, base)
    if adapter is None:
        model = _from_hub(AutoModelForCausalLM, name, revision=revision, dtype=torch.float32,
                          trust_remote_code=trust_remote_code)
    else:
        model = load_adapted(adapter, replace(adapter.base_config(), trust_remote_code=trust_remote_code))
    policy = Policy(model)
    policy.check_head()
    return policy.eval(), tokenizer


def find_model(name: str, revision: str | None = None) -> None:
    """Reads its config and no weights: whether there is such a model, told before it is needed.  Raises ModelError."""
    from transformers import AutoConfig
    if (adapter := adapters.find_adapter(name, revision)) is not None:
        name, revision = adapter.base, adapter.base_revision
    _from_hub(AutoConfig, name, revision=revision)


# ---- adapters --------------------------------------------------------------------------------------------------------


def load_adapted(adapter: adapters.AdapterFolder, base: ModelConfig, dequantise: bool = False):
    """An adapter on its base, loaded as `base` says; `dequantise`: then with its weights as numbers again."""
    from transformers import AutoConfig
    model_config = _from_hub(AutoConfig, base.name, revision=base.revision, trust_remote_code=base.trust_remote_code)
    update_config(model_config, base)
    model = _base(base, model_config, {})
    if dequantise and getattr(model, "is_quantized", False):
        model = model.dequantize(dtype=torch.float32)
    add_token_rows(model, adapters.saved_rows(adapter), 0, 0)
    return adapters.attach_found(model, adapter, base)


def merged(model):
    """The adapted model in one piece, built anew beside it: numbers where the base was rounded."""
    with tempfile.TemporaryDirectory() as folder:
        adapters.save_adapter(model, Path(folder))
        return load_adapted(adapters.find_adapter(folder), model.loaded_as, dequantise=True).merge_and_unload()


def _base(config: ModelConfig, model_config, arguments: dict):
    """The weights that `config` names, under an adapter in the bits it asks for."""
    from transformers import AutoModelForCausalLM
    model = _from_hub(AutoModelForCausalLM, config.name, revision=config.revision, config=model_config,
                      dtype=torch.float32, trust_remote_code=config.trust_remote_code,
                      **adapters.quantised_loading(config), **arguments)
    return adapters.keep_layout(model)


def _tokenizer_place(name: str, revision: str | None, base: str | None) -> tuple[str, str | None]:
    """An adapter that brings no tokenizer has its base's."""
    adapter = adapters.find_adapter(name, revision, base)
    if adapter is None:
        return name, revision
    if (adapter.folder / "tokenizer_config.json").is_file():
        return str(adapter.folder), None
    return adapter.base, adapter.base_revision


def _refuse_lora(config: ModelConfig, fresh: bool, adapter: adapters.AdapterFolder | None) -> None:
    if fresh and (config.lora.r is not None or config.quantization != "none"):
        raise ModelError("an adapter is kept apart from the weights it stands on, and a fresh model's are kept "
                         "nowhere: set model.name to a model that is trained already, or leave model.lora.r out")
    if config.quantization != "none" and adapter is None and config.lora.r is None:
        raise ModelError(f"model.quantization={config.quantization}: rounded weights cannot be trained; set "
                         "model.lora.r=16")


def _tell_differences(config: ModelConfig, adapter: adapters.AdapterFolder) -> None:
    """An adapter that is trained on keeps its shape, and does best on the base it knows."""
    before = adapter.base_settings.get("quantization", config.quantization)
    if before != config.quantization:
        warn(f"the adapter in {adapter.name} was trained on a base with model.quantization={before}, and goes on with "
             f"{config.quantization}: its base is rounded differently")
    if config.lora.r not in (None, adapter.settings["r"]):
        warn(f"the adapter in {adapter.name} has rank {adapter.settings['r']} and keeps it; model.lora.r="
             f"{config.lora.r} is for new adapters")


def _model_config(AutoConfig, config: ModelConfig, tokenizer, vocab_size: int, block_size: int):
    if config.name is None:
        model_config = _fresh_config(AutoConfig, config, _token_ids(tokenizer, vocab_size), block_size)
    else:
        model_config = _from_hub(AutoConfig, config.name, revision=config.revision,
                                 trust_remote_code=config.trust_remote_code)
        update_config(model_config, config)
    if config.dropout is not None:
        _set_dropout(model_config, config.dropout)
    return model_config


def _token_ids(tokenizer, vocab_size: int) -> dict:
    """Ids a fresh model is told of.  Control tokens come as rows of their own."""
    return {"vocab_size": vocab_size, "bos_token_id": tokenizer.eos_token_id,
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}


def _fresh_config(AutoConfig, config: ModelConfig, token_ids: dict, block_size: int):
    try:
        known = AutoConfig.for_model(config.architecture)
    except ValueError as error:
        raise ModelError(f'model.architecture="{config.architecture}" is not one that transformers knows') from error
    _refuse_unknown(known, config.config)
    options = {**token_ids, **config.config}
    if "max_position_embeddings" in _options_of(known):      # Bloom and Mamba know no longest context
        options.setdefault("max_position_embeddings", max(block_size, 1024))
    return AutoConfig.for_model(config.architecture, **options)


def update_config(model_config, config: ModelConfig) -> None:
    """The changes that `model.config` asks for, in place."""
    _refuse_unknown(model_config, config.config)
    for key, value in config.config.items():
        setattr(model_config, key, value)


def _refuse_unknown(model_config, options: dict) -> None:
    """transformers takes any keyword in silence (PHF's `scale_attn_by` is one that does nothing)."""
    from apo.errors import nearest
    known = _options_of(model_config)
    problems = [f"model.config.{key}: {type(model_config).__name__} has no such option.{nearest(key, known)}"
                for key in options if key not in known]
    if problems:
        raise ModelError("; ".join(problems))


def _options_of(model_config) -> set[str]:
    return set(model_config.to_dict()) | set(model_config.attribute_map)


def _set_dropout(model_config, probability: float) -> None:
    keys = [key for key, value in model_config.to_dict().items()
            if key.endswith(DROPOUT_SUFFIXES) and isinstance(value, (int, float))]
    if not keys:
        raise ModelError(f"model.dropout: a {model_config.model_type} has no dropout to set")
    for key in keys:
        setattr(model_config, key, probability)


@torch.no_grad()
def add_token_rows(model, new_ids: list[int], noise: float, seed: int) -> None:
    """Embeddings of new tokens: the mean of the other rows plus noise, so that a new token is neither never nor always
    sampled (PHF).  The matrix grows where it has no spare rows for them."""
    if not new_ids:
        return
    vocabulary = model.get_input_embeddings().weight.shape[0]
    old = [row for row in range(vocabulary) if row not in set(new_ids)]
    if max(new_ids) >= vocabulary:
        model.resize_token_embeddings(max(new_ids) + 1, mean_resizing=False)
    generator = torch.Generator().manual_seed(stream_seed(seed, "new_tokens"))
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    for weight in {id(layer.weight): layer.weight for layer in layers}.values():
        drawn = noise * torch.randn((len(new_ids), weight.shape[1]), generator=generator)
        weight[new_ids] = weight[old].mean(0, keepdim=True) + drawn.to(weight)


def _from_hub(loader, name: str, **arguments):
    """`loader.from_pretrained(name)`, with what a user can do about it when it fails."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    try:
        return loader.from_pretrained(name, **arguments)
    except GatedRepoError as error:
        raise ModelError(f"{name} is gated: accept its licence on its page and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"{name} is not a local directory and not a public model of the hub; for a private one set "
                         "HF_TOKEN") from error
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ModelError(_explain(name, arguments, error)) from error


def _explain(name: str, arguments: dict, error: Exception) -> str:
    cause = error
    while cause is not None:
        if type(cause).__name__ == "GatedRepoError" or "gated repo" in str(cause).lower():
            return f"{name} is gated: accept its licence on its page and set HF_TOKEN"
        cause = cause.__cause__ or cause.__context__
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if Path(name).exists():
        return f"{name} cannot be loaded as a model directory: {first}"
    if "trust_remote_code" in str(error):
        return f"{name} needs code from its repository: read that code, then set model.trust_remote_code=true"
    return (f"{name} cannot be loaded: it is no local directory, is not in the cache, and the hub cannot be reached or "
            f"does not have it ({first})")
