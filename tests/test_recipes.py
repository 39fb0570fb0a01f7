"""The model catalogue: every recipe, run as the harness runs it, leaves a model that can serve as a test."""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tomllib
from onnx import numpy_helper

MODELS = Path(__file__).resolve().parent.parent / "models"
CATALOG: dict[str, dict[str, Any]] = tomllib.loads((MODELS / "catalog.toml").read_text(encoding="utf-8"))
SLOW = {"alexnet", "vgg19", "zfnet512"}
"""Hundreds of megabytes each."""
REPEATED = (
    "tiny_cnn",
    "tiny_int",
    "logistic_regression",
    "squeezenet",
    "shufflenet",
    "mobilenet_v2",
    "transformer_encoder",
)
Make = Callable[[str], Path]
Values = dict[str, np.ndarray[Any, Any]]


def run(name: str, out: Path) -> subprocess.CompletedProcess[str]:
    """The recipe of a catalogue entry, run in a fresh isolated Python."""
    entry = CATALOG[name]
    argv = [sys.executable, "-I", str(MODELS / "recipes" / entry["recipe"][0]), str(out), "--seed", str(entry["seed"])]
    for key, value in entry["args"].items():
        argv += [f"--{key}", str(value)]
    return subprocess.run(argv, cwd=out, capture_output=True, text=True, timeout=200, check=False)


