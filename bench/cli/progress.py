"""Progress on standard error: a line that is redrawn on a terminal, one line per event elsewhere.

It draws only when told of an event: nothing is animated, because an animation would run beside what is measured.
"""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from bench.record import Record
from bench.report import shown, words


class Reporter:
    """Tells a person how far a run is and how long it will take. `quiet` says nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._live = self._console.is_terminal and not quiet
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[left]}"))
        self._bar = Progress(
            *columns, console=self._console, auto_refresh=False, transient=True, disable=not self._live
        )
        self._task = self._bar.add_task("starting", total=None, left="")
        self._begin = time.monotonic()
        self._title = ""
        self._trials_begun = 0

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        self._show(message)

    def trial_begins(self, case: str, number: int, of: int, noisy: int) -> None:
        self._trials_begun += 1
        self._show(f"{case}: trial {number} of {of}{f', {noisy} noisy' * bool(noisy)}")

    def left(self, trials: int, at_least_s: float, at_most_s: float) -> None:
        done = self._trials_begun
        each = (time.monotonic() - self._begin) / max(1, done)
        left_s = min(max(each * trials, at_least_s), at_most_s)
        self._title = f"about {words.duration(left_s)} left" if left_s else ""
        self._bar.update(self._task, completed=done, total=done + trials, left=self._title, refresh=self._live)

    def case_ended(self, result: Record) -> None:
        what = f"{result.case.model.name} on {result.case.backend}"
        if shown.published(result):
            text = f"{what}: {shown.line(result)}, error {words.error_and_noise(result)} of scale"
        else:
            text = f"{what}: {result.status}: {words.reason(result)}"
        left = "" if self._live or not self._title else f"  [{self._title}]"
        self._console.print(f"{text}{left}", markup=False)

    def _show(self, message: str) -> None:
        if self._live:
            self._bar.update(self._task, description=message, refresh=True)
        else:
            self._console.print(message, markup=False)
