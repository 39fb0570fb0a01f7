"""A saboteur that the command knows by name, and what a search in this process needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

THIRD_PARTY = Path(__file__).resolve().parents[1] / "third_party"
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def saboteur(tmp_path):
    """The environment in which the saboteur is installed, as a third party's backend is."""
    pytest.importorskip("onnxruntime", reason='needs onnxruntime: pip install "deploybench[cpu]"')
    folder = tmp_path / "site"
    (folder / "saboteur-1.0.dist-info").mkdir(parents=True)
    (folder / "saboteur-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: saboteur\nVersion: 1.0\n")
    points = "[deploybench.backends]\nsaboteur = saboteur:Saboteur\n"
    (folder / "saboteur-1.0.dist-info" / "entry_points.txt").write_text(points)
    return {"PYTHONPATH": f"{folder}:{THIRD_PARTY}"}


@pytest.fixture(scope="session")
def planted_faults():
    """The benchmark's module: the net with several outputs, and its search for plants."""
    pytest.importorskip("onnxruntime", reason='needs onnxruntime: pip install "deploybench[cpu]"')
    sys.path[:0] = [str(BENCHMARKS), str(THIRD_PARTY)]
    try:
        import planted_faults
    finally:
        del sys.path[:2]
    return planted_faults
