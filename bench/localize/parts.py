"""Parts of a model as models of their own, and the reference's values at every cut."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from bench import onnxfile
from bench.errors import BenchError
from bench.interface import Array, Feeds, Model, Outputs, Packed, Value, ValueSpec
from bench.localize.layout import Layout, Span
from bench.onnxfile import OnnxFile
from bench.worker.client import WorkerError
from bench.worker.libc import trim

# Tensors of the reference that are in memory at once; the others lie in files.
MEMORY_BYTES = 8 << 20
# What is computed in advance: a run of the reference for each probe costs more than a file.
FORESEEN_BYTES = 256 << 20


class Uncuttable(BenchError):
    """A tensor at the cut is of a kind that cannot be fed."""


class ReferenceFails(BenchError):
    """The reference itself cannot compute a tensor."""


# How a part fails where a runtime does: these are answers. The others (a lost link, a busy machine) end the search.
_ANSWERS = ("UnsupportedModel", "PrepareError", "LoadError", "RunError", "Crashed", "Timeout", "BenchError")
_PHASES = ("prepare", "load", "first_run")


def is_answer(error: WorkerError) -> bool:
    """Whether a failure tells of the runtime, and not of the machine or the way to it."""
    return error.failure.error in _ANSWERS and error.failure.phase in _PHASES


class Runner(Protocol):
    """Whatever can run a model: the reference, or the backend in question."""

    def run(self, model: Model, feeds: Feeds, *, fresh: bool = False) -> Outputs:
        """The outputs; `fresh`: of a process that has run nothing before.

        Raises a BenchError that says in which phase it failed.
        """


class Parts:
    """Makes parts below a scratch folder, and removes each when it is no longer used.

    `file` is a light one: parts that need not stand alone are written beside its weights.
    """

    def __init__(self, file: OnnxFile, layout: Layout, folder: Path) -> None:
        self.file, self.layout, self.folder = file, layout, folder
        self._count = itertools.count()

    @contextmanager
    def model(
        self, span: Span, values: Mapping[str, Value], outputs: Sequence[ValueSpec], *, alone: bool = True
    ) -> Iterator[tuple[Model, Feeds]]:
        """A part with the reference's values at its inputs, and what to feed it; `alone`: its weights are inside."""
        name = f"part{next(self._count)}"
        if not alone:
            model, feeds = self.write(span, values, outputs, self.file.root, name=name, alone=False)
            try:
                yield model, feeds
            finally:
                model.path.unlink()
            return
        folder = self.folder / name
        folder.mkdir(parents=True)
        try:
            yield self.write(span, values, outputs, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def write(
        self,
        span: Span,
        values: Mapping[str, Value],
        outputs: Sequence[ValueSpec],
        folder: Path,
        *,
        name: str = "part",
        alone: bool = True,
    ) -> tuple[Model, Feeds]:
        """As `model`, into a folder that stays.

        Raises:
            Uncuttable: a tensor at the cut is of a kind that cannot be fed.
        """
        constants = {tensor: _array(tensor, values[tensor]) for tensor in span.constants}
        feeds: dict[str, Array] = {}
        for tensor in span.inputs:
            value = _array(tensor, values[tensor])
            if tensor in self.layout.through[0] or value.ndim:
                feeds[tensor] = np.asarray(value, order="C")
            else:
                constants[tensor] = value  # some converters take no scalars as inputs
        inputs = [spec_of(tensor, value) for tensor, value in feeds.items()]
        model = onnxfile.cut(self.file, span.nodes, inputs, constants, outputs, folder, name=name, alone=alone)
        if alone:
            trim()  # a converter comes next
        return model, feeds

    def specs(self, names: Sequence[str]) -> list[ValueSpec]:
        """What is known of tensors before they have been computed."""
        return [self.layout.types.get(name) or ValueSpec(name, "", None, "optional") for name in names]


def spec_of(name: str, value: Value) -> ValueSpec:
    """The exact type of a value."""
    if isinstance(value, Packed):
        return ValueSpec(name, value.dtype, value.bits.shape)
    if not isinstance(value, np.ndarray):
        return ValueSpec(name, "", None, "map" if isinstance(value, dict) else "sequence" if value else "optional")
    return ValueSpec(name, "string" if value.dtype.kind in "OUST" else value.dtype.name, value.shape)


def _array(name: str, value: Value) -> Array:
    if not isinstance(value, np.ndarray):
        raise Uncuttable(f"the model cannot be cut at {name!r}: it is no tensor that can be fed")
    return value


class Reference:
    """The reference's value of any tensor, for one set of feeds. What was asked for is kept in files, not in memory."""

    def __init__(self, parts: Parts, runner: Runner, feeds: Feeds) -> None:
        self._parts, self._runner, self.feeds = parts, runner, feeds
        self._folder = parts.folder / "reference"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Value] = dict(feeds)
        self._stored: dict[str, Path] = {}

    def values(self, names: Sequence[str]) -> dict[str, Value]:
        """The values of these tensors.

        Raises:
            ReferenceFails: the reference itself cannot compute one.
        """
        self._have(names)
        return {name: self._known[name] if name in self._known else np.load(self._stored[name]) for name in names}

    def foresee(self) -> None:
        """Compute together what the probes will most probably be cut at, as far as files for it may grow."""
        layout = self._parts.layout
        places = sorted(range(layout.end + 1), key=layout.cost)
        chosen, total = [], 0
        for name in dict.fromkeys(name for place in places for name in layout.through[place]):
            total += self._size(name)
            if total > FORESEEN_BYTES:
                break
            chosen.append(name)
        try:
            self._have(sorted(chosen, key=lambda name: layout.made[name]))
        except ReferenceFails:
            pass  # whoever asks for the tensor that it cannot compute will be told

    def _have(self, names: Sequence[str]) -> None:
        missing = [name for name in dict.fromkeys(names) if name not in self._known and name not in self._stored]
        for group in self._in_budget(missing):
            for name, value in self._compute(0, group, self.feeds).items():
                self._keep(name, value)

    def continued(self, place: int, changed: Mapping[str, Value], names: Sequence[str]) -> Iterator[dict[str, Value]]:
        """What the reference makes of these tensors when some that cross a place have other values; in portions."""
        for group in self._in_budget(names):
            span = self._parts.layout.part(place, group)
            inputs = [*span.inputs, *span.constants]
            given = self.values([name for name in inputs if name not in changed]) | {
                name: changed[name] for name in inputs if name in changed
            }
            yield self._compute(place, group, given)

    def _compute(self, place: int, names: Sequence[str], given: Mapping[str, Value]) -> Outputs:
        span = self._parts.layout.part(place, names)
        with self._parts.model(span, given, self._parts.specs(names), alone=False) as (model, feeds):
            try:
                return self._runner.run(model, feeds)
            except WorkerError as error:
                if not is_answer(error):
                    raise
                message = f"the reference cannot compute {', '.join(map(repr, names[:3]))}: {error.message}"
                raise ReferenceFails(message, error.hint) from error

    def _keep(self, name: str, value: Value) -> None:
        if isinstance(value, np.ndarray) and value.dtype.kind in "fciub":
            path = self._folder / f"{len(self._stored)}.npy"
            np.save(path, value)
            self._stored[name] = path
        else:
            self._known[name] = value

    def _in_budget(self, names: Sequence[str]) -> Iterator[list[str]]:
        """The names in groups that fit the memory budget; one whose size is unknown goes alone."""
        group: list[str] = []
        total = 0
        for name in names:
            size = self._size(name)
            if group and total + size > MEMORY_BYTES:
                yield group
                group, total = [], 0
            group.append(name)
            total += size
        if group:
            yield group

    def _size(self, name: str) -> int:
        spec = self._parts.layout.types.get(name)
        if spec is None or spec.shape is None or None in spec.shape:
            return MEMORY_BYTES
        return 4 * math.prod(d or 0 for d in spec.shape)
