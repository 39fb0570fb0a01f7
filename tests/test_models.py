"""From a reference to a model: names and paths, data sets that came with it, and inputs that are made up."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from bench import catalog, datasets, models, onnxfile
from bench.cache import Cache
from bench.errors import UsageError
from bench.interface import Packed, ValueSpec
from bench.models import random_feeds, resolve

NODE = helper.make_node


def info(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def identity(*inputs, kinds=None):
    """A model that hands each input on."""
    nodes = [NODE("Identity", [i.name], [f"{i.name}_out"]) for i in inputs]
    outputs = [info(f"{i.name}_out", i.type.tensor_type.elem_type, None) for i in inputs]
    graph = helper.make_graph(nodes, "tiny", list(inputs), outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


PAIR = identity(info("a", T.FLOAT, ["N", 2]), info("b", T.FLOAT, ["N", 3]))


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    """A model folder of the model zoo's layout, without data sets."""
    path = tmp_path / "net"
    path.mkdir()
    onnx.save(PAIR, path / "model.onnx")
    return path


def data_set(folder, number=0, *, names=True, **arrays):
    """Write a data set; keys are `input_0`, `output_0`, ...; values arrays, or (name, array)."""
    path = folder / f"test_data_set_{number}"
    path.mkdir(exist_ok=True)
    for key, value in arrays.items():
        name, array = value if isinstance(value, tuple) else ("", value)
        (path / f"{key}.pb").write_bytes(numpy_helper.from_array(np.asarray(array), name).SerializeToString())
    return path


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def got(reference, cache, **more):
    return resolve(str(reference), cache, shapes={}, **{"batch": 1, **more})


# References.


def test_a_file_and_a_folder_are_the_same_model(folder, cache):
    by_folder, by_file = got(folder, cache), got(folder / "model.onnx", cache)
    assert by_folder.model == by_file.model
    assert by_folder.model.name == "net"
    assert by_folder.shapes == {"a": (1, 2), "b": (1, 3)}


def test_a_file_of_any_other_name_names_the_model(folder, cache):
    shutil.copy(folder / "model.onnx", folder / "detector.v2.onnx")
    assert got(folder / "detector.v2.onnx", cache).model.name == "detector.v2"


def test_the_source_is_hashed_as_it_was_given(folder, cache):
    one, two = got(folder, cache), got(folder, cache, batch=2)
    assert one.source_sha256 == two.source_sha256
    assert one.model.sha256 != two.model.sha256


