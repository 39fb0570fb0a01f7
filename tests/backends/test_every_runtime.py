"""What every runtime must do beyond the conformance kit, which runs in `test_conformance.py`."""

from __future__ import annotations

import os
from importlib import metadata

import numpy as np
import pytest

from bench.errors import UsageError

RUNTIMES = ("ort-cpu", "ncnn", "mnn")


@pytest.fixture(params=RUNTIMES)
def kit(request, kit_of):
    return kit_of(request.param)


def test_it_computes_what_the_model_says(kit, name_of_model):
    kit.agrees(name_of_model)


def test_outputs_are_owned(kit):
    """Keep one run's outputs, run on something else: they stay, and the second are the second's."""
    # ncnn's converter loses a constant output, and the backend says so: test_ncnn.py.
    constant = () if kit.backend.name == "ncnn" else ("constant output",)
    for name in ("two of each", "feature map", *constant):
        with kit.load(name) as session:
            first_feeds = kit.feeds(name, 1)
            first = session.run(first_feeds)
            kept = {output: value.copy() for output, value in first.items()}
            kit.compare(session, name, kit.feeds(name, 2))
            for output, value in kept.items():
                np.testing.assert_array_equal(first[output], value)
                first[output].fill(7)  # and writing to them reaches nothing of the runtime
            kit.compare(session, name, first_feeds)


def test_two_models_at_once(kit):
    with kit.load("conv") as first, kit.load("mlp") as second:
        for seed in range(3):
            kit.compare(first, "conv", kit.feeds("conv", seed))
            kit.compare(second, "mlp", kit.feeds("mlp", seed))


def test_read_only_feeds(kit):
    feeds = kit.feeds("feature map")
    for value in feeds.values():
        value.flags.writeable = False
    with kit.load("feature map") as session:
        kit.compare(session, "feature map", feeds)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="MNN takes no more threads than there are cores, and here is one")
def test_threads_are_honoured(kit):
    assert kit.threads_of(2) - kit.threads_of(1) == 1


def test_external_data(kit):
    kit.agrees("conv", external=True)


def test_dynamic_dimensions(kit):
    kit.agrees("dynamic", bound={"x": (2, 3, 8, 6)})


def test_squeezenet(kit, squeezenet):
    with kit.load(squeezenet) as session:
        out = session.run(kit.feeds(squeezenet))["softmaxout_1"]
    assert out.shape == (1, 1000, 1, 1)


OLD_SOFTMAX = {
    "ncnn": "pnnx 20261020 takes a Softmax without axis before opset 13 for axis=-1; ONNX says axis=1",
    "mnn": "MNN 3.6.1's converter takes a Softmax without axis before opset 13 for axis=-1; ONNX says axis=1",
}


def test_softmax_before_opset_13(request, kit):
    """What squeezenet ends with: along the last axis, every class comes out with probability 1."""
    if reason := OLD_SOFTMAX.get(kit.backend.name):
        request.applymarker(pytest.mark.xfail(raises=AssertionError, strict=True, reason=reason))
    proto = kit.parse("(float[1,8,1,1] x) => (float[1,8,1,1] y) { y = Softmax (x) }", opset=9)
    with kit.load(proto) as session:
        assert session.run(kit.feeds(proto))["y"].sum() == pytest.approx(1, abs=1e-3)


def test_an_unknown_precision_is_answered_with_the_known(kit):
    with pytest.raises(UsageError, match="model"):
        kit.load("mlp", precision="int4")


def test_the_probe_tells_the_version_that_pip_tells(kit):
    probe = kit.backend.probe()
    assert probe.available
    assert probe.runtimes == {name: metadata.version(name) for name in probe.runtimes}
    assert probe.version in probe.runtimes.values()
    assert set(probe.runtimes) <= set(kit.backend.distributions)
