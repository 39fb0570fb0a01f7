"""What differs between two records of a cell besides its figures: versions, and how the machine was."""

from __future__ import annotations

from typing import Any

from bench.record import Record
from bench.report import words

# Facts of an environment that are no version: who it is, which boot, and the memory that a kernel leaves over.
_NO_VERSION = frozenset({"machine", "boot", "runtimes", "memory_bytes", "wheels"})
_HARDWARE = ("cpu", "arch", "cores")
# What is worth naming as a cause, by rule of thumb: shares of the CPU, degrees, a share of the clock.
_BUSIER, _HOTTER_C, _CLOCK = 0.01, 5.0, 0.03


def versions(record: Record) -> dict[str, str]:
    """Everything with a version that took part, by name. Nights that share all of it are on one level."""
    environment = record.environment
    found = {name: _text(value) for name, value in environment.items() if name not in _NO_VERSION}
    found |= {name: _text(version) for name, version in environment.get("runtimes", {}).items()}
    found |= {f"wheel of {name}": sha256[:12] for name, sha256 in environment.get("wheels", {}).items()}
    if record.prepare:
        found |= record.prepare.converter | {"artefact": record.prepare.artefact_sha256[:12]}
    return found


def other_machine(old: Record, new: Record) -> str:
    """In words, why the two were not measured on one machine; empty where they were."""
    if old.machine != new.machine:
        return f"measured on another machine: {old.machine}, now {new.machine}"
    for name in _HARDWARE:
        before, now = old.environment.get(name), new.environment.get(name)
        if before is not None and now is not None and before != now:
            return f"the machine has another {name}: {before}, now {now}"
    return ""


def changed(old: Record, new: Record) -> list[str]:
    """In words, what changed from the one to the other: versions first, then how the machine was."""
    return versions_changed(old, new) + _conditions(old, new)


def versions_changed(old: Record, new: Record) -> list[str]:
    """In words, which versions are others; none where one of the two never came so far as to tell any."""
    before, now = versions(old), versions(new)
    if not old.environment.get("runtimes") or not new.environment.get("runtimes"):
        return []
    return [
        f"{name} {before.get(name, 'absent')} → {now.get(name, 'absent')}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]


def _conditions(old: Record, new: Record) -> list[str]:
    found = []
    boots = old.environment.get("boot"), new.environment.get("boot")
    if None not in boots and boots[0] != boots[1]:
        found.append("the machine was started anew")
    first, second = old.evidence, new.evidence
    if second.foreign_cpu is not None and second.foreign_cpu - (first.foreign_cpu or 0.0) >= _BUSIER:
        found.append(f"others used up to {second.foreign_cpu:.1%} of the CPU")
    factor = words.times_as_slow(words.core_of(new), words.core_of(old))
    if factor and abs(factor - 1) >= _CLOCK:
        found.append(cpu(factor))
    elif (second.core_slowed or 0.0) - (first.core_slowed or 0.0) >= _BUSIER:
        found.append(f"a neighbour slowed the CPU by up to {second.core_slowed:.1%}")
    if (second.steal or 0.0) - (first.steal or 0.0) >= _BUSIER:
        found.append(f"a hypervisor took up to {second.steal:.1%}")
    places = [(e.placement.device, e.placement.precision) for e in (first, second) if e.placement]
    if len(places) == 2 and places[0] != places[1]:
        found.append(f"ran on {' in '.join(places[0])} → {' in '.join(places[1])}")
    return found + _observed(old, new)


def cpu(factor: float) -> str:
    """In words, that it took so many times as long for the same."""
    how = f"{factor - 1:.0%} slower" if factor > 1 else f"{1 / factor - 1:.0%} faster"
    return f"the CPU was {how} (a neighbour, or its clock)"


def _observed(old: Record, new: Record) -> list[str]:
    first, second = old.evidence.observed, new.evidence.observed
    if first is None or second is None:
        return []
    found = []
    if first.governor != second.governor and None not in (first.governor, second.governor):
        found.append(f"governor {first.governor} → {second.governor}")
    if None not in (first.turbo, second.turbo) and first.turbo != second.turbo:
        found.append(f"turbo {'on' if second.turbo else 'off'}")
    heat = first.temperature_c, second.temperature_c
    if heat[0] is not None and heat[1] is not None and heat[1] - heat[0] >= _HOTTER_C:
        found.append(f"{heat[0]:.0f} → {heat[1]:.0f} C")
    if first.frequency_mhz and second.frequency_mhz:
        before, now = first.frequency_mhz[0], second.frequency_mhz[0]
        if before > 0 and abs(now / before - 1) >= _CLOCK:
            found.append(f"lowest clock {before} → {now} MHz")
    if second.throttled and not first.throttled:
        found.append(f"throttled ({second.throttle})")
    return found


def _text(value: Any) -> str:
    return "not told" if value is None else str(value)
