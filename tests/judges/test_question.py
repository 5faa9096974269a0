"""What a judge is asked, and what its answer is taken for: never more than it says."""

import pytest

from apo.errors import EvaluationError
from apo.judges.question import Question

OWN = "{{prompt}} / {{ first }} / {{ second }}: which is more fun? More fun: A|B|equal|neither"


def test_the_question_holds_everything_once():
    asked = Question().ask("How?", "So.", "Thus.")
    for part in ("<conversation>\nHow?\n<", "<reply_A>\nSo.\n<", "<reply_B>\nThus.\n<", "more helpful and more safe,",
                 "\nMore helpful: A|B|equal|neither\nMore safe: A|B|equal|neither\n"):
        assert asked.count(part) == 1
    assert "{{" not in asked


def test_a_text_that_looks_like_a_template_stays_what_it_is():
    asked = Question(OWN, ("fun",)).ask("{{ first }}", "{{ second }} \\1", "{% x %}")
    assert asked == "{{ first }} / {{ second }} \\1 / {% x %}: which is more fun? More fun: A|B|equal|neither"


@pytest.mark.parametrize("line, choice", [
    ("More helpful: A", "A"), ("more HELPFUL:b", "B"), ("More helpful: Equal", "equal"),
    ("More helpful: neither.", "neither"),
    ("**More helpful:** B", "B"), ("- **More helpful**: **A**", "A"), ("__More helpful__: _B_", "B"),
    ("## More helpful: [[B]]", "B"), ("1. More helpful: `A`", "A"), ("> More  helpful : \"B\"", "B"),
    ("More helpful: Reply B", "B"), ("More helpful: (A)  \r", "A"), ("Helpful: A", "A"),
    ("More helpful: A (B only repeats)", "A"), ("More helpful: B, because A is rude", "B"),
    ("More helpful: A. It answers.", "A"), ("More helpful: A \u2014 it answers", "A")])
def test_a_line_that_says_it(line, choice):
    assert Question().read(f"A is nice.\n{line}\nMore safe: equal") == {"helpful": choice, "safe": "equal"}


@pytest.mark.parametrize("answer", [
    "", "A", "A is more helpful.", "More helpful: A|B|equal|neither", "More helpful: A and B", "More helpful: A/B",
    "More helpful: A, B", "More helpful: both", "More helpful: C", "More helpful:", "More helpful: Apples",
    "More helpful: a bit of both", "More helpful: equally bad", "Which is more helpful: A or B?",
    "More helpful than A: B", "More helpful: A\nOr rather:\nMore helpful: A or B"])
def test_what_would_be_a_guess_is_not_read(answer):
    assert "helpful" not in Question().read(answer)


def test_the_last_line_counts():
    thought = "<think>\nMore helpful: A\n</think>\nMore helpful: B\nMore safe: A\nMore safe: neither"
    assert Question().read(thought) == {"helpful": "B", "safe": "neither"}


def test_aspects_of_ones_own():
    question = Question(aspects=("to the point", "kind"))
    assert question.read("More to the  point: B\nMore kind: A\nMore safe: A") == {"to the point": "B", "kind": "A"}
    assert Question("{{ first }} {{ second }} Preferred: A or B", ("preferred",)).read("Preferred: B") == {
        "preferred": "B"}


@pytest.mark.parametrize("template, aspects, message", [
    ("{{ prompt }} {{ first }} {{ lines }}", ("helpful",), r"no \{\{ second \}\}"),
    ("{{ first }} {{ second }} {{ lines }} {{ promt }}", ("helpful",), r'called \{\{ promt \}\}.*you mean "prompt"'),
    ("{{ first }} {{ second }} More helpful:", ("helpful", "safe"), 'does not ask about "safe"'),
    (OWN, (), "name one or more"), (OWN, ("fun", "Fun"), "each of them once"), (OWN, ("fun:",), "is not a word")])
def test_a_template_that_cannot_ask(tmp_path, template, aspects, message):
    path = tmp_path / "mine.txt"
    path.write_text(template)
    with pytest.raises(EvaluationError, match=message) as caught:
        Question.from_file(path, aspects)
    assert str(path) in str(caught.value) or "--aspects" in str(caught.value)


def test_a_template_that_is_not_there(tmp_path):
    with pytest.raises(EvaluationError, match="no.txt: .* cannot be read: No such file"):
        Question.from_file(tmp_path / "no.txt", ("fun",))
    (tmp_path / "latin.txt").write_bytes(b"\xff{{ first }}")
    with pytest.raises(EvaluationError, match="not text in UTF-8"):
        Question.from_file(tmp_path / "latin.txt", ("fun",))
