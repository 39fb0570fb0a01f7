"""Who runs the parts: which of the processes that stay is ended, and when."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.cache import Cache
from bench.held import hold
from bench.hosts.local import LocalHost
from bench.interface import Options
from bench.localize.runners import BackendRunner, ReferenceRunner
from bench.models import resolve
from bench.place import Place
from bench.registry import complete_options, find


@pytest.fixture
def model(tmp_path):
    return resolve("tiny_cnn", Cache(tmp_path / "cache"), shapes={}).model


@pytest.mark.parametrize(("whole_share", "waits"), [(1.5, False), (2.5, True)])
def test_nobody_waits_while_a_part_as_large_as_the_model_is_converted(model, tmp_path, whole_share, waits):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("MNN")
    place = Place("local", LocalHost(tmp_path / "work"), Cache(tmp_path / "cache"), lease_folder=str(tmp_path))
    backend, judge = find("mnn"), find("ort-cpu")
    runner = BackendRunner(place, backend, Options(extra=complete_options(backend.create(), {})))
    reference = ReferenceRunner(place, judge, Options(extra=complete_options(judge.create(), {})))
    whole = tmp_path / "whole"
    whole.mkdir()
    size = model.path.stat().st_size
    (whole / "ballast").write_bytes(bytes(int((whole_share - 1) * size)))
    (whole / model.path.name).write_bytes(model.path.read_bytes())
    runner.prepare(replace(model, root=whole, files=(model.path.name, "ballast"), sha256="the whole"))
    feeds = {spec.name: np.ones(spec.shape, spec.dtype) for spec in model.signature.inputs}
    with hold(place, backend, purpose="search") as (held, staying):
        runner.hold(held, staying)
        reference.hold(held)
        expected = reference.run(model, feeds)
        got = runner.run(model, feeds)
        assert staying.has("reference of a search, on ort-cpu") == waits
        assert staying.has("conversion for mnn")
        again = reference.run(model, feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(again[name], value)
