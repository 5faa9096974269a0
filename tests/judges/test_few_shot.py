"""What a writer of new prompts is asked, and what is read from its answer."""

import pytest

from apo.errors import EvaluationError
from apo.judges.few_shot import PATTERN, TEMPLATE, FewShot
from apo.schema import NewPromptsConfig

FENCED = "\n<request>\nWhy?\n</request>"


def test_examples_stand_in_the_form_of_an_answer():
    asked = FewShot().ask(["Who?", "A {{ prompt }} of\ntwo lines {{ examples }}"])
    assert asked.endswith("<request>\nWho?\n</request>\n\n"
                          "<request>\nA {{ prompt }} of\ntwo lines {{ examples }}\n</request>\n")
    assert asked == TEMPLATE.replace("{{ examples }}", asked[asked.index("<request>"):].removesuffix("\n"))
    lines = FewShot("Questions.\n{{ examples }}", "Q: {{ prompt }}\n")
    assert lines.ask(["a", "b"]) == "Questions.\nQ: a\n\nQ: b\n"


@pytest.mark.parametrize("answer, prompt", [
    (FENCED, "Why?"), (f"Here is one:\n{FENCED}{FENCED}", "Why?"), ("Why?\n</request>\n", None),
    ("<request>a\n\nb</request>", "a\n\nb"), ("<request>\n</request>", ""), ("Why?", None), ("", None),
    ("<request>Why?", None), ("<request>Why? <request>Who?</request>", None)])
def test_the_first_prompt_is_read(answer, prompt):
    assert FewShot().read(answer) == prompt


@pytest.mark.parametrize("pattern, answer, prompt", [
    ("Q: {{ prompt }}\n", "Q: Why?\nA: So.", "Why?"), ("Q: {{ prompt }}\n", "So:\nQ: Why?\nQ: Who?", "Why?"),
    ("Q: {{ prompt }}\n", "Q: Why?", "Why?"), ("Q: {{ prompt }}\n", "Q:", ""), ("Q: {{ prompt }}\n", "Why?", None),
    ("{{ prompt }}", "Why?\nReally?", "Why?\nReally?"), ("{{ prompt }} ###", "Why? ### Who?", "Why?"),
    ("{{ prompt }} ###", "Why?", None)])
def test_other_forms(pattern, answer, prompt):
    assert FewShot("{{ examples }}", pattern).read(answer) == prompt


@pytest.mark.parametrize("answer, prompt", [
    (" Why?\nQ: Who?", "Why?"), ("Q: Why?\n", "Why?"), ("\nWhy? Q: Who?", None)])
def test_a_template_that_ends_with_the_beginning_of_the_answer(answer, prompt):
    assert FewShot("{{ examples }}\n\nQ:", "Q: {{ prompt }}\n").read(answer) == prompt


def test_what_it_shows_it_reads():
    for text in ("Why?", "two\nlines", "a < b </ c"):
        assert FewShot().read(FewShot().ask([text]).replace(TEMPLATE.partition("{{")[0], "")) == text


@pytest.mark.parametrize("template, pattern, said", [
    ("nothing", PATTERN, r"needs \{\{ examples \}\} once"), ("{{ examples }} {{ examples }}", PATTERN, "once"),
    ("{{ example }}", PATTERN, r"nothing is called \{\{ example \}\}; .*Did you mean"),
    (TEMPLATE, "request", r'"request" needs \{\{ prompt \}\} once'), (TEMPLATE, "{{ text }}", "nothing is called")])
def test_what_cannot_ask_or_be_read(template, pattern, said):
    with pytest.raises(EvaluationError, match=said):
        FewShot(template, pattern)


def test_a_file(tmp_path):
    (tmp_path / "mine.txt").write_text("More:\n{{ examples }}\n")
    assert FewShot.of(str(tmp_path / "mine.txt"), PATTERN).ask(["a"]).startswith("More:\n<request>")
    with pytest.raises(EvaluationError, match="gone.txt: .*cannot be read"):
        FewShot.of(str(tmp_path / "gone.txt"), PATTERN)
    assert FewShot.of(None, PATTERN) == FewShot() and NewPromptsConfig().pattern == PATTERN
