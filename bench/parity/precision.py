"""Which precision an error looks like: how many bits it lies above what float32 itself costs the model.

Pure. A signal-to-noise ratio is a root mean square over all elements, so one odd element does not decide; 6.02 dB are
one bit. Measured on ten models with onnxruntime 1.31.1, ncnn 1.0.20261020 and MNN 3.6.1 on x86-64, November 2026: right
float32 lies 0 to 0.9 bits above the noise, MNN's Winograd convolutions 4 to 7, ncnn's fp16 8 to 12, its bf16 14 to 16.
"""

from __future__ import annotations

from collections.abc import Sequence

DB_PER_BIT = 6.0206
# float32 has 24 bits: what is measured to be quieter than its rounding is not.
QUIETEST_DB = 24 * DB_PER_BIT
# Bits above the noise, up to which an error is as good as the precision. float32: three times what was seen. tf32 and
# fp16 keep 11 of its 24 bits, bf16 8: rounding everything costs the difference, and chance a little more or less.
LADDER = {"fp32": 3.0, "fp16": 13.3, "bf16": 16.5}


def bits_above(noise_db: float, snr_db: float | None) -> float:
    """How many bits of a float32 answer an error has cost; 0 where there is no error, or less than the noise."""
    return 0.0 if snr_db is None else max(0.0, (min(noise_db, QUIETEST_DB) - snr_db) / DB_PER_BIT)


def looks_like(bits: float) -> str:
    """The tightest precision whose error it may be; `int8` for everything beyond bf16."""
    return next((name for name, most in LADDER.items() if bits <= most), "int8")


def worse(first: str, second: str) -> bool:
    """Whether the first precision is less than the second."""
    order: Sequence[str] = (*LADDER, "int8", "wrong")
    return order.index(first) > order.index(second)
