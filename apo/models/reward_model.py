"""Reward models: a causal transformer, and on top of it one number for a text.

The number is read at the last attended token, found by the mask and never by a token's id: where the padding token is
the end-of-text token, as it mostly is, an end of text that was written is part of the text.  (transformers' own
classes read the last token that is *not* the padding token.  Without such tokens in the text both are the same.)

Rows are moved to the left before they are read, so that padding always follows the text.  A causal model does not see
what follows, whatever it does about positions, so the side of the padding makes no difference to the reward.

On disk a reward model is what `AutoModelForSequenceClassification` loads, with one label and the head in
`score.weight`, so that other programs can use it and theirs can be used here.  A head's bias is `score.bias`, which
transformers leaves out: its rewards then differ by that constant.  An architecture for which transformers has no such
class, and a mean as pooling, are saved as the bare body with the head in a file beside it.

OpenAssistant's reward models have a type of their own, which transformers refuses without code from their repository;
they are read here without it.
"""

import copy
import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from apo.errors import ModelError
from apo.models.files import read_weights, snapshot
from apo.models.load import _from_hub
from apo.seeds import stream_seed

HEAD = "reward_head.safetensors"
OPEN_ASSISTANT = "gpt_neox_reward_model"
POOLINGS = ("last", "mean")
BUFFERS = (".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")
"""Ends of keys that older versions of transformers kept with a GPT-NeoX and newer ones compute."""


class RewardModel(nn.Module):
    def __init__(self, body: nn.Module, score: nn.Linear, pooling: Literal["last", "mean"] = "last"):
        """`pooling`: of the hidden states, the last attended one or the mean of the attended ones."""
        super().__init__()
        if pooling not in POOLINGS:
            raise ModelError(f'a reward model\'s pooling is one of {", ".join(POOLINGS)}, not "{pooling}"')
        self.body, self.score, self.pooling = body, score, pooling

    @classmethod
    def from_causal(cls, model: nn.Module, seed: int, bias: bool = False) -> "RewardModel":
        """On the body of a causal language model, whose weights it shares; the head is drawn with a standard deviation
        of 1/sqrt(hidden size + 1), so that rewards at the start are of the order of one."""
        hidden_size = model.get_output_embeddings().weight.shape[1]
        score = nn.Linear(hidden_size, 1, bias=bias)
        generator = torch.Generator().manual_seed(stream_seed(seed, "reward_head"))
        with torch.no_grad():
            score.weight.copy_(torch.randn((1, hidden_size), generator=generator) / (hidden_size + 1) ** 0.5)
            if bias:
                score.bias.zero_()
        return cls(model.base_model, score.to(model.device))

    @property
    def config(self) -> Any:
        return self.body.config

    @property
    def device(self) -> torch.device:
        return self.score.weight.device

    def forward(self, input_ids_BT: torch.Tensor, attention_mask_BT: torch.Tensor) -> torch.Tensor:
        """Rewards, [B], fp32.  Every row has at least one attended token."""
        ids_BT, mask_BT = to_the_left(input_ids_BT, attention_mask_BT)
        hidden_BTD = self.body(input_ids=ids_BT, attention_mask=mask_BT.long(), use_cache=False).last_hidden_state
        pooled_BD = pool(hidden_BTD.float(), mask_BT, self.pooling)
        with torch.autocast(pooled_BD.device.type, enabled=False):
            bias = None if self.score.bias is None else self.score.bias.float()
            return nn.functional.linear(pooled_BD, self.score.weight.float(), bias).squeeze(-1)

    def save(self, folder: str | Path) -> None:
        """A model directory, without a tokenizer."""
        folder = Path(folder)
        shell = sequence_class(self.config) if self.pooling == "last" else None
        if shell is None:
            self.body.save_pretrained(folder)
            save_file({key: value.contiguous() for key, value in self.score.state_dict().items()}, folder / HEAD,
                      metadata={"pooling": self.pooling})
        else:
            setattr(shell, shell.base_model_prefix, self.body)
            shell.score = self.score
            shell.save_pretrained(folder)
            (folder / HEAD).unlink(missing_ok=True)


