"""From what markers and options say to cases, one for each combination. What is wrong is refused at collection."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.cache import Cache
from bench.cli import chosen
from bench.cli.parsing import parse_extra, parse_limits, parse_shapes, parse_target
from bench.errors import UsageError
from bench.interface import Plan
from bench.parity.compare import parse_tolerance
from bench.place import Limits
from bench.registry import Registered, complete_options, find, installed, nearest
from bench.runner import Settings, plan_of

AXES = ("model", "backends", "devices", "threads", "precision", "batch")
NUMBERS = {"trials": 6, "min_time": 0.5, "max_time": 10.0, "min_count": 11, "max_foreign_cpu": 0.03}
KNOWN = (*AXES, *NUMBERS, "shapes", "options", "cpus", "tolerance", "target", "limits")


def cases(asked: Mapping[str, Any], only_backends: Sequence[str], only_devices: Sequence[str]) -> list[Any]:
    """A parameter set for each case of a test, with an id that says what sets it apart.

    Raises:
        UsageError: an unknown word or an impossible value; the nearest valid ones are offered.
    """
    for name in asked:
        if name not in KNOWN:
            raise UsageError(f"it knows no {name!r}", nearest(name, KNOWN))
    listed = [find(name).name for name in _list(asked.get("backends"))]
    check_names((), _list(asked.get("devices")))
    backends = _selected(listed, only_backends) if listed or only_backends else _usual()
    devices = _selected(_list(asked.get("devices")), only_devices) or (["local"] if not asked.get("devices") else [])
    _check_values(asked, [find(name) for name in dict.fromkeys((*listed, *backends))])
    if not backends or not devices:
        wanted = ", ".join([*only_backends, *only_devices])
        return [pytest.param({}, marks=pytest.mark.skip(reason=f"not for {wanted}"), id="not-asked-for")]
    axes = {
        "model": [os.fspath(model) for model in _list(asked.get("model"))] or [None],
        "backend": backends,
        "device": devices,
        "threads": _list(asked.get("threads", 1)),
        "precision": _list(asked.get("precision", "model")),
        "batch": _list(asked.get("batch")) or [None],
    }
    found = (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
    return [pytest.param(one, id=_id(one, axes)) for one in found]


def check_names(backends: Sequence[str], devices: Sequence[str]) -> None:
    """Refuse backends and devices that there are not.

    Raises:
        UsageError: the nearest are offered.
    """
    for name in backends:
        find(name)
    for name in devices:
        chosen.place(name, Cache(Path()), lambda message: None)


def wanted(asked: Mapping[str, Any], case: Mapping[str, Any]) -> chosen.Wanted:
    """The options of one case, as the command line would have them."""
    backends = {name: find(name) for name in dict.fromkeys((*_list(asked.get("backends")), case["backend"]))}
    given = parse_extra(_extra(asked), {name: _declared(r) for name, r in backends.items()})[case["backend"]]
    return chosen.Wanted(
        case["threads"],
        case["precision"],
        case["batch"],
        _shapes(asked),
        [f"{name}={value}" for name, value in given.items()],
        asked.get("cpus"),
    )


def settings(asked: Mapping[str, Any]) -> Settings:
    """How thoroughly to measure. One trial, in the session's own process, unless more are asked for.

    Raises:
        UsageError: an impossible value.
    """
    numbers = {name: asked.get(name, default) for name, default in NUMBERS.items()}
    target = parse_target(str(asked["target"])) if "target" in asked else Plan().target
    plan = plan_of(numbers["min_count"], numbers["min_time"], numbers["max_time"], target)
    tolerance = asked.get("tolerance")
    try:
        judged_by = parse_tolerance(",".join(str(part) for part in _list(tolerance))) if tolerance else None
    except ValueError as error:
        raise UsageError(f"tolerance={tolerance!r} cannot be read: {error}") from None
    return Settings(asked.get("trials", 1), plan, judged_by, numbers["max_foreign_cpu"])


def limits(asked: Mapping[str, Any]) -> Limits:
    """How long each phase may take.

    Raises:
        UsageError: an unknown phase, or no number.
    """
    found: Limits = parse_limits([f"{phase}={seconds}" for phase, seconds in dict(asked.get("limits") or {}).items()])
    return found


def _list(value: Any) -> list[Any]:
    """One value or several, as several."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]


def _selected(listed: Sequence[str], only: Sequence[str]) -> list[str]:
    """What the test lists, as far as the command line asks for it; what that asks for where the test lists none."""
    if listed and only:
        return [name for name in dict.fromkeys(listed) if name in only]
    return list(dict.fromkeys(listed or only))


def _usual() -> list[str]:
    """Every installed backend that needs not be asked for by name; what it lacks is said when its test is skipped."""
    return [r.name for r in installed().values() if r.works() and not r.create().opt_in]


def _check_values(asked: Mapping[str, Any], backends: Sequence[Registered]) -> None:
    for name in ("threads", "batch", "trials", "min_count"):
        for value in _list(asked.get(name)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{name}={value!r} is not possible", "give a whole number, 1 or more")
    for name, most in (("min_time", 3600.0), ("max_time", 3600.0), ("max_foreign_cpu", 1.0)):
        value = asked.get(name, 0.5)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
            raise UsageError(f"{name}={value!r} is not possible", f"give a number from 0 to {most:g}")
    settings(asked)
    limits(asked)
    parse_shapes(_shapes(asked))
    given = parse_extra(_extra(asked), {r.name: _declared(r) for r in backends})
    for registered in backends:
        complete_options(registered.create(), given[registered.name])


def _declared(registered: Registered) -> frozenset[str]:
    return frozenset(option.name for option in registered.create().options)


def _extra(asked: Mapping[str, Any]) -> list[str]:
    """`options={"spinning": False, "ncnn:winograd": True}` in the words of `--option`."""
    return [f"{name}={value}" for name, value in _mapping(asked, "options").items()]


def _shapes(asked: Mapping[str, Any]) -> list[str]:
    return [f"{name}={','.join(str(d) for d in _list(dims))}" for name, dims in _mapping(asked, "shapes").items()]


def _mapping(asked: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = asked.get(name) or {}
    if not isinstance(value, Mapping):
        raise UsageError(f"{name} is a mapping, not {value!r}", f"write {name}={{NAME: VALUE}}")
    return value


def _id(one: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]) -> str:
    """The backend, and what else the cases of the test differ in."""
    several = {name for name, values in axes.items() if len(values) > 1}
    parts = [Path(one["model"]).stem] if "model" in several else []
    parts.append(one["backend"])
    if "device" in several or one["device"] != "local":
        parts.append(one["device"])
    parts += [f"{name}{one[name]}" for name in ("threads", "batch") if name in several]
    return "-".join([*parts, *([one["precision"]] if "precision" in several else [])])
