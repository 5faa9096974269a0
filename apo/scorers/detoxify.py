"""Detoxify: the probability of toxicity by one of five released transformers, or by a checkpoint in their format.

The weights are a GitHub release, downloaded once into torch's cache (`$TORCH_HOME`, else `~/.cache/torch`); tokenizer
and shape come from the hub.  The released checkpoints are pickles, which the library reads with everything a pickle may
do.  Here a checkpoint is read only if its sha256 is the one that the name of its release begins with, or the one given,
and then as nothing but tensors and plain values.  Weights that do not fit the model to the last tensor are refused:
the library would go on with random ones (it does for keys that begin with `model.`).  The numbers are those of the
library's own class; the test that says so makes checkpoints small enough to do without the network.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from apo.console import say
from apo.errors import ConfigError, ScorerError, nearest
from apo.lazy import Lazy, torch
from apo.models.files import read_pickle
from apo.scorers.base import scorers
from apo.scorers.sequence import SequenceScorer, contents, file_hash, first_line, from_hub, hub

transformers = Lazy("transformers")
DOWNLOADS = "https://github.com/unitaryai/detoxify/releases/download/"
RELEASED = {"original": "v0.1-alpha/toxic_original-c1212f89.ckpt",
            "unbiased": "v0.3-alpha/toxic_debiased-c7548aa0.ckpt",
            "multilingual": "v0.4-alpha/multilingual_debiased-0b549669.ckpt",
            "original-small": "v0.1.2/original-albert-0e1d6498.ckpt",
            "unbiased-small": "v0.1.2/unbiased-albert-c8519128.ckpt"}
"""Variant -> file below DOWNLOADS; behind the hyphen, the first eight digits of its sha256."""
RENAMED = {"toxic": "toxicity", "identity_hate": "identity_attack", "severe_toxic": "severe_toxicity"}
"""Names of labels that differ between the variants, as the library unites them."""
UNUSED = ("position_ids", "pooler.dense.weight", "pooler.dense.bias")
"""Ends of keys that older versions of transformers kept with the weights and newer ones have no use for."""


@scorers.register("detoxify")
@dataclass
class Detoxify(SequenceScorer):
    """Probability that a text is toxic, 0 to 1.  PHF annotates with `original` and judges samples with `unbiased`."""

    places: ClassVar[tuple[str, ...]] = ("device", "checkpoint", "huggingface_config_path")

    variant: str = "original"
    """original, unbiased, multilingual, original-small or unbiased-small."""
    checkpoint: str | None = None
    """A local file in Detoxify's format instead of a released variant; needs `sha256`."""
    sha256: str | None = None
    """Of the checkpoint, all 64 digits (`sha256sum FILE`).  For a released variant null: the digits in its name."""
    label: str = "toxicity"
    """Which of the model's labels: toxicity, severe_toxicity, obscene, threat, insult, identity_attack, ..."""
    huggingface_config_path: str | None = None
    """A local directory with the tokenizer and config of the model that the variant was trained from (such as
    bert-base-uncased).  null: what the checkpoint names, a directory or a hub name."""

    def __post_init__(self):
        problems = []
        if self.variant not in RELEASED:
            problems.append(f'scorer.variant: Detoxify has no variant "{self.variant}".'
                            f"{nearest(self.variant, RELEASED)} There are: {', '.join(RELEASED)}")
        if self.checkpoint and not self.sha256:
            problems.append("scorer.checkpoint is read only if its sha256 is known: give it as scorer.sha256 "
                            f"(sha256sum {self.checkpoint} prints it)")
        if self.sha256 and (len(self.sha256) != 64 or set(self.sha256.lower()) - set("0123456789abcdef")):
            problems.append(f'scorer.sha256: expected 64 hexadecimal digits, got "{self.sha256}"')
        if problems:
            raise ConfigError(problems)

    def numbers(self, logits_NL: Any) -> list[float]:
        return torch.sigmoid(logits_NL[:, self._label]).tolist()

    def code(self) -> dict[str, str]:
        """The weights by the digits of their sha256 that `load` insists on."""
        base = contents(self.huggingface_config_path) if self.huggingface_config_path else ""
        return {**super().code(), "weights": self._digits, "base": base}

    def load(self) -> tuple[Any, Any]:
        """Raises ScorerError for a checkpoint that is missing, another one, or does not fit."""
        file = self._file()
        content = read_checkpoint(file, self._digits)
        try:
            shape, classes = content["config"]["arch"]["args"], content["config"]["dataset"]["args"]["classes"]
            state = content["state_dict"]
            model_class, tokenizer_class = (_class(shape[key]) for key in ("model_name", "tokenizer_name"))
            base, num_labels = self.huggingface_config_path or shape["model_type"], int(shape["num_classes"])
        except (KeyError, TypeError, ValueError) as error:
            raise ScorerError(f"{file} is no checkpoint in Detoxify's format "
                              f"({type(error).__name__}: {error})") from error
        self._label = _index(file, self.label, classes, num_labels)
        if Path(base).is_dir() and not Path(base, "config.json").is_file():     # transformers would make up a config
            raise ScorerError(f"scorer detoxify: {base} has no config.json")
        config = from_hub("scorer detoxify", base, lambda **where: model_class.config_class.from_pretrained(
            base, num_labels=num_labels, **where))
        tokenizer = from_hub("scorer detoxify", base, lambda **where: tokenizer_class.from_pretrained(base, **where))
        return fitted(model_class, config, state, str(file)), tokenizer

    @property
    def _digits(self) -> str:
        return (self.sha256 or RELEASED[self.variant].rpartition("-")[2].removesuffix(".ckpt")).lower()

    def _file(self) -> Path:
        """The checkpoint; a released one is downloaded if it is not there."""
        if self.checkpoint:
            return Path(self.checkpoint).expanduser()
        path = Path(torch.hub.get_dir(), "checkpoints", Path(RELEASED[self.variant]).name)
        if path.exists():
            return path
        url = DOWNLOADS + RELEASED[self.variant]
        advice = f"download {url} elsewhere and give it as scorer.checkpoint, or put it at {path}"
        if hub.constants.HF_HUB_OFFLINE:
            raise ScorerError(f"scorer detoxify: the weights of {self.variant} are not here and the run is offline: "
                              f"{advice}")
        say(f"downloading {url} to {path}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=None, progress=False)
        except OSError as error:
            raise ScorerError(f"scorer detoxify: the weights of {self.variant} cannot be downloaded "
                              f"({first_line(error)}): {advice}") from error
        return path


def read_checkpoint(file: Path, digits: str) -> Any:
    """The content of a file whose sha256 begins with `digits`; only tensors and plain values are read."""
    if not file.is_file():
        raise ScorerError(f"scorer.checkpoint: there is no file {file}")
    found = file_hash(file)
    if not found.startswith(digits):
        raise ScorerError(f"{file} is not the checkpoint asked for: its sha256 is {found}, not {digits}"
                          f"{'' if len(digits) == 64 else '...'}.  If you know where it comes from, give it as "
                          f"scorer.checkpoint with scorer.sha256={found}")
    try:
        return read_pickle(file)
    except Exception as error:      # of many classes; a pickle that holds more than weights is one of them
        raise ScorerError(f"{file} cannot be read as weights and plain values: {first_line(error)}") from error


def fitted(model_class: Any, config: Any, state: dict[str, Any], name: str) -> Any:
    """The model with exactly these weights.  Raises ScorerError where one is missing, too many or of another shape."""
    model, told = model_class.from_pretrained(None, config=config, state_dict=state, output_loading_info=True,
                                              ignore_mismatched_sizes=True)
    wrong = {"missing": sorted(told["missing_keys"]),
             "of another shape": sorted(key if isinstance(key, str) else key[0] for key in told["mismatched_keys"]),
             "unknown": sorted(key for key in told["unexpected_keys"] if not key.endswith(UNUSED))}
    if any(wrong.values()):
        listed = ", ".join(f"{len(keys)} are {what} ({keys[0]})" for what, keys in wrong.items() if keys)
        raise ScorerError(f"{name}: its weights do not fit {model_class.__name__}: {listed}; "
                          "it would score with random weights")
    return model


def _class(name: str) -> Any:
    """A model or tokenizer class of transformers, by name.  Raises ValueError for anything else."""
    found = getattr(transformers, str(name), None)
    if not isinstance(found, type) or not hasattr(found, "from_pretrained"):
        raise ValueError(f'transformers has no class "{name}"')
    return found


def _index(file: Path, label: str, classes: list[str], num_labels: int) -> int:
    names = [RENAMED.get(name, name) for name in classes]
    if label not in names:
        raise ScorerError(f'scorer.label: {file} has no label "{label}".{nearest(label, names)} '
                          f"There are: {', '.join(names)}")
    if len(names) > num_labels:
        raise ScorerError(f"{file} names {len(names)} labels and has {num_labels}")
    return names.index(label)
