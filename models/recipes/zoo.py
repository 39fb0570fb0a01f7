"""Nine image classifiers of the ONNX model zoo, from the weightless copies in the onnx wheel, with seeded weights.

Plain random weights make poor tests: deep nets saturate or no longer see their input. So one run over a few images
normalises every layer: BatchNormalization gets the statistics of what it really receives, a Conv or Gemm with a bias is
rescaled and centred, and the last layer is scaled to logits of a classifier's spread. Nothing is downloaded.

ONNX Runtime is needed, not only preferred: onnx's own evaluator (1.23) updates the BatchNormalization statistics of
opset 9 at inference, so its answers for most of these files are wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python -I leaves this folder out

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from testdata import (
    IMAGE,
    Array,
    Liveness,
    Refused,
    Tensors,
    block_images,
    calibration_images,
    check_alive,
    input_generator,
    main,
    write_data_sets,
    write_model,
    write_provenance,
)

FILES = {
    "alexnet": "bvlc_alexnet",
    "densenet121": "densenet121",
    "inception_v1": "inception_v1",
    "inception_v2": "inception_v2",
    "resnet50": "resnet50",
    "shufflenet": "shufflenet",
    "squeezenet": "squeezenet",
    "vgg19": "vgg19",
    "zfnet512": "zfnet512",
}
TOP_LOGIT = 6.0
"""How far the largest logit of a calibration image may stand above the mean: softmax then gives it at most 0.29."""
SHIFT = 0.5
"""Mean of what goes into a ReLU of unit spread. At 0 the nets are chaotic: inception_v2 then multiplies rounding errors
4 times more (6e-5 of the output's scale between two ways to run it). Source: measured on x86-64, November 2026."""
BRANCH_SCALE = 0.3
"""A residual branch beside its shortcut, as in trained nets. resnet50's rounding error falls to 7e-6 from 1e-4."""


def evaluate(model: onnx.ModelProto | Path, feeds: Sequence[Tensors], outputs: Sequence[str]) -> list[dict[str, Array]]:
    """The named values for each of the feeds, by ONNX Runtime as plainly as it can run."""
    try:
        import onnxruntime
    except ImportError as error:
        raise Refused('onnxruntime is not installed; run: pip install "deploybench[cpu]"') from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")  # it costs one more copy of the weights
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return [dict(zip(outputs, session.run(list(outputs), dict(given)), strict=True)) for given in feeds]


def runtime_version() -> str:
    """The version of the runtime behind `evaluate`."""
    import onnxruntime

    return str(onnxruntime.__version__)


class Architecture:
    """One weightless model: its graph without the constants, and which tensor plays which part in it."""

    def __init__(self, name: str) -> None:
        folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
        path = folder / f"light_{FILES[name]}.onnx"
        if not path.is_file():
            raise Refused(f"onnx {onnx.__version__} ships no light_{FILES[name]}.onnx; onnx 1.23 does")
        self.model = onnx.load(path)
        graph = self.model.graph
        initializers = {tensor.name: tensor for tensor in graph.initializer}
        constants = [node for node in graph.node if node.op_type == "ConstantOfShape"]
        self.nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
        for node in self.nodes:
            # Opset 9 means axis 1. Converters read the missing attribute as today's default, the last axis, and answer
            # 1.0 everywhere for squeezenet (pnnx 20261020, MNN 3.6.1): so the file says what it means.
            if node.op_type == "Softmax" and not node.attribute:
                node.attribute.append(helper.make_attribute("axis", 1))
        self.input = next(value.name for value in graph.input if value.name not in initializers)
        self.output = graph.output[0].name
        # The files keep small trained tensors as they are; all float ones are made anew, so that the seed decides all.
        shapes = {node.output[0]: numpy_helper.to_array(initializers[node.input[0]]).tolist() for node in constants}
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        shapes.update({tensor.name: list(tensor.dims) for tensor in kept if tensor.data_type == TensorProto.FLOAT})
        self.integers = [tensor for tensor in kept if tensor.data_type != TensorProto.FLOAT]
        self.shapes: dict[str, list[int]] = shapes

    def source(self, name: str) -> str:
        """The constant that `name` is, seen through Reshape and Unsqueeze."""
        makers = {output: node for node in self.nodes for output in node.output}
        while name not in self.shapes:
            name = str(makers[name].input[0])
        return name

    def weights(self) -> Iterator[tuple[str, str]]:
        """(name, part) of every float constant in the order of the graph; the part is an operator and a position."""
        through = {name: name for name in self.shapes}
        for node in self.nodes:
            for position, name in enumerate(node.input):
                if name not in through:
                    continue
                if node.op_type in ("Reshape", "Unsqueeze"):
                    through[node.output[0]] = through[name]
                else:
                    yield through[name], f"{node.op_type} {position}"

    def branch_scales(self) -> list[str]:
        """Scales of the BatchNormalization that ends each residual branch: what makes the first term of a Sum."""
        ends = {node.input[0] for node in self.nodes if node.op_type == "Sum"}
        return [n.input[1] for n in self.nodes if n.op_type == "BatchNormalization" and n.output[0] in ends]

    def batched_shapes(self) -> set[str]:
        """Shapes given to a Reshape of what depends on the image: their first number is the batch."""
        return {n.input[1] for n in self.nodes if n.op_type == "Reshape" and n.input[0] not in self.shapes}

    def biased(self) -> list[NodeProto]:
        """Conv and Gemm nodes with a bias: those that can be centred. The others feed a BatchNormalization."""
        return [node for node in self.nodes if node.op_type in ("Conv", "Gemm") and len(node.input) == 3]

    def logits(self) -> str:
        """The tensor before the softmax, or the output where there is none."""
        return str(next((node.input[0] for node in self.nodes if node.op_type == "Softmax"), self.output))


def seeded(architecture: Architecture, rng: np.random.Generator) -> dict[str, Array]:
    """He-normal weights, zero biases, and scales and shifts that are not neutral, so that losing one is seen."""
    made: dict[str, Array] = {}
    for name, part in architecture.weights():
        shape = architecture.shapes[name]
        if part in ("Conv 1", "Gemm 1"):
            made[name] = rng.standard_normal(shape, dtype=np.float32)
            made[name] *= np.float32(np.sqrt(2 / np.prod(shape[1:])))
        elif part in ("BatchNormalization 1", "Mul 1"):
            made[name] = rng.uniform(0.75, 1.25, shape).astype(np.float32)
        elif part in ("BatchNormalization 2", "Add 1"):
            made[name] = rng.uniform(0.5 * SHIFT, 1.5 * SHIFT, shape).astype(np.float32)
        elif part in ("Conv 2", "Gemm 2", "BatchNormalization 3", "BatchNormalization 4"):
            made[name] = np.zeros(shape, dtype=np.float32)  # calibration decides
        else:
            raise Refused(f"weight {name!r} is used as {part}, which this recipe does not know how to fill")
    for name in architecture.branch_scales():
        made[name] *= np.float32(BRANCH_SCALE)
    return made


def _mean_nodes(source: str, target: str, axes: Sequence[int]) -> list[NodeProto]:
    """Nodes that write `<target>_mean`, `<target>_rest` (source minus mean) and `<target>_var`, kept broadcastable."""
    mean, rest, square = f"{target}_mean", f"{target}_rest", f"{target}_square"
    return [
        helper.make_node("ReduceMean", [source], [mean], axes=axes, keepdims=1),
        helper.make_node("Sub", [source, mean], [rest]),
        helper.make_node("Mul", [rest, rest], [square]),
        helper.make_node("ReduceMean", [square], [f"{target}_var"], axes=axes, keepdims=1),
    ]


def _live_norm(node: NodeProto) -> list[NodeProto]:
    """A BatchNormalization with the statistics of what flows through it now."""
    target = node.output[0]
    live = NodeProto()
    live.CopyFrom(node)
    live.input[3], live.input[4] = f"{target}_mean_row", f"{target}_var_row"
    rows = [helper.make_node("Reshape", [f"{target}_{p}", "row"], [f"{target}_{p}_row"]) for p in ("mean", "var")]
    return [*_mean_nodes(node.input[0], target, [0, 2, 3]), *rows, live]


def _live_layer(node: NodeProto, *, last: bool) -> list[NodeProto]:
    """A Conv or Gemm whose output is centred by channel and brought to unit spread, then shifted if not the last."""
    target = node.output[0]
    raw = NodeProto()
    raw.CopyFrom(node)
    raw.output[0] = f"{target}_raw"
    unit = target if last else f"{target}_unit"
    nodes = [
        raw,
        *_mean_nodes(raw.output[0], target, [0] if node.op_type == "Gemm" else [0, 2, 3]),
        # One scale for the layer: a scale for each channel would blow up what hardly varies over so few images.
        helper.make_node("ReduceMean", [f"{target}_var"], [f"{target}_total"], keepdims=0),
        helper.make_node("Sqrt", [f"{target}_total"], [f"{target}_std"]),
        helper.make_node("Div", [f"{target}_rest", f"{target}_std"], [unit]),
    ]
    return nodes if last else [*nodes, helper.make_node("Add", [unit, "shift"], [target])]


def _calibration_model(architecture: Architecture, weights: Tensors, wanted: Sequence[str]) -> onnx.ModelProto:
    """The model for a batch of images, normalising as it goes. Weights are inputs: so they are not copied."""
    biased = [node.output[0] for node in architecture.biased()]
    nodes: list[NodeProto] = []
    for node in architecture.nodes:
        if node.op_type == "BatchNormalization":
            nodes.extend(_live_norm(node))
        elif node.output[0] in biased:
            nodes.extend(_live_layer(node, last=node.output[0] == biased[-1]))
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    helpers: dict[str, Array] = {"row": np.array([-1], dtype=np.int64), "shift": np.array(SHIFT, dtype=np.float32)}
    constants = [numpy_helper.from_array(values, name) for name, values in helpers.items() if name in used]
    for tensor in architecture.integers:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name in architecture.batched_shapes():
            values[0] = 0  # Reshape: "as the input has it", where the file says 1
        constants.append(numpy_helper.from_array(values, tensor.name))
    inputs = [helper.make_tensor_value_info(architecture.input, TensorProto.FLOAT, [None, *IMAGE])]
    inputs += [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(w.shape)) for n, w in weights.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted]
    graph = helper.make_graph(nodes, "calibration", inputs, outputs, constants)
    return helper.make_model(graph, ir_version=4, opset_imports=list(architecture.model.opset_import))


