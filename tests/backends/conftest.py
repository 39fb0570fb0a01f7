"""Tiny models built on the spot, the harness's side of `prepare`, and what every backend must do, as checks."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bench.errors import Crashed
from bench.interface import Artifact, Backend, Finished, Model, Options, Session, Signature, Tool, ValueSpec

ROOT = Path(__file__).resolve().parents[2]
NODE = helper.make_node


def weights(*shape: int) -> np.ndarray:
    generator = np.random.default_rng(sum(shape))
    return (generator.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)


def graph(nodes, inputs, outputs, initializers=None, *, opset=17, ir=8, domain=""):
    """A model; inputs and outputs are (name, type, shape)."""
    proto = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (initializers or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(proto, opset_imports=opsets, ir_version=ir)


def conv(batch=1):
    nodes = [
        NODE("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        NODE("Relu", ["c"], ["r"]),
        NODE("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        NODE("Flatten", ["p"], ["f"]),
        NODE("Gemm", ["f", "v", "d"], ["y"], transB=1),
    ]
    held = {"w": weights(6, 3, 3, 3), "b": weights(6), "v": weights(5, 96), "d": weights(5)}
    return graph(nodes, [("x", T.FLOAT, [batch, 3, 8, 8])], [("y", T.FLOAT, [batch, 5])], held)


def feature_map(batch=1):
    """Five columns and seven channels: neither fills a SIMD register."""
    held = {"w": weights(7, 3, 3, 3), "b": weights(7)}
    shapes = [("x", T.FLOAT, [batch, 3, 5, 5])], [("y", T.FLOAT, [batch, 7, 5, 5])]
    return graph([NODE("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])], *shapes, held)


def mlp(batch=1):
    nodes = [
        NODE("Gemm", ["x", "w", "b"], ["h"], transB=1),
        NODE("Tanh", ["h"], ["t"]),
        NODE("Gemm", ["t", "v", "d"], ["y"], transB=1),
    ]
    held = {"w": weights(9, 7), "b": weights(9), "v": weights(4, 9), "d": weights(4)}
    return graph(nodes, [("x", T.FLOAT, [batch, 7])], [("y", T.FLOAT, [batch, 4])], held)


def two():
    """Same shapes everywhere, and nothing symmetric: a swapped input or output cannot pass."""
    nodes = [NODE("Sub", ["b", "a"], ["d"]), NODE("Sigmoid", ["a"], ["e"])]
    shape = [1, 3, 4, 5]
    return graph(nodes, [(n, T.FLOAT, shape) for n in "ab"], [(n, T.FLOAT, shape) for n in "ed"])


def two_shapes():
    nodes = [NODE("MatMul", ["a", "b"], ["d"]), NODE("Relu", ["b"], ["e"])]
    inputs = [("a", T.FLOAT, [4, 6]), ("b", T.FLOAT, [6, 3])]
    return graph(nodes, inputs, [("e", T.FLOAT, [6, 3]), ("d", T.FLOAT, [4, 3])])


def sequence_model(batch=1):
    nodes = [NODE("MatMul", ["x", "w"], ["m"]), NODE("Softmax", ["m"], ["y"], axis=-1)]
    held = {"w": weights(6, 4)}
    return graph(nodes, [("x", T.FLOAT, [batch, 5, 6])], [("y", T.FLOAT, [batch, 5, 4])], held)


def elementwise(shape):
    return graph([NODE("Exp", ["x"], ["y"])], [("x", T.FLOAT, shape)], [("y", T.FLOAT, shape)])


def to_scalar():
    return graph([NODE("ReduceSum", ["x"], ["y"], keepdims=0)], [("x", T.FLOAT, [1, 3, 4])], [("y", T.FLOAT, [])])


def transpose():
    node = NODE("Transpose", ["x"], ["y"], perm=[1, 0, 2])
    return graph([node], [("x", T.FLOAT, [2, 3, 5])], [("y", T.FLOAT, [3, 2, 5])])


def gather():
    held = {"e": weights(10, 6)}
    return graph([NODE("Gather", ["e", "i"], ["y"])], [("i", T.INT64, [4])], [("y", T.FLOAT, [4, 6])], held)


def argmax():
    node = NODE("ArgMax", ["x"], ["y"], axis=1, keepdims=0)
    return graph([node], [("x", T.FLOAT, [2, 6])], [("y", T.INT64, [2])])


def custom():
    nodes = [NODE("Relu", ["x"], ["r"]), NODE("Frobnicate", ["r"], ["y"], domain="acme", name="frob_7")]
    return graph(nodes, [("x", T.FLOAT, [1, 3])], [("y", T.FLOAT, [1, 3])], domain="acme")


def loop():
    values = [("i", T.INT64, []), ("c", T.BOOL, []), ("v", T.FLOAT, [1, 3])]
    body = helper.make_graph(
        [NODE("Add", ["v", "v"], ["w"]), NODE("Identity", ["c"], ["d"])],
        "body",
        [helper.make_tensor_value_info(*value) for value in values],
        [helper.make_tensor_value_info("d", T.BOOL, []), helper.make_tensor_value_info("w", T.FLOAT, [1, 3])],
    )
    node = NODE("Loop", ["n", "", "x"], ["y"], body=body, name="loop_3")
    return graph([node], [("x", T.FLOAT, [1, 3]), ("n", T.INT64, [])], [("y", T.FLOAT, [1, 3])])


def old_ir():
    """IR 3: the weights are graph inputs too."""
    inputs = [("x", T.FLOAT, [1, 3, 5, 5]), ("w", T.FLOAT, [7, 3, 3, 3]), ("b", T.FLOAT, [7])]
    held = {"w": weights(7, 3, 3, 3), "b": weights(7)}
    node = NODE("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])
    return graph([node], inputs, [("y", T.FLOAT, [1, 7, 5, 5])], held, opset=9, ir=3)


def constant_output():
    nodes = [NODE("Relu", ["x"], ["y"]), NODE("Identity", ["k"], ["z"])]
    return graph(nodes, [("x", T.FLOAT, [1, 3])], [("y", T.FLOAT, [1, 3]), ("z", T.FLOAT, [2])], {"k": weights(2)})


def dynamic():
    """Bound by the harness, not in the file."""
    nodes = [NODE("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), NODE("GlobalAveragePool", ["c"], ["y"])]
    inputs, outputs = [("x", T.FLOAT, ["N", 3, "H", "W"])], [("y", T.FLOAT, ["N", 7, 1, 1])]
    return graph(nodes, inputs, outputs, {"w": weights(7, 3, 3, 3)})


def spec(value: Any, bound: dict[str, tuple[int, ...]]) -> ValueSpec:
    if value.type.WhichOneof("value") != "tensor_type":
        return ValueSpec(value.name, "", None, "sequence")
    tensor = value.type.tensor_type
    dtype = "string" if tensor.elem_type == T.STRING else str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return ValueSpec(value.name, dtype, bound.get(value.name, shape))


def signature(proto: Any, bound: dict[str, tuple[int, ...]]) -> Signature:
    held = {value.name for value in proto.graph.initializer}
    inputs = tuple(spec(value, bound) for value in proto.graph.input if value.name not in held)
    return Signature(inputs, tuple(spec(value, {}) for value in proto.graph.output))


class LocalTools:
    """What the harness hands to `prepare`, without its limits."""

    def __init__(self, binary: Path | None) -> None:
        self._binary = binary

    def run(self, argv: Sequence[str], *, cwd: Path) -> Finished:
        done = subprocess.run(
            list(argv), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
        )
        if done.returncode < 0:
            name = signal.Signals(-done.returncode).name
            raise Crashed(f"{Path(argv[0]).name} ended with {name}: {done.stdout[-500:]}", signal=name)
        return Finished(done.returncode, done.stdout)

    def path(self, name: str) -> Path:
        assert name == "pnnx"
        assert self._binary is not None
        return self._binary


@dataclass
class Kit:
    """The harness's side of one backend."""

    backend: Backend
    folder: Path
    tools: LocalTools

    def model(self, proto: Any, *, bound: dict[str, tuple[int, ...]] | None = None, external: bool = False) -> Model:
        root = self.folder / f"model{len(list(self.folder.iterdir()))}"
        root.mkdir()
        files: tuple[str, ...] = ("tiny.onnx",)
        made = signature(proto, bound or {})
        if external:
            onnx.save(proto, root / "tiny.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
            files = ("tiny.onnx", "w.bin")
        else:
            onnx.save(proto, root / "tiny.onnx")
        return Model("tiny", root, files, "0" * 64, proto.opset_import[0].version, made)

    def options(self, *, threads: int = 1, precision: str = "model", **extra: Any) -> Options:
        return Options(
            threads, precision, extra={option.name: option.default for option in self.backend.options} | extra
        )

    def prepare(self, model: Model) -> Artifact:
        """Prepared here, and then as it arrives elsewhere: another folder, `meta` through JSON."""
        workdir = Path(f"{model.root}-made")
        workdir.mkdir()
        made = self.backend.prepare(model, self.options(), workdir, self.tools)
        if self.backend.prepares == "nothing":
            return made
        assert {path.name for path in workdir.iterdir()} == set(made.files)
        moved = Path(f"{model.root}-moved")
        workdir.rename(moved)
        return Artifact(moved, made.files, made.signature, json.loads(json.dumps(dict(made.meta))))

    def load(self, proto: Any, *, bound: Any = None, external: bool = False, **options: Any) -> Session:
        artifact = self.prepare(self.model(proto, bound=bound, external=external))
        return self.backend.load(artifact, self.options(**options))

    def feeds(self, proto: Any, seed: int = 0, bound: dict[str, tuple[int, ...]] | None = None) -> dict[str, Any]:
        generator = np.random.default_rng(seed)
        feeds = {}
        for value in signature(proto, bound or {}).inputs:
            if value.dtype.startswith("int"):
                feeds[value.name] = generator.integers(0, 9, value.shape).astype(value.dtype)
            else:
                feeds[value.name] = generator.standard_normal(value.shape).astype(value.dtype)
            if value.shape == ():
                feeds[value.name] = np.asarray(feeds[value.name])
        return feeds

    def agrees(self, session: Session, proto: Any, feeds: dict[str, Any]) -> None:
        """Run, and compare names, types, shapes and values with onnx's evaluator; the feeds must not change."""
        before = {name: value.copy() for name, value in feeds.items()}
        got = session.run(feeds)
        for name, value in before.items():
            np.testing.assert_array_equal(feeds[name], value)
        names = [value.name for value in proto.graph.output]
        assert list(got) == names
        for name, value in zip(names, ReferenceEvaluator(proto).run(None, before), strict=True):
            expected = np.asarray(value)
            assert isinstance(got[name], np.ndarray)
            assert got[name].shape == expected.shape
            assert got[name].dtype == expected.dtype
            scale = float(np.abs(expected.astype(np.float64)).max()) or 1.0
            np.testing.assert_allclose(got[name], expected, rtol=0, atol=1e-4 * scale)

    def owns_its_outputs(self, proto: Any) -> None:
        """Keep one run's outputs, run on something else: they stay, and the second are the second's."""
        with self.load(proto) as session:
            first_feeds, second_feeds = self.feeds(proto, 1), self.feeds(proto, 2)
            first = session.run(first_feeds)
            kept = {name: value.copy() for name, value in first.items()}
            self.agrees(session, proto, second_feeds)
            for name, value in kept.items():
                np.testing.assert_array_equal(first[name], value)
                first[name].fill(7)  # and writing to them reaches nothing of the runtime
            self.agrees(session, proto, first_feeds)

    def two_sessions_at_once(self) -> None:
        one, other = conv(), mlp()
        with self.load(one) as first, self.load(other) as second:
            for seed in range(3):
                self.agrees(first, one, self.feeds(one, seed))
                self.agrees(second, other, self.feeds(other, seed))

    def closes_twice(self) -> None:
        session = self.load(mlp())
        session.close()
        session.close()

    def reads_read_only_feeds(self) -> None:
        proto = feature_map()
        feeds = self.feeds(proto)
        for value in feeds.values():
            value.flags.writeable = False
        with self.load(proto) as session:
            self.agrees(session, proto, feeds)

    def threads_of(self, count: int) -> int:
        """How many threads a fresh process has after loading with `count` and running."""
        proto = feature_map()
        artifact = self.prepare(self.model(proto))
        kind = type(self.backend)
        program = f"""
        import os, sys
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        import numpy as np
        from bench.interface import Artifact, Options, Signature, ValueSpec
        from {kind.__module__} import {kind.__name__} as Kind
        made = Signature((ValueSpec("x", "float32", (1, 3, 5, 5)),), (ValueSpec("y", "float32", (1, 7, 5, 5)),))
        backend = Kind()
        extra = {{option.name: option.default for option in backend.options}}
        artifact = Artifact(Path({str(artifact.root)!r}), {artifact.files!r}, made, {dict(artifact.meta)!r})
        session = backend.load(artifact, Options({count}, extra=extra))
        session.run({{"x": np.zeros((1, 3, 5, 5), np.float32)}})
        print("threads", len(os.listdir("/proc/self/task")))
        """
        # numpy's own threads would hide the runtime's.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env=environment,
        )
        return int(done.stdout.split("threads ")[-1])


