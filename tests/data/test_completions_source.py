"""The user's own prompts with completions: every shape there is, and what is said of a row that is none."""

import pytest

from apo.data.sources.base import sources
from apo.errors import ConfigError, DataError
from apo.schema import DataConfig


@pytest.fixture
def read(rows_file):
    def rankings(*rows):
        path = rows_file("mine.jsonl", rows)
        found = sources.get("completions")(DataConfig(source="completions", path=str(path))).rankings()
        return [(ranked.prompt, ranked.completions, ranked.rewards) for ranked in found]
    return rankings


def test_a_reward_a_row_neighbours_are_one_ranking(read):
    rows = [{"prompt": "A?", "completion": " low", "reward": -1}, {"prompt": "A?", "completion": " high", "reward": 2},
            {"prompt": "B?", "completion": " b", "reward": 0.5}]
    assert read(*rows) == [("A?", [" high", " low"], [2.0, -1.0]), ("B?", [" b"], [0.5])]


def test_lists_are_put_in_order(read):
    assert read({"prompt": "A?", "completions": ["x", "y", "z"], "rewards": [0, 3, 3]}) == [
        ("A?", ["y", "z", "x"], [3.0, 3.0, 0.0])]


def test_preferences_and_their_margin(read):
    rows = [{"prompt": "A?", "chosen": " y", "rejected": " n"},
            {"prompt": "A?", "chosen": " y", "rejected": " m", "margin": 1.5}]
    assert read(*rows) == [("A?", [" y", " n"], None), ("A?", [" y", " m"], [1.5, 0.0])]


def test_two_texts_have_their_prompt_in_common(read):
    talk = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Go\n\nAssistant:"
    assert read({"chosen": talk + " Gladly.", "rejected": talk + " Gone."}) == [(talk, [" Gladly.", " Gone."], None)]
    assert read({"chosen": "Tell me now, please", "rejected": "Tell me never"}) == [
        ("Tell me", [" now, please", " never"], None)]


def test_messages_are_written_out(read):
    asked = [{"role": "user", "content": "Hi"}]
    answers = [{"role": "assistant", "content": text} for text in ("Hello.", "What?")]
    expected = [("\n\nHuman: Hi\n\nAssistant:", [" Hello.", " What?"], None)]
    assert read({"chosen": [*asked, answers[0]], "rejected": [*asked, answers[1]]}) == expected


def test_ktos_label_is_a_reward(read):
    rows = [{"prompt": "A?", "completion": text, "label": label} for text, label in ((" y", True), (" n", False))]
    assert read(*rows) == [("A?", [" y", " n"], [1.0, 0.0])]


@pytest.mark.parametrize("row, said", [
    ({"text": "A"}, "row 1: has neither of prompt, completion, reward; prompt, completions"),
    ({"prompt": "A", "completion": "b", "reward": "much"}, 'row 1: "reward" holds the text "much" where a number'),
    ({"prompt": "A", "completion": "b", "reward": float("nan")}, 'row 1: "reward" holds nan: scores must be finite'),
    ({"prompt": "A", "completions": ["b"], "rewards": [1, 2]}, 'row 1: "completions" and "rewards" are two lists'),
    ({"prompt": "A", "chosen": "b", "rejected": None}, 'row 1: "rejected" holds nothing (null) where text is needed'),
    ({"prompt": "A", "chosen": "b", "rejected": "c", "margin": -2}, 'row 1: "margin" is -2'),
    ({"chosen": "x", "rejected": "y"}, 'row 1: no "prompt", and "chosen" and "rejected" begin differently'),
    ({"prompt": [{"role": "cook", "content": "x"}], "completion": "b", "reward": 1}, 'row 1: "prompt": a message is'),
])
def test_a_bad_row_is_named(read, row, said):
    with pytest.raises(DataError) as caught:
        read(row)
    assert said in str(caught.value)


def test_five_bad_rows_are_shown_at_once(read):
    with pytest.raises(DataError, match="the first 5 rows that cannot be used"):
        read(*[{"text": str(i)} for i in range(9)])


def test_without_a_path_it_says_what_is_wanted():
    with pytest.raises(ConfigError, match="data.path: missing: your own prompts with completions"):
        sources.get("completions")(DataConfig(source="completions"))
