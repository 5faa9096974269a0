"""Examples of judging: the question is that of a judge, and the reply is read by the judge's own parser."""

from collections import Counter

import pytest

from apo.data.sources.base import Ranked
from apo.errors import DataError
from apo.judges.examples import Agreement, balanced, by_rank, by_reward, by_writer, has_order, ranks_of
from apo.judges.rubric import Rubric

WIDE = Rubric("{{ prompt }} / {{ response }}\nOut of ten, as in: Mark (...).", "Mark ({{ reward }}).", 1, 10)


def ranked(*rewards, prompt="Who?"):
    return Ranked("row 1", prompt, [f" {place}" for place in range(len(rewards))], list(rewards))


@pytest.mark.parametrize("rewards, marks", [
    ([2.0, 1.0], [5, 0]), ([9.0, 1.0, 0.5], [5, 2, 0]), ([3.0, 3.0, 1.0], [5, 5, 0]),
    ([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], [5, 4, 3, 2, 1, 0])])
def test_marks_by_rank_lie_evenly_and_are_read_back(rewards, marks):
    examples = by_rank(Rubric(), ranked(*rewards))
    assert [each.mark for each in examples] == marks == [Rubric().read(each.reply) for each in examples]
    assert [each.question for each in examples] == [Rubric().ask("Who?", f" {place}") for place in range(len(rewards))]
    assert [each.rank for each in examples] == ranks_of(ranked(*rewards))


def test_other_rubrics():
    assert [WIDE.read(each.reply) for each in by_rank(WIDE, ranked(3.0, 2.0, 1.0))] == [10, 5, 1]
    share = Rubric("{{ prompt }}{{ response }} =", "= {{ reward }}", 0, 0.5)
    assert [share.read(each.reply) for each in by_rank(share, ranked(3.0, 2.0, 1.0))] == [0.5, 0.25, 0]
    assert by_rank(Rubric(), Ranked("row 1", "Who?", [" a", " b"]))[0].mark == 5      # where the order alone is known


def test_rewards_as_marks():
    assert [(each.mark, Rubric().read(each.reply)) for each in by_reward(Rubric(), ranked(4.5, 2.0))] == [
        (4.5, 4.5), (2.0, 2.0)]
    for wrong in (ranked(6.0, 1.0), Ranked("row 1", "Who?", [" a", " b"])):
        with pytest.raises(DataError, match="row 1: marks are to be its rewards, and they are not all from 0 to 5"):
            by_reward(Rubric(), wrong)


def test_answers_of_one_rank_have_no_order():
    assert has_order(ranked(2.0, 1.0)) and not has_order(ranked(1.0, 1.0)) and not has_order(ranked(1.0))


class Scripted:
    """Gives the marks of a table to (response, number)."""

    varies = True

    def __init__(self, table):
        self.table = table

    def write(self, rubric, asks):
        return [None if (mark := self.table[ask.response][ask.number]) is None else f"Well. Score: {mark}"
                for ask in asks]


def test_a_writer_is_kept_where_it_agrees_with_people():
    """The first draw has them the wrong way round, the second cannot be read, the third agrees, as the fourth does."""
    writer = Scripted({" 0": [1, 4, 5, 3], " 1": [2, None, 4, 1], " 2": [0, 0, 2, 0]})
    [examples], agreement = by_writer(Rubric(), writer, [ranked(3.0, 2.0, 1.0)], 4)
    assert [each.mark for each in examples] == [5, 4, 2] and examples[0].reply == "Well. Score: 5"
    assert agreement == Agreement(right=2 + 1 + 3 + 3, wrong=1, unread=2) and agreement.share == 9 / 10
    assert by_writer(Rubric(), writer, [ranked(3.0, 2.0, 1.0)], 2)[0] == [[]]
    tied = Scripted({" 0": [3], " 1": [3], " 2": [1]})
    assert by_writer(Rubric(), tied, [ranked(3.0, 2.0, 1.0)], 1) == ([[]], Agreement(right=2, tied=1))
    assert len(by_writer(Rubric(), tied, [ranked(3.0, 3.0, 1.0)], 1)[0][0]) == 3     # people gave no order to these two


def test_the_most_frequent_mark_is_cut_to_the_next():
    examples = [example for rewards in ([2.0, 1.0], [2.0, 1.0], [3.0, 3.0, 3.0, 1.0])
                for example in by_rank(Rubric(), ranked(*rewards, prompt=str(rewards)))]
    assert Counter(each.mark for each in examples) == {5: 5, 0: 3}
    left = balanced(examples, 1)
    assert Counter(each.mark for each in left) == {5: 3, 0: 3} and left == balanced(examples, 1)
    assert [each for each in examples if each in left] == left and balanced(examples[:1], 1) == examples[:1]
