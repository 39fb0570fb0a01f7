"""Why reference outputs may prove less than they seem to, in words for a record's notes."""

from __future__ import annotations

from bench.models import Resolved
from bench.parity.sense import BLIND, empty_of_proof, leaves, movement, not_finite
from bench.reference.noise import NoiseFloor


def moved(resolved: Resolved) -> float | None:
    """By what share of its norm the reference output moves between the first two inputs; None where not known."""
    known = [data.expected for data in resolved.data_sets if data.expected is not None]
    return movement(known[0], known[1]) if len(known) > 1 else None


def constant(resolved: Resolved) -> bool:
    """Whether inputs that differ all have the same reference output, numbers of floating point among it.

    Equal labels may be chance, and some models do answer with nothing but a label; equal scores are none.
    """
    known = {data.sha256: data.expected for data in resolved.data_sets if data.expected is not None}
    first, *others = known.values() or [{}]
    floating = any(n.floating for n in leaves([*first.values()]))
    return floating and bool(others) and all(movement(first, other) == 0 for other in others)


def doubts(resolved: Resolved, noise: NoiseFloor, tolerance: str, atol_of_scale: float) -> list[str]:
    """What a reader should know of the reference. `tolerance` is its name."""
    known = [data.expected for data in resolved.data_sets if data.expected is not None]
    found = []
    share = moved(resolved)
    if share is not None and share < BLIND:
        found.append(f"input-blind: the reference output moves by {share:.2%} of its norm between two inputs")
    if odd := not_finite(known):
        found.append(f"not finite: the reference output {', '.join(odd)} holds NaN or infinity")
    if empty := empty_of_proof(known):
        found.append(f"nothing to judge: the reference output {', '.join(empty)} is empty or zero everywhere")
    loud = [n for n in noise.outputs if n.max_rel_scale > atol_of_scale]
    found += [
        f"tolerance below the noise: the reference output {n.name} may itself be off by {n.max_rel_scale:.1e} of its "
        f"scale, and {tolerance} allows {atol_of_scale:.1e}"
        for n in loud
    ]
    return found
