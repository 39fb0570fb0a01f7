"""What a place can do at most, measured there once and kept: by machine, CPUs in use, threads and interpreter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import evidence
from bench.cache import key_of
from bench.errors import BenchError
from bench.interface import Options
from bench.place import Place, started
from bench.plausible.bound import FEATURES
from bench.registry import Registered

# Several matrix sizes and a copy, each for a fraction of a second, in a process that has to start first.
LIMIT_S = 90.0
# The best of many repetitions counts, so a little that others do does no harm; what is kept must not be too low.
BUSY = 0.1
KIND = "peaks"


class _Busy(BenchError):
    """Others disturbed the measurement: what came out must not be kept."""


class Peaks:
    """The peaks of one place, for one run: a busy machine is found busy once, not once per case."""

    def __init__(self, place: Place, machine: str) -> None:
        self._place = place
        self._machine = machine
        self._disturbed: dict[tuple[int, tuple[int, ...]], Mapping[str, Any]] = {}

    def of(self, backend: Registered, options: Options) -> Mapping[str, Any]:
        """The `bench.evidence.peaks.Peaks` with these options' threads and CPUs, as plain facts.

        Where others used the machine meanwhile, the rates are None and `reason` says so. A worker of the backend's
        measures, because a place need not have another; the runtime itself is not used.

        Raises:
            BenchError: no worker could be had there, or it could not measure.
        """
        wanted = (options.threads, options.cpus)
        if wanted in self._disturbed:
            return self._disturbed[wanted]
        place = self._place

        def build(folder: Path) -> Mapping[str, Any]:
            facts = self._measured(backend, options)
            if (facts["foreign_cpu"] or 0.0) > BUSY:
                reason = f"others used {facts['foreign_cpu']:.0%} of the CPU while the machine's peak was measured"
                self._disturbed[wanted] = {**facts, "flop_per_s": None, "copy_bytes_per_s": None, "reason": reason}
                raise _Busy(reason)
            return facts

        summary = f"{self._machine}, {options.threads} threads"
        try:
            return place.cache.get(KIND, self._key(options), build, summary=summary, on_wait=place.say).facts
        except _Busy:
            return self._disturbed[wanted]

    def forget(self, options: Options) -> None:
        """Measure anew the next time: a neighbour took of the CPU when it was measured, as was learnt since.

        Raises:
            BenchError: the cache's folder cannot be used.
        """
        key = self._key(options)
        for entry in self._place.cache.list():
            if (entry.kind, entry.key) == (KIND, key):
                self._place.say("a neighbour slowed this machine when its peak was measured: it will be measured anew")
                self._place.cache.remove(entry)

    def _key(self, options: Options) -> str:
        place = self._place
        files = (Path(evidence.__file__).parent / name for name in ("peaks.py", "yardstick.py"))
        code = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        return key_of([self._machine, place.device, place.host.python, code, options.threads, list(options.cpus)])

    def _measured(self, backend: Registered, options: Options) -> Mapping[str, Any]:
        self._place.say("measuring what this machine can do at most (once)")
        with started(self._place, backend, options.cpus, purpose="peaks of the machine") as ready:
            args = {"threads": options.threads, "features": sorted(FEATURES)}
            return ready.worker.ask("peaks", args, limit_s=LIMIT_S)[0]
