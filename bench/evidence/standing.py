"""How a machine stands right now: what it is, which CPUs we may use, clocks, heat, and whether it is slowed down.

Standard library only, Python 3.10.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass

from bench.evidence import clocks, cores, environment


@dataclass(frozen=True, slots=True)
class Standing:
    """Facts of one moment. None and empty where the machine does not tell.

    `virtual`: what shows that the machine is a virtual one.
    """

    environment: environment.Environment
    cpus: tuple[int, ...]
    mhz: tuple[float, ...]
    governor: str | None
    temperature_c: float | None
    slowed: tuple[str, ...]
    virtual: str


def look(root: str = "/") -> Standing:
    """The facts now. Never raises."""
    try:
        cpus = tuple(sorted(os.sched_getaffinity(0)))
    except OSError:
        cpus = tuple(range(os.cpu_count() or 1))
    heat = clocks.hottest(clocks.thermometers(root))
    slowed = [name for name, path in clocks.slowing_devices(root).items() if (clocks.number(path) or 0) > 0]
    slowed += clocks.pi_words(clocks.pi_throttling(root) or 0)
    return Standing(
        environment=environment.collect(root),
        cpus=cpus,
        mhz=tuple(clocks.megahertz(cpus, root)),
        governor=clocks.governor(cpus, root),
        temperature_c=heat[0] if heat else None,
        slowed=tuple(slowed),
        virtual=cores.virtual(root),
    )


def main(root: str) -> None:
    """Entry point on a device: the facts as a line of JSON, behind a word that no login shell prints."""
    sys.stdout.write(f"\nDEPLOYBENCH {json.dumps(asdict(look(root)))}\n")
