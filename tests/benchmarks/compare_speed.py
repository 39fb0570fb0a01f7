"""How fast outputs are compared, and in how much memory: `python tests/benchmarks/compare_speed.py [MIB]`.

GB/s are of the bytes of one side, on one core (the best of several runs), against the target of 1 GB/s for float32.
`extra` is what a comparison allocates at most (tracemalloc), which must not grow with the output.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bench.interface import Packed
from bench.parity.compare import TOLERANCES, compare

TARGET_GB_S = 1.0
RUNS = 5


def noise(size: int, error: float) -> tuple[Any, Any]:
    """Standard normal float32 numbers, and the same with an error that is this share of their scale."""
    rng = np.random.default_rng(0)
    expected = rng.standard_normal(size, dtype=np.float32)
    return expected, expected + rng.standard_normal(size, dtype=np.float32) * np.float32(error * np.abs(expected).max())


def cases(size: int) -> Mapping[str, tuple[Any, Any]]:
    """What is compared, by name: `size` float32 numbers or as many of another type."""
    expected, close = noise(size, 1e-6)
    broken = close.copy()
    broken[size // 2] = np.nan
    bits = (expected.view(np.uint32) >> 16).astype(np.uint16)
    whole = np.arange(size, dtype=np.int64)
    return {
        "float32, right": (expected, close),
        "float32, the same": (expected, expected.copy()),
        "float32, as from fp16": noise(size, 1e-3),
        "float32, wrong everywhere": noise(size, 0.5),
        "float32, one NaN": (expected, broken),
        "float16": (expected.astype(np.float16), close.astype(np.float16)),
        "bfloat16": (Packed("bfloat16", bits), Packed("bfloat16", bits.copy())),
        "float64": (expected.astype(np.float64), close.astype(np.float64)),
        "int64": (whole, whole.copy()),
    }


def seconds(run: Callable[[], object]) -> float:
    """Of the fastest of several runs."""
    best = float("inf")
    for _ in range(RUNS):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best


def extra_bytes(run: Callable[[], object]) -> int:
    """The most that a run has allocated at once."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def bytes_of(value: Any) -> int:
    return int((value.bits if isinstance(value, Packed) else value).nbytes)


def main() -> int:
    """Print the table; 1 where float32 outputs that are right miss the target."""
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    print(f"| {'outputs':<26} | {mib:>4} MiB of float32: GB/s | extra, MiB | extra for a quarter of it |")
    print(f"|{'-' * 28}|{'-' * 26}:|{'-' * 11}:|{'-' * 26}:|")
    met = True
    small = cases((mib << 20) // 16)
    for name, (expected, got) in cases((mib << 20) // 4).items():

        def run(expected: Any = expected, got: Any = got) -> object:
            return compare({"y": expected}, {"y": got}, TOLERANCES["fp32"])

        rate = bytes_of(got) / seconds(run) / 1e9
        extra = [extra_bytes(run) / 2**20, extra_bytes(lambda pair=small[name]: run(*pair)) / 2**20]
        met = met and (rate >= TARGET_GB_S or name not in ("float32, right", "float32, the same"))
        print(f"| {name:<26} | {rate:>25.2f} | {extra[0]:>10.1f} | {extra[1]:>25.1f} |")
    print(f"target of {TARGET_GB_S:g} GB/s for float32 that is right: {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
