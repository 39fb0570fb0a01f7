"""What this machine does at most with so many threads: multiply-adds in single precision, and copying.

The product of two matrices by numpy's BLAS, in several sizes and many times over, and plain copies; the best counts. It
is measured in a process of its own, where BLAS can still be told how many threads to use. Run as a script it is that
process, so it imports nothing of ours. Standard library and numpy, Python 3.10.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

# Every name under which a BLAS of numpy's looks for its number of threads.
THREADS_OF = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
# From the caches of a board to what amortises packing; a size is left out where it would take too long.
SIZES = (256, 512, 1024, 1536)
SECONDS_PER_SIZE = 0.25
SECONDS_PER_PRODUCT = 0.15
COPY_BYTES = 128 << 20
COPY_SECONDS = 0.4
LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Peaks:
    """What was measured, and what bounds it: the highest clock that the kernel tells, and instruction sets.

    `foreign_cpu`: share of all CPUs that others used meanwhile, None where it cannot be told. `core_ns`: how long the
    yardstick's arithmetic takes where nobody else is on a core (bench/evidence/yardstick.py). `virtual`: whether there
    may be somebody whom the kernel cannot see.
    """

    threads: int
    flop_per_s: float
    copy_bytes_per_s: float
    arch: str
    clock_hz: float | None
    features: tuple[str, ...]
    numpy: str
    foreign_cpu: float | None
    core_ns: int | None
    virtual: bool


def measure(threads: int, features: Collection[str]) -> Peaks:
    """The peaks with so many threads; of the CPU's features those of interest are kept. Takes about two seconds.

    Raises:
        OSError, ValueError, subprocess.SubprocessError: the measuring process failed.
    """
    from bench.evidence import clocks, load, yardstick  # here, because the script below stands alone

    environment = {**os.environ, **dict.fromkeys(THREADS_OF, str(threads))}
    command = [sys.executable, "-I", __file__, str(threads)]
    core_ns = [yardstick.fastest_ns()]
    before, own_before = load.snapshot(), _seconds_of_children()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=LIMIT_S, check=True)
    after, own_s = load.snapshot(), _seconds_of_children() - own_before
    meanwhile = load.between(before, replace(after, own_s=after.own_s + own_s))
    core_ns.append(yardstick.fastest_ns())
    found = json.loads(done.stdout.splitlines()[-1])
    return Peaks(
        threads=threads,
        flop_per_s=float(found["flop_per_s"]),
        copy_bytes_per_s=float(found["copy_bytes_per_s"]),
        arch=platform.machine(),
        clock_hz=clock_hz(),
        features=tuple(sorted(cpu_features() & frozenset(features))),
        numpy=np.__version__,
        foreign_cpu=meanwhile.foreign_cpu,
        core_ns=min(core_ns),
        virtual=clocks.virtual() and platform.machine() in ("x86_64", "AMD64"),
    )


def _seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def clock_hz() -> float | None:
    """The highest clock of any CPU that the kernel tells: CPUs differ on boards."""
    found = []
    for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/cpuinfo_max_freq"):
        try:
            found.append(int(path.read_text()) * 1e3)
        except (OSError, ValueError):
            continue
    return max(found, default=None)


def cpu_features() -> frozenset[str]:
    """The instruction sets of all CPUs together, as the kernel names them; none where it tells none."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return frozenset()
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(word for line in set(lines) for word in line.split())


def flop_per_s() -> float:
    """The best rate of any product of two square matrices."""
    generator = np.random.default_rng(0)
    best = 0.0
    for size in SIZES:
        if best and 2 * size**3 / best > SECONDS_PER_PRODUCT:
            break
        a, b = (generator.standard_normal((size, size), dtype=np.float32) for _ in range(2))
        out = np.empty_like(a)
        seconds = _fastest(lambda a=a, b=b, out=out: np.matmul(a, b, out=out), SECONDS_PER_SIZE)  # type: ignore[misc]
        best = max(best, 2 * size**3 / seconds)
    return best


def copy_bytes_per_s(threads: int) -> float:
    """Bytes read and written per second by so many threads that copy at once."""
    size = COPY_BYTES // 4 // threads
    pairs = [(np.ones(size, np.float32), np.zeros(size, np.float32)) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        seconds = _fastest(lambda: list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs)), COPY_SECONDS)
    return 2 * 4 * size * threads / seconds


def _fastest(action: Callable[[], object], for_s: float) -> float:
    """Seconds of the fastest run; the first, which brings pages and threads, does not count."""
    action()
    end = time.perf_counter() + for_s
    fastest = float("inf")
    for number in range(1_000_000):
        begin = time.perf_counter()
        if begin > end and number >= 2:
            break
        action()
        fastest = min(fastest, time.perf_counter() - begin)
    return max(fastest, 1e-9)


if __name__ == "__main__":
    print(json.dumps({"flop_per_s": flop_per_s(), "copy_bytes_per_s": copy_bytes_per_s(int(sys.argv[1]))}))
