"""ONNX files as users have them: whole, cut, foreign, with open dimensions, with weights elsewhere."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from bench import onnxfile
from bench.cli.parsing import parse_shapes
from bench.errors import UsageError
from bench.interface import Packed, ValueSpec

NODE = helper.make_node
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def info(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes=None, inputs=None, outputs=None, initializers=None, *, opset=17, ir=8, functions=(), domains=()):
    graph = helper.make_graph(
        nodes or [NODE("MatMul", ["x", "w"], ["y"])],
        "tiny",
        inputs or [info("x", T.FLOAT, ["N", 3])],
        outputs or [info("y", T.FLOAT, ["N", 4])],
        [numpy_helper.from_array(a, n) for n, a in ({"w": WEIGHT} if initializers is None else initializers).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=functions)


def identity(*inputs):
    """A model that hands its inputs on; what matters is their shapes."""
    nodes = [NODE("Identity", [i.name], [f"{i.name}_out"]) for i in inputs]
    outputs = [info(f"{i.name}_out", i.type.tensor_type.elem_type, None) for i in inputs]
    return model(nodes, list(inputs), outputs, {})


def constant(name, array):
    return NODE("Constant", [], [name], value=numpy_helper.from_array(array))


def cast(name):
    return NODE("Cast", ["ids"], [name], to=T.INT32)


def written(folder, proto):
    path = folder / "m.onnx"
    onnx.save(proto, path)
    return path


def read(folder, proto):
    return onnxfile.read(written(folder, proto))


def run(path, feeds):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


# Bad files.


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"hello, I am a text file\n", "not an ONNX model"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "not an ONNX model"),
        (b"PK\x03\x04" + b"\0" * 100, "not an ONNX model"),
        (b"\0" * 100, "not an ONNX model"),
        (b"7767517\n3 3\nInput in0 0 1 in0\n", "not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 1\n", "not an ONNX model"),
        (numpy_helper.from_array(WEIGHT, "w").SerializeToString(), "not an ONNX model"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "holds no graph"),
    ],
)
def test_a_file_that_is_no_model(tmp_path, data, words):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=words):
        onnxfile.read(path)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(UsageError, match="there is no file"):
        onnxfile.read(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="is a folder"):
        onnxfile.read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything; run the tests as another user")
def test_a_file_that_may_not_be_read(tmp_path):
    path = written(tmp_path, model())
    path.chmod(0)
    with pytest.raises(UsageError, match="Permission denied"):
        onnxfile.read(path)


WHOLE = model(
    [NODE("MatMul", ["x", "w"], ["h"], name="mul"), NODE("Relu", ["h"], ["y"], name="relu")],
).SerializeToString()


def test_a_file_that_is_cut_anywhere(tmp_path):
    """Every prefix is refused, or is a model that can be used: no traceback, nothing in between."""
    path = tmp_path / "m.onnx"
    for size in range(len(WHOLE)):
        path.write_bytes(WHOLE[:size])
        with pytest.raises(UsageError):
            onnxfile.read(path)
    path.write_bytes(WHOLE)
    assert onnxfile.read(path).opset == 17


@settings(max_examples=300)
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_file_with_a_wrong_byte(tmp_path_factory, at, byte):
    path = tmp_path_factory.mktemp("m") / "m.onnx"
    path.write_bytes(WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :])
    try:
        file = onnxfile.read(path)
        shapes = onnxfile.bindings(file, {}, 2)
        onnxfile.infer_outputs(file, onnxfile.signature(file.proto))
        onnxfile.bind(file, shapes, path.parent)
    except UsageError:
        pass
    assert isinstance(onnxfile.describe({"x": ("N", None, 3), "y": None}), str)


@pytest.mark.parametrize(
    ("proto", "words"),
    [
        (model([NODE("MatMul", ["x", "v"], ["y"])]), "nothing makes 'v'"),
        (model([NODE("MatMul", ["x", "w"], ["z"])]), "nothing makes its output 'y'"),
        (model([NODE("", ["x", "w"], ["y"])]), "no operator"),
        (model(inputs=[info("x", 99, [1, 3])]), "type of 'x' is unknown"),
    ],
)
def test_a_graph_that_does_not_hang_together(tmp_path, proto, words):
    with pytest.raises(UsageError, match=words):
        read(tmp_path, proto)


# What a model takes and gives.


def test_weights_that_old_files_list_among_the_inputs(tmp_path):
    proto = model(inputs=[info("x", T.FLOAT, [1, 3]), info("w", T.FLOAT, [3, 4])], opset=9, ir=3)
    file = read(tmp_path, proto)
    assert list(file.open_dims) == ["x"]
    assert [i.name for i in onnxfile.signature(file.proto).inputs] == ["x"]
    assert file.opset == 9


def test_the_signature_has_names_types_and_shapes(tmp_path):
    inputs = [
        info("image", T.FLOAT, [1, 3]),
        info("half", T.FLOAT16, []),
        info("ids", T.INT64, ["N", None]),
        info("brain", T.BFLOAT16, [2]),
        info("words", T.STRING, [1]),
        info("flag", T.BOOL, None),
    ]
    found = onnxfile.signature(read(tmp_path, identity(*inputs)).proto)
    assert found.inputs == (
        ValueSpec("image", "float32", (1, 3)),
        ValueSpec("half", "float16", ()),
        ValueSpec("ids", "int64", (None, None)),
        ValueSpec("brain", "bfloat16", (2,)),
        ValueSpec("words", "string", (1,)),
        ValueSpec("flag", "bool", None),
    )


def test_a_sequence_is_no_tensor(tmp_path):
    output = helper.make_tensor_sequence_value_info("s", T.FLOAT, None)
    proto = model([NODE("SequenceConstruct", ["x"], ["s"])], [info("x", T.FLOAT, [1, 3])], [output], {})
    assert onnxfile.signature(read(tmp_path, proto).proto).outputs == (ValueSpec("s", "", None, "sequence"),)


def test_output_shapes_are_inferred_where_the_file_is_silent(tmp_path):
    proto = model(inputs=[info("x", T.FLOAT, [2, 3])], outputs=[info("y", T.FLOAT, None)])
    file = read(tmp_path, proto)
    assert onnxfile.infer_outputs(file, onnxfile.signature(file.proto)).outputs[0].shape == (2, 4)


def test_the_hash_is_of_the_model_and_its_external_data(tmp_path):
    first = read(tmp_path, model()).sha256
    assert read(tmp_path, model()).sha256 == first
    assert read(tmp_path, model(initializers={"w": WEIGHT + 1})).sha256 != first
    path = external(tmp_path)
    before = onnxfile.read(path).sha256
    (tmp_path / "w.bin").write_bytes(bytes(48))
    assert onnxfile.read(path).sha256 != before


# Binding open dimensions.


def bound(folder, proto, shapes=(), batch=None):
    return onnxfile.bindings(read(folder, proto), parse_shapes(shapes), batch)


def refused(folder, proto, shapes=(), batch=None):
    with pytest.raises(UsageError) as caught:
        bound(folder, proto, shapes, batch)
    return caught.value


IMAGE = info("x", T.FLOAT, ["N", 3, "H", "W"])


def test_fixed_dimensions_need_no_option(tmp_path):
    assert bound(tmp_path, identity(info("x", T.FLOAT, [1, 3]), info("s", T.FLOAT, []))) == {"x": (1, 3), "s": ()}


def test_open_dimensions_are_named_with_the_option_that_closes_them(tmp_path):
    error = refused(tmp_path, identity(IMAGE, info("odd name", T.FLOAT, [None, 0, -1])))
    assert "x[N,3,H,W], odd name[?,0,-1]" in error.message
    options = shlex.split(error.hint.partition("example: ")[2])
    assert options[::2] == ["--shape", "--shape"]
    assert bound(tmp_path, identity(IMAGE, info("odd name", T.FLOAT, [None, 0, -1])), options[1::2])


def test_batch_is_offered_where_it_is_enough(tmp_path):
    error = refused(tmp_path, identity(info("x", T.FLOAT, ["N", 3]), info("y", T.FLOAT, [None, 3])))
    assert error.hint.endswith("or --batch 1")
    assert "--batch" not in refused(tmp_path, identity(IMAGE)).hint
    assert "--batch" not in refused(tmp_path, identity(info("x", T.FLOAT, None))).hint


def test_batch_closes_every_first_dimension_that_is_open(tmp_path):
    proto = identity(
        info("x", T.FLOAT, ["N", 3]),
        info("y", T.FLOAT, [None, 2]),
        info("table", T.FLOAT, [5, 3]),
        info("s", T.FLOAT, []),
    )
    assert bound(tmp_path, proto, batch=4) == {"x": (4, 3), "y": (4, 2), "table": (5, 3), "s": ()}


def test_a_batch_that_nothing_takes_is_refused(tmp_path):
    error = refused(tmp_path, identity(info("x", T.FLOAT, [1, 3])), batch=4)
    assert "x[1,3]" in error.message
    assert "symbolic batch" in error.hint
    assert bound(tmp_path, identity(info("x", T.FLOAT, [4, 3])), batch=4) == {"x": (4, 3)}


def test_a_symbol_has_one_size(tmp_path):
    proto = identity(info("x", T.FLOAT, ["N", "L"]), info("y", T.FLOAT, ["N", "L"]), info("z", T.FLOAT, ["L"]))
    assert bound(tmp_path, proto, ["x=2,7"]) == {"x": (2, 7), "y": (2, 7), "z": (7,)}
    error = refused(tmp_path, proto, ["x=2,7", "y=3,7"])
    assert "'N' cannot be both 2 and 3" in error.message
    assert "'N' cannot be both" in refused(tmp_path, proto, ["x=2,7"], batch=3).message
    square = identity(info("x", T.FLOAT, ["L", "L"]))
    assert "'L' cannot be both" in refused(tmp_path, square, ["x=2,3"]).message


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("x=1,3,8", "has 4 dimensions, 3 were given"),
        ("x=1,4,8,8", "is fixed to"),
        ("images=1,3,8,8", "has no input 'images'"),
    ],
)
def test_a_shape_that_contradicts_the_file(tmp_path, shape, words):
    error = refused(tmp_path, identity(IMAGE), [shape])
    assert words in error.message
    assert "x[N,3,H,W]" in error.hint or "export" in error.hint


def test_a_scalar_takes_no_dimensions(tmp_path):
    proto = identity(info("s", T.FLOAT, []))
    assert "has 0 dimensions, 1 were given" in refused(tmp_path, proto, ["s=1"]).message
    assert onnxfile.bindings(read(tmp_path, proto), {"s": ()}, None) == {"s": ()}


def test_an_input_of_unknown_rank_is_open(tmp_path):
    proto = identity(info("x", T.FLOAT, None))
    error = refused(tmp_path, proto)
    assert "x[...]" in error.message
    assert bound(tmp_path, proto, ["x=2,3"]) == {"x": (2, 3)}
    assert "x[...]" in refused(tmp_path, proto, batch=2).message


def test_a_zero_in_the_file_is_an_open_dimension(tmp_path):
    proto = identity(info("x", T.FLOAT, [0, 3]))
    assert "x[0,3]" in refused(tmp_path, proto).message
    assert bound(tmp_path, proto, batch=2) == {"x": (2, 3)}


def test_binding_writes_a_model_that_runs(tmp_path):
    file = read(tmp_path, model())
    (tmp_path / "out").mkdir()
    onnxfile.bind(file, {"x": (2, 3)}, tmp_path / "out")
    again = onnxfile.read(tmp_path / "out" / "m.onnx")
    found = onnxfile.signature(again.proto)
    assert (found.inputs[0].shape, found.outputs[0].shape) == ((2, 3), (2, 4))
    onnx.checker.check_model(again.proto)
    x = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(run(tmp_path / "out" / "m.onnx", {"x": x})[0], x @ WEIGHT)
    assert file.open_dims == {"x": ("N", 3)}  # what was read is left alone


# Weights in other files.


def external(folder, location="w.bin", *, length=48, offset=0, size=None, **more):
    """The path of a model whose weights are in another file, which is written unless its size is None."""
    proto = model()
    (weight,) = proto.graph.initializer
    weight.ClearField("raw_data")
    weight.data_location = T.EXTERNAL
    facts = {"location": location, "offset": offset, "length": length, **more}
    for key, value in facts.items():
        weight.external_data.add(key=key, value=str(value))
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    data = bytes(offset) + WEIGHT.tobytes()
    if not os.path.isabs(location) and ".." not in location and "\0" not in location and len(location) < 100:
        (folder / location).parent.mkdir(parents=True, exist_ok=True)
        (folder / location).write_bytes(data if size is None else data[:size])
    return path


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "deep/er/w.bin", "weights with spaces.bin"])
def test_external_data_beside_the_model(tmp_path, location):
    path = external(tmp_path, location, offset=16)
    file = onnxfile.read(path)
    assert file.files == ("m.onnx", os.path.normpath(location))
    out = tmp_path / "out"
    out.mkdir()
    onnxfile.bind(file, {"x": (2, 3)}, out)
    x = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(run(out / "m.onnx", {"x": x})[0], x @ WEIGHT)
    assert onnxfile.read(out / "m.onnx").files == file.files


@pytest.mark.parametrize("location", ["/etc/passwd", "../w.bin", "a/../../w.bin", "a/../w.bin", "", "."])
def test_external_data_outside_the_folder_is_refused(tmp_path, location):
    (tmp_path / "m").mkdir()
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    path = external(tmp_path / "m", location) if location not in ("", ".") else external(tmp_path / "m")
    if location in ("", "."):
        proto = onnx.load(path, load_external_data=False)
        proto.graph.initializer[0].external_data[0].value = location
        path.write_bytes(proto.SerializeToString())
    with pytest.raises(UsageError, match="outside the model's folder" if location != "." else "missing"):
        onnxfile.read(path)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "m").mkdir()
    path = external(tmp_path / "m")
    (tmp_path / "m" / "w.bin").rename(tmp_path / "w.bin")
    (tmp_path / "m" / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(UsageError, match="copy them there"):
        onnxfile.read(path)


def test_a_link_inside_the_folder_is_followed(tmp_path):
    path = external(tmp_path)
    (tmp_path / "w.bin").rename(tmp_path / "blob")
    (tmp_path / "w.bin").symlink_to("blob")
    file = onnxfile.read(path)
    out = tmp_path / "out"
    out.mkdir()
    onnxfile.bind(file, {"x": (1, 3)}, out)
    assert (out / "w.bin").read_bytes() == WEIGHT.tobytes()
    onnx.load(next(out.glob("*.onnx")))  # which reads no external data that is linked


def test_external_data_that_is_missing_or_cut(tmp_path):
    path = external(tmp_path)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(UsageError, match=r"'w\.bin' is missing"):
        onnxfile.read(path)
    with pytest.raises(UsageError, match="cut short"):
        onnxfile.read(external(tmp_path, size=47))
    with pytest.raises(UsageError, match="cut short"):
        onnxfile.read(with_offset(tmp_path, "-4"))


@pytest.mark.parametrize("facts", [{"length": "many"}, {"location": "a\0b"}, {"location": "x" * 300}])
def test_external_facts_that_make_no_sense(tmp_path, facts):
    with pytest.raises(UsageError, match="cannot be read"):
        onnxfile.read(external(tmp_path, **facts))


def test_an_offset_that_is_no_number(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        onnxfile.read(with_offset(tmp_path, "0x10"))


def with_offset(folder, offset):
    path = external(folder)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].external_data[1].value = offset
    path.write_bytes(proto.SerializeToString())
    return path


def outside():
    tensor = numpy_helper.from_array(WEIGHT, "inner")
    tensor.ClearField("raw_data")
    tensor.data_location = T.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def branch(name, *, constant):
    if constant:
        return helper.make_graph([NODE("Constant", [], [name], value=outside())], name, [], [info(name, T.FLOAT, None)])
    return helper.make_graph([NODE("Identity", ["inner"], [name])], name, [], [info(name, T.FLOAT, None)], [outside()])


def hidden(how):
    """A model that names a file outside its folder in a place that is easily overlooked."""
    inputs, outputs = [info("c", T.BOOL, [])], [info("y", T.FLOAT, None)]
    if how == "constant":
        return model([NODE("Constant", [], ["y"], value=outside())], inputs, outputs, {})
    if how == "function":
        body = [NODE("Constant", [], ["out"], value=outside())]
        function = helper.make_function("own", "F", [], ["out"], body, [helper.make_opsetid("", 17)])
        return model([NODE("F", [], ["y"], domain="own")], inputs, outputs, {}, functions=[function], domains=["own"])
    if how == "sparse":
        proto = model()
        sparse = proto.graph.sparse_initializer.add(dims=[12])
        sparse.values.CopyFrom(outside())
        return proto
    then, other = (branch(name, constant=how == "constant in a branch") for name in ("a", "b"))
    return model([NODE("If", ["c"], ["y"], then_branch=then, else_branch=other)], inputs, outputs, {})


@pytest.mark.parametrize("how", ["constant", "function", "sparse", "branch", "constant in a branch"])
def test_no_corner_of_a_model_reads_outside_its_folder(tmp_path, how):
    path = tmp_path / "m.onnx"
    path.write_bytes(hidden(how).SerializeToString())
    with pytest.raises(UsageError, match="outside the model's folder"):
        onnxfile.read(path)


# What a file computes in.


def weights(**kinds):
    """A model with so many weights of each type."""
    types = {"f32": np.float32, "f64": np.float64, "f16": np.float16, "i8": np.int8}
    held = {name: np.ones(count, types[name]) for name, count in kinds.items()}
    kind = T.FLOAT16 if set(kinds) == {"f16"} else T.FLOAT
    return model([NODE("Identity", ["x"], ["y"])], [info("x", kind, [1])], [info("y", kind, [1])], held)


@pytest.mark.parametrize(
    ("proto", "precision"),
    [
        (weights(f32=10), "fp32"),
        (weights(f64=10), "fp32"),
        (weights(f16=10), "fp16"),
        (weights(f16=1000, f32=3), "fp16"),
        (weights(f32=1000, f16=3), "fp32"),
        (weights(f16=5, f32=5), "fp32"),
        (weights(i8=1000, f32=1), "fp32"),
        (weights(), "fp32"),
        (identity(info("x", T.FLOAT16, [1])), "fp16"),
        (identity(info("x", T.INT64, [1])), "fp32"),
        (model([constant("w", WEIGHT.astype(np.float16)), NODE("MatMul", ["x", "w"], ["y"])], initializers={}), "fp16"),
        (model([NODE("QLinearConv", ["x", "w"], ["y"])]), "int8"),
        (model([NODE("DequantizeLinear", ["x", "w"], ["y"])]), "int8"),
        (model([NODE("DynamicQuantizeLinear", ["x"], ["y"])]), "int8"),
        (model([NODE("MatMulNBits", ["x", "w"], ["y"], domain="com.microsoft")], domains=["com.microsoft"]), "int8"),
        (model([NODE("MatMulIntegerToFloat", ["x", "w"], ["y"], domain="com.microsoft")]), "int8"),
    ],
)  # fmt: skip
def test_the_precision_of_a_file(tmp_path, proto, precision):
    assert read(tmp_path, proto).precision == precision


def test_bfloat16_weights(tmp_path):
    proto = model(initializers={})
    proto.graph.initializer.append(helper.make_tensor("w", T.BFLOAT16, [3, 4], [1.0] * 12))
    assert read(tmp_path, proto).precision == "bf16"


def test_quantisation_inside_a_branch_counts(tmp_path):
    inner = helper.make_graph([NODE("QuantizeLinear", ["x", "w"], ["b"])], "b", [], [info("b", T.UINT8, None)])
    proto = model([NODE("If", ["x"], ["y"], then_branch=inner, else_branch=inner)])
    assert read(tmp_path, proto).precision == "int8"


# Inputs that are rows of a table.


@pytest.mark.parametrize(
    ("nodes", "bounds"),
    [
        ([NODE("Gather", ["t", "ids"], ["y"])], {"ids": 5}),
        ([NODE("Gather", ["t", "ids"], ["y"], axis=1)], {"ids": 3}),
        ([NODE("Gather", ["t", "ids"], ["y"], axis=-1)], {"ids": 3}),
        ([cast("c"), NODE("Reshape", ["c", "shape"], ["r"]), NODE("Gather", ["t", "r"], ["y"])], {"ids": 5}),
        ([NODE("Gather", ["t", "ids"], ["a"]), NODE("Gather", ["u", "ids"], ["y"])], {"ids": 2}),
        ([constant("k", np.ones((4, 3), np.float32)), NODE("Gather", ["k", "ids"], ["y"])], {"ids": 4}),
        ([NODE("Add", ["ids", "ids"], ["s"]), NODE("Gather", ["t", "s"], ["y"])], {}),
        ([NODE("Gather", ["ids", "shape"], ["y"])], {}),
        ([NODE("Gather", ["t", "ids"], ["y"], axis=7)], {}),
    ],
)  # fmt: skip
def test_the_size_of_a_table_bounds_what_indexes_it(tmp_path, nodes, bounds):
    tables = {"t": np.ones((5, 3), np.float32), "u": np.ones((2, 3), np.float32), "shape": np.array([-1])}
    proto = model(nodes, [info("ids", T.INT64, [1, 7])], [info("y", T.FLOAT, None)], tables)
    assert read(tmp_path, proto).index_bounds == bounds


# Tensors in files of their own.


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int64, np.uint8, bool, np.complex64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_a_tensor_file(tmp_path, dtype, shape):
    array = np.ones(shape, dtype)
    path = tmp_path / "input_0.pb"
    path.write_bytes(numpy_helper.from_array(array, "x").SerializeToString())
    name, found = onnxfile.tensor(path)
    assert name == "x"
    assert (found.dtype, found.shape) == (array.dtype, shape)
    np.testing.assert_array_equal(found, array)


def test_a_file_of_texts(tmp_path):
    path = tmp_path / "t.pb"
    path.write_bytes(helper.make_tensor("t", T.STRING, [2, 1], ["é", ""]).SerializeToString())
    _, found = onnxfile.tensor(path)
    assert found.dtype == object
    assert found.tolist() == [["é"], [""]]
    path.write_bytes(helper.make_tensor("t", T.STRING, [], ["a"]).SerializeToString())
    assert onnxfile.tensor(path)[1].shape == ()


def test_a_file_of_a_type_that_numpy_lacks(tmp_path):
    path = tmp_path / "t.pb"
    path.write_bytes(helper.make_tensor("t", T.BFLOAT16, [2], [1.0, -2.0]).SerializeToString())
    _, found = onnxfile.tensor(path)
    assert isinstance(found, Packed)
    assert found.dtype == "bfloat16"
    assert found.bits.tolist() == [0x3F80, 0xC000]


def bad_tensors():
    external_ = numpy_helper.from_array(WEIGHT, "w")
    external_.data_location = T.EXTERNAL
    short = numpy_helper.from_array(WEIGHT, "w")
    short.raw_data = short.raw_data[:5]
    texts = T(data_type=T.STRING, dims=[1], string_data=[b"\xff"])
    few = T(data_type=T.STRING, dims=[3], string_data=[b"a"])
    return [b"", b"\x89PNG", external_, short, texts, few, T(dims=[1])]


@pytest.mark.parametrize("proto", bad_tensors(), ids=range(7))
def test_a_file_that_is_no_tensor(tmp_path, proto):
    path = tmp_path / "t.pb"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    with pytest.raises(UsageError, match="not a tensor"):
        onnxfile.tensor(path)


def test_no_tensor_file(tmp_path):
    with pytest.raises(UsageError):
        onnxfile.tensor(tmp_path / "none.pb")
    with pytest.raises(UsageError):
        onnxfile.tensor(Path("/"))