def test_a_folder_with_one_model_and_with_several(tmp_path, folder, cache):
    (folder / "model.onnx").rename(folder / "net.onnx")
    assert got(folder, cache).model.files == ("net.onnx",)
    shutil.copy(folder / "net.onnx", folder / "other.onnx")
    with pytest.raises(UsageError, match=r"holds 2 \.onnx files"):
        got(folder, cache)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match=r"holds no \.onnx file"):
        got(empty, cache)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("squeezenett", "did you mean squeezenet"),
        ("resnet", "did you mean resnet"),
        ("nothing_like_it_at_all", "known: "),
        ("missing.onnx", "there is no file missing.onnx"),
        ("some/folder", "there is no file some/folder"),
        ("~nobody-of-this-name/m.onnx", "cannot be looked up"),
        ("x" * 5000, "cannot be looked up"),
    ],
)
def test_a_reference_to_nothing(reference, words, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        got(reference, cache)
    assert words in str(caught.value)


@pytest.mark.parametrize("make", ["folder", "file"])
def test_nothing_in_the_current_folder_shadows_the_catalogue(make, folder, cache, tmp_path, monkeypatch):
    name = next(iter(catalog.load()))
    monkeypatch.setattr(catalog, "make", lambda entry, cache, say: folder if entry.name == name else None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir() if make == "folder" else (tmp_path / name).write_text("mine")
    path, found = models.locate(name, cache, lambda message: None)
    assert (path, found) == (folder / "model.onnx", name)


def test_the_catalogue_is_not_read_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "catalog.toml").write_text('[evil]\nrecipe = ["evil.py"]\n')
    monkeypatch.chdir(tmp_path)
    assert "evil" not in catalog.load()


# Data sets that came with the model.


def test_a_data_set_is_taken_by_name_whatever_its_position(folder, cache):
    data_set(
        folder,
        input_0=("b", 2 * ones(1, 3)),
        input_1=("a", ones(1, 2)),
        output_0=("b_out", 2 * ones(1, 3)),
        output_1=("a_out", ones(1, 2)),
    )
    first, second = got(folder, cache).data_sets
    assert {n: a.shape for n, a in first.feeds.items()} == {"a": (1, 2), "b": (1, 3)}
    assert first.expected["b_out"].tolist() == [[2, 2, 2]]
    assert first.provenance == datasets.AS_SUPPLIED
    assert second.expected is None


def test_a_data_set_without_names_is_taken_by_position(folder, cache):
    data_set(folder, input_0=ones(1, 2), input_1=ones(1, 3), output_0=ones(1, 2), output_1=("other", ones(1, 3)))
    first = got(folder, cache).data_sets[0]
    assert {n: a.shape for n, a in first.feeds.items()} == {"a": (1, 2), "b": (1, 3)}
    assert set(first.expected) == {"a_out", "b_out"}


def test_data_sets_come_in_the_order_of_their_numbers(folder, cache):
    for number in (10, 2, 0):
        data_set(folder, number, input_0=number * ones(1, 2), input_1=ones(1, 3))
    assert [d.feeds["a"][0, 0] for d in got(folder, cache).data_sets] == [0, 2, 10]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"input_0": ones(4, 2), "input_1": ones(4, 3)}, "its 'a' is float32[4, 2], the model takes float32[1, 2]"),
        ({"input_0": ones(1, 2, dtype=np.float64), "input_1": ones(1, 3)}, "its 'a' is float64[1, 2]"),
        ({"input_0": ones(1, 2)}, "it has no input 'b'"),
        ({}, "it has no input 'a'"),
    ],
)
def test_a_data_set_that_does_not_fit_is_left_out_and_said(folder, cache, files, words):
    data_set(folder, **files)
    resolved = got(folder, cache)
    assert resolved.notes[0].startswith("test_data_set_0 is not used: ")
    assert words in resolved.notes[0]
    assert len(resolved.data_sets) == 2
    assert all(d.expected is None for d in resolved.data_sets)


def test_a_data_set_without_every_output_gives_its_inputs(folder, cache):
    data_set(folder, input_0=ones(1, 2), input_1=ones(1, 3), output_0=ones(1, 2))
    resolved = got(folder, cache)
    assert resolved.notes == ("the outputs of test_data_set_0 are not used: there is none for 'b_out'",)
    assert resolved.data_sets[0].feeds["a"].tolist() == [[1, 1]]
    assert resolved.data_sets[0].expected is None


def test_files_too_many_are_ignored(folder, cache):
    path = data_set(folder, input_0=ones(1, 2), input_1=ones(1, 3), input_7=ones(9), output_9=ones(9))
    (path / "notes.txt").write_text("hello")
    (folder / "test_data_set_1.zip").write_text("not a folder")
    resolved = got(folder, cache)
    assert set(resolved.data_sets[0].feeds) == {"a", "b"}
    assert resolved.notes[-1].startswith("test_data_set_1.zip is not used")


@pytest.mark.parametrize("name", ["input_0", "output_1"])
def test_a_broken_data_set_is_an_error(folder, cache, name):
    path = data_set(folder, input_0=ones(1, 2), input_1=ones(1, 3), output_0=ones(1, 2), output_1=ones(1, 3))
    (path / f"{name}.pb").write_bytes(b"broken")
    with pytest.raises(UsageError, match=f"{name}.pb is not a tensor"):
        got(folder, cache)


def test_scalars_and_texts_come_as_they_are(tmp_path, cache):
    onnx.save(identity(info("s", T.FLOAT, []), info("t", T.STRING, [2])), tmp_path / "model.onnx")
    texts = np.array(["a", "é"], object)
    data_set(tmp_path, input_0=np.float32(3), input_1=texts, output_0=np.float32(3), output_1=texts)
    first = got(tmp_path, cache, batch=None).data_sets[0]
    assert first.feeds["s"].shape == ()
    assert first.expected["s_out"].shape == ()
    assert first.feeds["t"].tolist() == ["a", "é"]
    assert first.feeds["t"].dtype == object


