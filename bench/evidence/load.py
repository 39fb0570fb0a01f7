"""How busy the machine was, and how much memory the process took, between two moments.

Read from /proc by the measured process itself, before and after its timed loop: nothing is sampled meanwhile, so
nothing disturbs it. Standard library only, Python 3.10.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from time import perf_counter_ns

# /proc/stat tells time in ticks of 10 ms: in 0.4 s of one core, or 0.2 s of several, one of them is less than the 3 %
# that are looked for. Not shorter, however many cores: older kernels only sample what each of them does.
MIN_CORE_S, MIN_WINDOW_S = 0.4, 0.2
# The loop's array and, at its end, its copy for numpy. Source: peaks after 1 and 3 million samples of a no-op exceed
# that after 34,000 by 15.6 and 15.7 bytes per sample (x86-64, 2026-11).
BYTES_PER_SAMPLE = 16
# A server's schedule: when each query was due, began and ended, also as the numbers that its threads take. Source:
# peaks after 300,000 and a million queries of a no-op exceed that after 2,000 by 105.3 and 105.4 bytes a query (ditto).
BYTES_PER_QUERY = 105


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters at one moment; only differences mean something."""

    wall_ns: int
    idle_s: float | None
    steal_s: float | None
    own_s: float
    involuntary: int
    major_faults: int
    cores: int = 1


@dataclass(frozen=True, slots=True)
class Load:
    """What happened between two snapshots. Shares are of all cores; None where it cannot be told, with why."""

    wall_s: float
    foreign_cpu: float | None
    steal: float | None
    involuntary_switches: int
    major_faults: int
    reason: str = ""


def snapshot() -> Snapshot:
    """The counters now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    idle, steal, cores = _machine_seconds()
    own = usage.ru_utime + usage.ru_stime
    return Snapshot(perf_counter_ns(), idle, steal, own, usage.ru_nivcsw, usage.ru_majflt, cores)


def between(before: Snapshot, after: Snapshot) -> Load:
    """The load between two snapshots: foreign CPU is (the machine's busy time - our own) / (cores x wall).

    Busy is what is neither idle nor stolen. Kernels time how long a core idles; what it does when busy, most of them
    only look at a hundred times a second, so their busy time says little of somebody who works for 1 ms in 20. Source:
    others used 6 % of two cores in such pieces; of windows of 0.4 s, 8 of 25 showed up to 3 % by the busy time, none by
    the idle time (x86-64, Linux 6.18, 2026-11).
    """
    wall = (after.wall_ns - before.wall_ns) / 1e9
    involuntary = after.involuntary - before.involuntary
    faults = after.major_faults - before.major_faults
    if before.idle_s is None or after.idle_s is None or before.steal_s is None or after.steal_s is None:
        return Load(wall, None, None, involuntary, faults, "/proc/stat cannot be read here")
    capacity = wall * after.cores
    if wall < MIN_WINDOW_S or capacity < MIN_CORE_S:
        return Load(wall, None, None, involuntary, faults, f"the window of {wall:.2f} s is too short to tell")
    own = after.own_s - before.own_s
    steal = max(0.0, after.steal_s - before.steal_s)  # some hypervisors count backwards
    foreign = max(0.0, capacity - (after.idle_s - before.idle_s) - steal - own)
    return Load(wall, foreign / capacity, steal / capacity, involuntary, faults)


def without(after: Snapshot, pauses: Sequence[tuple[Snapshot, Snapshot]]) -> Snapshot:
    """The later snapshot, as if these stretches of time had not been."""
    for begin, end in pauses:
        after = replace(
            after,
            wall_ns=after.wall_ns - (end.wall_ns - begin.wall_ns),
            idle_s=_less(after.idle_s, begin.idle_s, end.idle_s),
            steal_s=_less(after.steal_s, begin.steal_s, end.steal_s),
            own_s=after.own_s - (end.own_s - begin.own_s),
            involuntary=after.involuntary - (end.involuntary - begin.involuntary),
            major_faults=after.major_faults - (end.major_faults - begin.major_faults),
        )
    return after


def _less(at: float | None, begin: float | None, end: float | None) -> float | None:
    return None if at is None or begin is None or end is None else at - (end - begin)


def memory_bytes(pid: int | str = "self") -> tuple[int | None, int | None]:
    """A process's resident memory now and at its highest, in bytes."""
    try:
        with open(f"/proc/{pid}/status") as file:
            fields = dict(line.split(":", 1) for line in file if line.startswith(("VmRSS", "VmHWM")))
    except OSError:
        return None, None
    kib = {name: int(text.split()[0]) for name, text in fields.items()}
    return tuple(kib[n] * 1024 if n in kib else None for n in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def peak_without(peak_before: int | None, peak_after: int | None, kept_bytes: int) -> int | None:
    """The peak that a loop would have had without what deploybench itself kept.

    Never below the peak before the loop: what loading and the first inferences took has no samples in it.
    """
    if peak_after is None:
        return None
    return max(peak_before or 0, peak_after - kept_bytes)


def _machine_seconds() -> tuple[float | None, float | None, int]:
    """Seconds that all cores together have been idle, and stolen by the hypervisor, since boot; and how many they are.

    The file has a line of sums, one for each core, and others. Some sandboxes have nothing but zeros there.
    """
    try:
        with open("/proc/stat") as file:
            words = file.readline().split()
            cores = sum(1 for _ in takewhile(lambda line: line.startswith("cpu"), file))
    except OSError:
        return None, None, 1
    if len(words) < 9 or words[0] != "cpu" or not cores or not any(int(w) for w in words[1:9]):
        return None, None, 1
    tick = os.sysconf("SC_CLK_TCK")
    _user, _nice, _system, idle, iowait, _irq, _softirq, steal = (int(w) for w in words[1:9])
    return (idle + iowait) / tick, steal / tick, cores
