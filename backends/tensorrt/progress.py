"""What a build says of itself while it works."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

# A build of seconds says nothing; one of minutes is heard of now and then.
EVERY_S = 5.0


class Progress:
    """From phases and their steps to a sentence now and then. Phases nest; the outermost ones are told."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._steps: dict[str, tuple[int, int]] = {}
        self._begin = self._told = clock()

    def start(self, phase: str, steps: int) -> None:
        self._steps[phase] = (0, steps)
        self._tell()

    def step(self, phase: str, step: int) -> None:
        if phase in self._steps:
            self._steps[phase] = (step + 1, self._steps[phase][1])
        self._tell()

    def finish(self, phase: str) -> None:
        self._steps.pop(phase, None)

    def _tell(self) -> None:
        now = self._clock()
        if now - self._told < EVERY_S:
            return
        self._told = now
        where = ", ".join(f"{phase} {done} of {steps}" for phase, (done, steps) in list(self._steps.items())[:2])
        self._say(f"building the engine for {now - self._begin:.0f} s: {where}")


def monitor(trt: Any, progress: Progress) -> Any:
    """A monitor for the builder. It never cancels: a phase's time limit ends the process that builds."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # a base that is loaded at run time
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            progress.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress.step(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()