def calibrate(architecture: Architecture, weights: dict[str, Array], batch: Array) -> None:
    """Change `weights` so that every layer works at unit scale, and no logit is more than TOP_LOGIT above the mean."""
    norms = [node for node in architecture.nodes if node.op_type == "BatchNormalization"]
    biased, logits = architecture.biased(), architecture.logits()
    wanted = [f"{node.output[0]}_{part}" for node in norms for part in ("mean", "var")]
    wanted += [f"{node.output[0]}_{part}" for node in biased for part in ("mean", "std")]
    model = _calibration_model(architecture, weights, [*wanted, logits])
    (found,) = evaluate(model, [{architecture.input: batch, **weights}], [*wanted, logits])
    for node in norms:
        weights[node.input[3]] = found[f"{node.output[0]}_mean"].reshape(-1)
        variance = found[f"{node.output[0]}_var"].reshape(-1)
        weights[node.input[4]] = np.maximum(variance, variance.mean() * np.float32(1e-3))  # a dead channel stays quiet
    rows = found[logits].reshape(len(batch), -1)
    top = (rows.max(axis=1) - rows.mean(axis=1)).max()
    for node in biased:
        last = node is biased[-1]
        factor = np.float32(TOP_LOGIT / top if last else 1) / found[f"{node.output[0]}_std"]
        weights[architecture.source(node.input[1])] *= factor
        shift = np.float32(0 if last else SHIFT)
        weights[node.input[2]] = shift - found[f"{node.output[0]}_mean"].reshape(-1) * factor


