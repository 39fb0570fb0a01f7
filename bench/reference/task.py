"""A task metric beside parity: how well a backend, and the reference, do at what the model is for.

For quantised models, whose outputs may differ much and still be as useful. It decides no verdict.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError, UsageError
from bench.interface import Array, Options, Outputs
from bench.models import Resolved
from bench.place import Place
from bench.reference import given
from bench.reference.judge import answers, cached, judges
from bench.registry import Registered, nearest

BEST = {"top1": 1, "top5": 5}
LIMIT_S = 600.0
# One by one they are loaded, held in memory and run twice: more say little more about a difference.
MOST = 200
_CALL = """
import importlib.util, json, os, sys
import numpy as np
path, name, folder, reply = sys.argv[1:]
sys.path.insert(0, os.path.dirname(path))
spec = importlib.util.spec_from_file_location("metric", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
with np.load(os.path.join(folder, "outputs.npz"), allow_pickle=False) as archive:
    outputs = {key: list(archive[key]) for key in archive.files}
with open(os.path.join(folder, "labels.json"), encoding="utf-8") as file:
    labels = json.load(file)
value = float(getattr(module, name)(outputs, labels))
os.write(int(reply), repr(value).encode())
"""


@dataclass(frozen=True, slots=True)
class Task:
    """A labelled folder, and what is counted on it: `top1`, `top5`, or the user's own `file.py:function`."""

    folder: Path
    metric: str = "top1"
    preprocess: str | None = None
    count: int = MOST

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: no such folder, file or metric.
        """
        if not self.folder.is_dir():
            raise UsageError(f"there is no folder {self.folder}", "it holds one folder per label")
        if self.metric in BEST:
            return
        path, _, name = self.metric.rpartition(":")
        if not path or not name.isidentifier():
            raise UsageError(
                f"--metric {self.metric!r} is no metric", f"{nearest(self.metric, BEST)}, or file.py:function"
            )
        if not Path(path).is_file():
            raise UsageError(f"there is no file {path} for --metric")


@dataclass(frozen=True, slots=True)
class Score:
    """The metric's value for a backend and for the reference, or the `reason` why there is none."""

    metric: str
    samples: int = 0
    value: float | None = None
    reference: float | None = None
    reason: str = ""


def score(task: Task, resolved: Resolved, backend: Registered, options: Options, place: Place) -> Score:
    """What the backend and the reference reach, each in a process of its own. Never raises: it decides nothing."""
    name = task.metric if task.metric in BEST else Path(task.metric).name
    try:
        read = given.read(task.folder, resolved.model.signature, task.preprocess, task.count)
        labels = [one.label for one in read.given if one.label is not None]
        if len(labels) < len(read.given):
            raise UsageError(f"{task.folder} has no labels", "put the inputs into one folder per label")
        data_sets = [one.data for one in read.given]
        place.say(f"measuring {name} of {resolved.model.name} on {backend.name} ({len(labels)} inputs)")
        got = answers(backend, resolved.model, data_sets, place, options, purpose=f"{name} on {backend.name}")
        judge = judges()[0]
        settings = dict(judge.create().reference or {})
        wanted = cached(judge, resolved.model, data_sets, place, settings, what=f"{name} of the reference")
        values = [_value(task.metric, outputs, labels) for outputs in (got.outputs, wanted.outputs)]
    except (BenchError, IndexError) as error:
        return Score(name, reason=str(error) or "no backend may judge")
    return Score(name, len(labels), values[0], values[1])


def _value(metric: str, sets: Sequence[Outputs], labels: Sequence[str]) -> float:
    return _share_right(BEST[metric], sets, labels) if metric in BEST else _called(metric, sets, labels)


def _share_right(best: int, sets: Sequence[Outputs], labels: Sequence[str]) -> float:
    """The share of inputs whose class is among the best: fewer than so many classes have a higher value."""
    right = 0
    for outputs, index in zip(sets, _indices(labels), strict=True):
        row = _ranking(outputs)
        if not 0 <= index < row.size:
            raise UsageError(f"there is a label {index}, and the model knows {row.size} classes")
        right += int(np.count_nonzero(row > row[index])) < best
    return right / len(labels)


def _indices(labels: Sequence[str]) -> list[int]:
    """A label is the number of its class where all are numbers, else the place of its name in alphabetical order."""
    if all(label.isdigit() for label in labels):
        return [int(label) for label in labels]
    order = sorted(set(labels))
    return [order.index(label) for label in labels]


def _ranking(outputs: Outputs) -> Array:
    for value in outputs.values():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size == math.prod(value.shape[:2]) > 1:
            return np.asarray(value.reshape(value.shape[0], -1)[0])
    raise UsageError("no output of the model ranks classes", "give --metric file.py:function")


def _called(metric: str, sets: Sequence[Outputs], labels: Sequence[str]) -> float:
    """What the user's function returns, called in a process of its own: it may crash or hang alone.

    It gets `outputs`, per name a list of arrays in the order of the inputs, and `labels`, the folders' names.
    """
    path, _, name = metric.rpartition(":")
    with tempfile.TemporaryDirectory() as folder:
        tensors = [n for n, value in sets[0].items() if isinstance(value, np.ndarray) and value.dtype != object]
        stacked: dict[str, Any] = {n: np.stack([np.asarray(s[n]) for s in sets]) for n in tensors}
        np.savez(Path(folder) / "outputs.npz", **stacked)
        (Path(folder) / "labels.json").write_text(json.dumps(list(labels)), encoding="utf-8")
        reading, writing = os.pipe()
        argv = [sys.executable, "-I", "-c", _CALL, str(Path(path).resolve()), name, folder, str(writing)]
        try:
            done = subprocess.run(
                argv, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S,
                pass_fds=[writing], check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise BenchError(f"the metric {Path(path).name}:{name} took longer than {LIMIT_S:g} s") from None
        finally:
            os.close(writing)
            with os.fdopen(reading, "rb") as file:
                said = file.read()
    return _number(f"{Path(path).name}:{name}", said, done)


def _number(name: str, said: bytes, done: subprocess.CompletedProcess[str]) -> float:
    if done.returncode or not said:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise BenchError(f"the metric {name} failed: {lines[-1] if lines else f'it ended with {done.returncode}'}")
    value = float(said)
    if not math.isfinite(value):
        raise BenchError(f"the metric {name} returned {value}")
    return value
