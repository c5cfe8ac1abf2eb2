"""Progress on stderr: a bar with an estimate on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

LINE_SECONDS = 20  # between lines where there is no terminal


def say(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Context manager that counts to `total` and says how long the rest will take."""

    def __init__(self, phase: str, total: float) -> None:
        self.phase, self.total, self.done = phase, total, 0.0
        self._note, self._started, self._said = "", time.monotonic(), 0.0
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description:<40.40}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            )  # fmt: skip
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(self.phase, total=self.total)
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif error[0] is None:
            say(f"{self.phase}: done in {time.monotonic() - self._started:.0f} s")

    def note(self, text: str) -> None:
        """What is being worked on."""
        self._note = text
        if self._bar is not None:
            self._bar.update(self._task, description=f"{self.phase}: {text}")

    def advance(self, amount: float) -> None:
        """Count on."""
        self.done += amount
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
            return
        now = time.monotonic()
        if self.done and now - self._said > LINE_SECONDS:
            self._said = now
            share = min(self.done / self.total, 1.0)  # a total is an estimate
            left = (now - self._started) * (1 / share - 1)
            say(f"{self.phase}: {self._note}, {share:.0%}, about {left / 60:.1f} min left")
