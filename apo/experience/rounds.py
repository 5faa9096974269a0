"""The batch source of methods that learn from their own samples.

A round: some prompts are answered by the policy as it is now, the answers are judged, and policy, reference and value
head are asked about every token of them, in the trainer's own precision and never by the sampler.  The objective makes
of that what is to be trained on (`Online.learn`).  The whole is written to the run directory and then served as
minibatches, for some epochs; after that comes the next round.

The policy is asked about a completion in the very micro-batch in which it is first trained on, so that the ratio of the
first minibatch is 1 to the last bit and not to rounding.

Where training stands is (round, minibatches served of it).  A run that goes on inside a round reads it back from the
disk; one that was killed between two checkpoints finds the rounds that it had written since, and takes those whose
policy had the same bits, so that no sample is drawn and no judge is asked twice.
"""

import json
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import torch

from apo.cache import digest
from apo.callbacks.base import Checked
from apo.console import progress, warn
from apo.data.completions import laid_out
from apo.data.experience import ExperienceBatch
from apo.data.sampling import BatchSource
from apo.errors import DataError, RunError
from apo.experience.kept import Kept, forget, load
from apo.experience.merging import lay_behind
from apo.experience.new_prompts import NewPrompts
from apo.experience.prompts import Prompt, Prompts
from apo.experience.writing import Judged, Writer
from apo.metrics.running import Running, mean, ratio
from apo.models.policy import evaluating
from apo.objectives.base import NothingToDraw
from apo.objectives.online import Earlier, Lesson, Online, Round
from apo.schema import RolloutConfig
from apo.seeds import stream

EMPTY = 10
"""Rounds in a row with nothing to train on, after which it is an error."""


@dataclass
class Experience:
    """What was written in a round, in the order of its prompts."""

    prompts: list[Prompt]
    ids_C: list[list[int]]
    prompts_C: np.ndarray
    finished_C: np.ndarray
    sampled_C: np.ndarray
    texts_C: list[str]


