"""What a person sees: a progress bar with an ETA on a terminal, plain lines in a log.

One bar at a time (rich's live display cannot be nested), so an inner `progress` inside an outer one writes nothing.
Everything goes to stderr, so that tables on stdout can be piped.
"""

import sys
import time
from contextlib import contextmanager

_active = False
PLAIN_EVERY_S = 15.0
"""Seconds between the lines that stand for the bar when stderr is not a terminal."""


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    say(f"warning: {message}")


class Progress:
    """What `progress` yields: `advance(n)`, `go_on_from(n)` for work done before this process, and `note(text)` for a
    few words beside the bar."""

    def __init__(self, description: str, total: int | None):
        self.description, self.total, self.done, self.before, self.text = description, total, 0, 0, ""
        self.started = self.last_line = time.monotonic()

    def advance(self, n: int = 1) -> None:
        self.done += n
        self.show()

    def go_on_from(self, done: int) -> None:
        """The time left is judged by what this process does."""
        self.done = self.before = done
        self.started = time.monotonic()

    def note(self, text: str) -> None:
        self.text = text

    def show(self) -> None:
        """The silent kind: an inner bar."""

    def close(self) -> None:
        pass


class PlainProgress(Progress):
    def show(self) -> None:
        now = time.monotonic()
        if now - self.last_line >= PLAIN_EVERY_S:
            self.last_line = now
            say(self.line(now))

    def line(self, now: float) -> str:
        line = f"{self.description}: {self.done}"
        if self.total:
            remaining = (now - self.started) / max(self.done - self.before, 1) * (self.total - self.done)
            line += f"/{self.total} ({100 * self.done / self.total:.0f} %, {duration(remaining)} left)"
        return f"{line}  {self.text}".rstrip()


class BarProgress(Progress):
    def __init__(self, description: str, total: int | None):
        super().__init__(description, total)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress
        self.bar = RichProgress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
                                TextColumn("{task.fields[note]}"), console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task(description, total=total, note="")
        self.bar.start()

    def show(self) -> None:
        self.bar.update(self.task, completed=self.done, note=self.text)

    def go_on_from(self, done: int) -> None:
        super().go_on_from(done)
        self.bar.reset(self.task, completed=done)

    def close(self) -> None:
        self.bar.stop()


@contextmanager
def progress(description: str, total: int | None = None):
    """`with progress("training", steps) as bar: ...; bar.advance()`."""
    global _active
    outermost = not _active
    kind = Progress if not outermost else BarProgress if sys.stderr.isatty() else PlainProgress
    bar, _active = kind(description, total), True
    try:
        yield bar
    finally:
        bar.close()
        if outermost:
            _active = False


def duration(seconds: float) -> str:
    """`1 h 05 min`, `3 min 20 s`, `12 s`."""
    seconds = int(round(seconds))
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"