def test_a_type_that_numpy_lacks_can_be_expected_and_not_fed(tmp_path, cache):
    graph = helper.make_graph(
        [NODE("Cast", ["x"], ["y"], to=T.BFLOAT16)], "t", [info("x", T.FLOAT, [2])], [info("y", T.BFLOAT16, [2])]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx"
    )
    folder = data_set(tmp_path, input_0=ones(2))
    (folder / "output_0.pb").write_bytes(helper.make_tensor("y", T.BFLOAT16, [2], [1.0, 1.0]).SerializeToString())
    expected = got(tmp_path, cache, batch=None).data_sets[0].expected["y"]
    assert isinstance(expected, Packed)
    assert expected.bits.tolist() == [0x3F80, 0x3F80]

    onnx.save(identity(info("x", T.BFLOAT16, [2])), tmp_path / "model.onnx")
    (folder / "input_0.pb").write_bytes(helper.make_tensor("x", T.BFLOAT16, [2], [1.0, 1.0]).SerializeToString())
    with pytest.raises(UsageError, match="bfloat16, for which no input can be generated"):
        got(tmp_path, cache, batch=None)


def test_feeds_are_contiguous(folder, cache):
    path = data_set(folder, input_0=ones(1, 2), input_1=ones(1, 3))
    assert path.is_dir()
    assert all(a.flags.c_contiguous for d in got(folder, cache).data_sets for a in d.feeds.values())


def test_provenance_names_who_made_the_outputs(folder, cache):
    data_set(folder, input_0=ones(1, 2), input_1=ones(1, 3), output_0=ones(1, 2), output_1=ones(1, 3))
    (folder / "provenance.json").write_text(json.dumps({"producer": "torch", "version": "2.13", "more": 1}))
    assert got(folder, cache).data_sets[0].provenance == datasets.Provenance("torch", "2.13")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"producer": "torch"}', "null", "\xff"])
def test_broken_provenance_is_an_error(folder, cache, text):
    (folder / "provenance.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"provenance\.json cannot be used"):
        got(folder, cache)


def said(folder, **facts):
    (folder / "provenance.json").write_text(json.dumps({"producer": "torch", "version": "2.13", **facts}))


@pytest.mark.parametrize("batch", [1, 2])
def test_provenance_of_this_model_as_it_was_given_or_bound(folder, cache, batch):
    data_set(folder, input_0=ones(batch, 2), input_1=ones(batch, 3), output_0=ones(batch, 2), output_1=ones(batch, 3))
    for digest in (got(folder, cache, batch=batch).source_sha256, got(folder, cache, batch=batch).model.sha256):
        said(folder, model_sha256=digest, seed=3, precision="float64")
        found = got(folder, cache, batch=batch).data_sets[0].provenance
        assert (found.seed, found.precision) == (3, "float64")


def test_provenance_of_another_model_is_refused(folder, cache):
    said(folder, model_sha256="0123456789abcdef")
    with pytest.raises(UsageError, match=r"are of another model: provenance\.json says 0123456789ab"):
        got(folder, cache)


@pytest.mark.parametrize("change", ["content", "more"])
def test_files_that_the_provenance_is_not_about_are_refused(folder, cache, change):
    path = data_set(folder, input_0=ones(1, 2), input_1=ones(1, 3), output_0=ones(1, 2), output_1=ones(1, 3))
    said(
        folder, files={f"test_data_set_0/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in path.iterdir()}
    )
    assert got(folder, cache).data_sets[0].provenance.producer == "torch"
    if change == "content":
        data_set(folder, output_1=2 * ones(1, 3))
    else:
        data_set(folder, output_2=ones(1))
    with pytest.raises(UsageError, match=r"is not the file that provenance\.json is about"):
        got(folder, cache)
    (folder / "provenance.json").unlink()
    assert got(folder, cache).data_sets[0].provenance == datasets.AS_SUPPLIED


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (ones(1, 2, dtype=np.float64), "its 'a_out' is float64[1, 2], the model gives float32"),
        (ones(1, 5), "its 'a_out' is float32[1, 5], the model gives float32[1, 2]"),
    ],
)
def test_outputs_that_cannot_be_the_models_are_left_out_and_said(folder, cache, output, words):
    data_set(folder, input_0=ones(1, 2), input_1=ones(1, 3), output_0=output, output_1=ones(1, 3))
    resolved = got(folder, cache)
    assert resolved.data_sets[0].expected is None
    assert words in resolved.notes[0]


