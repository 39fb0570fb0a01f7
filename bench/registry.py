"""The backends that are installed, ours and others', found through their entry points."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from bench.errors import BackendUnavailable, UsageError
from bench.interface import Backend, Option, OptionValue

GROUP = "deploybench.backends"


@dataclass(frozen=True, slots=True)
class Registered:
    """One backend by name: `spec` (`module:Class`) is what a worker imports.

    `rivals` are other distributions that registered another backend under the same name: none of them can be used.
    """

    name: str
    spec: str
    distribution: str
    rivals: tuple[str, ...] = ()

    def works(self) -> bool:
        """Whether its module can be imported at all."""
        try:
            self.create()
        except BackendUnavailable:
            return False
        return True

    def create(self) -> Backend:
        """An instance, for its declarations; no runtime is loaded.

        Raises:
            BackendUnavailable: its module is broken, or its name is not its own.
        """
        if self.rivals:
            message = f"the backend {self.name!r} is registered by {', '.join((self.distribution, *self.rivals))}"
            raise BackendUnavailable(message, f"uninstall all but one of them: pip uninstall {self.rivals[0]}")
        return _create(self.name, self.spec, self.distribution)


@cache
def _create(name: str, spec: str, distribution: str) -> Backend:
    module, _, attribute = spec.partition(":")
    try:
        made = getattr(importlib.import_module(module), attribute)()
    except (Exception, SystemExit) as error:  # a plugin that ends the program on import must not end ours
        message = f"backend {name!r} of {distribution} cannot be imported: {type(error).__name__}: {error}"
        raise BackendUnavailable(message, f"reinstall or remove {distribution}") from error
    if not isinstance(made, Backend):
        raise BackendUnavailable(f"{spec} is not a bench.interface.Backend", f"tell the authors of {distribution}")
    return made


def installed() -> Mapping[str, Registered]:
    """Every registered backend by name, sorted. None is imported: a broken one says so only when it is created.

    Raises:
        UsageError: none is registered.
    """
    return _read(entry_points)


@cache
def _read(entry_points: Callable[..., Iterable[EntryPoint]]) -> Mapping[str, Registered]:
    """Once per process: every distribution that is installed has to be looked at."""
    found: dict[str, Registered] = {}
    for point in entry_points(group=GROUP):
        new, known = _registered(point), found.get(point.name)
        if known is None:
            found[point.name] = new
        elif known.spec != new.spec:
            found[point.name] = replace(known, rivals=(*known.rivals, new.distribution))
    if not found:
        raise UsageError(
            "no backend is registered", 'install the package itself: pip install "deploybench[cpu,ncnn,mnn]"'
        )
    return MappingProxyType(dict(sorted(found.items())))


def _registered(point: EntryPoint) -> Registered:
    distribution = point.dist.name if point.dist else None
    return Registered(point.name, point.value.split("[")[0].strip(), distribution or "an unknown distribution")


def find(name: str) -> Registered:
    """The backend of that name.

    Raises:
        UsageError: there is none; the nearest names are offered.
    """
    known = installed()
    if name not in known:
        raise UsageError(f"there is no backend {name!r}", nearest(name, known))
    return known[name]


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint that offers what the user may have meant, else everything there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"


def complete_options(backend: Backend, given: Mapping[str, str]) -> dict[str, OptionValue]:
    """The backend's options, typed and complete.

    Raises:
        UsageError: an unknown option, or a value of the wrong kind.
    """
    known = {option.name: option for option in backend.options}
    for name in given:
        if name not in known:
            hint = nearest(name, known) if known else "it takes none"
            raise UsageError(f"backend {backend.name} has no option {name!r}", hint)
    return {
        name: _typed(backend, option, given[name]) if name in given else option.default
        for name, option in known.items()
    }


def _typed(backend: Backend, option: Option, text: str) -> OptionValue:
    where = f"option {option.name} of {backend.name}"
    if option.choices and text not in option.choices:
        raise UsageError(f"{where} cannot be {text!r}", f"one of: {', '.join(option.choices)}")
    if option.kind == "bool":
        values = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if text.lower() not in values:
            raise UsageError(f"{where} is on or off, not {text!r}")
        return values[text.lower()]
    if option.kind in ("int", "float"):
        try:
            number = int(text) if option.kind == "int" else float(text)
        except ValueError:
            raise UsageError(f"{where} takes a number ({option.kind}), not {text!r}") from None
        if not math.isfinite(number) or abs(number) >= 2**63:  # JSON, and so a record, has no others
            raise UsageError(f"{where} takes a finite number, not {text!r}")
        return number
    return text
