"""How often what a model writes is better than the best answer that the data know to the same prompt.

Both are judged by the scorer that judges samples, so that the numbers are on one scale whatever the data say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apo.data.records import Sample


@dataclass
class BestAnswers:
    """The best known answer to each held-out prompt, judged when it is first needed."""

    corpus: Any
    """`apo.data.corpus.Corpus` of completions."""
    scorer: Any
    """`apo.scorers.base.Scorer`."""
    _rewards: dict[str, float] = field(default_factory=dict)

    def win_rate(self, samples: list[Sample]) -> dict[str, float]:
        """`win_rate`: share of samples with a higher reward (lower score) than the best known answer to their prompt; a
        tie is half.  Nothing where a prompt is none of the data's."""
        known = self._judged()
        if any(sample.prompt not in known for sample in samples):
            return {}
        sign = 1 if self.scorer.kind == "reward" else -1
        leads = [sign * sample.score - known[sample.prompt] for sample in samples]
        return {"win_rate": sum(1.0 if lead > 0 else 0.5 if lead == 0 else 0.0 for lead in leads) / len(leads)}

    def _judged(self) -> dict[str, float]:
        if not self._rewards:
            best = [document for document in self.corpus.documents("heldout") if document.standing.rank == 0]
            rewards = self.scorer.reward(["".join(document.texts) if self.scorer.reads_prompt else document.texts[1]
                                          for document in best])
            for document, reward in zip(best, rewards):     # several, where answers tie or the prompt comes again
                prompt = document.texts[0]
                self._rewards[prompt] = max(reward, self._rewards.get(prompt, reward))
        return self._rewards