def finished(architecture: Architecture, weights: dict[str, Array]) -> onnx.ModelProto:
    """The architecture with its weights as initializers, which it alone lists; `weights` is emptied to save memory."""
    graph = architecture.model.graph
    image = next(value for value in graph.input if value.name == architecture.input)
    made = helper.make_graph(architecture.nodes, graph.name, [image], graph.output, architecture.integers)
    for name in list(weights):
        values = weights.pop(name)
        made.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=values.shape, raw_data=values.tobytes())
    opsets = list(architecture.model.opset_import)
    # IR 4, the first that need not list initializers among the inputs, is the one that belongs to opset 9.
    return helper.make_model(made, ir_version=4, opset_imports=opsets, producer_name="deploybench")


def build(out: Path, name: str, seed: int, count: int) -> Mapping[str, Liveness]:
    """Write the files of one architecture; the figures of its output."""
    architecture = Architecture(name)
    rng = np.random.default_rng(seed)
    weights = seeded(architecture, rng)
    calibrate(architecture, weights, calibration_images(rng))
    path = write_model(out, finished(architecture, weights))
    onnx.checker.check_model(path)
    inputs = [{architecture.input: block_images(input_generator(seed, index), 1)} for index in range(count)]
    outputs = evaluate(path, inputs, [architecture.output])
    figures = check_alive(*outputs[:2])
    write_data_sets(out, list(zip(inputs, outputs, strict=True)))
    settings = "cpu, optimisations off, prepacking off, 1 thread"
    write_provenance(out, producer="onnxruntime", version=runtime_version(), settings=settings, seed=seed)
    return figures


if __name__ == "__main__":
    sys.exit(main(build, sorted(FILES)))