MODELS = {
    "conv": conv(),
    "conv batch 2": conv(2),
    "feature map": feature_map(),
    "feature map batch 2": feature_map(2),
    "mlp": mlp(),
    "mlp batch 3": mlp(3),
    "two inputs, two outputs": two(),
    "two of two shapes": two_shapes(),
    "rank 3": sequence_model(),
    "rank 3 batch 2": sequence_model(2),
    "rank 1": elementwise([6]),
    "scalar": elementwise([]),
    "to a scalar": to_scalar(),
    "transpose": transpose(),
    "gather": gather(),
    "old IR": old_ir(),
}


@pytest.fixture(params=list(MODELS))
def tiny(request):
    """One of the models that every backend must compute."""
    return MODELS[request.param]


@pytest.fixture(scope="session")
def build():
    """The functions above, by name."""
    return globals()


@pytest.fixture(scope="session")
def pnnx_binary(request) -> Path | None:
    """The pinned pnnx out of its wheel, kept in pytest's cache; None where it cannot be had."""
    from backends.ncnn import Ncnn

    (tool,) = Ncnn.tools
    folder = Path(request.config.cache.mkdir("pnnx"))
    binary = folder / tool.requirement / tool.binary
    if not binary.is_file():
        _fetch(tool, folder, binary)
    return binary if binary.is_file() else None


def _fetch(tool: Tool, folder: Path, binary: Path) -> None:
    argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    done = subprocess.run([*argv, tool.requirement], capture_output=True, timeout=240, check=False)
    for wheel in folder.glob("*.whl") if done.returncode == 0 else ():
        assert hashlib.sha256(wheel.read_bytes()).hexdigest() in tool.sha256
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(tool.binary, folder / tool.requirement)
        binary.chmod(0o755)
        wheel.unlink()


@pytest.fixture
def squeezenet() -> Any:
    """A real architecture from onnx's own wheel; its weights are ConstantOfShape nodes, IR 3."""
    import onnx.backend.test

    path = Path(onnx.backend.test.__file__).parent / "data" / "light" / "light_squeezenet.onnx"
    return onnx.load(path)


@pytest.fixture
def kit_of(tmp_path):
    """A function: backend (and pnnx) to its Kit."""
    return lambda backend, binary=None: Kit(backend, tmp_path, LocalTools(binary))
