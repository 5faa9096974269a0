"""Any sequence classifier of the hub or of a directory as a scorer: a label's probability, or a reward's logit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from apo.errors import ConfigError, ScorerError, nearest
from apo.lazy import Lazy, torch
from apo.scorers.base import scorers
from apo.scorers.sequence import SequenceScorer, commit, contents, from_hub

transformers = Lazy("transformers")


@scorers.register("classifier")
@dataclass
class Classifier(SequenceScorer):
    """One label's number, by `AutoModelForSequenceClassification`."""

    places: ClassVar[tuple[str, ...]] = ("device", "model")

    model: str = ""
    """A hub name or a local directory."""
    revision: str | None = None
    """Of a hub model.  null: the newest there is, or that is in the cache."""
    label: str | int | None = None
    """The name of a label (`id2label` of the model's config) or its index.  null: the only one."""
    activation: Literal["sigmoid", "softmax", "none"] = "softmax"
    """softmax: probability among the labels, which exclude each other; sigmoid: of this one alone; none: the logit."""
    kind: Literal["score", "reward"] = "score"
    """What the number is: `score` for misalignment, lower is better; `reward` where higher is better."""

    def __post_init__(self):
        if not self.model:
            raise ConfigError("scorer classifier needs scorer.model: a hub name or a local directory")

    def numbers(self, logits_NL: Any) -> list[float]:
        applied = {"sigmoid": torch.sigmoid, "softmax": lambda x: x.softmax(1), "none": lambda x: x}[self.activation]
        return applied(logits_NL)[:, self._label].tolist()

    def code(self) -> dict[str, str]:
        """A local model by the contents of its files, one of the hub by its commit."""
        return {**super().code(), "model": self._identity()}

    def load(self) -> tuple[Any, Any]:
        tokenizer = self._get(transformers.AutoTokenizer)
        model, told = self._get(transformers.AutoModelForSequenceClassification, output_loading_info=True)
        random = [*told["missing_keys"], *told["mismatched_keys"]]
        if random:
            raise ScorerError(f"scorer classifier: {self.model} is no trained classifier: it has no weights for "
                              f"{random[0]}" + (f" and {len(random) - 1} more" if len(random) > 1 else ""))
        self._label = self._index(model.config)
        return model, tokenizer

    def _get(self, loader: Any, **more: Any) -> Any:
        return from_hub("scorer classifier", self.model, lambda **where: loader.from_pretrained(
            self.model, revision=self.revision, **more, **where))

    def _index(self, config: Any) -> int:
        names = {int(index): name for index, name in config.id2label.items()}
        there_are = ", ".join(f"{index} {name}" for index, name in sorted(names.items()))
        if self.label is None and len(names) > 1:
            raise ScorerError(f"scorer.label: {self.model} has {len(names)} labels; name one: {there_are}")
        if len(names) == 1 and self.activation == "softmax":
            raise ScorerError(f"scorer.activation: {self.model} has one label, so its softmax is always 1; "
                              "use sigmoid or none")
        found = [index for index, name in names.items() if self.label in (None, index, str(index), name)]
        if not found:
            raise ScorerError(f'scorer.label: {self.model} has no label "{self.label}".'
                              f"{nearest(str(self.label), names.values())} There are: {there_are}")
        return found[0]

    def _identity(self) -> str:
        if Path(self.model).is_dir():
            return contents(self.model)
        return f"{self.model}@{commit('scorer classifier', self.model, self.revision)}"
