"""Judges: which of two texts is better, in the opinion of a language model behind a chat server (docs/judging.md).

    judge = PairJudge(ChatServer("http://localhost:8000/v1", "name"))
    verdicts = judge.compare([Pair("How are you?", "Fine!", "Go away.")])
    verdicts[0].value("helpful")        # 1.0: the first text won, 0.0: the second, 0.5: a tie, None: not understood
    tally(verdicts, "helpful").win_rate

`question.py` says what is asked and reads what is answered, `pair_judge.py` asks in both orders, `answers.py` keeps
what was paid for, `tally.py` counts, and `texts.py` finds texts to pair.
"""

from apo.judges.answers import Answers
from apo.judges.pair_judge import Pair, PairJudge, Verdict
from apo.judges.question import Question
from apo.judges.tally import Tally, tally

__all__ = ["Answers", "Pair", "PairJudge", "Question", "Tally", "Verdict", "tally"]
