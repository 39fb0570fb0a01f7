"""Tiny models as text, and the harness's side of a backend: prepare, carry elsewhere, load, feed, compare."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bench.conformance import BoundedTools
from bench.interface import Artifact, Backend, Model, Options, Session, Signature, ValueSpec
from bench.registry import find

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"ort-cpu": "onnxruntime", "ncnn": "ncnn", "mnn": "MNN"}


def weights(*shape: int) -> Any:
    generator = np.random.default_rng(sum(shape))
    return (generator.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)


def parse(text: str, held: dict[str, Any] | None = None, *, opset: int = 17, ir: int = 8, domain: str = "") -> Any:
    """A model out of ONNX's text form, with its weights: arrays, or the shapes of random ones."""
    opsets = f'"" : {opset}' + (f', "{domain}" : 1' if domain else "")
    proto = onnx.parser.parse_model(f"<ir_version: {ir}, opset_import: [{opsets}]> tiny {text}")
    for name, value in (held or {}).items():
        array = weights(*value) if isinstance(value, tuple) else np.asarray(value)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


def conv(batch: int = 1) -> Any:
    text = f"""(float[{batch},3,8,8] x) => (float[{batch},5] y) {{
        c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        r = Relu (c)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
        f = Flatten (p)
        y = Gemm <transB = 1> (f, v, d)
    }}"""
    return parse(text, {"w": (6, 3, 3, 3), "b": (6,), "v": (5, 96), "d": (5,)})


def feature_map(batch: int = 1) -> Any:
    # Five columns and seven channels: neither fills a SIMD register.
    text = f"(float[{batch},3,5,5] x) => (float[{batch},7,5,5] y) {{ y = Conv <pads = [1, 1, 1, 1]> (x, w, b) }}"
    return parse(text, {"w": (7, 3, 3, 3), "b": (7,)})


def mlp(batch: int = 1) -> Any:
    text = f"""(float[{batch},7] x) => (float[{batch},4] y) {{
        h = Gemm <transB = 1> (x, w, b)
        t = Tanh (h)
        y = Gemm <transB = 1> (t, v, d)
    }}"""
    return parse(text, {"w": (9, 7), "b": (9,), "v": (4, 9), "d": (4,)})


def rank_3(batch: int = 1) -> Any:
    text = f"(float[{batch},5,6] x) => (float[{batch},5,4] y) {{ m = MatMul (x, w) y = Softmax <axis = -1> (m) }}"
    return parse(text, {"w": (6, 4)})


TWO_OF_EACH = """(float[1,3,4,5] b, float[1,3,4,5] a) => (float[1,3,4,5] e, float[1,3,4,5] d) {
    d = Sub (b, a)
    e = Sigmoid (a)
}"""
TWO_SHAPES = """(float[4,6] a, float[6,3] b) => (float[6,3] e, float[4,3] d) {
    d = MatMul (a, b)
    e = Relu (b)
}"""
OLD_IR = """(float[1,3,5,5] x, float[7,3,3,3] w, float[7] b) => (float[1,7,5,5] y) {
    y = Conv <pads = [1, 1, 1, 1]> (x, w, b)
}"""
# What every runtime must compute.
MODELS = {
    "conv": conv(),
    "conv batch 2": conv(2),
    "feature map": feature_map(),
    "feature map batch 2": feature_map(2),
    "mlp": mlp(),
    "mlp batch 3": mlp(3),
    # The same shapes everywhere and nothing symmetric: a swapped input or output cannot pass.
    "two of each": parse(TWO_OF_EACH),
    "two shapes": parse(TWO_SHAPES),
    "rank 3": rank_3(),
    "rank 3 batch 2": rank_3(2),
    "rank 1": parse("(float[6] x) => (float[6] y) { y = Exp (x) }"),
    "scalar": parse("(float x) => (float y) { y = Exp (x) }"),
    "to a scalar": parse("(float[1,3,4] x) => (float y) { y = ReduceSum <keepdims = 0> (x) }"),
    "transpose": parse("(float[2,3,5] x) => (float[3,2,5] y) { y = Transpose <perm = [1, 0, 2]> (x) }"),
    "gather": parse("(int64[4] i) => (float[4,6] y) { y = Gather (e, i) }", {"e": (10, 6)}),
    # IR 3: the weights are graph inputs too.
    "old IR": parse(OLD_IR, {"w": (7, 3, 3, 3), "b": (7,)}, opset=9, ir=3),
}
LOOP = """(float[1,3] x, int64 n) => (float[1,3] y) {
    [loop_3] y = Loop <body = body (int64 i, bool c, float[1,3] v) => (bool d, float[1,3] w) {
        w = Add (v, v)
        d = Identity (c)
    }> (n, always, x)
}"""
UNKNOWN = "(float[1,3] x) => (float[1,3] y) { r = Relu (x) [frob_7] y = acme.Frobnicate (r) }"
CONSTANT = "(float[1,3] x) => (float[1,3] y, float[2] z) { y = Relu (x) z = Identity (k) }"
DYNAMIC = """(float[N,3,H,W] x) => (float[N,7,1,1] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w)
    y = GlobalAveragePool (c)
}"""
# What some of them must compute, and others refuse.
OTHERS = {
    "argmax": parse("(float[2,6] x) => (int64[2] y) { y = ArgMax <axis = 1, keepdims = 0> (x) }"),
    "unknown": parse(UNKNOWN, domain="acme"),
    "loop": parse(LOOP, {"always": True}),
    "constant output": parse(CONSTANT, {"k": (2,)}),
    "dynamic": parse(DYNAMIC, {"w": (7, 3, 3, 3)}),  # bound by the harness, not in the file
    "five dimensions": parse("(float[1,2,3,4,5] x) => (float[1,2,3,4,5] y) { y = Exp (x) }"),
}
Bound = dict[str, tuple[int, ...]]


