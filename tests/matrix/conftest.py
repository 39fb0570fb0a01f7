"""What tests of matrix runs share: a file as a user writes it, and the fake backend with a tiny model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.matrix import cells, file
from bench.matrix.file import MatrixFile
from bench.place import Limits
from bench.registry import nearest

KNOWN = {"fake": {"latency_us", "fault", "fault_at", "jitter"}, "ort-cpu": {"optimization", "spinning"}, "ncnn": set()}
# Short, and whatever else this machine does.
MEASURE = "[measure]\ntrials = 1\nmin_time = 0.01\nmax_time = 0.05\nmin_count = 3\nmax_foreign_cpu = 1\n"


@pytest.fixture(scope="session")
def options_of():
    """The options of a few backends, as the registry would tell them."""

    def of(backend):
        if backend not in KNOWN:
            raise UsageError(f"there is no backend {backend!r}", nearest(backend, KNOWN))
        return frozenset(KNOWN[backend])

    return of


@pytest.fixture
def written(tmp_path):
    """Write a text as `m.toml`; its path."""

    def write(text: str) -> Path:
        path = tmp_path / "m.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def read(written):
    """The file that a text is."""

    def of(text: str) -> MatrixFile:
        return file.read(written(text), Limits.__slots__)

    return of


@pytest.fixture
def expand(read, options_of):
    """The cells that a text has, as their titles."""

    def of(text: str) -> list[str]:
        return [cell.title for cell in cells.cells(read(text), options_of)]

    return of


@dataclass(frozen=True)
class Matrix:
    """A matrix on the fake backend, through the front door."""

    cli: object
    path: Path
    results: Path

    def __call__(self, *flags, **more):
        return self.cli("matrix", self.path, "--results", self.results, *flags, **more)

    def records(self):
        """The record files' own view: every record of every run."""
        from bench.store import read_run

        return read_run(sorted((self.results / "records").rglob("*.jsonl")))


@pytest.fixture
def matrix(cli, mlp_path, tmp_path):
    """Write a matrix of the fake backend on the tiny model: `more` is TOML that follows."""

    def of(latencies=(10, 20), devices=("local",), more="", measure=MEASURE, options=""):
        path = tmp_path / "m.toml"
        path.write_text(
            f"[matrix]\nmodel = {json.dumps(str(mlp_path))}\nbackend = 'fake'\nbatch = 1\n"
            f"device = {json.dumps(list(devices))}\n"
            f"options = {{ latency_us = {json.dumps([float(x) for x in latencies])}{options} }}\n{measure}{more}"
        )
        return Matrix(cli, path, tmp_path / "results")

    return of
