"""The user's own prompts with completions, in the shapes in which people and TRL keep them.

    prompt, completion, reward              rows of one prompt next to each other are its ranking
    prompt, completions, rewards            lists
    prompt, chosen, rejected                a preference; `margin` or the rewards of both if they are known
    chosen, rejected                        two conversations or two texts with a prompt in common
    prompt, completion, label               KTO: true is desirable

Each text may be a list of messages (`{"role": ..., "content": ...}`), which is written out as a transcript.
"""

import itertools
import os
from typing import Any, Iterator

from apo.data.dialogue import HEADS, SYSTEM
from apo.data.sources.base import BadRow, CompletionSource, Ranked, numbers_in, sources, text_in, told
from apo.data.sources.file import OfFiles

SHAPES = ("prompt, completion, reward; prompt, completions, rewards; prompt, chosen, rejected; chosen, rejected; or "
          "prompt, completion, label")
SPEAKERS = {**HEADS, "system": SYSTEM}


@sources.register("completions")
class Completions(OfFiles, CompletionSource):
    """JSONL, Parquet or CSV files of the user's own (`data.path`) with prompts and completions."""

    needs_path = f"your own prompts with completions, data.path=mine.jsonl (JSONL, Parquet or CSV), with {SHAPES}"

    def rankings(self) -> Iterator[Ranked]:
        return joined(told(self.rows(), ranked_of, str(self)))


def ranked_of(row: dict[str, Any], origin: str) -> Ranked:
    """Raises BadRow."""
    has = row.keys()
    if {"chosen", "rejected"} <= has:
        prompt, chosen, rejected = pair_of(row)
        margin = numbers_in([row["margin"]], "margin")[0] if row.get("margin") is not None else None
        if margin is not None and margin < 0:
            raise BadRow(f'"margin" is {margin:g}: the rejected completion would be the better one')
        return Ranked(origin, prompt, [chosen, rejected], None if margin is None else [margin, 0.0])
    if {"prompt", "completions", "rewards"} <= has:
        completions, rewards = row["completions"], row["rewards"]
        if not isinstance(completions, list) or not isinstance(rewards, list) or len(completions) != len(rewards):
            raise BadRow('"completions" and "rewards" are two lists of one length')
        return ordered(Ranked(origin, written(row["prompt"], "prompt"),
                              [written(each, "completions") for each in completions], numbers_in(rewards, "rewards")))
    if {"prompt", "completion"} <= has and ("reward" in has or "label" in has):
        column = "reward" if "reward" in has else "label"
        value = row[column]
        reward = float(value) if isinstance(value, bool) else numbers_in([value], column)[0]
        return Ranked(origin, written(row["prompt"], "prompt"), [written(row["completion"], "completion")], [reward])
    raise BadRow(f"has neither of {SHAPES}; it has {', '.join(has)}")


def pair_of(row: dict[str, Any]) -> tuple[str, str, str]:
    """(prompt, chosen, rejected); the prompt is what the two have in common where it is not given."""
    chosen, rejected = written(row["chosen"], "chosen"), written(row["rejected"], "rejected")
    if row.get("prompt") is not None:
        return written(row["prompt"], "prompt"), chosen, rejected
    if isinstance(row["chosen"], list):
        common = list(itertools.takewhile(lambda two: two[0] == two[1], zip(row["chosen"], row["rejected"])))
        before = [message for message, _ in common[:len(row["chosen"]) - 1]]
        prompt = written(before, "chosen") + HEADS["assistant"]
        rest = [side[len(before):] for side in (row["chosen"], row["rejected"])]
        if any(len(side) != 1 or side[0].get("role") != "assistant" for side in rest):
            raise BadRow('"chosen" and "rejected" differ in more than their last message, the assistant\'s')
        return prompt, *(" " + text_in(side[0].get("content"), "content") for side in rest)
    common = os.path.commonprefix([chosen, rejected])
    cut = common.rfind(HEADS["assistant"])
    cut = cut + len(HEADS["assistant"]) if cut >= 0 else len(common.rstrip().rpartition(" ")[0])
    if not cut:
        raise BadRow('no "prompt", and "chosen" and "rejected" begin differently')
    return common[:cut], chosen[cut:], rejected[cut:]


def written(value: Any, column: str) -> str:
    """Text as it is; messages as a transcript."""
    if not isinstance(value, list):
        return text_in(value, column)
    lines = []
    for message in value:
        if not isinstance(message, dict) or message.get("role") not in SPEAKERS:
            raise BadRow(f'"{column}": a message is {{"role": one of {", ".join(SPEAKERS)}, "content": "..."}}')
        lines.append(f"{SPEAKERS[message['role']]} {text_in(message.get('content'), column)}")
    return "".join(lines)


def joined(rows: Iterator[Ranked]) -> Iterator[Ranked]:
    """Neighbouring rows of one prompt as one ranking."""
    for _, same in itertools.groupby(rows, key=lambda ranked: ranked.prompt):
        same = list(same)
        if len(same) == 1 or any(ranked.rewards is None for ranked in same):
            yield from same
            continue
        yield ordered(Ranked(same[0].origin, same[0].prompt, [text for ranked in same for text in ranked.completions],
                             [reward for ranked in same for reward in ranked.rewards]))


def ordered(ranked: Ranked) -> Ranked:
    order = sorted(range(len(ranked.rewards)), key=lambda i: -ranked.rewards[i])
    return Ranked(ranked.origin, ranked.prompt, [ranked.completions[i] for i in order],
                  [ranked.rewards[i] for i in order])
