"""Pairs of the round before, trained on once more behind those of a round itself (SPIN).

Their completions are laid behind the round's own before policy and reference are asked, so that all are measured by the
one policy that began the round.  The first round of a run finds those of the run that it starts from.
"""

from pathlib import Path

import numpy as np

from apo.console import say
from apo.errors import DataError, RunError
from apo.experience.kept import Kept, load, newest


def lay_behind(made: Kept, before: Kept, rows_PN: np.ndarray) -> np.ndarray:
    """Adds the completions of these rows of `before` to those of `made`.  The rows, as places among the added."""
    completions_E, places_PN = np.unique(rows_PN, return_inverse=True)
    prompts, prompts_E = np.unique(before.prompts_C[completions_E], return_inverse=True)
    made.prompts_C = np.concatenate([made.prompts_C, prompts_E + len(made.prompt_ids)])
    made.scores_C = np.concatenate([made.scores_C, before.scores_C[completions_E]])
    made.prompt_ids = [*made.prompt_ids, *(before.prompt_ids[prompt] for prompt in prompts)]
    made.completion_ids = [*made.completion_ids, *(before.completion_ids[each] for each in completions_E)]
    return places_PN.reshape(rows_PN.shape)


def left_by(folder: Path, objective: str, room: int) -> Kept | None:
    """The last round in the rounds of a finished run; None, and a word about it, where that run learnt otherwise.

    Args:
        objective: by which it has to have been made.
        room: tokens of prompt and completion together, at most.
    Raises RunError where the round is gone, DataError where its texts are too long.
    """
    if not folder.is_dir():
        say(f"{folder.parent} wrote no rounds: the first round has pairs of its own alone")
        return None
    number = newest(folder)
    kept = None if number is None else load(folder, number)
    if kept is None:
        raise RunError(f"{folder}: the numbers of its last round are gone, whose pairs the first round is to have too; "
                       "set objective.merge_previous=false, or train that run anew")
    if kept.made_by != objective:
        say(f"{folder.parent} did not learn by {objective}: the first round has pairs of its own alone")
        return None
    longest = max(len(kept.prompt_ids[prompt]) + len(ids) for prompt, ids in zip(kept.prompts_C, kept.completion_ids))
    if longest > room:
        raise DataError(f"{folder}: the pairs of its last round have up to {longest} tokens, and "
                        f"data.block_size={room} has no room for them: leave it as it was there")
    return kept
