"""What a writer of new prompts is asked, by examples (self-instruct), and the prompt that its answer holds.

Examples stand in the request in the form in which the answer is to be written, so that a model that only goes on with a
text can do it as well as one that takes orders.  What does not have that form is not read: a writer that rambles must
show as one.
"""

from dataclasses import dataclass, field
from pathlib import Path

from apo.errors import EvaluationError
from apo.judges.template import PLACE, fill, places_of, read_template

TEMPLATE = """\
Each of these requests was made to an assistant by another person. Write one more, as yet another person might make \
it: about something else, in words of its own, and of a kind that a written text can answer. Write the request alone, \
in the same form, and no answer to it.

{{ examples }}
"""
PATTERN = "<request>\n{{ prompt }}\n</request>"


@dataclass(frozen=True)
class FewShot:
    """Raises EvaluationError for a template that cannot ask and a pattern that cannot be read."""

    template: str = TEMPLATE
    """With `{{ examples }}`."""
    pattern: str = PATTERN
    """The form of an example and of an answer, with `{{ prompt }}`.  Where the template ends with what stands in front
    of the prompt, an answer goes on from there."""
    source: str = field(default="the template of new prompts", compare=False)
    """What an error calls the template: its file."""

    def __post_init__(self):
        if places_of(self.template, ["examples"], self.source).count("examples") != 1:
            raise EvaluationError(f"{self.source} needs {{{{ examples }}}} once, where the examples are to stand.")
        if len(places_of(self.pattern, ["prompt"], f'the pattern of new prompts "{self.pattern}"')) != 1:
            raise EvaluationError(f'the pattern of new prompts "{self.pattern}" needs {{{{ prompt }}}} once, where the '
                                  "prompt stands.")

    @classmethod
    def of(cls, template: str | None, pattern: str) -> "FewShot":
        """`template`: a file; None for the default."""
        return cls(pattern=pattern) if template is None else cls(read_template(Path(template)), pattern, template)

    def ask(self, examples: list[str]) -> str:
        between = "\n" if self.pattern.endswith("\n") else "\n\n"
        shown = between.join(fill(self.pattern, {"prompt": example}) for example in examples)
        return fill(self.template, {"examples": shown})

    def read(self, answer: str) -> str | None:
        """The first prompt in it, without blanks around it, maybe empty; None where it has no beginning or no end, or
        begins anew inside."""
        before, _, after = PLACE.split(self.pattern)
        before, end = before.strip(), after.strip()
        if before and self.template.rstrip().endswith(before):
            found, text = True, answer.strip().removeprefix(before)
        else:
            _, found, text = answer.partition(before) if before else ("", True, answer)
        if end:
            text, ended, _ = text.partition(end)
        else:       # a line, where the form ends a line behind the prompt; else all there is
            text, ended = text.strip().partition("\n")[0] if "\n" in after else text, True
        return text.strip() if found and ended and not (before and before in text) else None
