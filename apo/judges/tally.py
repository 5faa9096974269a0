"""Verdicts counted: how often one side won, how sure that is, and how far the judge can be believed."""

from collections import Counter
from dataclasses import dataclass

from apo.judges.pair_judge import Verdict
from apo.metrics.statistics import Interval, clustered_share


@dataclass(frozen=True)
class Tally:
    """Of one aspect, for the side `a` of the pairs."""

    wins: int
    ties: int
    losses: int
    unparsable: int
    """Pairs with an answer that could not be read.  They are in none of the other numbers of pairs."""
    win_rate: Interval | None
    """Mean over pairs of 1 for a win, 1/2 for a tie, 0 for a loss; the interval is over prompts.  None: no pair."""
    order_decided: float | None
    """Share of pairs in which the same place won both times: 0 of a judge without position bias, and then ties."""
    half_decided: float | None
    """Share of pairs in which one order gave a winner and the other none: ties too."""
    first_place: float | None
    """Share of the answers that name a winner in which it is the text shown first.  1/2 where the order is nothing."""
    unparsable_answers: int


def tally(verdicts: list[Verdict], aspect: str, confidence: float = 0.95) -> Tally:
    """The interval is Wilson's over pairs, those of one prompt taken together.  It takes a tie for half a win and half
    a loss, so it is wider than it need be where ties are many."""
    read = [verdict for verdict in verdicts if verdict.outcome(aspect) is not None]
    outcomes = Counter(verdict.outcome(aspect) for verdict in read)
    answers = [answer.choices.get(aspect) for verdict in verdicts for answer in (verdict.forward, verdict.backward)]
    named = [choice for choice in answers if choice in ("A", "B")]
    half = [verdict for verdict in read if len({"A", "B"} & set(verdict.choices(aspect))) == 1
            and len(set(verdict.choices(aspect))) == 2]
    return Tally(outcomes["win"], outcomes["tie"], outcomes["loss"], len(verdicts) - len(read),
                 _win_rate(read, aspect, confidence), _share(sum(v.order_decided(aspect) for v in read), len(read)),
                 _share(len(half), len(read)), _share(named.count("A"), len(named)), answers.count(None))


def usage(verdicts: list[Verdict]) -> dict[str, int]:
    """Requests that the verdicts rest on, whenever they were made, and the tokens they used as far as the server counts
    them."""
    replies = {answer.key: answer.reply for verdict in verdicts for answer in (verdict.forward, verdict.backward)}
    counted = [reply for reply in replies.values() if None not in (reply.prompt_tokens, reply.completion_tokens)]
    return {"requests": len(replies), "prompt_tokens": sum(reply.prompt_tokens for reply in counted),
            "completion_tokens": sum(reply.completion_tokens for reply in counted),
            "requests_without_count": len(replies) - len(counted)}


def _win_rate(read: list[Verdict], aspect: str, confidence: float) -> Interval | None:
    if not read:
        return None
    number = {prompt: index for index, prompt in enumerate(dict.fromkeys(verdict.pair.prompt for verdict in read))}
    # One prompt for all, as where texts are sampled from nothing: then the texts are what can be drawn anew.
    groups = [number[verdict.pair.prompt] for verdict in read] if len(number) > 1 else None
    return clustered_share([verdict.value(aspect) for verdict in read], groups, confidence)


def _share(count: int, total: int) -> float | None:
    return count / total if total else None
