"""Judges: what a language model thinks of a text (docs/judging.md).

Which of two is better:

    judge = PairJudge(ChatServer("http://localhost:8000/v1", "name"))
    verdicts = judge.compare([Pair("How are you?", "Fine!", "Go away.")])
    verdicts[0].value("helpful")        # 1.0: the first text won, 0.0: the second, 0.5: a tie, None: not understood
    tally(verdicts, "helpful").win_rate

and how good one is:

    judge = RubricJudge(Rubric(), ServerWriter(ChatServer("http://localhost:8000/v1", "name")))
    judge.judge([("How are you?", "Fine!")])[0].reward

`question.py` says what is asked about two texts and reads what is answered, `pair_judge.py` asks in both orders,
`tally.py` counts, and `texts.py` finds texts to pair.  `rubric.py` says what is asked about one and reads the number,
`rubric_judge.py` takes the mean of several answers, and `writers.py` has who gives them: a server, a model here, or a
rule.  `few_shot.py` asks a writer for a new prompt like some that there are.  `asking.py` asks a server many things at
once, and `answers.py` keeps what was paid for.
"""

from apo.judges.answers import Answers
from apo.judges.few_shot import FewShot
from apo.judges.pair_judge import Pair, PairJudge, Verdict
from apo.judges.question import Question
from apo.judges.rubric import Rubric
from apo.judges.rubric_judge import Counts, Judgement, RubricJudge, count
from apo.judges.tally import Tally, tally
from apo.judges.writers import ModelWriter, RuleWriter, ServerWriter

__all__ = ["Answers", "Counts", "FewShot", "Judgement", "ModelWriter", "Pair", "PairJudge", "Question", "Rubric",
           "RubricJudge", "RuleWriter", "ServerWriter", "Tally", "Verdict", "count", "tally"]
