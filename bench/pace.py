"""What is waited for: before a round, its time; before a trial, a machine that is quiet and cool."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.case import Settings
from bench.evidence.yardstick import Alone
from bench.place import Wait
from bench.record import TrialLine

# After a noisy trial: most neighbours (a compiler, a browser, an update) pause for seconds, not for minutes.
WAIT_AFTER_NOISE_S = 5.0
# So much a trial may lose to those who share its core, where they can be told: waiting until it is left alone, and
# stretches that were timed in vain. In a virtual machine they mostly come and go within seconds. Who asks for a longer
# wait for quiet waits so long for this quiet, too.
ALONE_WAIT_S = 3.0
# A cooled-down processor is as cool as at the begin of the run, to within the resolution of common sensors (1 C) and
# the noise of one reading (1 C). Rule of thumb.
COOL_WITHIN_C = 2.0
# A wait that is longer is told.
TOLD_S = 1.0


class Pace:
    """When rounds are due, counted from 0: at once, or the wanted ones evenly over `spread_s`, and others as fast.

    The time counts from the end of the first round: references and artefacts are made in it, which may take as long.
    """

    def __init__(self, wanted: int, spread_s: float | None) -> None:
        self._wanted = wanted
        self._every_s = spread_s / (wanted - 1) if spread_s and wanted > 1 else 0.0
        self._begin: float | None = None

    def left_s(self, number: int) -> float:
        """How long it is until this round is due."""
        passed_s = 0.0 if self._begin is None else time.monotonic() - self._begin
        return max(0.0, number * self._every_s - passed_s)

    def until_last_s(self, number: int) -> float:
        """In this round, how long it is until the last of the wanted ones is due."""
        return self.left_s(max(number, self._wanted - 1))

    def wait(self, number: int, say: Callable[[str], None], ends_at: float) -> None:
        """Until this round is due, or no time is left."""
        if number and self._begin is None:
            self._begin = time.monotonic()
        if self.left_s(number) > TOLD_S:
            say(f"waiting {self.left_s(number):.0f} s for round {number + 1}: the trials are to be spread")
        time.sleep(max(0.0, min(self.left_s(number), ends_at - time.monotonic())))


class Calm:
    """What to wait for before the next trial: always with `cooldown_s`, else for a moment after a noisy trial."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._noisy = False
        self._max_c: float | None = None

    def wait(self) -> Wait | None:
        seconds = self._settings.cooldown_s or (WAIT_AFTER_NOISE_S if self._noisy else None)
        return Wait(seconds, self._settings.max_foreign_cpu, self._max_c) if seconds else None

    def learn(self, line: TrialLine, *, noisy: bool) -> None:
        self._noisy = noisy
        if self._max_c is None and line.waited and line.waited.temperature_c is not None:
            self._max_c = line.waited.temperature_c + COOL_WITHIN_C


def alone(settings: Settings, fastest_ns: float | None) -> Alone | None:
    """What to wait for in a trial, where neighbours on the core can be told."""
    if fastest_ns is None or settings.max_foreign_cpu >= 1:
        return None
    return Alone(fastest_ns, settings.max_foreign_cpu, max(ALONE_WAIT_S, settings.cooldown_s or 0.0))
