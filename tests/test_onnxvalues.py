"""Values of every kind through ONNX's file formats and back, and files that are none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import SequenceProto, TensorProto, numpy_helper

from bench import onnxfile
from bench.errors import UsageError
from bench.interface import Packed
from bench.parity.compare import Tolerance, compare
from bench.worker.protocol import Decoder, Unpacker, encode, pack

EXACT = Tolerance("none", 0.0, 0.0, "")
DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "c16"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)


def text(draw):
    shape = draw(SHAPES)
    flat = np.empty(math.prod(shape), object)
    flat[:] = draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=4), min_size=flat.size, max_size=flat.size))
    return flat.reshape(shape)


@st.composite
def tensors(draw):
    if draw(st.booleans()):
        return draw(hnp.arrays(np.dtype(draw(st.sampled_from(DTYPES))), SHAPES))
    if draw(st.booleans()):
        return text(draw)
    name, dtype = draw(st.sampled_from([("bfloat16", "u2"), ("float8e4m3fn", "u1"), ("float8e5m2", "u1")]))
    return Packed(name, draw(hnp.arrays(np.dtype(dtype), SHAPES)))


FLOATS = st.floats(width=32)
MAPS = st.one_of(
    st.dictionaries(st.integers(-(2**63), 2**63 - 1), FLOATS, min_size=1, max_size=4),
    st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), FLOATS, min_size=1, max_size=4),
    st.dictionaries(st.integers(-5, 5), st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
    st.dictionaries(st.integers(-5, 5), st.text(st.characters(codec="utf-8"), max_size=4), min_size=1, max_size=4),
)
SEQUENCES = st.one_of(st.lists(tensors(), max_size=3), st.lists(MAPS, max_size=3))
VALUES = st.one_of(
    st.tuples(st.just("tensor"), tensors()),
    st.tuples(st.just("sequence"), SEQUENCES),
    st.tuples(st.just("sequence"), st.lists(st.lists(tensors(), min_size=1, max_size=2), min_size=1, max_size=2)),
    st.tuples(st.just("map"), MAPS),
    st.tuples(st.just("optional"), st.one_of(st.none(), tensors(), MAPS, SEQUENCES)),
)


def same(first, second):
    return compare({"y": first}, {"y": second}, EXACT).passed


@given(VALUES)
def test_every_value_comes_back_from_its_file(tmp_path_factory, kind_and_value):
    kind, value = kind_and_value
    path = tmp_path_factory.mktemp("values") / "output_0.pb"
    path.write_bytes(onnxfile.encoded(value, "y", kind))
    name, found = onnxfile.value(path, kind)
    assert name == "y"
    assert same(value, found)


@given(VALUES)
def test_every_value_comes_back_from_the_link(kind_and_value):
    value = kind_and_value[1]
    buffers = []
    tree = pack(value, buffers)
    (frame,) = Decoder().feed(encode({"tree": tree}, buffers))
    assert same(value, Unpacker(frame.body).value(frame.header["tree"]))


def test_map_values_are_float32_unless_that_loses_digits(tmp_path):
    path = tmp_path / "y.pb"
    for number, kind in ((0.5, TensorProto.FLOAT), (0.1, TensorProto.DOUBLE), (math.nan, TensorProto.FLOAT)):
        path.write_bytes(onnxfile.encoded([{1: number}], "y", "sequence"))
        sequence = SequenceProto.FromString(path.read_bytes())
        assert sequence.map_values[0].values.tensor_values[0].data_type == kind


@pytest.mark.parametrize(("value", "kind"), [(None, "tensor"), ({}, "map"), ([None], "sequence")])
def test_what_the_format_cannot_hold(value, kind):
    with pytest.raises(TypeError):
        onnxfile.encoded(value, "y", kind)


@pytest.mark.parametrize("kind", ["tensor", "sequence", "map", "optional"])
@pytest.mark.parametrize("content", [b"\x89PNG", b"\x0a\xff"])
def test_a_file_of_something_else(tmp_path, kind, content):
    (tmp_path / "y.pb").write_bytes(content)
    with pytest.raises(UsageError, match=f"not a {kind}"):
        onnxfile.value(tmp_path / "y.pb", kind)


def test_a_tensor_is_no_sequence(tmp_path):
    (tmp_path / "y.pb").write_bytes(numpy_helper.from_array(np.ones(3, np.float32), "y").SerializeToString())
    with pytest.raises(UsageError, match="not a map"):
        onnxfile.value(tmp_path / "y.pb", "map")
