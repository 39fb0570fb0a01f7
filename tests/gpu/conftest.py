"""Tests that need an NVIDIA GPU. Each is marked `gpu` here; without a GPU it is skipped with the driver's own reason.

Run them on such a machine with: pytest -m gpu
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from bench.cuda_driver import NoGpu, ask
from bench.registry import find

HERE = Path(__file__).parent


def _of_backends():
    """The tiny models of tests/backends, and what compares a session with onnx's evaluator."""
    spec = importlib.util.spec_from_file_location("kit_of_backends", HERE.parent / "backends" / "conftest.py")
    made = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def pytest_collection_modifyitems(items):
    mine = [item for item in items if HERE in Path(item.path).parents]
    try:
        ask()
        why = ""
    except NoGpu as error:
        why = f"{error.reason}; run with -m gpu where there is one"
    for item in mine:
        item.add_marker(pytest.mark.gpu)
        if why:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(params=["ort-cuda", "tensorrt"])
def backend(request):
    """Each GPU backend that can be used here."""
    made = find(request.param).create()
    found = made.probe()
    if not found.available:
        pytest.skip(f"needs {request.param}: {found.reason}; {found.remedy}")
    return made


@pytest.fixture
def kit(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return _of_backends().Kit(None, folder, None, {})
