"""What a place can do at most, measured there once and kept: by machine, CPUs in use, threads and interpreter."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import evidence
from bench.cache import key_of
from bench.errors import BenchError
from bench.evidence import yardstick
from bench.interface import Options
from bench.place import Place, started
from bench.plausible.bound import FEATURES
from bench.registry import Registered

# Several matrix sizes and a copy, each for a fraction of a second, in a process that has to start first.
LIMIT_S = 90.0
# The best of many repetitions counts, so a little that others do does no harm; what is kept must not be too low.
BUSY = 0.1
# Beside the peaks by options: how fast a core is that is left alone, whichever peaks or trials showed it. An entry is
# never changed: who finds it faster adds one, and the fastest counts.
KIND = "peaks"
# Peaks that were measured beside a neighbour are told by a core that is known to be this much faster; he makes 10 %.
OUTDONE = 0.97


class _Busy(BenchError):
    """Others disturbed the measurement: what came out must not be kept."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__(facts["reason"])
        self.facts = facts


class Peaks:
    """The peaks of one place, for one run: a busy machine is found busy once, not once per case."""

    def __init__(self, place: Place, machine: str) -> None:
        self._place = place
        self._machine = machine
        self._found: dict[tuple[int, tuple[int, ...]], Mapping[str, Any]] = {}

    def of(self, backend: Registered, options: Options) -> Mapping[str, Any]:
        """The `bench.evidence.peaks.Peaks` with these options' threads and CPUs, as plain facts.

        Where others used the machine meanwhile, the rates are None and `reason` says so. A worker of the backend's
        measures, because a place need not have another; the runtime itself is not used. `core_ns` is the shortest that
        is known of the machine; peaks from beside a neighbour, as was learnt since, are measured anew, once per run.

        Raises:
            BenchError: no worker could be had there, or it could not measure; the cache's folder cannot be used.
        """
        wanted = (options.threads, options.cpus)
        if wanted not in self._found:
            facts, kept = self._kept(backend, options)
            if kept and self._fastest(facts) < facts["core_ns"] * OUTDONE:
                self._place.say("a neighbour slowed this machine when its peak was measured")
                self._remove(options)
                facts, _ = self._kept(backend, options)
            self._found[wanted] = facts
            self.learn(facts["numpy"], facts["core_ns"])
        facts = self._found[wanted]
        return {**facts, "core_ns": self._fastest(facts)}

    def learn(self, numpy: str, core_ns: float) -> None:
        """The yardstick's arithmetic was seen to take only so long here, by this version of numpy.

        Raises:
            BenchError: the cache's folder cannot be used.
        """
        summary, ns = self._core(numpy), math.ceil(core_ns)
        if all(ns < facts["core_ns"] for facts in self._place.cache.facts(KIND, summary)):
            self._place.cache.get(KIND, key_of([summary, ns]), lambda folder: {"core_ns": ns}, summary=summary)

    def fastest(self, numpy: str) -> int | None:
        """The shortest that the yardstick's arithmetic was ever seen to take here; None where it was not seen.

        Raises:
            BenchError: the cache's folder cannot be used.
        """
        known = self._place.cache.facts(KIND, self._core(numpy))
        return min((int(one["core_ns"]) for one in known), default=None)

    def _fastest(self, facts: Mapping[str, Any]) -> int:
        known = self.fastest(facts["numpy"])
        return int(facts["core_ns"]) if known is None else min(int(facts["core_ns"]), known)

    def _core(self, numpy: str) -> str:
        """All that the time of the yardstick's arithmetic depends on."""
        code = hashlib.sha256(Path(yardstick.__file__).read_bytes()).hexdigest()[:12]
        return f"a core of {self._machine}, {self._place.device}, {self._place.host.python}, numpy {numpy}, {code}"

    def _kept(self, backend: Registered, options: Options) -> tuple[Mapping[str, Any], bool]:
        """The facts, and whether they were measured before."""

        def build(folder: Path) -> Mapping[str, Any]:
            facts = self._measured(backend, options)
            if (facts["foreign_cpu"] or 0.0) > BUSY:
                reason = f"others used {facts['foreign_cpu']:.0%} of the CPU while the machine's peak was measured"
                raise _Busy({**facts, "flop_per_s": None, "copy_bytes_per_s": None, "reason": reason})
            return facts

        place, summary = self._place, f"{self._machine}, {options.threads} threads"
        try:
            entry = place.cache.get(KIND, self._key(options), build, summary=summary, on_wait=place.say)
        except _Busy as busy:
            return busy.facts, False
        return entry.facts, entry.hit

    def _remove(self, options: Options) -> None:
        key = self._key(options)
        for entry in self._place.cache.list():
            if (entry.kind, entry.key) == (KIND, key):
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
