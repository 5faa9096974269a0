"""V(prompt): the reward that the policy, as its stage begins, is expected to earn behind each prompt; fitted once, kept
on disk, shared by all methods that ask for it.

The reference answers some training prompts, the scorer judges the answers, and a head on the reference's frozen states
of the prompt (`apo/models/prompt_value.py`) regresses on those rewards.  How long it is trained is chosen by the error
on prompts that it was not trained on, and the choice includes not at all: a constant.  What A-LoL's release does
instead, the error of training itself, is there by name.

Kept under everything that decides it: the policy's weights, the data, the rewards, the scorer, the options and the
seed.  A changed adapter, reward or prompt is another V; a second algorithm finds the first one's.
"""

import hashlib
import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import numpy as np
import torch

from apo.cache import Cache
from apo.console import progress, say, warn
from apo.data.collate import Batch
from apo.data.scoring import completion_scores
from apo.errors import DataError
from apo.evaluation import Template
from apo.models.policy import evaluating
from apo.models.prompt_value import PromptValueHead
from apo.objectives.base import PromptValue
from apo.rollouts.generate import generate
from apo.schema import GenerationConfig
from apo.seeds import stream, stream_seed

if TYPE_CHECKING:
    from apo.data.scored import ScoredRows
    from apo.models.policy import Policy

FORMAT = 1
VALUES, FIT, ANSWERS, HEAD = "values.npy", "fit.json", "answers.jsonl", "head.safetensors"
FOLDS = 5
CHECKED = 64
"""Completions by which it is seen whether data and scorer are of one scale."""
HEADS_AT_ONCE = 64
"""Prompts whose states a head reads at once."""


class NoRoom(DataError):
    """No prompt can be answered in the model's context."""


@dataclass
class Writing:
    """How the reference answers: as samples are drawn in evaluations, but for the temperature."""

    generation: GenerationConfig
    template: Template
    tokenizer: Any
    scorer: Any
    """`apo.scorers.base.Scorer`; None where the data bring their rewards and nothing judges new text."""
    batch_size: int
    banned_ids: list[int]
    """Tokens that are never written."""
    read_at_once: int
    """Prompts that the policy reads at once."""


def reference_value(options: PromptValue, policy: "Policy", rows: "tuple[ScoredRows, ScoredRows | None]", corpus: Any,
                    writing: Writing, scale: Callable[[np.ndarray], np.ndarray], seed: int, key: dict,
                    cache: Cache) -> dict[str, Any]:
    """Puts V of its prompt beside every completion of `rows` (training and held out), and returns what is known of the
    fit: `targets`, `predictions` (of prompts while they were left out), errors, and errors of the constant.

    Args:
        corpus: of the completions (`apo.data.corpus.Corpus`).
        scale: raw rewards, higher is better, to what stands in `rows.rewards_D`.
        key: what decides corpus, tokenizer and weights.
    Raises DataError where V is to be fitted on generations and no scorer judges them.
    """
    train, heldout = rows
    if options.targets == "generations" and writing.scorer is None:
        raise DataError("V is fitted on rewards of what the reference writes, and no scorer judges that: name one "
                        "(scorer=...), or fit it on the rewards that the data have (objective.value_targets=data)")

    def build(folder: Path) -> None:
        _build(folder, options, policy, train, heldout, corpus, writing, scale, seed)

    folder = cache.get("value", {**key, **_key(options, train, heldout, writing, seed, policy.device.type)}, build)
    values = np.load(folder / VALUES)
    train.values_D = _by_document(train, values[:len(_prompts(train))])
    if heldout is not None:
        heldout.values_D = _by_document(heldout, values[len(_prompts(train)):])
    return json.loads((folder / FIT).read_text(encoding="utf-8"))


def _key(options: PromptValue, train, heldout, writing: Writing, seed: int, device: str) -> dict[str, Any]:
    seen = hashlib.sha256()
    for rows in (train, heldout):
        if rows is not None:
            seen.update(rows.documents_P.tobytes() + rows.rewards_D[rows.documents_P].tobytes())
    own = {"format": FORMAT, "device": device, "rewards": seen.hexdigest(), "seed": seed,
           "max_length": train.max_length, "end": train.end_id, **asdict(options)}
    if options.targets == "generations":
        own |= {"scorer": writing.scorer.fingerprint(), "generation": asdict(writing.generation),
                "banned": writing.banned_ids}
    return own


