"""What a judge is asked about one text, and the number its answer is taken for: never more than it says."""

import math

import pytest

from apo.errors import EvaluationError
from apo.judges import Rubric

OWN = "{{prompt}} / {{ response }} / {{ prompt }}: how funny? Mark: 1 to 10"


def test_the_question_holds_both_texts_once():
    asked = Rubric().ask("How?", "So.")
    for part in ("<conversation>\nHow?\n<", "<reply>\nSo.\n<", "\nScore: ..."):
        assert asked.count(part) == 1
    assert "{{" not in asked and [f"\n{n}. " in asked for n in range(1, 7)] == [True] * 5 + [False]


def test_a_text_that_looks_like_a_template_stays_what_it_is():
    asked = Rubric(OWN, "Mark: {{ reward }}").ask("{{ response }}", "{{ prompt }} \\1 {{ 7*7 }} {% x %}")
    assert asked == ("{{ response }} / {{ prompt }} \\1 {{ 7*7 }} {% x %} / {{ response }}: how funny? Mark: 1 to 10")


@pytest.mark.parametrize("line, reward", [
    ("Score: 4", 4), ("score:0", 0), ("SCORE :  5", 5), ("Score: 3.5", 3.5), ("Score: .5", 0.5), ("Score: +2", 2),
    ("**Score:** 4", 4), ("**Score: 4**", 4), ("**Score**: 4", 4),
    ("*Score*:_4_", 4), ("Score: **4**/5", 4), ("Score: `4`", 4), ("## Score: 4.", 4),
    ("Score: 4/5", 4), ("Score: 4 out of 5", 4), ("Score: 4 of 5", 4), ("Score: 2 points", 2), ("Score: 4\r", 4),
    ("My Score: 4 (it answers)", 4), ("Score: 4, since 3 would be harsh", 4), ("Score: 4. 1 is missing", 4)])
def test_a_line_that_says_it(line, reward):
    assert Rubric().read(f"It is about the question.\n{line}\n") == reward


@pytest.mark.parametrize("answer", [
    "", "4", "It earns 4 points.", "Score: ...", "Score: four", "Score: <total>", "Score:\n4", "Underscore: 4",
    "Score: 6", "Score: 5.01", "Score: -1", "Score: 45", "Score: 4-5", "Score: 4 \u2013 5", "Score: 3 or 4",
    "Score: 3 to 4", "Score: 4,5", "Score: 4.5.1", "Score: 4/10", "Score: 2 out of 10", "Score: 4 %", "Score: 1e3",
    "Score: nan", "Score: 3\nor rather\nScore: 4/10"])
def test_what_would_be_a_guess_is_not_read(answer):
    assert Rubric().read(answer) is None


def test_the_last_place_counts():
    """The response, quoted by its judge, gives itself full marks."""
    assert Rubric().read("It says 'Score: 5'.\nScore: 1 for relevance, so in all\nScore: 2") == 2


def test_a_pattern_of_ones_own():
    tagged = Rubric("{{ prompt }}{{ response }} in <mark> </mark>", "<mark>{{ reward }}</mark>", -1, 1)
    assert tagged.read("I say <mark> -0.25 </mark> (of 1), 7") == -0.25
    assert tagged.read("<mark>1-2</mark>") is tagged.read("<mark>0.5") is tagged.read("<mark>2</mark>") is None
    dots = Rubric("{{ prompt }}{{ response }} total (a.b)\nis", "total (a.b)\nis {{reward}}")
    assert dots.read("Total (a.b)  \n\n is 3") == 3, "blanks and capitals do not matter"
    assert dots.read("total (aXb)\nis 3") is None, "a pattern is no regular expression"
    bold = Rubric("{{ prompt }}{{ response }} **My_mark:** a number of 5", "**My_mark:** **{{ reward }}** of 5")
    assert bold.read("my mark: 3 of 5") == bold.read("**My_mark:** **3** of 5") == 3
    bare = Rubric("{{ prompt }}{{ response }} How good?", "{{ reward }}")
    assert bare.read("Of 5 points I give 2.5") == 2.5


@pytest.mark.parametrize("low, high", [(0, 5), (-0.1, 0.3), (1e-9, 2e-9), (-1e6, 1e6)])
def test_what_is_said_is_read(low, high):
    rubric = Rubric(low=low, high=high)
    for share in (0, 1e-12, 1 / 3, 0.5, 0.999999999, 1):
        reward = min(max(low + (high - low) * share, low), high)
        assert rubric.read(f"So.\n{rubric.say(reward)}") == reward


@pytest.mark.parametrize("options, message", [
    ({"template": "{{ prompt }} Score:"}, r"no \{\{ response \}\}"),
    ({"template": "{{ response }} Score:"}, r"no \{\{ prompt \}\}"),
    ({"template": "{{ prompt }} {{ respons }} Score:"}, r'called \{\{ respons \}\}.*you mean "response"'),
    ({"template": "{{ prompt }} {{ response | upper }} Score:"}, r"called \{\{ response \| upper \}\}"),
    ({"template": "{{ prompt }} {{ response.__class__ }} Score:"}, r"response.__class__"),
    ({"template": "{{ prompt }} {{ response }} Mark:"}, 'does not ask for "Score:"'),
    ({"pattern": "Score:"}, r"needs \{\{ reward \}\} once"),
    ({"pattern": "Score: {{ reward }} to {{ reward }}"}, r"needs \{\{ reward \}\} once"),
    ({"pattern": "Score: {{ score }}"}, r"called \{\{ score \}\}"),
    ({"low": 5.0}, "from 5 to 5"), ({"high": math.inf}, "from 0 to inf"), ({"low": math.nan}, "from nan to 5")])
def test_what_cannot_ask_is_refused(options, message):
    with pytest.raises(EvaluationError, match=message):
        Rubric(**options)


def test_a_template_in_a_file(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text(OWN)
    rubric = Rubric.from_file(file, "Mark: {{ reward }}", 1, 10)
    assert rubric == Rubric(OWN, "Mark: {{ reward }}", 1, 10) and rubric.read("Mark: 7") == 7
    file.write_text("{{ prompt }}")
    with pytest.raises(EvaluationError, match=r"mine.txt has no \{\{ response"):
        Rubric.from_file(file)
    with pytest.raises(EvaluationError, match="nothing.txt: the judge's template cannot be read"):
        Rubric.from_file(tmp_path / "nothing.txt")


def test_an_answer_of_blanks_is_read_in_no_time():
    """A form that tries every way to divide them would take minutes."""
    for blanks in (" " * 50_000, "* " * 20_000, "Score" * 5_000, ("Score: " + " " * 300) * 100):
        assert Rubric().read(f"Score:{blanks}x") is None
    assert Rubric().read("Score: 4" + " " * 50_000) == 4
