"""Many questions to a chat server at once, each answer kept the moment it comes."""

import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Callable

from apo.console import progress
from apo.errors import ServerError
from apo.judges.answers import Answers
from apo.rollouts.chat_server import Reply


class Asking:
    """Args:
        ask: a question -> its reply; raises ServerError where it fails for good.
        answers: where replies are found and kept.  None: nowhere.
        concurrency: questions on their way at once.
        patience: so many failures in a row, none answered between them, end it; what fails before that is left out.
        doing: what the progress bar calls it.
    """

    def __init__(self, ask: Callable[[str], Reply], answers: Answers | None, concurrency: int, patience: int = 1,
                 doing: str = "judging"):
        self.ask, self.answers, self.concurrency, self.patience = ask, answers, concurrency, patience
        self.doing = doing
        self._in_a_row, self._last = 0, None
        self._one_at_a_time, self._over = threading.Lock(), threading.Event()

    def replies(self, questions: dict[str, str]) -> dict[str, Reply]:
        """Key -> reply, for each key -> question but those that failed for good.

        Raises ServerError where patience is at its end, with all that was answered until then kept; and where not one
        question was answered, however few they are."""
        kept = {key: self.answers.get(key) for key in questions} if self.answers else {}
        found = {key: reply for key, reply in kept.items() if reply is not None}
        with progress(self.doing, len(questions)) as bar, ThreadPoolExecutor(self.concurrency) as pool:
            bar.go_on_from(len(found))
            asked = {pool.submit(self._one, key, question): key for key, question in questions.items()
                     if key not in found}
            try:
                for done in as_completed(asked):
                    if (reply := done.result()) is not None:
                        found[asked[done]] = reply
                    bar.advance()
            except BaseException:       # what is on its way is paid for, so it is waited for and kept; no more is asked
                self._over.set()
                pool.shutdown(cancel_futures=True)
                raise
        if questions and not found:
            raise ServerError(f"{self._last}; of {len(questions)} questions none was answered")
        return found

    def _one(self, key: str, question: str) -> Reply | None:
        """None where it failed, or where patience has ended meanwhile: that error is on its way."""
        if self._over.is_set():
            return None
        try:
            reply = self.ask(question)
            if self.answers:
                self.answers.add(key, reply)
        except ServerError as problem:
            self._failed(problem)
            return None
        except BaseException:
            self._over.set()
            raise
        with self._one_at_a_time:
            self._in_a_row = 0
        return reply

    def _failed(self, problem: ServerError) -> None:
        with self._one_at_a_time:
            self._in_a_row, self._last = self._in_a_row + 1, problem
            if self._in_a_row < self.patience:
                return
        self._over.set()
        raise problem if self.patience == 1 else ServerError(f"{problem}; {self.patience} questions in a row failed "
                                                             "for good, so no more are asked")