def test_sequences_are_taken_and_given(tmp_path, cache):
    kind = helper.make_tensor_sequence_value_info("s", T.FLOAT, None)
    back = helper.make_tensor_sequence_value_info("t", T.FLOAT, None)
    graph = helper.make_graph([NODE("Identity", ["s"], ["t"])], "t", [kind], [back])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx"
    )
    for number in (0, 1):
        (tmp_path / f"test_data_set_{number}").mkdir()
        for name, value in (("input_0", "s"), ("output_0", "t")):
            content = onnxfile.encoded([ones(2) * number, ones(3)], value, "sequence")
            (tmp_path / f"test_data_set_{number}" / f"{name}.pb").write_bytes(content)
    first, second = got(tmp_path, cache, batch=None).data_sets
    assert [a.tolist() for a in second.expected["t"]] == [[1, 1], [1, 1, 1]]
    assert first.sha256 != second.sha256


# Inputs that are made up.

EVERY = tuple(
    ValueSpec(dtype, dtype, (4, 5))
    for dtype in (
        [
            "float16",
            "float32",
            "float64",
            "complex64",
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "bool",
            "string",
        ]
    )
)


def test_inputs_have_the_type_and_shape_that_is_asked_for():
    feeds = random_feeds(EVERY, 1)
    for spec in EVERY:
        array = feeds[spec.name]
        assert array.shape == spec.shape
        assert array.dtype.name == {"string": "object"}.get(spec.dtype, spec.dtype)
        assert len(set(array.ravel().tolist())) > 1
        assert array.flags.c_contiguous


@pytest.mark.parametrize("seed", range(40))
def test_inputs_are_never_constant(seed):
    specs = (ValueSpec("flag", "bool", (2,)), ValueSpec("ids", "int64", (2,)), ValueSpec("words", "string", (2,)))
    for array in random_feeds(specs, seed, {"ids": 2}).values():
        assert len(set(array.tolist())) == 2


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (1,)])
def test_inputs_of_any_shape(shape):
    specs = tuple(ValueSpec(s.name, s.dtype, shape) for s in EVERY)
    assert all(a.shape == shape for a in random_feeds(specs, 1).values())


def test_inputs_are_the_same_in_every_process():
    program = (
        "from bench.interface import ValueSpec; from bench.models import DataSet, random_feeds; "
        "print(DataSet(random_feeds(tuple(ValueSpec(n, n, (4, 5)) for n in %r), 7)).sha256)"
    )
    command = [sys.executable, "-c", program % ([s.name for s in EVERY],)]
    here = models.DataSet(random_feeds(EVERY, 7)).sha256
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == here
    assert models.DataSet(random_feeds(EVERY, 8)).sha256 != here


def test_an_input_does_not_depend_on_the_others():
    assert (random_feeds(EVERY[1:2], 3)["float32"] == random_feeds(EVERY, 3)["float32"]).all()


@pytest.mark.parametrize(("bound", "largest"), [(2, 1), (3, 2), (1, 0), (0, 0), (30_000, datasets.TOKEN_BOUND - 1)])
def test_whole_numbers_stay_inside_the_table_that_they_index(bound, largest):
    ids = random_feeds((ValueSpec("ids", "int64", (100,)),), 1, {"ids": bound})["ids"]
    assert ids.min() == 0
    assert ids.max() == largest


