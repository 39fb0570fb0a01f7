"""Which precision a case's error looks like, and which tolerance it would just have needed. Pure."""

from __future__ import annotations

from bench.parity.precision import LADDER, bits_above, looks_like, worse
from bench.record import CaseLine, JudgedFacts, ParityFacts

PREFIX = "low precision"


def reached(case: CaseLine, judged: JudgedFacts) -> str:
    """By how many bits the error lies above the reference's own noise; empty where no noise is known."""
    if judged.grade == "wrong":
        return "wrong"
    bits = _bits(case, judged)
    return "" if bits is None else looks_like(bits)


def required(case: CaseLine, judged: JudgedFacts) -> tuple[float, float] | None:
    """The rtol and atol_of_scale, in the proportion of the tolerance, that every output would just have passed."""
    exceeds = [o.exceed for o in judged.outputs]
    if not exceeds or any(o.nan or not o.shape_ok for o in judged.outputs):
        return None
    known = [e for e in exceeds if e is not None]
    if len(known) < len(exceeds):
        return None
    return max(known) * case.tolerance.rtol, max(known) * case.tolerance.atol_of_scale


def low_precision(case: CaseLine, parity: ParityFacts) -> list[str]:
    """In words, that the answers look like less than what was asked for. A finding, no proof: nothing is refused."""
    asked = case.case.options.precision
    asked = case.case.model.precision if asked == "model" else {"tf32": "fp16"}.get(asked, asked)
    bits = _bits(case, parity)
    if bits is None or asked not in LADDER or not worse(parity.reached or asked, asked):
        return []
    like = "" if parity.reached == "wrong" else f", as of {parity.reached}"
    return [f"{PREFIX}: {asked} was asked for, and the error lies {bits:.1f} bits above the noise of fp32{like}"]


def _bits(case: CaseLine, judged: JudgedFacts | ParityFacts) -> float | None:
    """Of the output that has lost most; None where no noise is known of any."""
    noise = {n.name: n.snr_db for n in case.reference.noise} if case.reference else {}
    known = [bits_above(noise[o.name], o.snr_db) for o in judged.outputs if o.name in noise and o.max_abs is not None]
    return max(known, default=None)
