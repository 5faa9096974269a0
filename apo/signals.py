"""A signal asks the run to stop; the run stops where its state is whole."""

import signal
import threading
from contextlib import contextmanager
from typing import Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequested(Exception):
    """A signal arrived; raised only where the weights are those of a finished step."""

    def __init__(self, signum: int):
        self.signum = signum


class SignalCatcher:
    """While `catching`, the first signal is remembered; a second of the same kind acts as it would without us."""

    def __init__(self):
        self.signum: int | None = None

    def check(self) -> None:
        if self.signum is not None:
            raise StopRequested(self.signum)

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Python delivers signals to the main thread alone; elsewhere nothing is caught."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}

        def ask(number, frame):
            self.signum = number
            signal.signal(number, before[number])
        for number in SIGNALS:
            signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
