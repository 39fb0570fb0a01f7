"""What a check works with: the backend under test, what was prepared for it, and how answers are compared."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.conformance.models import KIT, KitModel
from bench.conformance.processes import BoundedTools
from bench.errors import UnsupportedModel
from bench.interface import Artifact, Backend, Model, Options, OptionValue, Outputs, Session

TOLERANCE = 1e-3  # of the output's largest magnitude: fp32 with room for another order of summation
Status = Literal["passed", "failed", "skipped"]


class Violation(Exception):
    """A rule of the interface is broken. The message says which value of which model showed it."""


class Skip(Exception):
    """A check does not apply; the message names what is missing, and what would supply it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one check ended. `message` is empty where it passed."""

    name: str
    rule: str
    status: Status
    message: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule and the function that tries it."""

    name: str
    rule: str
    run: Callable[[Subject], None]


def no_tools(name: str) -> Path:
    """Where a tool is that nobody gave.

    Raises:
        Skip: always.
    """
    raise Skip(f"the tool {name!r} was not given: --tool {name}=PATH")


class Subject:
    """A backend class under test, a private folder, and artefacts made once for all checks of this process."""

    def __init__(
        self,
        backend_class: type[Backend],
        workdir: Path,
        *,
        tool_path: Callable[[str], Path] = no_tools,
        extra: Mapping[str, OptionValue] | None = None,
    ) -> None:
        self.backend_class = backend_class
        self.tools = BoundedTools(tool_path)
        self._workdir = workdir
        self._given = dict(extra or {})
        self._artifacts: dict[str, Artifact | UnsupportedModel] = {}
        self._working: KitModel | None = None

    def backend(self) -> Backend:
        """A fresh instance."""
        return self.backend_class()

    def folder(self, label: str) -> Path:
        """A new empty folder."""
        self._workdir.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{label}-", dir=self._workdir)).resolve()

    def options(self, *, threads: int = 1, precision: str = "model") -> Options:
        """Options as the harness passes them: the backend's own, complete."""
        extra = {option.name: option.default for option in self.backend_class.options}
        return Options(threads, precision, (), {**extra, **self._given})

    def require(self) -> None:
        """Skip the check where the runtime, or a tool that the backend declares, is not there."""
        probe = self.backend().probe()
        if not probe.available:
            raise Skip(f"{self.backend_class.name} is not available: {probe.reason}; {probe.remedy}")
        for tool in self.backend_class.tools:
            self.tools.path(tool.name)

    def prepare(self, kit: KitModel, options: Options | None = None) -> Artifact:
        """A new artefact of `kit`, in a folder of its own."""
        self.require()
        model: Model = kit.write(self.folder(kit.name))
        return self.backend().prepare(model, options or self.options(), self.folder("prepared"), self.tools)

    def artifact(self, kit: KitModel) -> Artifact:
        """The artefact of `kit`, made once; skips the check where the backend cannot express the model."""
        if kit.name not in self._artifacts:
            try:
                self._artifacts[kit.name] = self.prepare(kit)
            except UnsupportedModel as error:
                self._artifacts[kit.name] = error
        found = self._artifacts[kit.name]
        if isinstance(found, UnsupportedModel):
            raise _beyond(kit, found)
        return found

    @contextlib.contextmanager
    def session(self, kit: KitModel, artifact: Artifact | None = None, **asked: Any) -> Iterator[Session]:
        """A session on `kit`, closed at the end; skips the check where the backend cannot express the model."""
        artifact = artifact or self.artifact(kit)
        try:
            session = self.backend().load(artifact, self.options(**asked))
        except UnsupportedModel as error:
            self._artifacts[kit.name] = error
            raise _beyond(kit, error) from error
        with contextlib.closing(session):
            yield session

    def fresh(self, kit: KitModel, seed: int) -> Outputs:
        """What the first run of a new session gives: the backend's own baseline."""
        with self.session(kit) as session:
            return copied(session.run(kit.feeds(seed)))

    def working(self) -> KitModel:
        """The first of the kit's models that the backend supports."""
        if self._working is None:
            self.require()
            self._working = next(filter(self._supports, KIT), None)
        if self._working is None:
            raise Skip("the backend supports none of the kit's models")
        return self._working

    def _supports(self, kit: KitModel) -> bool:
        try:
            with self.session(kit):
                return True
        except Skip:
            return False


def _beyond(kit: KitModel, error: UnsupportedModel) -> Skip:
    return Skip(f"the backend does not support the kit's model {kit.name!r}: {error}")


def copied(outputs: Outputs) -> Outputs:
    """Outputs whose arrays are our own."""
    return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in outputs.items()}


def distance(got: Outputs, wanted: Mapping[str, Any]) -> tuple[float, str]:
    """The largest difference as a share of that output's scale, and the output's name; inf for NaN.

    Names, types and shapes have checks of their own: only what can be compared is.
    """
    worst, where, compared = 0.0, "", 0
    for name, want in wanted.items():
        value = got.get(name)
        if not isinstance(value, np.ndarray) or value.size != want.size:
            continue
        compared += 1
        exact, found = np.asarray(want, np.float64).ravel(), value.astype(np.float64).ravel()
        if not np.array_equal(np.isnan(found), np.isnan(exact)):
            return float("inf"), name
        share = float(np.nanmax(np.abs(found - exact), initial=0) / (np.nanmax(np.abs(exact), initial=0) or 1))
        if share >= worst:
            worst, where = share, name
    if not compared:
        raise Violation(f"none of the outputs {list(wanted)} came back with its number of elements: {list(got)}")
    return worst, where


def require_same(got: Outputs, wanted: Mapping[str, Any], what: str) -> None:
    """Outputs that agree within the tolerance.

    Raises:
        Violation: they do not; `what` begins its message.
    """
    share, name = distance(got, wanted)
    if share > TOLERANCE:
        raise Violation(f"{what}: output {name!r} is off by {share:.2g} of its scale (allowed {TOLERANCE:g})")
