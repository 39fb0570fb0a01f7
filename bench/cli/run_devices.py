"""`deploybench run` on several devices: one run, one table; machines at once, devices of one machine in turns.

The lanes are a matrix run's (`bench/matrix/execute.py`), and so is what a device that cannot be reached costs: its own
cells, which are records with the reason.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from bench.cache import Cache
from bench.cli import chosen
from bench.cli.matrix_progress import Watcher
from bench.errors import UsageError
from bench.evidence import environment
from bench.matrix import execute, journal
from bench.matrix.contact import Contact, contact
from bench.matrix.expected import expected
from bench.place import Limits, Place
from bench.preparation import Preparation
from bench.record import Record
from bench.registry import Registered
from bench.runner import Case, Settings, case_facts, cell_of
from bench.store import new_run, read_run
from bench.trial import RETRY_AFTER_S


class Devices:
    """The places of one run, and whoever is told what goes on there."""

    def __init__(self, names: Sequence[str], cache: Cache, limits: Limits, watcher: Watcher) -> None:
        self._watcher = watcher
        made = [chosen.place(name, cache, partial(watcher.say, name), limits) for name in names]
        self.places = {place.device: place for place in made}

    def cases(self, models: Sequence[str], backends: Sequence[str], wanted: chosen.Wanted) -> list[Case]:
        """Every model on every backend on every device, devices innermost.

        Without names of backends: all that are available on any of the devices.

        Raises:
            UsageError: as `chosen.cases`; of every device, before anything runs.
        """
        found = self._backends(backends)
        lists = [chosen.cases(models, found, wanted, place) for place in self.places.values()]
        return [case for of_all in zip(*lists, strict=True) for case in of_all]

    def _backends(self, names: Sequence[str]) -> list[Registered]:
        found: dict[str, Registered] = {}
        problem = UsageError("no backend was chosen")
        for place in self.places.values():
            try:
                found |= {registered.name: registered for registered in chosen.backends(names, place)}
            except UsageError as error:
                if names:
                    raise
                problem = error
        if not found:
            raise problem
        return list(found.values())

    def measure(
        self, cases: Sequence[Case], settings: Settings, asked: Mapping[str, Any], governor: str | None
    ) -> list[Record]:
        """The records of all cases, in their order."""
        by_cell = {cell_of(case_facts(case)): case for case in cases}
        seconds = expected(by_cell, settings, asked["results"])
        titles = {cell: _title(case) for cell, case in by_cell.items()}
        todo = {cell: (c.device, titles[cell], seconds[cell].seconds) for cell, c in by_cell.items()}
        self._watcher.expect(todo, asked["budget"])
        run = new_run()
        with ExitStack() as held, execute.Files(asked["results"], run, lambda m: self._watcher.say("", m)) as files:
            lanes = execute.Run(
                files=files,
                settings=settings,
                # As a trial on one device: what passes in seconds is waited for, a board that is off is not.
                rules=execute.Rules(asked["budget"], retries=1, retry_wait_s=RETRY_AFTER_S),
                machine=environment.collect().machine,
                watch=self._watcher,
                again={},
                preparation=Preparation(),
                begin=time.monotonic(),
                contact=_governing(governor, held),
            )
            execute.execute(list(by_cell.values()), self.places, lanes)
        known = {record.cell: record for record in read_run(journal.run_files(asked["results"], run))}
        return [known[cell] for cell in by_cell if cell in known]


def _governing(governor: str | None, held: ExitStack) -> Callable[[Place, Registered], Contact]:
    """What reaches a device, and holds its governor until the end of the run; one where it cannot be is not measured.

    One at a time, and given back in the other order: two devices may be one machine.
    """
    one_at_a_time = threading.Lock()

    def reach(place: Place, backend: Registered) -> Contact:
        found = contact(place, backend)
        with one_at_a_time:
            held.enter_context(chosen.governing(place, governor))
        return found

    return reach


def _title(case: Case) -> str:
    return f"{case.resolved.model.name} on {case.backend.name}, {case.device}"
