"""What the tests of one pytest process share: the cache, the run's file, what backends can do, and whose turn it is."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.cache import Cache
from bench.cli import chosen
from bench.cli.options import default_cache
from bench.errors import BenchError
from bench.evidence import environment
from bench.interface import Options, Probe
from bench.matrix.contact import contact
from bench.place import Place, probe
from bench.plausible.peaks import Peaks
from bench.preparation import Preparation
from bench.pytest_plugin import asked, marked
from bench.pytest_plugin.session import Session
from bench.record import Line
from bench.registry import Registered, find
from bench.runner import Running
from bench.store import RunFile, new_run

TURN = "pytest"


class Suite:
    """Made when the first test asks for a session, closed when pytest ends."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.quick = _quick(config)
        self._results = _folder(config, "results") or config.rootpath / "results"
        self._cache = Cache(_folder(config, "cache") or default_cache())
        self._run = new_run()
        self._files: dict[str, RunFile] = {}
        self._probes: dict[tuple[str, str], Probe] = {}
        self._machines: dict[str, tuple[str, Peaks]] = {}
        self._preparation = Preparation()

    @contextmanager
    def session(self, request: pytest.FixtureRequest) -> Iterator[Session]:
        """The session that a test asks for. It starts no process before it is used."""
        with self._turn():
            words = marked(request.node)
            try:
                session = self._session(request, words, request.param)
            except BenchError as error:
                raise pytest.fail.Exception(str(error), pytrace=False) from None
            try:
                yield session
            finally:
                session.close()

    def _session(self, request: pytest.FixtureRequest, words: Mapping[str, Any], case: Mapping[str, Any]) -> Session:
        backend = find(case["backend"])
        place = chosen.place(case["device"], self._cache, self._say, asked.limits(words))
        self._require(backend, place)
        model = _path(case["model"] or request.getfixturevalue("deploybench_model"), request.path.parent)
        (found,) = chosen.cases([model], [backend], asked.wanted(words, case), place)
        machine, peaks = self._machine_of(place, backend)
        settings = asked.settings(words)
        journal = Journal(self, machine, self._run)
        running = Running(found, settings, journal, peaks, self._preparation)
        return Session(running, place, settings, journal, request.node, quick=self.quick)

    def _machine_of(self, place: Place, backend: Registered) -> tuple[str, Peaks]:
        """The name of a device's machine, and what it can do at most; asked once per device."""
        if place.device not in self._machines:
            name = environment.collect().machine if place.home is None else contact(place, backend).machine
            self._machines[place.device] = name, (_NotTimed if self.quick else Peaks)(place, name)
        return self._machines[place.device]

    def _require(self, backend: Registered, place: Place) -> None:
        """Skip the test where the backend cannot be used; asked once per backend and device."""
        key = backend.name, place.device
        if key not in self._probes:
            self._probes[key] = probe(place, backend)
        found = self._probes[key]
        if not found.available:
            remedy = f"; {found.remedy}" if found.remedy else ""
            pytest.skip(f"{backend.name} is not available on {place.device}: {found.reason}{remedy}")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One test at a time, whatever the number of pytest's processes: preparing one would disturb another's loop."""
        path = self._cache.root / "locks" / TURN
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
        except OSError as error:
            text = f"the cache {self._cache.root} cannot be used: {error.strerror}"
            raise pytest.fail.Exception(text, pytrace=False) from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _say(self, message: str) -> None:
        """Tell of what takes a while, at once where there is somebody to tell, else with a failure."""
        capturing = self._config.pluginmanager.getplugin("capturemanager")
        if capturing is None or self._config.get_verbosity() < 0:
            print(f"deploybench: {message}", file=sys.stderr)
        else:
            with capturing.global_and_fixture_disabled():
                print(f"\ndeploybench: {message}", file=sys.stderr, flush=True)

    def file(self, machine: str) -> RunFile:
        """The run's file for records of that machine, made when the first line is written."""
        if machine not in self._files:
            try:
                self._files[machine] = RunFile(self._results, machine, self._run)
            except BenchError as error:
                text = f"{error.message}; choose another folder with --deploybench-results=DIR"
                raise pytest.fail.Exception(text, pytrace=False) from None
        return self._files[machine]

    def shown(self, path: Path) -> str:
        """A path as the terminal shows it, from where pytest was started."""
        start = self._config.invocation_params.dir
        return str(path.relative_to(start) if path.is_relative_to(start) else path)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


class _NotTimed(Peaks):
    """Measures nothing: where no test is timed, nobody asks how fast it could be."""

    def of(self, backend: Registered, options: Options) -> Mapping[str, Any]:
        raise BenchError("nothing was timed")


class Journal:
    """The lines of one test. They are held back until it is known that there is something to tell.

    A test that only proves answers leaves no record when they are right; one that measures, or fails, does.
    """

    def __init__(self, suite: Suite, machine: str, run: str) -> None:
        self._suite, self.machine, self.run = suite, machine, run
        self._held: list[Line] | None = []

    def append(self, line: Line) -> None:
        if self._held is None:
            self._suite.file(self.machine).append(line)
        else:
            self._held.append(line)

    def release(self) -> str:
        """Write down what was held back, and whatever comes, at once; the file, as the terminal shows it."""
        held, self._held = self._held, None
        for line in held or ():
            self.append(line)
        return self._suite.shown(self._suite.file(self.machine).path)


def _quick(config: pytest.Config) -> bool:
    """`--benchmark-disable` means the same. Where pytest-benchmark disables itself (xdist), measuring goes on."""
    if config.getoption("deploybench_quick") is not None:
        return True
    disabled = config.getoption("benchmark_disable", False) and not config.getoption("benchmark_enable", False)
    return bool(disabled or config.getini("deploybench_quick"))


def _folder(config: pytest.Config, what: str) -> Path | None:
    """The command line's from where pytest was started, the settings' from the root folder."""
    if given := config.getoption(f"deploybench_{what}"):
        return config.invocation_params.dir / Path(given).expanduser()
    setting = str(config.getini(f"deploybench_{what}"))
    return config.rootpath / Path(setting).expanduser() if setting else None


def _path(model: Any, folder: Path) -> str:
    """A catalogue name as it is; a path from the folder of the test's file."""
    text = str(model)
    return str(folder / text) if "/" in text or text.endswith(".onnx") else text