def signature(proto: Any, bound: Bound) -> Signature:
    def spec(value: Any) -> ValueSpec:
        if value.type.WhichOneof("value") != "tensor_type":
            return ValueSpec(value.name, "", None, "sequence")
        tensor = value.type.tensor_type
        is_text = tensor.elem_type == TensorProto.STRING
        dtype = "string" if is_text else str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
        return ValueSpec(value.name, dtype, bound.get(value.name, shape))

    held = {value.name for value in proto.graph.initializer}
    inputs = tuple(spec(value) for value in proto.graph.input if value.name not in held)
    return Signature(inputs, tuple(map(spec, proto.graph.output)))


@dataclass
class Kit:
    """The harness's side of one backend. Models go by name, or are parsed where they are needed."""

    backend: Backend
    folder: Path
    tools: BoundedTools
    converted: dict[Any, Artifact] = field(repr=False)

    parse = staticmethod(parse)

    def proto(self, what: Any) -> Any:
        return (MODELS | OTHERS)[what] if isinstance(what, str) else what

    def model(self, what: Any, *, bound: Bound | None = None, external: bool = False) -> Model:
        proto, root = onnx.ModelProto(), self.folder / f"model{len(list(self.folder.iterdir()))}"
        proto.CopyFrom(self.proto(what))  # saving with external data empties the weights of what it saves
        made = signature(proto, bound or {})
        root.mkdir()
        where = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0} if external else {}
        onnx.save(proto, root / "tiny.onnx", **where)
        files = ("tiny.onnx", "w.bin") if external else ("tiny.onnx",)
        digest = hashlib.sha256(b"".join((root / name).read_bytes() for name in files)).hexdigest()
        return Model("tiny", root, files, digest, proto.opset_import[0].version, made)

    def prepare(self, model: Model) -> Artifact:
        """Prepared once for all tests, and then as it arrives elsewhere: in another folder, `meta` through JSON."""
        key = (self.backend.name, model.sha256, model.signature)
        if key not in self.converted:
            workdir = Path(f"{model.root}-made")
            workdir.mkdir()
            made = self.backend.prepare(model, self.options(), workdir, self.tools)
            if self.backend.prepares == "nothing":
                return made
            assert {path.name for path in workdir.iterdir()} == set(made.files)
            self.converted[key] = made
        made, moved = self.converted[key], Path(f"{model.root}-moved")
        shutil.copytree(made.root, moved)
        return Artifact(moved, made.files, made.signature, json.loads(json.dumps(dict(made.meta))))

    def options(self, *, threads: int = 1, precision: str = "model", **extra: Any) -> Options:
        defaults = {option.name: option.default for option in self.backend.options}
        return Options(threads, precision, extra=defaults | extra)

    def load(self, what: Any, *, bound: Bound | None = None, external: bool = False, **options: Any) -> Session:
        artifact = self.prepare(self.model(what, bound=bound, external=external))
        return self.backend.load(artifact, self.options(**options))

    def feeds(self, what: Any, seed: int = 0, bound: Bound | None = None) -> dict[str, Any]:
        generator = np.random.default_rng(seed)

        def feed(value: ValueSpec) -> Any:
            whole = value.dtype.startswith("int")
            drawn = generator.integers(0, 9, value.shape) if whole else generator.standard_normal(value.shape)
            return np.asarray(drawn, value.dtype)

        return {value.name: feed(value) for value in signature(self.proto(what), bound or {}).inputs}

    def compare(self, session: Session, what: Any, feeds: dict[str, Any]) -> None:
        """Run, and compare names, types, shapes and values with onnx's evaluator; the feeds must not change."""
        proto, before = self.proto(what), {name: value.copy() for name, value in feeds.items()}
        got = session.run(feeds)
        for name, value in before.items():
            np.testing.assert_array_equal(feeds[name], value)
        assert list(got) == [value.name for value in proto.graph.output]
        for (name, value), wanted in zip(got.items(), ReferenceEvaluator(proto).run(None, before), strict=True):
            wanted = np.asarray(wanted)
            assert isinstance(value, np.ndarray), name
            assert (value.shape, value.dtype) == (wanted.shape, wanted.dtype), name
            scale = float(np.abs(wanted.astype(np.float64)).max()) or 1.0
            np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-4 * scale, err_msg=name)

    def agrees(self, what: Any, *, bound: Bound | None = None, **options: Any) -> None:
        """A new session that computes what onnx's evaluator does, for two inputs."""
        with self.load(what, bound=bound, **options) as session:
            for seed in range(2):
                self.compare(session, what, self.feeds(what, seed, bound))

    def threads_of(self, count: int) -> int:
        """How many threads a fresh process has after loading with `count` and running."""
        artifact, kind = self.prepare(self.model("feature map")), type(self.backend)
        program = f"""
        import os, sys
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        import numpy as np
        from bench.interface import Artifact, Options, Signature, ValueSpec
        from {kind.__module__} import {kind.__name__} as Kind
        made = Signature((ValueSpec("x", "float32", (1, 3, 5, 5)),), (ValueSpec("y", "float32", (1, 7, 5, 5)),))
        artifact = Artifact(Path({str(artifact.root)!r}), {artifact.files!r}, made, {dict(artifact.meta)!r})
        session = Kind().load(artifact, Options({count}, extra={dict(self.options().extra)!r}))
        session.run({{"x": np.zeros((1, 3, 5, 5), np.float32)}})
        print("threads", len(os.listdir("/proc/self/task")))
        """
        # numpy's own threads would hide the runtime's.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        argv = [sys.executable, "-c", textwrap.dedent(program)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True, env=environment)
        return int(done.stdout.split("threads ")[-1])


@pytest.fixture(scope="session")
def converted():
    """What was converted in this session, for the kits."""
    return {}


@pytest.fixture
def kit_of(request, tmp_path, converted):
    """A function: a backend's name to its Kit; skips where the runtime, or what it needs, is missing."""

    def of(name: str) -> Kit:
        backend = find(name).create()
        try:
            importlib.import_module(MODULES[name])
        except ImportError:
            pytest.skip(f"needs {MODULES[name]}: {backend.install}")
        binary = request.getfixturevalue("pnnx") if backend.tools else None
        return Kit(backend, tmp_path, BoundedTools(lambda tool: binary), converted)

    return of


@pytest.fixture(params=list(MODELS))
def name_of_model(request):
    """Each of the models that every runtime must compute, by name."""
    return request.param


@pytest.fixture
def squeezenet() -> Any:
    """A real architecture from onnx's own wheel; its weights are ConstantOfShape nodes, IR 3."""
    return onnx.load(Path(onnx.backend.test.__file__).parent / "data" / "light" / "light_squeezenet.onnx")
