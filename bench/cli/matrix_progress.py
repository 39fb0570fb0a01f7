"""Progress of a matrix run on standard error: what is done, what is left on each device, and when all will be.

As in `progress.py` nothing is drawn but when something happened.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from bench.record import Record
from bench.report import shown, words

AN_HOUR_S = 3600.0


class Device:
    """How far a device is: cells done, and seconds that were expected for what is done and for all."""

    def __init__(self, task: TaskID) -> None:
        self.task = task
        self.cells = self.done = 0
        self.all_s = self.done_s = 0.0

    def left_s(self, passed_s: float) -> float:
        """By what was expected, corrected by how that came true so far."""
        pace = passed_s / self.done_s if self.done_s else 1.0
        return (self.all_s - self.done_s) * pace


class Watcher:
    """Tells a person how far a matrix run is. Used by any thread; `quiet` says nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._live = self._console.is_terminal and not quiet
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[left]}"))
        self._bars = Progress(
            *columns, console=self._console, auto_refresh=False, transient=True, disable=not self._live
        )
        self._telling = threading.RLock()
        self._devices: dict[str, Device] = {}
        self._titles: dict[str, tuple[str, float]] = {}
        self._begin, self._budget_s = time.monotonic(), math.inf

    def __enter__(self) -> Watcher:
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()

    def expect(self, cells: Mapping[str, tuple[str, str, float]], budget_s: float | None = None) -> None:
        """What will be done within the budget: by cell its device, its title and the seconds it is expected to take."""
        for cell, (device, title, seconds) in cells.items():
            if device not in self._devices:
                self._devices[device] = Device(self._bars.add_task(device, total=None, left=""))
            found = self._devices[device]
            found.cells += 1
            found.all_s += seconds
            self._titles[cell] = title, seconds
        self._begin, self._budget_s = time.monotonic(), math.inf if budget_s is None else budget_s

    def say(self, device: str, message: str) -> None:
        """A sentence about a device, or about all."""
        with self._telling:
            self._console.print(f"[{device}] {message}" if device else message, markup=False)

    def trial(self, device: str, title: str, number: int, of: int) -> None:
        """A trial begins: shown on a terminal alone."""
        if self._live:
            with self._telling:
                text = f"{device}: {title}, trial {number} of {of}"
                self._bars.update(self._devices[device].task, description=text, refresh=True)

    def done(self, device: str, result: Record) -> None:
        """A cell is done."""
        with self._telling:
            found = self._devices[device]
            title, seconds = self._titles[result.cell]
            found.done += 1
            found.done_s += seconds
            if shown.published(result):
                said = f"{shown.line(result)}, error {words.error_of_scale(result)} of scale"
            else:
                said = f"{result.status}: {words.reason(result)}"
            left = f"{found.done} of {found.cells}" + (f" on {device}" if len(self._devices) > 1 else "")
            when = self._ends()
            self._bars.update(found.task, total=found.cells, completed=found.done, left=f"{left}{when}")
            self._console.print(f"{title}: {said}" + ("" if self._live else f"  [{left}{when}]"), markup=False)

    def _ends(self) -> str:
        """When the device that takes longest is expected to be done."""
        passed_s = time.monotonic() - self._begin
        needed_s = max(device.left_s(passed_s) for device in self._devices.values())
        left_s = min(needed_s, max(0.0, self._budget_s - passed_s))
        if all(device.done == device.cells for device in self._devices.values()):
            return ""
        return f", all by {clock(left_s)}"


def clock(left_s: float) -> str:
    """The time of day so many seconds from now, with its date where that is another; seconds where it is soon."""
    now = datetime.now()
    then = now + timedelta(seconds=left_s)
    if left_s < AN_HOUR_S:
        return f"{then:%H:%M:%S}"
    return f"{then:%H:%M}" if then.date() == now.date() else f"{then:%d %b, %H:%M}"
