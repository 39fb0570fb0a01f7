"""What the cases of a run need before they can be measured: reference outputs and artefacts.

Both are kept by content in the cache. What cannot be made is remembered here, for as long as the run lasts: a model
that no runtime can judge is not tried anew for every backend, nor one that cannot be converted for every thread count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from bench import reference
from bench.artifacts import Prepared, identity, prepare
from bench.cache import key_of
from bench.errors import BenchError
from bench.interface import Model, Options
from bench.models import Resolved
from bench.place import Place
from bench.reference import NoiseFloor
from bench.registry import Registered
from bench.trial import error_facts, passing

T = TypeVar("T")
# Models whose reference outputs are held: cases come model after model, on several devices at once.
HELD = 4
# A converter that crashed, or was given up, may have lacked memory or time that it has the next time.
LASTING = ("UnsupportedModel", "PrepareError", "LoadError", "RunError", "UsageError", "BenchError")


class Preparation:
    """Makes what cases need; used by any thread."""

    def __init__(self) -> None:
        self._failed: dict[str, BenchError] = {}
        self._judged: dict[str, Resolved] = {}
        self._noise: dict[str, NoiseFloor] = {}

    def reference(self, resolved: Resolved, place: Place, files: Mapping[str, str]) -> Resolved:
        """The model with an expected output for each of its inputs.

        Raises:
            BenchError: no installed backend can give one.
        """
        key = key_of(["reference", resolved.model.sha256, [d.sha256 for d in resolved.data_sets], dict(files)])
        if held := self._judged.get(key):
            return held
        made = self._once(key, lambda: reference.complete(resolved, place, files))
        for old in list(self._judged)[: 1 - HELD]:
            self._judged.pop(old, None)
        self._judged[key] = made
        return made

    def noise(self, resolved: Resolved, place: Place, files: Mapping[str, str]) -> NoiseFloor:
        """What float32 costs the model on its inputs, or why that is not known."""
        key = key_of([resolved.model.sha256, [d.sha256 for d in resolved.data_sets], dict(files)])
        if key not in self._noise:
            self._noise[key] = reference.noise_floor(resolved, place, files, double=False)
        return self._noise[key]

    def artefact(self, registered: Registered, model: Model, options: Options, place: Place) -> Prepared:
        """What the backend loads.

        Raises:
            BenchError: the conversion failed, timed out, or its tool crashed or could not be fetched.
        """
        backend = registered.create()
        shaping = {o.name: identity(options.extra.get(o.name)) for o in backend.options if o.artefact}
        where = place.device if backend.prepares == "device" else ""
        key = key_of(["artefact", registered.spec, model.sha256, options.precision, shaping, where])
        return self._once(key, lambda: prepare(place, registered, model, options))

    def _once(self, key: str, make: Callable[[], T]) -> T:
        if key in self._failed:
            raise self._failed[key]
        try:
            return make()
        except BenchError as error:
            facts = error_facts(error, "prepare")
            if facts.error in LASTING and not passing(facts):
                self._failed[key] = error
            raise