def _prompts(rows: "ScoredRows") -> np.ndarray:
    """The first item's document of every prompt."""
    _, first = np.unique(rows.groups_P, return_index=True)
    return rows.documents_P[np.sort(first)]


def _by_document(rows: "ScoredRows", values_G: np.ndarray) -> np.ndarray:
    """V of every document's prompt; NaN of one without an item."""
    of_group = dict(zip(rows.store.document_groups_D[_prompts(rows)].tolist(), values_G.tolist()))
    return np.array([of_group.get(group, np.nan) for group in rows.store.document_groups_D.tolist()])


# ---- fitting ---------------------------------------------------------------------------------------------------------


@dataclass
class Examples:
    """Prompts with the states that the reference has of them, and rewards earned behind them."""

    hidden: list[torch.Tensor]
    """[T, D] each, on the CPU, in the model's own precision."""
    targets: torch.Tensor
    """[N, K] fp32: K rewards of each prompt."""

    def __getitem__(self, chosen: np.ndarray) -> "Examples":
        return Examples([self.hidden[i] for i in chosen], self.targets[torch.as_tensor(chosen)])

    def __len__(self) -> int:
        return len(self.hidden)


def _build(folder: Path, options: PromptValue, policy, train, heldout, corpus, writing: Writing, scale,
           seed: int) -> None:
    known = train.rewards_D[train.documents_P]
    low, high = float(known.min()), float(known.max())
    if low == high:
        raise DataError(f"all {len(known)} training completions have one reward: none is better than what is expected, "
                        "and there is no advantage to train on")
    asked, answers = _asked(options, policy, train, "train", corpus, writing, scale, options.prompts, seed)
    if answers and writing.template.chat is None:
        _warn_of_another_scale(train, writing, scale, high - low, seed)
    examples = Examples(_states(policy, train, asked, writing.read_at_once), _targets(train, asked, answers, low, high))
    say(f"fitting V of the reference on {len(examples)} prompts")
    fit = Fit(options, policy, low, high, seed)
    report = fit.choose(examples)
    head = fit.trained(examples, report["epochs"], "all")
    if heldout is not None:
        with suppress(NoRoom):
            some, others = _asked(options, policy, heldout, "heldout", corpus, writing, scale,
                                  max(options.prompts // 4, 1), seed)
            states = _states(policy, heldout, some, writing.read_at_once)
            report |= _errors_beside(fit, head, examples, Examples(states, _targets(heldout, some, others, low, high)))
            answers = answers + others
    values = [_values(policy, head, rows, writing.read_at_once) for rows in (train, heldout) if rows is not None]
    np.save(folder / VALUES, np.concatenate(values))
    from safetensors.torch import save_file
    save_file({name: tensor.cpu().contiguous() for name, tensor in head.state_dict().items()}, folder / HEAD)
    with (folder / ANSWERS).open("w", encoding="utf-8") as file:
        for answer in answers:
            file.write(json.dumps(answer) + "\n")
    (folder / FIT).write_text(json.dumps({"low": low, "high": high, **report}), encoding="utf-8")


def _asked(options: PromptValue, policy, rows, split: str, corpus, writing: Writing, scale, count: int,
           seed: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """(documents of the prompts, one answer after the other of each with its reward); the rewards of the data with
    `targets=data`."""
    documents = stream(seed, f"value/{split}").permutation(_prompts(rows))
    if options.targets == "data":
        return documents[:count], []
    generation, room = writing.generation, policy.context or math.inf
    ids = {int(document): rows.prompt_ids(int(document)) for document in documents}
    fits = [document for document in documents if len(ids[int(document)]) + generation.max_new_tokens <= room]
    if not fits:
        raise NoRoom(f"no prompt leaves room for an answer of {generation.max_new_tokens} tokens in the model's "
                     f"context of {room}")
    documents = np.array(fits[:count])
    repeated = [ids[int(document)] for document in documents for _ in range(options.generations)]
    with progress(f"answers of the reference to {len(documents)} prompts", len(repeated)) as bar:
        written = generate(policy.model, repeated, generation, tokenizer=writing.tokenizer,
                           seed=stream_seed(seed, f"value/{split}"), banned_token_ids=writing.banned_ids,
                           batch_size=writing.batch_size, progress=bar)
    texts = _texts(corpus, split, rows.store.document_groups_D[documents])
    pairs = [[texts[i // options.generations], ""] for i in range(len(written))]
    for pair, continuation in zip(pairs, written):
        pair[1] = writing.template.text(pair[0], continuation)
    raw = np.array([-score for _, score in completion_scores(writing.scorer, pairs)])
    return documents, [
        {"split": split, "prompt": prompt, "text": text, "reward": float(reward), "scaled": float(scaled)}
        for (prompt, text), reward, scaled in zip(pairs, raw, scale(raw))]


def _warn_of_another_scale(rows, writing: Writing, scale, width: float, seed: int) -> None:
    """R may come with the data, and V from the scorer: on some completions of the data both are known."""
    documents = np.sort(stream(seed, "value/scale").permutation(rows.documents_P)[:CHECKED])
    texts = [list(rows.text_of(int(document), writing.tokenizer)) for document in documents]
    by_scorer = scale(np.array([-score for _, score in completion_scores(writing.scorer, texts)]))
    shift = float((by_scorer - rows.rewards_D[documents]).mean())
    if abs(shift) > width / 4:
        than = f"{abs(shift):.2g} {'more' if shift > 0 else 'less'} than their rewards"
        warn(f"the scorer gives the data's own completions {than} in the mean, of a range of {width:.2g}: V is fitted "
             "on the scorer's rewards, and advantages over it mean little (objective.value_targets=data fits it on the "
             "data's)")


def _texts(corpus, split: str, groups: np.ndarray) -> list[str]:
    """The prompts of those numbers."""
    wanted, found = set(groups.tolist()), {}
    for document in corpus.documents(split):
        if document.standing.group in wanted:
            found.setdefault(document.standing.group, document.texts[0])
    return [found[group] for group in groups.tolist()]


def _targets(rows, documents: np.ndarray, answers: list[dict[str, Any]], low: float, high: float) -> torch.Tensor:
    """[N, K], cut to the range of the training rewards."""
    if not answers:
        own_P, of_P = rows.rewards_D[rows.documents_P], rows.groups_P
        means = [own_P[of_P == group].mean() for group in rows.store.document_groups_D[documents]]
        return torch.tensor(means).float()[:, None]
    scaled = torch.tensor([answer["scaled"] for answer in answers]).float()
    return scaled.view(len(documents), -1).clamp(low, high)


@torch.no_grad()
def _states(policy, rows, documents: np.ndarray, at_once: int) -> list[torch.Tensor]:
    found = []
    with evaluating(policy):
        for start in range(0, len(documents), at_once):
            ids = [rows.prompt_ids(int(document)) for document in documents[start:start + at_once]]
            hidden_BTD = policy.hidden(_padded(ids).to(policy.device)).cpu()
            found += [hidden[:len(each)].clone() for hidden, each in zip(hidden_BTD, ids)]
    return found


def _padded(ids: list[list[int]]) -> Batch:
    """On the right, where a causal model does not see it."""
    ids_BT = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.int64)
    for row, each in enumerate(ids):
        ids_BT[row, :len(each)] = torch.tensor(each)
    return Batch(ids_BT, torch.zeros(ids_BT.shape), torch.ones(ids_BT.shape).bool())


@torch.no_grad()
def _values(policy, head: PromptValueHead, rows, at_once: int) -> np.ndarray:
    """Of every prompt, in the order of `_prompts`; those of like length are read together."""
    documents = _prompts(rows)
    order, values = np.argsort(rows.prompt_lengths_D[documents], kind="stable"), np.zeros(len(documents), np.float32)
    with progress("V of every prompt", len(documents)) as bar:
        for start in range(0, len(documents), at_once):
            some = order[start:start + at_once]
            states = _states(policy, rows, documents[some], at_once)
            values[some] = head(*_together(states, policy.device)).cpu().numpy()
            bar.advance(len(some))
    return values


def _together(hidden: list[torch.Tensor], device) -> tuple[torch.Tensor, torch.Tensor]:
    """([B, T, D], [B, T])."""
    lengths = torch.tensor([len(each) for each in hidden])
    padded_BTD = torch.nn.utils.rnn.pad_sequence(hidden, batch_first=True)
    return padded_BTD.to(device), (torch.arange(padded_BTD.shape[1]) < lengths[:, None]).to(device)


class Fit:
    """Trains heads on the states of one policy, each from a start of its own that the seed fixes."""

    def __init__(self, options: PromptValue, policy, low: float, high: float, seed: int):
        self.options, self.device, self.low, self.high, self.seed = options, policy.device, low, high, seed
        self.hidden_size = policy.model.config.get_text_config().hidden_size

    def choose(self, examples: Examples) -> dict[str, Any]:
        """The number of epochs, and what speaks for it."""
        options, count = self.options, len(examples)
        order = stream(self.seed, "value/folds").permutation(count)
        if options.selection == "training" or count < FOLDS:
            _, errors, predictions = self._curve(examples, examples, "all")
            epochs = int(np.argmin(errors)) if options.selection == "training" else 0
            return self._report(examples, np.arange(count), epochs, errors, predictions[epochs])
        folds = np.array_split(order, FOLDS)
        folds = folds[:1] if options.selection == "heldout" else folds
        errors, predictions = [], []
        for number, left_out in enumerate(folds):
            inside = np.setdiff1d(order, left_out)
            _, each, said = self._curve(examples[inside], examples[left_out], f"fold {number}")
            errors.append(np.array(each) * len(left_out))
            predictions.append(np.stack(said))
        left_out = np.concatenate(folds)
        curve = sum(errors) / len(left_out)
        epochs = int(np.argmin(curve))
        return self._report(examples, left_out, epochs, curve.tolist(), np.concatenate(predictions, 1)[epochs])

    def _report(self, examples: Examples, left_out: np.ndarray, epochs: int, curve: list[float],
                predictions: np.ndarray) -> dict[str, Any]:
        targets = examples.targets.mean(1).numpy()[left_out]
        return {"selection": self.options.selection, "epochs": epochs, "prompts": len(examples),
                "error_by_epoch": [float(each) for each in curve],
                "error": float(curve[epochs]), "constant_error": float(curve[0]),
                "explained": 1 - float(curve[epochs]) / float(curve[0]) if curve[0] else 0.0,
                "targets": targets.tolist(), "predictions": predictions.tolist()}

    def trained(self, examples: Examples, epochs: int, name: str) -> PromptValueHead:
        return self._curve(examples, None, name, epochs)[0].eval()

    def _curve(self, examples: Examples, others: Examples | None, name: str,
               epochs: int | None = None) -> tuple[PromptValueHead, list[float], list[np.ndarray]]:
        """The head, its error on others after 0, 1, ... epochs, and what it said of them."""
        options, errors, said = self.options, [], []
        with torch.random.fork_rng():
            torch.manual_seed(stream_seed(self.seed, f"value/{name}"))
            head = PromptValueHead(options.head, self.hidden_size, low=self.low, high=self.high,
                                   constant=float(examples.targets.mean()), dropout=options.dropout).to(self.device)
            optimiser = torch.optim.AdamW(head.parameters(), lr=options.learning_rate, weight_decay=0.0)
            for epoch in range((options.epochs if epochs is None else epochs) + 1):
                if epoch:
                    self._epoch(head, optimiser, examples)
                if others is not None:
                    error, predictions = self.error(head, others)
                    errors.append(error)
                    said.append(predictions)
        return head, errors, said

    def _epoch(self, head: PromptValueHead, optimiser, examples: Examples) -> None:
        head.train()
        for chosen in torch.randperm(len(examples)).split(self.options.batch_size):
            some = examples[chosen.numpy()]
            values_B = head(*_together(some.hidden, self.device))
            loss = ((values_B[:, None] - some.targets.to(self.device)) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    @torch.no_grad()
    def error(self, head: PromptValueHead, examples: Examples) -> tuple[float, np.ndarray]:
        """(mean squared error against single rewards, [N] of what it says)."""
        head.eval()
        values_N = torch.cat([head(*_together(examples.hidden[start:start + HEADS_AT_ONCE], self.device)).cpu()
                              for start in range(0, len(examples), HEADS_AT_ONCE)])
        return float(((values_N[:, None] - examples.targets) ** 2).mean()), values_N.numpy()


def _errors_beside(fit: Fit, head: PromptValueHead, examples: Examples, others: Examples) -> dict[str, Any]:
    """On held-out prompts, beside the constant that the training prompts have for their mean."""
    error, predictions = fit.error(head, others)
    constant = float(((others.targets - examples.targets.mean()) ** 2).mean())
    return {"heldout_prompts": len(others), "heldout_error": error, "heldout_constant_error": constant,
            "heldout_targets": others.targets.mean(1).tolist(), "heldout_predictions": predictions.tolist()}
