"""Running a plan: devices at once, on one machine one cell at a time, whatever becomes of any of them.

A device's cells are taken in blocks: those of one model, eight at most. Within a block trials come in rounds, as in
`run`, so that a drift of minutes hits what is compared all alike; rounds over hours of cells would leave all of them
half-done at a kill. What can be tried again is tried again when its block is over.

Every device is a lane. An executor drives lanes to their ends; ours gives each a thread. Lanes whose devices are one
machine take turns, block by block. While a device measures, the next block's conversions are made on this machine,
unless this machine is the one that measures: every conversion takes the machine's lease, as every trial does.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.errors import BenchError
from bench.evidence.boot import boot_id
from bench.matrix.contact import Contact, contact
from bench.place import Place
from bench.plausible.peaks import Peaks
from bench.preparation import Preparation
from bench.record import ErrorFacts, Record
from bench.registry import Registered
from bench.runner import Again, Case, Progress, Settings, Site, leave_cases, measure_cases
from bench.store import RunFile
from bench.trial import error_facts, passing

BLOCK = 8
# A signal may come to any thread, and does where another one is starting a process: who waits for them all looks up.
LOOK_UP_S = 0.2


@dataclass(frozen=True, slots=True)
class Rules:
    """When to stop, and what to do about a device that is not there."""

    budget_s: float | None = None
    retries: int = 1
    retry_wait_s: float = 30.0


class Watch(Protocol):
    """Whoever watches a matrix run. Called by any thread."""

    def say(self, device: str, message: str) -> None:
        """What goes on there, beside trials."""

    def trial(self, device: str, title: str, number: int, of: int) -> None:
        """A trial begins there."""

    def done(self, device: str, result: Record) -> None:
        """A cell is done."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A device and what is to be done there; `work` returns when it is."""

    device: str
    work: Callable[[], None]


Executor = Callable[[Sequence[Lane]], None]


class Files:
    """The run's files, one per machine, shared by the lanes; closed between lines, whoever is writing."""

    def __init__(self, results: Path, run: str, say: Callable[[str], None]) -> None:
        self._results, self._run, self._say = results, run, say
        self._files: dict[str, RunFile] = {}
        self._opening = threading.Lock()

    def of(self, machine: str) -> RunFile:
        """The file of a machine, opened or taken up again.

        Raises:
            BenchError: it cannot be written.
        """
        with self._opening:
            if machine not in self._files:
                self._files[machine] = file = RunFile(self._results, machine, self._run, resume=True)
                if file.cut:
                    self._say(
                        f"{file.path.name}: its last line had been cut; what there was of it is kept in {file.cut.name}"
                    )
            return self._files[machine]

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._opening:
            for file in self._files.values():
                file.close()


@dataclass(frozen=True, slots=True)
class Run:
    """What the lanes of a matrix run share. `turns`: by boot, who measures on that machine now."""

    files: Files
    settings: Settings
    rules: Rules
    machine: str
    watch: Watch
    again: dict[str, Again]
    preparation: Preparation
    begin: float
    contact: Callable[[Place, Registered], Contact] = contact
    turns: dict[str, threading.Lock] = field(default_factory=dict)
    making: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ends_at(self) -> float:
        """By the monotonic clock, when no trial may begin any more."""
        return self.begin + (math.inf if self.rules.budget_s is None else self.rules.budget_s)

    @contextmanager
    def turn(self, boot: str) -> Iterator[None]:
        """Have a machine, before its lease is asked for: who waits for that burns its time limit."""
        with self.making:
            lock = self.turns.setdefault(boot, threading.Lock())
        with lock:
            yield


def by_device(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """The cases of each device, in their order."""
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case.device, []).append(case)
    return found


def blocks(cases: Sequence[Case]) -> list[list[Case]]:
    """The cases as they are taken: of one model together, eight at most."""
    found: list[list[Case]] = []
    for case in cases:
        last = found[-1] if found else []
        same = last and last[0].resolved.model.sha256 == case.resolved.model.sha256
        if same and len(last) < BLOCK:
            last.append(case)
        else:
            found.append([case])
    return found