def to_the_left(ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The attended tokens of each row first, in their order; (ids, bool mask)."""
    mask_BT = mask_BT.bool()
    order_BT = torch.argsort((~mask_BT).byte(), dim=1, stable=True)
    return ids_BT.gather(1, order_BT), mask_BT.gather(1, order_BT)


def pool(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor, pooling: str) -> torch.Tensor:
    """[B, D] of rows whose padding follows the text."""
    counts_B = mask_BT.sum(1)
    if pooling == "mean":
        return (hidden_BTD * mask_BT[..., None]).sum(1) / counts_B[:, None]
    return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), counts_B - 1]


def sequence_class(config: Any) -> nn.Module | None:
    """transformers' classifier with one label for a body of this config, without weights; None where it has none whose
    head is a linear `score`."""
    from transformers import AutoModelForSequenceClassification
    config = copy.deepcopy(config)
    config.num_labels = 1
    try:
        with torch.device("meta"):
            shell = AutoModelForSequenceClassification.from_config(config)
    except ValueError:
        return None
    return shell if isinstance(getattr(shell, "score", None), nn.Linear) else None


def load_reward_model(name: str | Path, revision: str | None = None) -> RewardModel:
    """A reward model of a model directory or of the hub, in eval mode and fp32.  Raises ModelError."""
    name = str(name)
    folder = Path(name) if Path(name).is_dir() else _from_hub(Snapshot, name, revision=revision)
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{name} cannot be loaded as a model directory: it has no config.json that can be read"
                         ) from error
    if (folder / HEAD).is_file():
        model = _with_head_file(folder)
    elif model_type == OPEN_ASSISTANT:
        model = _open_assistant(folder)
    else:
        model = _sequence_classifier(folder, name)
    return model.eval()


def load_reward_tokenizer(folder: str | Path) -> Any:
    """Of a local directory.  transformers looks at the model's type too, and there is one that it does not know."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        if not (Path(folder) / "tokenizer.json").is_file():
            raise
    return PreTrainedTokenizerFast.from_pretrained(folder)


class Snapshot:
    """`snapshot` as the loaders of transformers are called."""

    from_pretrained = staticmethod(snapshot)


def _sequence_classifier(folder: Path, name: str) -> RewardModel:
    from transformers import AutoModelForSequenceClassification
    loaded, told = _from_hub(AutoModelForSequenceClassification, str(folder), dtype=torch.float32,
                             output_loading_info=True, ignore_mismatched_sizes=True, trust_remote_code=False)
    lacking = [*sorted(told["missing_keys"]), *(str(key) for key in told["mismatched_keys"])]
    if lacking:
        raise ModelError(f"{name} is no trained reward model: it has no weights for {lacking[0]}"
                         + (f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""))
    score = getattr(loaded, "score", None)
    if not isinstance(score, nn.Linear):
        raise ModelError(f"{name} is no reward model that can be read at a token: {type(loaded).__name__} has no "
                         "linear head called score; scorer=classifier may take it")
    if score.out_features != 1:
        raise ModelError(f"{name} gives {score.out_features} numbers for a text, and a reward model one")
    if "score.bias" in told["unexpected_keys"]:
        score.bias = nn.Parameter(read_weights(folder)["score.bias"].float())
    return RewardModel(loaded.base_model, score)


def _with_head_file(folder: Path) -> RewardModel:
    from transformers import AutoModel
    with safe_open(folder / HEAD, "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}
        pooling = (file.metadata() or {}).get("pooling", "last")
    body = _from_hub(AutoModel, str(folder), dtype=torch.float32, trust_remote_code=False)
    return RewardModel(body, _linear(state, folder), pooling)


def _open_assistant(folder: Path) -> RewardModel:
    from transformers import GPTNeoXConfig, GPTNeoXModel
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = {key: value for key, value in config.items() if key not in ("model_type", "architectures", "pooling")}
    state = read_weights(folder)
    head = {key.removeprefix("out_proj."): state.pop(key) for key in sorted(state) if key.startswith("out_proj.")}
    state = {key.removeprefix("gpt_neox."): value for key, value in state.items() if not key.endswith(BUFFERS)}
    body, told = GPTNeoXModel.from_pretrained(None, config=GPTNeoXConfig.from_dict(own), state_dict=state,
                                              dtype=torch.float32, output_loading_info=True,
                                              ignore_mismatched_sizes=True)
    for what, keys in (("are missing", told["missing_keys"]), ("are of another shape", told["mismatched_keys"]),
                       ("are unknown", told["unexpected_keys"])):
        if keys:
            raise ModelError(f"{folder}: its weights do not fit a GPT-NeoX: {len(keys)} {what} ({sorted(keys)[0]})")
    return RewardModel(body, _linear(head, folder), config.get("pooling") or "last")


def _linear(state: dict[str, torch.Tensor], folder: Path) -> nn.Linear:
    """The head with these weights, one number out."""
    weight = state.get("weight")
    if weight is None or weight.ndim != 2 or weight.shape[0] != 1:
        raise ModelError(f"{folder} is no reward model: it has no weights of a head to one number")
    score = nn.Linear(weight.shape[1], 1, bias="bias" in state)
    score.load_state_dict({key: value.float() for key, value in state.items()})
    return score
