"""Tolerances: how far an element may be from its reference, and by which the named precisions are judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tolerance:
    """An element passes when |got - ref| <= rtol * |ref| + atol_of_scale * max|ref of its output|."""

    name: str
    rtol: float
    atol_of_scale: float
    reason: str


# Starting points. Each precision's error grows with the depth of the net, so these leave room above one rounding.
TOLERANCES: Mapping[str, Tolerance] = {
    t.name: t
    for t in (
        Tolerance(
            "fp32", 1e-3, 2e-4, "another order of fp32 additions; right runtimes stay below 1e-4 of scale on the zoo"
        ),
        Tolerance(
            "fp16", 1e-2, 1e-2, "11 bits of mantissa (tf32 too): one rounding is 5e-4, deep nets add up to some 3e-3"
        ),
        Tolerance("bf16", 5e-2, 5e-2, "8 bits of mantissa: one rounding is 4e-3"),
        Tolerance("int8", 1e-1, 1e-1, "256 levels per tensor: half a step is 2e-3 of scale, and a net has many"),
    )
}


def parse_tolerance(text: str) -> Tolerance:
    """`fp16`, or `rtol,atol_of_scale` as two numbers.

    Raises:
        ValueError: neither; its text names what is known.
    """
    if text in TOLERANCES:
        return TOLERANCES[text]
    if text == "tf32":
        return TOLERANCES["fp16"]
    try:
        rtol, atol = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"a tolerance is one of {', '.join(TOLERANCES)}, tf32, or rtol,atol (0.01,0.01)") from None
    if not (0 <= rtol < math.inf and 0 <= atol < math.inf):
        raise ValueError("a tolerance is made of two finite numbers that are not negative")
    return Tolerance(f"{rtol:g},{atol:g}", rtol, atol, "given on the command line")
