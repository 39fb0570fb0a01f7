"""The most that a machine can compute in a second, for judging whether a latency can be true.

It errs on the high side everywhere, because an honest fast kernel must never be accused: the CPU's widest arithmetic in
every cycle of its highest clock on every CPU that the process might use, whatever number of threads was asked for; or
twice what was measured there, where that is more.
"""

from __future__ import annotations

from collections.abc import Collection

# Above any processor sold. Source: x86 turbo clocks end at 6.2 GHz (Core i9-14900KS, 2024), aarch64's at 4.6 GHz.
CLOCK_HZ = {"x86_64": 6.2e9, "aarch64": 4.6e9}
# What the kernel calls the highest clock may leave turbo out: acpi-cpufreq says 2.25 GHz of an EPYC 7742 that runs at
# 3.4 (Source: AMD's data sheet and Linux' acpi-cpufreq documentation, "boost").
TURBO = 2.0
MEASURED_MARGIN = 2.0

# Floating-point operations per cycle of one CPU in fp32, a multiply-add being two, by the first feature that it has.
# Units x lanes x 2. x86: two FMA units (Intel 64 and AMD optimisation manuals); without FMA an addition and a
# multiplication beside each other. aarch64: four 128-bit units (Cortex-X, Neoverse V, Apple; most have two), or two of
# 512 bits with SVE (A64FX); with SME an outer product of 16 x 16 lanes.
_FP32 = {
    "x86_64": (("avx512f", 64), ("avx2", 32), ("avx", 16), ("sse2", 8)),
    "aarch64": (("sme", 1024), ("sve", 64), ("asimd", 32)),
}
# How many times more of a narrower type. Matrix units count as what they are against the vectors beside them: AMX does
# 1024 operations per cycle in bf16 and 2048 in int8 (Source: Intel's optimisation manual), 16 and 32 times AVX-512.
# 2 and 4 need no feature for int8: 8-bit products of pairs come twice or four times per lane everywhere.
_HALF = (
    ("amx_bf16", 16), ("amx_fp16", 16), ("avx512_fp16", 2), ("avx512_bf16", 2), ("sme", 2),
    ("bf16", 4), ("asimdhp", 2), ("fphp", 2),
)  # fmt: skip
_INT8 = (("amx_int8", 32), ("i8mm", 8))
_INT8_ANYWHERE = 4

FEATURES = frozenset(name for table in (*_FP32.values(), _HALF, _INT8) for name, _ in table)


def most_flop_per_s(
    *,
    arch: str,
    features: Collection[str],
    clock_hz: float | None,
    measured_flop_per_s: float | None,
    threads: int,
    precision: str,
    cpus: int,
) -> float | None:
    """Operations per second that `cpus` CPUs of the machine cannot surpass, or None where it is not known well enough.

    `measured_flop_per_s` is of fp32 with so many `threads`, None where the machine was too busy to measure it.
    """
    per_cycle = _first(_FP32.get(arch, ()), features)
    if per_cycle is None:
        return None
    known_hz = CLOCK_HZ[arch]
    clock = known_hz if clock_hz is None else min(known_hz, clock_hz * TURBO)
    measured = MEASURED_MARGIN * (measured_flop_per_s or 0.0) * max(1.0, cpus / threads)
    return _times(precision, features) * max(per_cycle * clock * cpus, measured)


def _times(precision: str, features: Collection[str]) -> int:
    if precision.startswith(("int8", "int4", "uint8")):
        return max(_first(_INT8, features) or 0, _INT8_ANYWHERE)
    if precision in ("fp16", "bf16", "tf32"):
        return _first(_HALF, features) or 1
    return 1


def _first(table: Collection[tuple[str, int]], features: Collection[str]) -> int | None:
    return next((value for name, value in table if name in features), None)