def need(name: str) -> None:
    """Skip where the entry's extra is not installed."""
    missing = [package for package in CATALOG[name]["needs"] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f'{missing[0]} is not installed; run: pip install "deploybench[{CATALOG[name]["extra"]}]"')


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Each model is made once for the whole file. The largest are removed by the test that asked for them."""
    folders: dict[str, Path] = {}

    def make(name: str) -> Path:
        need(name)
        if name not in folders:
            out = tmp_path_factory.mktemp(name)
            finished = run(name, out)
            assert finished.returncode == 0, finished.stderr
            folders[name] = out
        return folders[name]

    return make


def data_set(folder: Path, kind: str) -> Values:
    """The tensors of one kind (`input`, `output`) by name, in the order of their files."""
    found: Values = {}
    for index in itertools.count():
        path = folder / f"{kind}_{index}.pb"
        if not path.is_file():
            return found
        sequence = onnx.SequenceProto.FromString(path.read_bytes())  # the kind is not in the file
        if sequence.map_values:
            found[sequence.name] = table(numpy_helper.to_list(sequence))
            continue
        tensor = onnx.TensorProto.FromString(path.read_bytes())
        found[tensor.name] = numpy_helper.to_array(tensor)
    raise AssertionError("unreachable")


def table(rows: list[dict[int, Any]]) -> np.ndarray[Any, Any]:
    """What ZipMap made, as one row of numbers for each map; the keys count from 0 in every row."""
    assert all(list(row) == list(range(len(rows[0]))) for row in rows)
    return np.array([[np.float32(value) for value in row.values()] for row in rows])


def load(name: str) -> Any:
    """A script of the recipes folder as a module, by its path."""
    spec = importlib.util.spec_from_file_location(name, MODELS / "recipes" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CATALOG]


@pytest.mark.parametrize("name", NAMES)
def test_recipe_leaves_a_living_model(name: str, made: Make) -> None:
    out = made(name)
    try:
        assert sorted(path.name for path in out.iterdir()) == [
            "model.onnx",
            "provenance.json",
            "test_data_set_0",
            "test_data_set_1",
        ]
        model = onnx.load(out / "model.onnx")
        onnx.checker.check_model(out / "model.onnx")
        check_inside(model)
        check_data(model, out)
        said = json.loads((out / "provenance.json").read_text())
        assert set(said) == {"producer", "version", "precision", "settings", "seed"}
        assert said["seed"] == CATALOG[name]["seed"]
        assert said["producer"] in {"numpy", "onnxruntime", "pytorch", "scikit-learn"}
        assert all(str(path) not in json.dumps(said) for path in (out, MODELS, Path.home()))
    finally:
        if name in SLOW:
            shutil.rmtree(out)


def check_inside(model: onnx.ModelProto) -> None:
    """Weights are inside, are not inputs, are all used; no note of where the file was made is left."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    assert not weights & {value.name for value in graph.input}
    assert weights <= {name for node in graph.node for name in node.input}
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in graph.initializer)
    parts = [model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    assert not any(part.doc_string or part.metadata_props for part in parts)
    del graph.initializer[:]  # what is left is text and attributes: small enough to search
    text = model.SerializeToString()
    for path in (MODELS, Path(sys.prefix), Path.home(), Path.cwd()):
        assert str(path).encode() not in text
    assert b"site-packages" not in text


def check_data(model: onnx.ModelProto, out: Path) -> None:
    """Names, types and shapes are the model's; inputs differ and outputs follow them: apart from the recipe."""
    inputs, outputs = ([data_set(out / f"test_data_set_{k}", kind) for k in (0, 1)] for kind in ("input", "output"))
    for values, protos in ((inputs, model.graph.input), (outputs, model.graph.output)):
        for tensors in values:
            assert list(tensors) == [proto.name for proto in protos]
            for proto in protos:
                if proto.type.WhichOneof("value") != "tensor_type":
                    continue
                declared = proto.type.tensor_type
                shape = tuple(dim.dim_value if dim.HasField("dim_value") else 1 for dim in declared.shape.dim)
                assert tensors[proto.name].shape == shape
                assert tensors[proto.name].dtype == onnx.helper.tensor_dtype_to_np_dtype(declared.elem_type)
    for name in inputs[0]:
        assert not np.array_equal(inputs[0][name], inputs[1][name])
    for name in outputs[0]:
        a, b = (tensors[name].astype(np.float64).ravel() for tensors in outputs)
        assert np.isfinite(a).all()
        assert np.isfinite(b).all()
        assert np.sqrt(((a - b) ** 2).sum()) >= 0.01 * max(np.sqrt((a**2).sum()), np.sqrt((b**2).sum()))
        for flat in (a, b):
            assert flat.std() > 0
            if flat.min() >= 0 and abs(flat.sum() - 1) < 1e-3:
                assert flat.max() < 0.9


@pytest.mark.parametrize("name", [name for name in CATALOG if CATALOG[name]["recipe"][0] != "zoo.py"])
def test_another_runtime_agrees(name: str, made: Make) -> None:
    """The meaning written in numpy or PyTorch is that of the ONNX file, by ONNX Runtime."""
    onnxruntime = pytest.importorskip("onnxruntime", reason='run: pip install "deploybench[cpu]"')
    out = made(name)
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    for k in (0, 1):
        wanted = data_set(out / f"test_data_set_{k}", "output")
        found = session.run(list(wanted), data_set(out / f"test_data_set_{k}", "input"))
        for reference, values in zip(wanted.values(), found, strict=True):
            values = table(values) if isinstance(values, list) else values
            assert np.abs(values - reference).max() <= 2e-5 * np.abs(reference).max()


@pytest.mark.parametrize("name", REPEATED)
def test_same_seed_same_bytes(name: str, made: Make, tmp_path: Path) -> None:
    first = made(name)
    assert run(name, tmp_path).returncode == 0
    for path in sorted(first.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / path.relative_to(first)).read_bytes(), path.name


def test_another_seed_is_another_model(made: Make, tmp_path: Path) -> None:
    argv = [sys.executable, "-I", str(MODELS / "recipes" / "tiny.py"), str(tmp_path), "--seed", "7"]
    subprocess.run([*argv, "--architecture", "tiny_mlp"], cwd=tmp_path, check=True, timeout=60, capture_output=True)
    for file in ("model.onnx", "test_data_set_0/input_0.pb"):
        assert (tmp_path / file).read_bytes() != (made("tiny_mlp") / file).read_bytes()


def test_tiny_models_are_tiny(made: Make) -> None:
    for name, entry in CATALOG.items():
        if entry["recipe"][0] == "tiny.py":
            assert (made(name) / "model.onnx").stat().st_size < 50_000


def test_a_full_folder_is_refused_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    finished = run("tiny_mlp", tmp_path)
    assert finished.returncode == 1
    assert finished.stderr.strip().splitlines()[-1] == f"tiny_mlp, seed 1: {tmp_path} is not an empty folder"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_catalogue_entry_is_complete(name: str) -> None:
    entry = CATALOG[name]
    assert set(entry) == {"recipe", "seed", "args", "needs", "extra", "summary"}
    assert all((MODELS / "recipes" / script).is_file() for script in entry["recipe"])
    assert bool(entry["needs"]) == bool(entry["extra"])
    assert entry["summary"]
    assert f"| `{name}` |" in (MODELS / "README.md").read_text(encoding="utf-8")


def softmax(logits: np.ndarray[Any, Any]) -> Values:
    """A probability output, as a model would give it."""
    powers = np.exp(logits - logits.max())
    return {"probability": (powers / powers.sum()).reshape(1, -1).astype(np.float32)}


def test_check_refuses_a_saturated_model() -> None:
    testdata = load("testdata")
    spread = np.random.default_rng(1).standard_normal((2, 100))
    spread[0, 3] = spread[1, 5] = 20
    with pytest.raises(testdata.Refused, match=r"'probability' is saturated: .*top probability 1\.000"):
        testdata.check_alive(softmax(spread[0]), softmax(spread[1]))


def test_check_refuses_an_input_blind_model() -> None:
    testdata = load("testdata")
    answer = np.random.default_rng(1).standard_normal((1, 100))
    with pytest.raises(testdata.Refused, match=r"'y' is input-blind: moves 0\.[1-9]% "):
        testdata.check_alive({"y": answer}, {"y": answer * 1.005})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((1, 4), 3.0), "is the constant 3"),
        (np.array([[1.0, np.nan]]), "NaN"),
        (np.array([[1.0, np.inf]]), "Inf"),
        (np.array([[1e-22, 2e-22]]), "vanished"),
        (np.zeros((1, 0)), "empty"),
    ],
)
def test_check_refuses_dead_outputs(values: np.ndarray[Any, Any], reason: str) -> None:
    testdata = load("testdata")
    with pytest.raises(testdata.Refused, match=reason):
        testdata.check_alive({"y": values}, {"y": values})


def test_check_looks_at_every_output() -> None:
    testdata = load("testdata")
    live = np.random.default_rng(1).standard_normal((2, 1, 8))
    with pytest.raises(testdata.Refused, match="'b' is input-blind"):
        testdata.check_alive({"a": live[0], "b": live[0]}, {"a": live[1], "b": live[0]})


def test_check_returns_the_figures_of_a_living_model() -> None:
    testdata = load("testdata")
    logits = np.random.default_rng(1).standard_normal((2, 100))
    (figure,) = testdata.check_alive(softmax(logits[0]), softmax(logits[1])).values()
    assert figure.movement > 0.5
    assert 0.01 < figure.top_probability < 0.3
