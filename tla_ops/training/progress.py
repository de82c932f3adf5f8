"""Progress on standard error: a bar on a terminal that has rich, an occasional plain line anywhere
else.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """``with Progress("tla", 30) as progress: progress.update("validation 81%")`` once a step."""

    def __init__(self, name: str, total: int, done: int = 0, *, quiet: bool = False) -> None:
        self.name = name
        self.total = total
        self.done = done
        self.quiet = quiet
        self._bar: Any = None
        self._printed = time.monotonic()

    def __enter__(self) -> Progress:
        self._bar = _rich_bar() if sys.stderr.isatty() and not self.quiet else None
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(
                self.name, total=self.total, completed=self.done, note=""
            )
        return self

    def update(self, note: str = "", steps: int = 1) -> None:
        """Count one more step, or several, with a short remark on where things stand."""
        self.done += steps
        if self._bar is not None:
            self._bar.update(self._task, advance=steps, note=note)
            return
        now = time.monotonic()
        if self.quiet:
            return
        if now - self._printed >= SECONDS_BETWEEN_LINES or self.done == self.total:
            self._printed = now
            line = f"{self.name}: {self.done}/{self.total}  {note}"
            print(line.rstrip(), file=sys.stderr, flush=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _rich_bar() -> Any:
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        return None
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