@dataclass
class Rounds(BatchSource):
    options: RolloutConfig
    objective: Online
    prompts: Prompts
    policy: Any
    """`apo.models.policy.Policy`; the one that is trained."""
    writer: Writer
    judge: Callable[[list[tuple[str, str]], int, Callable[[], None]], Judged]
    seed: int
    minibatch: int
    """Rows of an optimiser step."""
    micro_batch: int
    precision: str
    """fp32 or bf16, that of training."""
    folder: Path
    """Of the rounds."""
    timed: Callable[[dict[str, Any]], None] = lambda row: None
    """Takes a line of what a round's phases cost."""
    new_prompts: NewPrompts | None = None
    """Who writes prompts that are answered in place of the data's."""
    before: Callable[[], Kept | None] = lambda: None
    """The round in front of the first, of the run that this one starts from, for a method that learns from it too."""
    check: Callable[[], None] = lambda: None
    number: int = -1
    """Of the round that is served; -1 before the first."""
    served: int = 0
    """Minibatches of it."""
    state: dict[str, Any] = field(default_factory=dict)
    """What the objective carries into the next round."""
    skipped: bool = False
    """The objective has had enough of this round."""

    def __post_init__(self):
        self.kept: Kept | None = None
        self._news: dict[str, Any] = {}
        generations = self.options.generations
        if generations < self.objective.generations:
            raise DataError(f"rollout.generations={generations}: {self.objective.name} compares completions of one "
                            f"prompt and needs at least {self.objective.generations}")

    # ---- serving -----------------------------------------------------------------------------------------------------

    def next(self) -> ExperienceBatch:
        self._look()
        if self.number < 0 or self.skipped or self.served >= self._minibatches(len(self._kept().rows_PN)):
            self._begin()
        kept = self._kept()
        epoch, place = divmod(self.served, self._count(len(kept.rows_PN)))
        self.served += 1
        return self._batch(kept, kept.rows_PN[self._order(self.number, epoch, len(kept.rows_PN))[place]])[0]

    def _look(self) -> None:
        """The objective says it once, after the step that was too much."""
        self.skipped |= self.objective.exhausted()

    def _kept(self) -> Kept:
        if self.kept is None:
            self.kept = load(self.folder, self.number)
            if self.kept is None:
                raise RunError(f"{self.folder}: round {self.number} is gone, and the run stands inside it; begin it "
                               "anew with force=true")
        return self.kept

    def _count(self, rows: int) -> int:
        """Minibatches of an epoch: as many as have about the size that was asked for."""
        return max(round(rows / self.minibatch), 1)

    def _minibatches(self, rows: int) -> int:
        return self._count(rows) * self.options.epochs

    def _order(self, number: int, epoch: int, rows: int) -> list[np.ndarray]:
        """Rows of each minibatch of an epoch."""
        order = stream(self.seed, "minibatches", number, epoch).permutation(rows)
        return np.array_split(order, self._count(rows))

    def _batch(self, made: Kept, rows_RN: np.ndarray) -> tuple[ExperienceBatch, np.ndarray]:
        """The rows, the longest first (what is too large for the memory shows at once), and their completions in that
        order."""
        def parts(row_N):
            return made.prompt_ids[made.prompts_C[row_N[0]]], [made.completion_ids[each] for each in row_N]
        rows = [parts(row_N) for row_N in rows_RN.tolist()]
        order = sorted(range(len(rows)), key=lambda row: -len(rows[row][0]) - sum(map(len, rows[row][1])))
        rows, rows_RN = [rows[row] for row in order], rows_RN[order]
        rewards_RN = torch.from_numpy(np.nan_to_num(made.scores_C[rows_RN])).float()
        ref_RN = torch.full(rewards_RN.shape, torch.nan) if made.ref_logps_C is None else made.ref_logps_C[rows_RN]
        plain = laid_out(rows, rewards_RN, ref_RN, torch.ones(rewards_RN.shape).bool())
        batch = ExperienceBatch(**plain.tensors())
        if rows_RN.shape[1] == 1:
            inside_RT, numbers_R = batch.branch_RT == 1, rows_RN[:, 0]
            lengths_R = inside_RT.sum(1).tolist()
            for name, values_CT in made.tokens.items():
                values_RT = torch.zeros(inside_RT.shape)
                values_RT[inside_RT] = torch.cat([values_CT[number, :length]
                                                  for number, length in zip(numbers_R, lengths_R)])
                setattr(batch, f"{name}_RT", values_RT)
        return batch, rows_RN

    # ---- a round -----------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """The next round that has something to train on.  The cursor moves when it is on the disk."""
        for number in range(self.number + 1, self.number + 1 + EMPTY):
            key = digest({"policy": trained_bits(self.policy), "state": self.state, "round": number})
            kept = load(self.folder, number)
            if kept is None or kept.key != key:
                try:
                    kept = self._make(number, key)
                except NothingToDraw as reason:
                    warn(f"round {number}: {'; '.join(reason.problems)}; another is sampled")
                    continue
            self.kept, self.number, self.served, self.skipped, self.state = kept, number, 0, False, kept.state
            self.objective.take_up(self.state)
            news = Running()
            news.load_state_dict(kept.metrics, self.policy.device)
            self._news = news.stats
            forget(self.folder, self._oldest_needed())
            return
        raise DataError(f"{EMPTY} rounds in a row had nothing to train on: see the warnings above; more completions of "
                        "a prompt (rollout.generations), more prompts (rollout.prompts) or another judge may help")

    def _make(self, number: int, key: str) -> Kept:
        clock = Clock()
        prompts, told = self._prompts(number, key)
        clock.lap("prompts")
        with progress(f"sampling round {number}", self.options.prompts * self.options.generations) as bar:
            written = self._write(number, prompts, Checked(bar, self.check))
        clock.lap("sample")
        pairs = [(written.prompts[prompt].text, text) for prompt, text in zip(written.prompts_C, written.texts_C)]
        judged = self.judge(pairs, number, self.check)
        rewards_C, penalties_C = self._penalised(judged.rewards_C, written)
        clock.lap("score")
        made = Kept(key, [prompt.ids for prompt in written.prompts], written.ids_C, written.prompts_C, rewards_C,
                    np.arange(len(rewards_C))[:, None], {}, None, {}, made_by=self.objective.name)
        seen = self._measure(made, written, number, self._lay_earlier(made))
        clock.lap("measure")
        lesson = self.objective.learn(seen, self.state)
        self._take(made, lesson, seen)
        tokens = int(seen.mask_CT.sum())
        made.metrics = self._metrics(made, lesson, told | judged.metrics, written)
        made.save(self.folder, number, samples(written, judged, rewards_C, penalties_C, seen))
        clock.lap("learn and write")
        self.timed({"round": number, "phase": "rollout", **clock.seconds, "completions": len(rewards_C),
                    "tokens": tokens, "tokens_per_second": round(tokens / max(sum(clock.seconds.values()), 1e-9))})
        return made

    def _prompts(self, number: int, key: str) -> tuple[list[Prompt], dict[str, Any]]:
        """Of a round, and what is told of them."""
        if self.new_prompts is None:
            return [self.prompts.found[i] for i in self._chosen(number)], {}
        found, counts = self.new_prompts.of_round(number, key, self.options.prompts, self.check)
        return found, counts.metrics()

    def _write(self, number: int, chosen: list[Prompt], bar: Any) -> Experience:
        repeated = [place for place in range(len(chosen)) for _ in range(self.options.generations)]
        written = self.writer.write(self.policy, [chosen[place] for place in repeated], number, bar)
        rows = [(place, each.ids, each.finished, True) for place, each in zip(repeated, written)]
        if self.objective.with_given or self.options.with_original:
            end = chosen[0].ids[0]
            rows += [(place, prompt.given, prompt.given[-1:] == [end], False)
                     for place, prompt in enumerate(chosen) if prompt.given]
            rows.sort(key=lambda row: row[0])
        texts = [self.writer.text(chosen[place], ids, finished) for place, ids, finished, _ in rows]
        return Experience(chosen, [ids for _, ids, _, _ in rows], np.array([row[0] for row in rows]),
                          np.array([row[2] for row in rows]), np.array([row[3] for row in rows]), texts)

    def _chosen(self, number: int) -> list[int]:
        """Prompts of a round: all of them once, in an order drawn for it, then all again in another."""
        def at(place: int) -> int:
            epoch, inside = divmod(place, len(self.prompts))
            return int(stream(self.seed, "order", epoch).permutation(len(self.prompts))[inside])
        first = number * self.options.prompts
        return [at(place) for place in range(first, first + self.options.prompts)]

    def _penalised(self, rewards_C: np.ndarray, written: Experience) -> tuple[np.ndarray, np.ndarray]:
        """What did not end by itself is worth less."""
        penalty = self.options.missing_eos_penalty
        penalties_C = np.where(written.finished_C | ~written.sampled_C, 0.0, penalty or 0.0)
        return rewards_C - penalties_C, penalties_C

    def _lay_earlier(self, made: Kept) -> np.ndarray | None:
        """Rows of the round before, for a method that learns from them once more, as places behind the round's own."""
        if not self.objective.with_earlier:
            return None
        before = self._kept() if self.number >= 0 else self.before()
        if before is None:
            return None
        earlier_PN = lay_behind(made, before, self.objective.own_rows(before.rows_PN, before.state))
        made.rows_PN = np.arange(len(made.completion_ids))[:, None]
        return earlier_PN

    @torch.no_grad()
    def _measure(self, made: Kept, written: Experience, number: int, earlier_PN: np.ndarray | None) -> Round:
        needs, objective = self.objective.needs, self.objective
        lengths_C = torch.tensor([len(ids) for ids in made.completion_ids])
        mask_CT = torch.arange(int(lengths_C.max())) < lengths_C[:, None]
        known: dict[tuple[int, ...], int] = {}
        texts = [known.setdefault(tuple(ids), len(known)) for ids in made.completion_ids]
        seen = Round(made.prompts_C, made.scores_C, written.finished_C, written.sampled_C, mask_CT,
                     torch.zeros(mask_CT.shape), texts_C=np.array(texts))
        values, reference = needs.value_head, objective.reference if needs.reference_model else None
        seen.ref_logps_CT = None if reference is None else torch.zeros(mask_CT.shape)
        seen.values_CT = torch.zeros(mask_CT.shape) if values else None
        seen.kl_CT = torch.zeros(mask_CT.shape) if objective.exact_kl else None
        device = self.policy.device
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with evaluating(self.policy), autocast:
            for part, numbers_R in self._as_trained(made, number):
                self.check()
                part = part.to(device)
                keep = partial(put, numbers_R, (part.branch_RT == 1).cpu())
                stats = self.policy.completion_tokens(part, want=("values",) if values else ())
                keep(seen.logps_CT, stats.logps_BT)
                if values:
                    keep(seen.values_CT, stats.values_BT)
                if objective.exact_kl:
                    keep(seen.kl_CT, self.policy.completion_tokens(part, want=("kl",), other=reference).kl_BT)
                if reference is not None:
                    with reference.as_it_was() as was:
                        keep(seen.ref_logps_CT, was.completion_tokens(part).logps_BT)
        if not torch.isfinite(seen.logps_CT).all():
            raise DataError(f"round {number}: the policy gives a completion that it wrote a log-probability that is no "
                            "number")
        return seen if earlier_PN is None else _apart(seen, earlier_PN, len(written.ids_C))

    def _as_trained(self, made: Kept, number: int) -> Iterator[tuple[ExperienceBatch, list[int]]]:
        """Micro-batches as the first epoch has them, where every completion is a row; each with its completions."""
        for rows in self._order(number, 0, len(made.rows_PN)):
            batch, rows_RN = self._batch(made, made.rows_PN[rows])
            start = 0
            for part in batch.split(self.micro_batch):
                yield part, rows_RN[start:start + len(part), 0].tolist()
                start += len(part)

    def _take(self, made: Kept, lesson: Lesson, seen: Round) -> None:
        made.rows_PN, made.ref_logps_C, made.state = lesson.rows_PN, lesson.ref_logps_C, lesson.state
        if lesson.rows_PN.shape[1] == 1:
            made.tokens = {"old_logps": seen.logps_CT, **lesson.tokens}
            if seen.values_CT is not None:
                made.tokens["old_values"] = seen.values_CT
            if seen.ref_logps_CT is not None:
                made.tokens["ref_logps"] = seen.ref_logps_CT

    def _metrics(self, made: Kept, lesson: Lesson, told: dict[str, Any], written: Experience) -> dict[str, list]:
        """State of a `Running`: the objective's, what others told, and what there is in every round."""
        running = Running()
        lengths_C = torch.tensor([len(ids) for ids in written.ids_C]).float()
        running.add({"tokens/queries_len_mean": mean(torch.tensor([len(each.ids) for each in written.prompts]).float()),
                     "tokens/responses_len_mean": mean(lengths_C),
                     "rollout/finished": mean(torch.from_numpy(written.finished_C).float()),
                     "rollout/rows": ratio(len(made.rows_PN), 1), **told})
        running.stats |= lesson.metrics
        return running.state_dict()

    # ---- the cursor --------------------------------------------------------------------------------------------------

    def news(self) -> dict[str, Any]:
        found, self._news = self._news, {}
        return found

    def state_dict(self) -> dict[str, Any]:
        self._look()
        return {"round": self.number, "served": self.served, "skipped": self.skipped, "state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["round"] != self.number:
            self.kept = None
        self.number, self.served, self.skipped = int(state["round"]), int(state["served"]), bool(state["skipped"])
        self.state = state["state"]
        self.objective.take_up(self.state)

    def _oldest_needed(self) -> int:
        """The earliest round in which a checkpoint stands."""
        found = [self.number]
        for file in self.folder.parent.glob("checkpoints/*/state.json"):
            with_round = json.loads(file.read_text()).get("source", {})
            found.append(with_round.get("round", 0))
        return min(found)

    def skip(self, tokens: int) -> None:
        raise DataError("training.tokens_already_seen: samples of the policy are no continuation of a stream of "
                        "tokens; leave it at 0")

    @property
    def documents_seen(self) -> int:
        """Prompts answered."""
        return (self.number + 1) * self.options.prompts

    @property
    def epoch(self) -> float:
        return self.documents_seen / len(self.prompts)

    @property
    def rows_per_round(self) -> int:
        """Rows that a round has if nothing is dropped."""
        return self.objective.rows_of(self.options.prompts, self.options.generations)

    @property
    def tokens_per_row(self) -> float:
        """At most: completions are as long as they may be."""
        return self.prompts.mean_length + self.objective.completions_per_row * self.options.max_new_tokens

    def describe(self) -> dict[str, Any]:
        """Sizes; tokens are counted as though every completion were as long as it may be."""
        rows = self.rows_per_round
        per_step = self.tokens_per_row * rows / self._count(rows)
        steps = self._minibatches(rows) * len(self.prompts) / self.options.prompts
        return {"prompts": len(self.prompts), "too_long": self.prompts.too_long, "rows_per_round": rows,
                "steps_per_round": self._minibatches(rows), "tokens_per_step": per_step,
                "tokens_per_epoch": per_step * steps, "steps_per_epoch": steps}


def samples(written: Experience, judged: Judged, rewards_C: np.ndarray, penalties_C: np.ndarray,
            seen: Round) -> list[dict[str, Any]]:
    """What a person reads of a round."""
    found = []
    logps_C = seen.logps_CT.double().sum(1).tolist()
    kl_C = [None] * len(logps_C) if seen.ref_logps_CT is None else (
        (seen.logps_CT - seen.ref_logps_CT).double().sum(1).tolist())
    for i, text in enumerate(written.texts_C):
        row = {"prompt": written.prompts[written.prompts_C[i]].text, "text": text, "reward": number(rewards_C[i]),
               "judged": number(judged.rewards_C[i]), "missing_eos": 0.0 - float(penalties_C[i]), **judged.parts[i],
               "finished": bool(written.finished_C[i]), "sampled": bool(written.sampled_C[i]),
               "tokens": len(written.ids_C[i]), "logp": logps_C[i], "kl": kl_C[i]}
        found.append(row)
    return found


def _apart(seen: Round, earlier_PN: np.ndarray, own: int) -> Round:
    """A round of its own completions, and what was measured of the others beside it."""
    seen.earlier = Earlier(earlier_PN, seen.logps_CT[own:])
    for name in ("mask_CT", "logps_CT", "ref_logps_CT", "values_CT", "kl_CT"):
        if (measured := getattr(seen, name)) is not None:
            setattr(seen, name, measured[:own])
    seen.prompts_C, seen.scores_C, seen.texts_C = seen.prompts_C[:own], seen.scores_C[:own], seen.texts_C[:own]
    return seen


def put(numbers_R: list[int], inside_RT: torch.Tensor, into_CT: torch.Tensor, values_RT: torch.Tensor) -> None:
    """What stands at the completions of a batch, to the rows of those completions, from column 0 on."""
    for completion, values_T, inside_T in zip(numbers_R, values_RT.float().cpu(), inside_RT):
        into_CT[completion, :int(inside_T.sum())] = values_T[inside_T]


def number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else float(value)


def trained_bits(policy: Any) -> str:
    """Changes with any bit of what is trained: sums of bits as whole numbers, which a device adds up in one pass."""
    parts = [(name, int(weight.detach().contiguous().view(WHOLE[weight.element_size()]).sum(dtype=torch.int64)))
             for name, weight in policy.named_parameters() if weight.requires_grad]
    return digest({"weights": parts})


WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer types by their size."""


class Clock:
    """Seconds of each phase."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.last = time.monotonic()

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self.seconds[phase], self.last = round(now - self.last, 3), now