class _Device:
    """One lane: from contact to its last cell."""

    def __init__(self, run: Run, place: Place, cases: Sequence[Case]) -> None:
        self._run, self._place, self._cases = run, place, cases

    def work(self) -> None:
        """Every cell of the device, into the records.

        Raises:
            BenchError: the results folder cannot be written.
        """
        found = self._reach()
        if isinstance(found, ErrorFacts):
            self._leave(self._site(self._run.machine), self._cases, found)
            return
        site = self._site(found.machine)
        left = blocks(self._cases)
        while left:
            block = left.pop(0)
            with self._ahead(left[0] if left else (), found.boot):
                lost = self._block(block, site, found.boot)
            if lost and left:
                self._leave(site, [case for block in left for case in block], lost)
                return

    def _site(self, machine: str) -> Site:
        file = self._run.files.of(machine)
        return Site(file, self._place, Peaks(self._place, machine), self._run.preparation)

    def _reach(self) -> Contact | ErrorFacts:
        """The machine, or why it cannot be had after all retries."""
        for attempt in range(self._run.rules.retries, -1, -1):
            try:
                return self._run.contact(self._place, self._cases[0].backend)
            except BenchError as error:
                facts = error_facts(error, "connect")
            if attempt:
                self._pause(facts)
        return facts

    def _pause(self, facts: ErrorFacts) -> None:
        wait_s = self._run.rules.retry_wait_s
        self._run.watch.say(self._place.device, f"{facts.message}; trying again in {wait_s:g} s")
        time.sleep(wait_s)

    def _leave(self, site: Site, cases: Sequence[Case], error: ErrorFacts) -> None:
        for result in leave_cases(cases, site, self._run.settings, error, self._run.again):
            self._run.watch.done(self._place.device, result)

    def _block(self, block: Sequence[Case], site: Site, boot: str) -> ErrorFacts | None:
        """Measure a block; the error, if in the end the device could not be reached for any of it."""
        todo = list(block)
        for attempt in range(self._run.rules.retries, -1, -1):
            told = _Told(self._run.watch, self._place.device, len(todo), again=bool(attempt))
            with self._run.turn(boot):
                records = measure_cases(
                    todo,
                    site,
                    self._run.settings,
                    progress=told,
                    ends_at=self._run.ends_at,
                    again=self._run.again,
                )
            lost = [(case, r) for case, r in zip(todo, records, strict=True) if may_try_again(r)]
            if not lost or not attempt:
                break
            for _, r in lost:
                self._run.again[r.cell] = Again(r.id, r.why)
            todo = [case for case, _ in lost]
            self._pause(lost[0][1].error or error_facts(BenchError(lost[0][1].why), "connect"))
        return lost[-1][1].error if len(lost) == len(block) else None

    @contextmanager
    def _ahead(self, block: Sequence[Case], boot: str) -> Iterator[None]:
        """Meanwhile, make what the next block needs, on this machine, unless it is the one that measures."""
        if not block or boot == boot_id():
            yield
            return
        maker = threading.Thread(target=self._prepare, args=(block,), daemon=True)
        maker.start()
        yield
        maker.join()

    def _prepare(self, block: Sequence[Case]) -> None:
        for case in block:
            try:
                made = self._run.preparation.reference(case.resolved, self._place, case.files)
                if case.backend.create().prepares == "host":
                    self._run.preparation.artefact(case.backend, made.model, case.options, self._place)
            except BenchError as error:
                # The case meets it again when it is begun, and its record tells of it.
                what = f"{case.resolved.model.name} for {case.backend.name}"
                self._run.watch.say(self._place.device, f"{what}: {error.message}")


def may_try_again(result: Record) -> bool:
    """Whether a record says nothing of the case, only of the way to the machine."""
    return result.status != "wrong" and result.error is not None and passing(result.error)


class _Told(Progress):
    """What the runner tells of a block, passed on with the device's name. What is tried again is not done yet."""

    def __init__(self, watch: Watch, device: str, count: int, *, again: bool) -> None:
        self._watch, self._device, self._again = watch, device, again

    def trial_begins(self, case: str, number: int, of: int, noisy: int) -> None:
        self._watch.trial(self._device, case, number, of)

    def left(self, trials: int, at_least_s: float, at_most_s: float) -> None:
        pass

    def case_ended(self, result: Record) -> None:
        if not (self._again and may_try_again(result)):
            self._watch.done(self._device, result)


def threads(lanes: Sequence[Lane]) -> None:
    """Drive every lane in a thread of its own, until all are at their ends.

    The threads are left behind when this is interrupted: what they began is not done, and the process ends with them.

    Raises:
        BenchError: the results folder cannot be written, whichever lane found out; or lanes broke off, all the others
            having come to their ends.
    """
    ended: queue.Queue[tuple[Lane, Exception | None]] = queue.Queue()

    def drive(lane: Lane) -> None:
        try:
            lane.work()
        except Exception as error:  # noqa: BLE001 - one broken lane never costs the others; it is raised below
            ended.put((lane, error))
        else:
            ended.put((lane, None))

    for lane in lanes:
        threading.Thread(target=drive, args=(lane,), name=lane.device, daemon=True).start()
    broken: dict[str, Exception] = {}
    for _ in lanes:
        lane, error = _next(ended)
        if isinstance(error, BenchError):
            raise error
        if error:
            broken[lane.device] = error
    if broken:
        first = next(iter(broken.values()))
        message = f"{', '.join(broken)} broke off, and the others are done: {type(first).__name__}: {first}"
        hint = "an error of deploybench or of a plugin; --resume takes up what is left"
        raise BenchError(message, hint) from first


def _next(ended: queue.Queue[tuple[Lane, Exception | None]]) -> tuple[Lane, Exception | None]:
    """The next lane that ended. An interruption is not held up until then."""
    while True:
        with suppress(queue.Empty):
            return ended.get(timeout=LOOK_UP_S)


def execute(
    cases: Sequence[Case],
    places: Mapping[str, Place],
    run: Run,
    executor: Executor = threads,
) -> None:
    """Measure the cases where they belong; every one that comes to its end is in the records.

    Raises:
        BenchError: the results folder cannot be written, or a lane broke off.
    """
    lanes = [Lane(name, _Device(run, places[name], found).work) for name, found in by_device(cases).items()]
    executor(lanes)
