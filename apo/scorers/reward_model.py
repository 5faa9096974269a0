"""A reward model as a scorer: one of ours, any sequence classifier with one label, or OpenAssistant's.

A text is a prompt with its answer.  One that is too long loses its beginning, as in the papers: what is judged is the
answer, and it stands at the end.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from apo.errors import ConfigError, ModelError, ScorerError
from apo.lazy import Lazy, torch
from apo.models.files import model_place, snapshot
from apo.models.fingerprint import file_digest, model_fingerprint
from apo.scorers.base import file_sha256, quoted, scorers
from apo.scorers.sequence import SequenceScorer, commit, from_hub

reward_model = Lazy("apo.models.reward_model")
WHO = "scorer reward_model"
CLOSED = "closed_texts"
"""In a model's config: it was trained on texts between two ends of text."""
TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
             "*.model")
"""What is read of a tokenizer beside tokenizer.json, which the fingerprint of a model has."""
SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
OPEN_ASSISTANT = {"Human": "<|prompter|>", "Assistant": "<|assistant|>"}


@scorers.register("reward_model")
@dataclass
class RewardModelScorer(SequenceScorer):
    """The reward of a text, higher is better."""

    kind: ClassVar[Literal["score", "reward"]] = "reward"
    reads_prompt: ClassVar[bool] = True
    places: ClassVar[tuple[str, ...]] = ("device", "model", "seed", "overrides")

    model: str = ""
    """The directory of a run, a model directory, or a hub name.  Empty: what the method reward_model leaves on the same
    task, data and model at the same scale, found or trained first (`apo/stages.py`)."""
    seed: int = 1
    """Of that run, whatever the run's own: one judge for all that are compared."""
    overrides: list[str] = field(default_factory=list)
    """Options of that run alone (`['training.max_steps=100']`)."""
    revision: str | None = None
    """Of a hub model.  null: the newest there is, or that is in the cache."""
    max_length: int = 1024
    """Tokens read of a text, up to its end; never more than the model has positions for."""
    template: Literal["auto", "plain", "closed", "openassistant"] = "auto"
    """plain: the text as it is; closed: between two ends of text, as in training here; auto: closed for a model that
    was trained here, else plain; openassistant: a transcript "\\n\\nHuman: ...\\n\\nAssistant: ..." in the words of
    OpenAssistant's reward models, each turn with an end of text behind it."""
    sigmoid: bool = False
    """Between 0 and 1, as PRO and A-LoL report it, instead of the model's own number."""

    def numbers(self, logits_NL: Any) -> list[float]:
        return (torch.sigmoid(logits_NL) if self.sigmoid else logits_NL)[:, 0].tolist()

    def code(self) -> dict[str, str]:
        """A local model by the contents of its files, one of the hub by its commit."""
        place = self.place()
        local = Path(place).is_dir()
        revision = self.revision if local else commit(WHO, place, self.revision)
        beside = [path for pattern in TOKENIZER for path in sorted(Path(place).glob(pattern))] if local else []
        return {**super().code(), "model": model_fingerprint(place, revision), "tokenizer": file_digest(beside),
                "reading": file_sha256(Path(__file__).parents[1] / "models/reward_model.py")}

    def place(self) -> str:
        """Raises ConfigError where there is no model: only a run has a task that one could be trained on."""
        if not self.model:
            raise ConfigError(f"{WHO} needs scorer.model: the directory of a run, a model directory or a hub name")
        return model_place(self.model)

    def load(self) -> tuple[Any, Any]:
        place = self.place()
        folder = place if Path(place).is_dir() else from_hub(WHO, place, lambda **where: snapshot(
            place, self.revision, **where))
        try:
            model = reward_model.load_reward_model(folder)
        except ModelError as error:
            raise ScorerError(f"{WHO}: {error}") from error
        tokenizer = from_hub(WHO, str(folder), lambda **_: reward_model.load_reward_tokenizer(folder))
        tokenizer.truncation_side = "left"
        self._closed = self.template == "closed" or self.template == "auto" and getattr(model.config, CLOSED, False)
        if self.template == "openassistant":
            self._check(tokenizer)
        return model, tokenizer

    def token_ids(self, texts: list[str], tokenizer: Any, longest: int) -> list[list[int]]:
        if self.template == "openassistant":
            texts = [open_assistant(text, tokenizer.eos_token) for text in texts]
        if not self._closed:
            return super().token_ids(texts, tokenizer, longest)
        end = tokenizer.eos_token_id
        inside = tokenizer(texts, truncation=True, max_length=longest - 2, add_special_tokens=False)["input_ids"]
        return [[end, *ids, end] for ids in inside]

    def logits(self, model: Any, inputs: dict[str, Any]) -> Any:
        return model(inputs["input_ids"], inputs["attention_mask"])[:, None]

    def _check(self, tokenizer: Any) -> None:
        """That the words of the template are tokens: a model that was not trained with them reads them letter by
        letter, and its number means nothing."""
        words = [*OPEN_ASSISTANT.values(), tokenizer.eos_token]
        known = tokenizer.get_vocab()
        if lacking := [str(word) for word in words if word not in known]:
            raise ScorerError(f"scorer.template=openassistant: the tokenizer of {self.model} has no token "
                              f"{' and no '.join(lacking)}; use template=plain")


def open_assistant(text: str, eos: str) -> str:
    """A transcript in the words of OpenAssistant: `<|prompter|>text<eos><|assistant|>text<eos>`.

    Raises ScorerError for a text that does not begin with a turn."""
    before, *turns = SPEAKER.split(text)
    if before or not turns:
        raise ScorerError('scorer.template=openassistant reads transcripts that begin with "Human:" or "Assistant:", '
                          f"and not {quoted(text)}")
    return "".join(f"{OPEN_ASSISTANT[speaker]}{said.strip()}{eos}" for speaker, said in zip(turns[::2], turns[1::2]))