def test_a_small_table_in_the_model_is_seen(tmp_path, cache):
    """BERT's token types are two; a third row is an error in ONNX Runtime and a wild read elsewhere."""
    graph = helper.make_graph(
        [NODE("Gather", ["table", "types"], ["y"])],
        "t",
        [info("types", T.INT64, ["N", 16])],
        [info("y", T.FLOAT, ["N", 16, 3])],
        [numpy_helper.from_array(ones(2, 3), "table")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx"
    )
    for data in got(tmp_path, cache).data_sets:
        assert set(data.feeds["types"].ravel().tolist()) == {0, 1}


@pytest.mark.parametrize(
    "spec",
    [
        ValueSpec("x", "bfloat16", (2,)),
        ValueSpec("x", "float8e4m3fn", (2,)),
        ValueSpec("x", "int4", (2,)),
        ValueSpec("x", "undefined", (2,)),
        ValueSpec("x", "", None, "sequence"),
        ValueSpec("x", "", None, "optional"),
    ],
)
def test_what_cannot_be_made_up_is_said(spec):
    with pytest.raises(UsageError, match="input 'x' is"):
        random_feeds((spec,), 1)


def test_two_different_inputs_at_least(folder, tmp_path, cache):
    assert len({d.sha256 for d in got(folder, cache).data_sets}) == 2
    data_set(folder, 0, input_0=ones(1, 2), input_1=ones(1, 3))
    data_set(folder, 1, input_0=ones(1, 2), input_1=ones(1, 3))
    found = got(folder, cache).data_sets
    assert len(found) == 3
    assert len({d.sha256 for d in found}) == 2
    onnx.save(identity(info("flag", T.BOOL, [])), tmp_path / "flag.onnx")
    assert {bool(d.feeds["flag"]) for d in got(tmp_path / "flag.onnx", cache, batch=None).data_sets} == {True, False}


def test_a_second_input_is_like_the_one_that_was_supplied(tmp_path, cache):
    """Indices stay indices: a made-up one may be beyond what the file does not show. Data of floats is drawn anew."""
    takes = (("ids", T.INT64, [5]), ("sizes", T.FLOAT, [2, 3]), ("words", T.STRING, [2]), ("data", T.FLOAT, [5, 5]))
    onnx.save(identity(*(info(*one) for one in takes)), tmp_path / "model.onnx")
    ids, sizes = np.array([907, 3, 3, 55, -1]), np.arange(6, dtype=np.float32).reshape(2, 3)
    data_set(tmp_path, input_0=ids, input_1=sizes, input_2=np.array(["a", "b"], dtype=object), input_3=ones(5, 5))
    first, second = got(tmp_path, cache, batch=None).data_sets
    for name, value in first.feeds.items():
        assert (second.feeds[name].shape, second.feeds[name].dtype) == (value.shape, value.dtype)
        if name != "data":
            assert sorted(second.feeds[name].ravel().tolist()) == sorted(value.ravel().tolist())
    assert len(set(second.feeds["data"].ravel().tolist())) > 20
    assert (second.feeds["data"] < 0).any()
    assert [d.sha256 for d in got(tmp_path, cache, batch=None).data_sets] == [first.sha256, second.sha256]


def test_sizes_to_give_are_those_of_the_test_data(folder, cache):
    with pytest.raises(UsageError, match="for example: --shape a=1,2 --shape b=1,3, or --batch 1"):
        got(folder, cache, batch=None)
    data_set(folder, input_0=ones(7, 2), input_1=ones(7, 3))
    with pytest.raises(UsageError, match=r"those of its test data for example: --shape a=7,2 --shape b=7,3$"):
        got(folder, cache, batch=None)
    (folder / "test_data_set_0" / "input_1.pb").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="or --batch 1"):
        got(folder, cache, batch=None)


def test_nothing_is_made_up_where_enough_was_supplied(tmp_path, cache):
    """A model whose inputs cannot be made up can still be used with its own."""
    onnx.save(identity(info("x", T.FLOAT, [2])), tmp_path / "model.onnx")
    for number in (0, 1):
        data_set(tmp_path, number, input_0=number * ones(2))
    assert len(got(tmp_path, cache, batch=None).data_sets) == 2


def test_an_input_without_choice_is_there_once(tmp_path, cache):
    onnx.save(identity(info("x", T.FLOAT, [1]), info("y", T.INT64, [])), tmp_path / "m.onnx")
    assert len(got(tmp_path / "m.onnx", cache, batch=1).data_sets) == 2


def test_a_model_without_inputs_is_fed_nothing(tmp_path, cache):
    graph = helper.make_graph(
        [NODE("Constant", [], ["y"], value=numpy_helper.from_array(ones(2)))], "t", [], [info("y", T.FLOAT, [2])]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    assert [d.feeds for d in got(tmp_path / "m.onnx", cache, batch=None).data_sets] == [{}]
