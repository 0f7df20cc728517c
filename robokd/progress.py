"""How far long work is, how fast it goes and how long it still takes, on stderr.

A bar where stderr is a terminal and rich is installed; a plain line every few seconds otherwise.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

LINE_EVERY_S = 10.0  # between plain lines


class Progress:
    """A context manager around a loop: `with Progress(80, "rounds") as bar: … bar.advance(1, loss=0.1)`."""

    def __init__(self, total: int, label: str, start: int = 0, stream: TextIO | None = None) -> None:
        """Count `label` from `start` (work of an earlier process, not part of the rate) up to `total`."""
        self.total, self.label, self.done = total, label, start
        self._start = start
        self._stream = stream or sys.stderr
        self._shown: dict[str, str] = {}
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        self._began = self._printed = time.monotonic()
        self._printed_done = self._start
        self._bar = _bar(self._stream)
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, completed=self._start, text="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.done > self._printed_done:
            print(self.line(), file=self._stream, flush=True)

    def advance(self, count: int = 1, **shown: float | str | None) -> None:
        """Count on and show values beside the bar; a value that is None keeps what it showed before."""
        self.done += count
        for name, value in shown.items():
            if value is not None:
                self._shown[name] = value if isinstance(value, str) else f"{value:.4g}"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, text=f"{self._rate_text()}{self._values()}")
        elif time.monotonic() - self._printed >= LINE_EVERY_S:
            self._printed, self._printed_done = time.monotonic(), self.done
            print(self.line(), file=self._stream, flush=True)

    def line(self) -> str:
        """Return the state as one line."""
        share = 100 * self.done / self.total if self.total else 100
        left = _clock((self.total - self.done) / self._rate) if self._rate else "?"
        amounts = f"{self.label} {self.done}/{self.total} ({share:.0f} %)"
        return f"{amounts}, {self._rate_text()}, {left} left{self._values()}"

    @property
    def _rate(self) -> float:
        """Counts per second of this process."""
        return (self.done - self._start) / max(time.monotonic() - self._began, 1e-9)

    def _rate_text(self) -> str:
        return f"{self._rate:.3g}/s" if self._rate >= 1 or not self._rate else f"{1 / self._rate:.3g} s each"

    def _values(self) -> str:
        return "".join(f", {name} {value}" for name, value in self._shown.items())


def _bar(stream: TextIO) -> Bar | None:
    """Return a rich bar for a terminal; None where lines have to do."""
    if not stream.isatty():
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
    except ModuleNotFoundError:  # the base install of a robot has no rich
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Bar(*columns, TextColumn("{task.fields[text]}"), console=Console(file=stream))


def _clock(seconds: float) -> str:
    """Return h:mm:ss."""
    minutes, second = divmod(max(round(seconds), 0), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
