"""What the tests of one pytest process share: the cache, a run's files, what backends can do, and whose turn it is."""

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
from bench.errors import BenchError, UsageError
from bench.evidence import environment
from bench.interface import Options, Probe
from bench.matrix.contact import contact
from bench.place import Place, probe
from bench.plausible.peaks import Peaks
from bench.preparation import Preparation
from bench.pytest_plugin import asked, marked
from bench.pytest_plugin.journal import Files, Journal
from bench.pytest_plugin.session import Session
from bench.registry import Registered, find
from bench.runner import Running
from bench.store import new_run

TURN = "pytest"


class Suite:
    """Made when the first test asks for a session, closed when pytest ends."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.quick = _quick(config)
        self._cache = Cache(_folder(config, "cache") or default_cache())
        results = _folder(config, "results") or config.rootpath / "results"
        self._files = Files(results, new_run(), config.invocation_params.dir)
        self._probes: dict[tuple[str, str], Probe] = {}
        self._machines: dict[str, tuple[str, Peaks]] = {}
        self._preparation = Preparation()

    @contextmanager
    def session(self, request: pytest.FixtureRequest, model: str | Path | None) -> Iterator[Session]:
        """The session that a test asks for. It starts no process before it is used."""
        with self._turn():
            words = marked(request.node)
            try:
                session = self._session(request, words, request.param, model)
            except BenchError as error:
                raise pytest.fail.Exception(str(error), pytrace=False) from None
            try:
                yield session
            finally:
                session.close()

    def _session(
        self,
        request: pytest.FixtureRequest,
        words: Mapping[str, Any],
        case: Mapping[str, Any],
        model: str | Path | None,
    ) -> Session:
        backend = find(case["backend"])
        place = chosen.place(case["device"], self._cache, self._say, asked.limits(words))
        self._require(backend, place)
        named = case["model"] or model
        if named is None:
            raise UsageError(
                "no model: name one in @pytest.mark.deploybench(MODEL), or write a fixture `deploybench_model` that "
                "returns the path of an .onnx file"
            )
        path = _path(named, request.path.parent)
        (found,) = chosen.cases([path], [backend], asked.wanted(words, case), place)
        machine, peaks = self._machine_of(place, backend)
        settings = asked.settings(words)
        journal = Journal(self._files, machine)
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

    def close(self) -> None:
        self._files.close()


class _NotTimed(Peaks):
    """Measures nothing: where no test is timed, nobody asks how fast it could be."""

    def of(self, backend: Registered, options: Options) -> Mapping[str, Any]:
        raise BenchError("nothing was timed")


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
