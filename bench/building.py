"""Where an artefact is made: on the harness's machine, or on the device that will run it, and fetched from there."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.errors import BackendUnavailable, HostError
from bench.interface import Model, Options
from bench.place import Place, options_there, probe
from bench.registry import Registered

HOUSEKEEPING_S = 60.0


@dataclass(frozen=True, slots=True)
class Site:
    """A place with the model and the options as they are there, and an empty folder to work in."""

    place: Place
    model: Model
    options: Options
    workdir: str


@contextmanager
def site(place: Place, registered: Registered, model: Model, options: Options, folder: Path) -> Iterator[Site]:
    """The site of the backend's `prepare`. What it leaves in its workdir is in `folder` when the block ends well."""
    if registered.create().prepares == "host" or place.home is None:
        near = place.near if registered.create().prepares == "host" else place
        yield Site(near, model, options, str(folder))
        return
    host = place.host
    root = host.put(model.root, f"model-{model.sha256}", model.files)
    work = host.workspace / f"making-{secrets.token_hex(8)}"
    done = host.run(["mkdir", "-p", str(work)], timeout_s=HOUSEKEEPING_S)
    if done.code:
        raise HostError(f"{place.device} has no room to build in", done.stderr.strip())
    try:
        there = options_there(place, registered, options)
        yield Site(place, replace(model, root=Path(str(root))), there, str(work))
        host.get(work, folder / "made")
        for path in list((folder / "made").iterdir()):
            path.rename(folder / path.name)
    finally:
        host.run(["rm", "-rf", str(work)], timeout_s=HOUSEKEEPING_S)


def built_on(place: Place, registered: Registered, *, to_run: bool) -> dict[str, str]:
    """What of a device decides the artefacts that are made on it: versions, driver, GPU.

    Raises:
        BackendUnavailable: it cannot be run there, or with `to_run` off, not even be made there.
    """
    found = probe(place, registered)
    if not (found.available or (found.builds and not to_run)):
        raise BackendUnavailable(found.reason, found.remedy)
    return dict(found.runtimes)


def why_anew(others: Iterable[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """In words, what has changed since the artefact that comes nearest was made; empty where none comes near.

    What the user chooses is not told: model, precision and options are known to who gave them.
    """
    chosen, wanted = {"model", "precision", "options", "tools"}, _flat(facts)
    near = [
        {name: (old.get(name, "none"), new) for name, new in wanted.items() if old.get(name) != new}
        for old in (_flat(other.get("made_from", {})) for other in others)
        if all(old.get(name) == wanted.get(name) for name in {*old, *wanted} if name.split(": ")[0] in chosen)
    ]
    if not near:
        return ""
    changes = min(near, key=len)
    said = [f"{name.split(': ')[-1]} was {old}, is {new}" for name, (old, new) in changes.items() if name != "code"]
    return "; ".join([*said, *(["the backend's code has changed"] if "code" in changes else [])])


def _flat(facts: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found |= {f"{name}: {inner}": str(given) for inner, given in value.items()}
        else:
            found[name] = str(value)
    return found
