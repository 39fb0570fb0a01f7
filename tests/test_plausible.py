"""Plausibility: operations count as papers count them, the bound accuses nothing that was measured, and lies show."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bench import fold as folds
from bench import record as r
from bench.cache import Cache
from bench.errors import BenchError
from bench.evidence import peaks as device
from bench.evidence.load import Load
from bench.interface import Options
from bench.plausible import operations, operators, peaks
from bench.plausible.bound import FEATURES, most_flop_per_s
from bench.report import words
from bench.store import read_lines, run_files

ROOT = Path(__file__).parent.parent
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
LINES = list(read_lines(ROOT / "tests" / "golden" / "schema-1.jsonl"))
CASE = next(line for line in LINES if isinstance(line, r.CaseLine))
TRIAL = next(line for line in LINES if isinstance(line, r.TrialLine))
replace = msgspec.structs.replace
F = TensorProto.FLOAT


class Net:
    """A model that is written node by node; the last node's first output is its output."""

    def __init__(self, **inputs):
        self.inputs = [helper.make_tensor_value_info(n, F, shape) for n, shape in inputs.items()]
        self.nodes, self.weights, self.rng = [], [], np.random.default_rng(0)

    def weight(self, *shape, values=None):
        values = self.rng.standard_normal(shape).astype(np.float32) if values is None else values
        self.weights.append(numpy_helper.from_array(values, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def add(self, kind, *inputs, outputs=1, domain="", **attributes):
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def model(self, *outputs, opset=17):
        outputs = outputs or self.nodes[-1].output[:1]
        ends = [helper.make_tensor_value_info(name, F, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, ends, self.weights)
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.fixture
def count(tmp_path):
    def counted(net, *outputs, **more):
        proto = net if isinstance(net, onnx.ModelProto) else net.model(*outputs, **more)
        onnx.save(proto, tmp_path / "model.onnx")
        return operations.count(tmp_path / "model.onnx")

    return counted


def convolution(image, weights, **attributes):
    net = Net(x=image)
    net.add(attributes.pop("kind", "Conv"), "x", net.weight(*weights), **attributes)
    return net


# name: image, weights, attributes, multiply-adds, the least of them. Channels are few, so that Strassen saves nothing.
CONVOLUTIONS = {
    # 2 outputs in and out, 8x8 images; one product per pixel is the least that a 3x3 needs
    "3x3, padded": ([1, 2, 8, 8], [3, 2, 3, 3], {"pads": [1] * 4}, 6 * 64 * 9, 6 * 64),
    "3x3, valid": ([1, 2, 8, 8], [3, 2, 3, 3], {}, 6 * 36 * 9, 6 * 64),
    "1x1": ([1, 2, 8, 8], [3, 2, 1, 1], {}, 6 * 64, 6 * 64),
    "1x1, stride 2": ([1, 2, 8, 8], [3, 2, 1, 1], {"strides": [2, 2]}, 6 * 16, 6 * 16),
    "batch": ([4, 2, 8, 8], [3, 2, 1, 1], {}, 4 * 6 * 64, 4 * 6 * 64),
    "depthwise": ([1, 6, 8, 8], [6, 1, 3, 3], {"group": 6, "pads": [1] * 4}, 6 * 64 * 9, 6 * 64),
    "grouped": ([1, 6, 8, 8], [4, 3, 1, 1], {"group": 2}, 4 * 3 * 64, 4 * 3 * 64),
    # 7x7 over a 7x7 image, as a classifier's first dense layer: every weight is used once
    "whole image": ([1, 2, 7, 7], [3, 2, 7, 7], {}, 6 * 49, 6 * 49),
    # one pixel, padded: 9 taps are written, one reads something
    "padding only": ([1, 2, 1, 1], [3, 2, 3, 3], {"pads": [1] * 4}, 6 * 9, 6),
    "stride 2": ([1, 2, 9, 9], [3, 2, 3, 3], {"strides": [2, 2]}, 6 * 16 * 9, 6 * 81),
    "dilated": ([1, 2, 9, 9], [3, 2, 3, 3], {"dilations": [2, 2]}, 6 * 25 * 9, 6 * 81),
    "same": ([1, 2, 5, 5], [3, 2, 3, 3], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, 6 * 9 * 9, 6 * 25),
    "one axis": ([1, 2, 10], [3, 2, 3], {}, 6 * 8 * 3, 6 * 10),
    "volume": ([1, 1, 4, 4, 4], [1, 1, 2, 2, 2], {}, 27 * 8, 64),
    # 3x3 inputs to 6x6 outputs, kernel 2, stride 2: every tap lands on an output of its own
    "transposed": ([1, 2, 3, 3], [2, 3, 2, 2], {"kind": "ConvTranspose", "strides": [2, 2]}, 6 * 9 * 4, 6 * 36),
    # cropped by its pads to the inner 2x2 outputs, for which all nine weights are needed
    "transposed, cropped": (
        [1, 2, 2, 2],
        [2, 3, 3, 3],
        {"kind": "ConvTranspose", "pads": [1] * 4},
        6 * 4 * 9,
        6 * 9,
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_count_as_by_hand(count, name):
    image, weights, attributes, macs, least = CONVOLUTIONS[name]
    found = count(convolution(image, weights, **attributes))
    assert (found.macs, found.least_macs, found.uncounted) == (macs, least, ())


def test_matrix_products_count_as_by_hand(count):
    net = Net(x=[2, 5], z=[4, 3, 2, 5])
    dense = net.add("Gemm", "x", net.weight(7, 5), net.weight(7), transB=1)
    turned = net.add("Gemm", "x", net.weight(2, 3), transA=1)
    batched = net.add("MatMul", "z", net.weight(5, 6))
    vector = net.add("MatMul", "x", net.weight(5))
    assert count(net, dense).macs == count(net, dense).least_macs == 2 * 5 * 7
    assert count(net, turned).macs == 5 * 2 * 3
    assert count(net, batched).macs == 4 * 3 * 2 * 5 * 6
    assert count(net, vector).macs == 2 * 5
    assert count(net, dense, turned, batched, vector).macs == 70 + 30 + 720 + 10


def test_attention_counts_its_two_products_and_half_of_them_may_be_masked(count):
    heads, length, depth = 2, 6, 3
    net = Net(q=[1, heads, length, depth], k=[1, heads, length, depth], v=[1, heads, length, depth])
    scores = net.add("MatMul", "q", net.add("Transpose", "k", perm=[0, 1, 3, 2]))
    net.add("MatMul", net.add("Softmax", scores), "v")
    found = count(net)
    assert found.macs == 2 * heads * length * length * depth
    assert found.least_macs == found.macs // 2


@pytest.mark.parametrize(("size", "levels"), [(4, 0), (7, 0), (8, 1), (64, 4), (128, 5), (1024, 5)])
def test_large_matrix_products_may_be_strassen_s(count, size, levels):
    net = Net(x=[size, size])
    net.add("MatMul", "x", net.weight(size, size))
    assert count(net).least_macs == int(size**3 * (7 / 8) ** levels)


def test_quantised_recurrent_and_written_out_products(count):
    net = Net(x=[3, 1, 8])
    net.add("LSTM", "x", net.weight(1, 16, 8), net.weight(1, 16, 4), hidden_size=4, outputs=3)
    assert count(net).macs == 3 * 16 * (8 + 4)
    net = Net(a=[2, 3, 4], b=[2, 4, 5])
    net.add("Einsum", "a", "b", equation="bij,bjk->bik")
    assert count(net).macs == 2 * 3 * 4 * 5
    net = Net(x=[2, 4])
    quantised, scale, zero = net.add("DynamicQuantizeLinear", "x", outputs=3)
    product = net.add("MatMulInteger", quantised, net.weight(values=np.ones((4, 6), np.uint8)), zero)
    net.add("Mul", net.add("Cast", product, to=F), scale)
    assert count(net).macs == 2 * 4 * 6


def test_what_is_known_beforehand_or_leads_nowhere_costs_nothing(count):
    net = Net(x=[2, 4])
    folded = net.add("MatMul", net.weight(4, 9), net.weight(9, 4))
    net.add("MatMul", "x", net.weight(4, 1000))  # nobody reads it
    shape = net.add("Shape", net.add("MatMul", "x", net.weight(4, 77)))
    rows = net.add("Gather", shape, net.weight(values=np.int64(0)))
    net.add("Add", net.add("MatMul", "x", folded), net.add("Cast", rows, to=F))
    found = count(net)
    assert (found.macs, found.least_macs) == (2 * 4 * 4, 2 * 4 * 4)
    assert found.parameters == 2 * 36, "weights that nobody needs are none"


def test_the_same_node_twice_costs_once(count):
    net = Net(x=[2, 4])
    weight = net.weight(4, 4)
    net.add("Add", net.add("MatMul", "x", weight), net.add("Relu", net.add("MatMul", "x", weight)))
    assert count(net).macs == 2 * 4 * 4


def test_zero_weights_may_be_skipped(count):
    sparse = np.zeros((64, 64), np.float32)
    sparse[:16, :1] = 1
    net = Net(x=[1, 64])
    net.add("MatMul", "x", net.weight(values=sparse))
    assert (count(net).macs, count(net).least_macs) == (64 * 64, 16)


def test_before_a_selection_only_its_part_is_needed(count):
    net = Net(x=[1, 8, 4])
    product = net.add("MatMul", "x", net.weight(4, 4))
    net.add("Gather", product, net.weight(values=np.int64(0)), axis=1)
    assert (count(net).macs, count(net).least_macs) == (8 * 16, 16)
    assert count(net, product, net.nodes[-1].output[0]).least_macs == 8 * 16, "an output needs all of it"
    left, right = net.add("Split", product, outputs=2, axis=1, num_outputs=2)
    assert count(net, left, right, opset=18).least_macs == 8 * 16
    assert count(net, left, opset=18).least_macs == 4 * 16


def body(name, net, size):
    graph = net.model().graph
    graph.name = name
    del graph.input[:]
    graph.output[0].CopyFrom(helper.make_tensor_value_info(graph.output[0].name, F, [1, size]))
    return graph


def test_of_branches_the_cheaper_counts_and_loops_may_not_turn(count):
    cheap, dear = Net(), Net()
    cheap.add("MatMul", "x", cheap.weight(4, 2))
    dear.add("MatMul", dear.add("MatMul", "x", dear.weight(4, 100)), dear.weight(100, 2))
    for index, tensor in enumerate(dear.weights):  # names are one space
        tensor.name = f"d{index}"
    for node, names in zip(dear.nodes, (["x", "d0"], ["v0_0", "d1"]), strict=True):
        node.input[:] = names
        node.output[0] = f"d_{node.output[0]}"
    dear.nodes[1].input[0] = "d_v0_0"
    net = Net(x=[1, 4], c=[1])
    choice = net.add("Cast", net.add("Squeeze", "c"), to=TensorProto.BOOL)
    net.add("If", choice, then_branch=body("dear", dear, 2), else_branch=body("cheap", cheap, 2))
    found = count(net)
    assert (found.macs, found.least_macs, found.uncounted) == (8, 8, ())


def test_unknown_operators_count_as_nothing_and_are_named(count):
    net = Net(x=[1, 4])
    unknown = net.add("Mystery", "x", domain="com.microsoft")
    net.add("MatMul", net.add("MatMul", unknown, net.weight(4, 4)), net.weight(4, 2))
    found = count(net)
    assert found.macs == 0
    assert found.uncounted == ("MatMul (shapes unknown)", "Mystery")


def test_bytes_are_weights_inputs_and_outputs_without_tables_that_are_looked_up_in(count):
    net = Net(x=[2, 4])
    net.inputs.append(helper.make_tensor_value_info("ids", TensorProto.INT64, [3]))
    product = net.add("MatMul", "x", net.weight(4, 6))
    rows = net.add("Gather", net.weight(500, 6), "ids")
    found = count(net, product, rows)
    assert found.bytes == 4 * (2 * 4 + 4 * 6 + 2 * 6 + 3 * 6) + 8 * 3
    assert found.parameters == 24 + 3000


def test_external_weights_and_unreadable_files(count, tmp_path):
    net = Net(x=[1, 64])
    net.add("MatMul", "x", net.weight(64, 64))
    onnx.save(net.model(), tmp_path / "big.onnx", save_as_external_data=True, size_threshold=0)
    assert operations.count(tmp_path / "big.onnx") == count(net)
    (tmp_path / "bad.onnx").write_bytes(b"\x00\x01")
    with pytest.raises(BenchError, match=r"bad\.onnx cannot be counted"):
        operations.count(tmp_path / "bad.onnx")


# Multiply-adds of one 224x224 image in millions. Source: torchvision's table of weights ("GFLOPS" there are multiply-
# adds; resnet50, vgg19, squeezenet1_1, densenet121), and for AlexNet and GoogLeNet S. Albanie, convnet-burden
# (1.50 by torchvision as well). The zoo's SqueezeNet is 1.1, whatever its folder says.
PUBLISHED = {
    "resnet50": 4089,
    "vgg19": 19632,
    "squeezenet": 349,
    "densenet121": 2834,
    "bvlc_alexnet": 714,
    "inception_v1": 1498,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_networks_count_as_published(name):
    found = operations.count(LIGHT / f"light_{name}.onnx")
    assert found.macs / 1e6 == pytest.approx(PUBLISHED[name], rel=0.1)
    assert found.uncounted == ()
    assert found.macs / 18 <= found.least_macs < found.macs, "ninefold by fast convolutions, twofold by Strassen"


def test_the_rule_for_3x3_lies_below_winograd_s():
    """F(6x6, 3x3) needs 64 products for 36 outputs, the best in use: the bound must not be above it."""
    net = convolution([1, 64, 56, 56], [64, 64, 3, 3], pads=[1] * 4).model()
    direct, least = 56 * 56 * 64 * 64 * 9, 56 * 56 * 64 * 64
    scope = operators.Scope({"x": (1, 64, 56, 56), "w0": (64, 64, 3, 3), "v0_0": (1, 64, 56, 56)}, {"w0": 1.0})
    macs, fewest = operators.COUNTERS["Conv"](net.graph.node[0], scope)
    assert macs == direct
    assert fewest <= least < direct * 64 / (36 * 9)


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2))
def test_an_axis_is_what_a_loop_over_it_finds(length, kernel, stride, dilation, begin):
    outputs = (length + 2 * begin - dilation * (kernel - 1) - 1) // stride + 1
    if outputs < 1:
        return
    found = operators._axis(outputs, length, kernel, stride, dilation, begin)
    reads = [
        (o, t, o * stride + t * dilation - begin)
        for o in range(outputs)
        for t in range(kernel)
        if 0 <= o * stride + t * dilation - begin < length
    ]
    assert found.taps == len(reads)
    assert (found.outputs, found.kernel, found.images) == tuple(len({x[i] for x in reads}) for i in range(3))


BOUND = {"features": ["avx", "avx2", "sse2"], "clock_hz": 3e9, "measured_flop_per_s": 80e9, "threads": 1, "cpus": 1}


def most(arch="x86_64", precision="fp32", **more):
    return most_flop_per_s(arch=arch, precision=precision, **{**BOUND, **more})


def test_the_bound_is_the_widest_arithmetic_at_the_highest_clock():
    assert most() == 32 * 6e9
    assert most(clock_hz=None) == 32 * 6.2e9, "a clock that is not told is the highest that there is"
    assert most(clock_hz=5e9) == 32 * 6.2e9, "turbo does not double what is turbo already"
    assert most(features=["sse2"], measured_flop_per_s=500e9) == 1000e9, "what was measured wins"
    assert most(cpus=4) == 4 * 32 * 6e9, "threads that nobody asked for may run on every CPU"
    assert most(features=["avx512f"], measured_flop_per_s=None) == 64 * 6e9
    assert most("aarch64", features=["asimd"], clock_hz=1.5e9) == max(32 * 3e9, 2 * 80e9)
    assert most("riscv64") is None
    assert most(features=[]) is None


def test_narrower_types_may_be_faster():
    assert most(precision="fp16") == most()
    assert most(precision="fp16", features=["avx512f", "avx512_fp16"]) == 2 * most(features=["avx512f"])
    assert most(precision="bf16", features=["avx512f", "amx_bf16"]) == 16 * most(features=["avx512f"])
    assert most(precision="int8") == 4 * most()
    assert most("aarch64", "int8", features=["asimd", "i8mm"]) == 8 * most("aarch64", features=["asimd"])


PEAKS = r.PeakFacts(
    threads=1,
    flop_per_s=105e9,
    copy_bytes_per_s=20e9,
    arch="x86_64",
    clock_hz=None,
    features=["avx512f"],
    numpy="2",
    foreign_cpu=0.0,
)


def counts_of(name):
    found = operations.count(LIGHT / f"light_{name}.onnx")
    return msgspec.convert(found, r.CountFacts, from_attributes=True)


def lines(name, milliseconds, *, peaks=PEAKS, device="cpu", precision="model", cpus=(0, 1)):
    model = replace(CASE.case.model, name=name, precision="fp32")
    case = replace(CASE, counts=counts_of(name), peaks=peaks, max_foreign_cpu=1.0, case=replace(CASE.case, model=model))
    samples = [int(milliseconds * 1e6) + i for i in range(-32, 32)]
    placement = r.PlacementFacts(device=device, precision=precision, nodes=None, affinity=list(cpus))
    series = [r.Series(scope="end_to_end", clock="host", samples_ns=samples)]
    return case, [replace(TRIAL, series=series, placement=placement, error=None)]


def folded(*args, **more):
    case, trials = lines(*args, **more)
    return folds.fold(case, trials, r.EndLine(schema=1, id=case.id, stopped_by="enough trials"))


def test_a_row_that_cannot_be_true_is_not_published():
    """ncnn's README of 2023: VGG in 0.56 ms, 55 TFLOP/s, on a telephone. Here on two CPUs."""
    record = folded("vgg19", 0.56)
    assert record.status == "implausible"
    assert record.why.startswith("vgg19 in 0.56 ms takes 4,510 GFLOP/s even by the fastest algorithms known")
    assert "this machine reaches 794 at the very most" in record.why
    assert not words.published(record)
    assert words.cell(record).startswith("implausible")
    assert folded("resnet50", 0.96).status == "implausible"


def test_what_is_fast_but_possible_is_published():
    record = folded("vgg19", 120)
    assert (record.status, record.why) == ("ok", "")
    assert record.work.flop_per_s == pytest.approx(2 * 19.632e9 / 0.120, rel=1e-3)
    assert record.work.share_of_peak == pytest.approx(327 / 105, rel=0.01), "Winograd is faster than what it is held to"
    assert record.work.least_ns == pytest.approx(3.18e6, rel=0.01)
    assert (words.gigaflops(record), words.of_peak(record)) == ("327", "312%")


def test_nobody_is_accused_on_what_is_not_known():
    for more, reason in (
        ({"peaks": None}, ""),
        ({"device": "cuda"}, "it is not known what cuda can do at most"),
        ({"peaks": replace(PEAKS, arch="riscv64")}, "riscv64"),
    ):
        record = folded("vgg19", 0.001, **more)
        assert record.status == "ok"
        assert reason in record.work.reason
        assert record.work.least_ns is record.work.share_of_peak is None
    busy = folded("vgg19", 0.56, peaks=replace(PEAKS, flop_per_s=None, copy_bytes_per_s=None, reason="others"))
    assert (busy.status, busy.work.share_of_peak, busy.work.reason) == ("implausible", None, "others")


def test_the_precision_that_was_used_decides():
    fast = 2.0  # ms: too fast for fp32 on two CPUs, not for 8 bits
    assert folded("vgg19", fast).status == "implausible"
    assert folded("vgg19", fast, precision="int8").status == "ok"


def test_older_lines_have_no_work():
    case, trials = lines("squeezenet", 5)
    record = folds.fold(replace(case, counts=None, peaks=None), trials, None)
    assert record.work is None
    assert (words.gigaflops(record), words.of_peak(record)) == ("–", "–")


# Records hold the hash of a model, not its graph: these are counted from the zoo's own graphs, which have its shapes.
COUNTABLE = ("squeezenet", "shufflenet", "inception_v1", "inception_v2", "densenet121", "resnet50", "vgg19")


def test_no_record_of_ours_comes_near_the_bound():
    """Every case that was measured here, on the machine that it was measured on, stays half as much again above it."""
    seen = 0
    for path in run_files([ROOT / "results" / "records"]):
        found = list(read_lines(path))
        for case in (x for x in found if isinstance(x, r.CaseLine) and x.case.model.name in COUNTABLE):
            trials = [x for x in found if isinstance(x, r.TrialLine) and x.id == case.id and x.series]
            if trials and all(dims[0] == 1 for dims in case.case.model.shapes.values()):
                peaks_ = case.peaks or PEAKS
                record = folds.fold(replace(case, counts=counts_of(case.case.model.name), peaks=peaks_), trials, None)
                assert record.status != "implausible", record.why
                assert record.latency.p50_ns > 1.5 * record.work.least_ns
                seen += 1
    assert seen >= 10


class Place:
    """A place whose worker says what it is told to."""

    device = "local"

    def __init__(self, folder, foreign):
        self.cache, self.foreign, self.asked, self.said = Cache(folder), foreign, 0, []
        self.core_ns = 1000
        self.host = self
        self.python = "python"
        self.say = self.said.append

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return None

    worker = property(lambda self: self)

    def ask(self, verb, args, limit_s):
        assert (verb, args["threads"]) == ("peaks", 2)
        self.asked += 1
        rates = {"flop_per_s": 1e9, "copy_bytes_per_s": 1e9, "threads": 2, "foreign_cpu": self.foreign}
        return {**rates, "core_ns": self.core_ns, "numpy": "2.4.6"}, b""


def asked(tmp_path, monkeypatch, foreign):
    place = Place(tmp_path, foreign)
    monkeypatch.setattr(peaks, "started", lambda *args, **more: place)
    return place


def test_peaks_are_measured_once_and_kept(tmp_path, monkeypatch):
    place = asked(tmp_path, monkeypatch, 0.01)
    first = peaks.Peaks(place, "board").of(None, Options(threads=2))
    assert peaks.Peaks(place, "board").of(None, Options(threads=2)) == first
    assert (place.asked, place.said) == (1, ["measuring what this machine can do at most (once)"])
    peaks.Peaks(place, "other board").of(None, Options(threads=2))
    peaks.Peaks(place, "board").of(None, Options(threads=2, cpus=(0,)))
    assert place.asked == 3


def test_peaks_of_a_busy_machine_are_not_kept_and_asked_for_once_per_run(tmp_path, monkeypatch):
    place = asked(tmp_path, monkeypatch, 0.5)
    run = peaks.Peaks(place, "board")
    found = run.of(None, Options(threads=2))
    assert found["flop_per_s"] is found["copy_bytes_per_s"] is None
    assert found["reason"] == "others used 50% of the CPU while the machine's peak was measured"
    assert run.of(None, Options(threads=2)) == found
    assert place.asked == 1
    place.foreign = None  # not known is not busy
    assert peaks.Peaks(place, "board").of(None, Options(threads=2))["flop_per_s"] == 1e9


def test_how_fast_a_core_is_counts_for_all_peaks_and_is_not_forgotten(tmp_path, monkeypatch):
    place = asked(tmp_path, monkeypatch, 0.01)
    two, one_cpu = Options(threads=2), Options(threads=2, cpus=(0,))
    run = peaks.Peaks(place, "board")
    assert run.of(None, two)["core_ns"] == 1000
    place.core_ns = 990  # of other options: a little faster, and that counts for all
    assert run.of(None, one_cpu)["core_ns"] == 990
    assert run.of(None, two)["core_ns"] == 990
    run.learn("2.4.6", 995.5)  # slower than what is known
    run.learn("2.0.0", 500)  # another arithmetic
    assert run.of(None, two)["core_ns"] == 990
    assert place.asked == 2
    run.learn("2.4.6", 899.5)  # seen in trials: a neighbour was there when both were measured
    assert run.of(None, two)["core_ns"] == 900
    again = peaks.Peaks(place, "board")
    place.core_ns = 1100  # and there he is again
    assert again.of(None, two)["core_ns"] == 900
    assert again.of(None, two)["core_ns"] == 900
    assert place.asked == 3
    assert place.said[-2:] == [
        "a neighbour slowed this machine when its peak was measured",
        "measuring what this machine can do at most (once)",
    ]
    assert peaks.Peaks(place, "other board").of(None, two)["core_ns"] == 1100
    place.cache.clean("peaks")  # the machine has become another
    assert peaks.Peaks(place, "board").of(None, two)["core_ns"] == 1100


def test_a_device_measures_its_peaks(monkeypatch):
    for name, value in {"SECONDS_PER_SIZE": 0.01, "COPY_SECONDS": 0.01, "COPY_BYTES": 4 << 20, "SIZES": (64,)}.items():
        monkeypatch.setattr(device, name, value)
    assert device.flop_per_s() > 1e6
    assert device.copy_bytes_per_s(2) > 1e6
    assert device._fastest(lambda: None, 0.0) > 0


def test_the_measuring_process_is_a_script_that_stands_alone(monkeypatch):
    commands = []

    def run(command, *, env, **more):
        commands.append(command)
        assert {env[name] for name in device.THREADS_OF} == {"3"}
        return type("Done", (), {"stdout": b'noise\n{"flop_per_s": 5.0, "copy_bytes_per_s": 7.0}\n'})

    monkeypatch.setattr(device.subprocess, "run", run)
    monkeypatch.setattr("bench.evidence.load.between", lambda *at: Load(1.0, 0.25, 0.0, 0, 0))
    found = device.measure(3, FEATURES)
    assert (found.flop_per_s, found.copy_bytes_per_s, found.threads) == (5.0, 7.0, 3)
    assert 0.0 <= found.foreign_cpu <= 0.25
    assert set(found.features) <= FEATURES
    assert commands[0][1:] == ["-I", device.__file__, "3"]
    assert "from bench" not in Path(device.__file__).read_text().split("if __name__")[1]


def test_a_run_says_how_much_was_computed(cli, mlp_path):
    done = cli("run", mlp_path, "--batch", "1", "-b", "fake", "--trials", "1", "--max-foreign-cpu", "1", "--json")
    record = r.Record.from_json(done.stdout.encode())
    assert (done.code, record.status) == (0, "ok")
    assert record.work.flop == 2 * (16 * 32 + 32 * 4)
    assert record.work.parameters == 16 * 32 + 32 + 32 * 4 + 4
    assert record.work.peaks.threads == 1
    assert record.work.least_ns <= 1


def test_how_fast_a_free_core_is_is_known_of_a_model_that_multiplies_nothing(cli, tmp_path):
    """A tree, a lookup: nothing is too fast for it, but neighbours slow it as any other."""
    net = Net(x=(1, 64))
    net.add("Relu", "x")
    onnx.save(net.model(), tmp_path / "relu.onnx")
    done = cli("run", tmp_path / "relu.onnx", "-b", "ort-cpu", "--trials", "1", "--max-foreign-cpu", "1", "--json")
    record = r.Record.from_json(done.stdout.encode())
    assert (done.code, record.status) == (0, "ok")
    assert record.work.peaks.core_ns > 0
    assert record.work.flop_per_s is record.work.share_of_peak is record.work.least_ns is None
    assert record.work.reason == "the model multiplies nothing that is counted"
    assert (words.gigaflops(record), words.of_peak(record)) == ("–", "–")


def test_models_says_how_much_a_model_computes(cli):
    done = cli("models", "tiny_mlp", "tiny_dynamic", "--json")
    fixed, dynamic = (msgspec.json.decode(line) for line in done.stdout.splitlines())
    assert fixed["gflop"] > 0
    assert fixed["parameters"] == dynamic["parameters"] > 0
    assert dynamic["gflop"] is None
    assert "depends on the dimensions left open" in cli("models", "tiny_dynamic").stdout


def test_every_counter_survives_any_order_of_weights(count):
    """What a node reads may stand anywhere among the initializers."""
    image, weights, attributes, macs, least = CONVOLUTIONS["3x3, padded"]
    net = convolution(image, weights, **attributes)
    for size in (3, 5, 7):
        net.weight(size)
    random.Random(1).shuffle(net.weights)
    assert (count(net).macs, count(net).least_macs) == (macs, least)
