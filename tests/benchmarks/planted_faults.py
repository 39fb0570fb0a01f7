"""Plants faults into single nodes and searches for them. Prints a table: how many were named, in how many parts.

    python tests/benchmarks/planted_faults.py [--plants 200] [--pairs 40] [--seed 1]

Models: resnet50, densenet121, shufflenet, a transformer encoder, a net with several outputs. A plant counts only if the
saboteur's output fails fp32 parity. The search is the product's own; the parts are run in this process, by the same
backend classes that workers load, because a process for each of some thousand parts would take hours.
Targets: the exact node in 95 % of the plants, never a node downstream of an unnamed culprit; both of two plants in 80 %
of the pairs; at most 2 log2(N) + 6 parts per culprit.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from backends.ort import OrtCpu
from bench import onnxfile
from bench.cache import Cache
from bench.cli.options import default_cache
from bench.errors import BenchError
from bench.interface import Options
from bench.localize.layout import lay_out
from bench.localize.parts import Parts, Reference
from bench.localize.probe import Outcome, Prober, effect_of, errors_of, failed
from bench.localize.search import search
from bench.models import resolve
from bench.parity.compare import TOLERANCES, compare
from bench.registry import complete_options

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "third_party"))
import saboteur

MODELS = ("shufflenet", "transformer_encoder", "several_outputs", "resnet50", "densenet121")


class InProcess:
    """Runs models by a backend's class, here."""

    def __init__(self, backend: Any, **options: str) -> None:
        extra = complete_options(backend, {"spinning": "off", **options})
        self.backend, self.options = backend, Options(extra=extra)
        self.runs = 0

    def run(self, model: Any, feeds: Any, *, fresh: bool = False) -> Any:
        self.runs += 1
        try:
            artifact = model.as_it_is
            with self.backend.load(artifact, self.options) as session:
                return session.run(feeds)
        except BenchError as error:
            raise failed(error, "load") from error


def several_outputs(folder: Path) -> Path:
    """A trunk of convolutions and three heads at different depths, one of them with branches: float32[1, 3, 32, 32]."""
    rng = np.random.default_rng(7)
    held: dict[str, Any] = {}
    nodes: list[Any] = []

    def weight(*shape: int) -> str:
        name = f"w{len(held)}"
        scale = 1 / math.sqrt(max(1, math.prod(shape[1:])))
        held[name] = (rng.standard_normal(shape) * scale * 1.4).astype(np.float32)
        return name

    def make(op: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(nodes)}"
        nodes.append(helper.make_node(op, list(inputs), [name], name=f"{op}_{len(nodes)}", **attributes))
        return name

    def block(x: str, a: int, b: int) -> str:
        return make("Relu", make("Conv", x, weight(b, a, 3, 3), weight(b), pads=[1, 1, 1, 1]))

    def head(x: str, size: int, given: int) -> str:
        flat = make("Flatten", make("GlobalAveragePool", make("Sigmoid", block(x, size, size))))
        return make("Gemm", flat, weight(given, size), weight(given), transB=1)

    trunk, outputs = "x", []
    for depth, (a, b) in enumerate(((3, 8), (8, 16), (16, 16), (16, 16), (16, 24), (24, 24))):
        left, right = block(trunk, a, b), make("Conv", trunk, weight(b, a, 1, 1))
        trunk = make("Add", left, right)
        if depth % 2:
            outputs.append(head(trunk, b, 4 + depth))
    branches = [block(trunk, 24, 8), make("Tanh", make("Conv", trunk, weight(8, 24, 1, 1))), block(trunk, 24, 8)]
    outputs.append(make("MaxPool", make("Concat", *branches, axis=1), kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(value, name) for name, value in held.items()]
    graph = helper.make_graph(nodes, "several", [x], given, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / "several_outputs.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


@dataclass
class Subject:
    """A model with what every search of it shares."""

    name: str
    parts: Parts
    reference: Reference
    model: Any
    feeds: Any
    expected: Any
    proto: Any = field(repr=False)

    @property
    def places(self) -> list[tuple[str, str]]:
        """Every plant that it could take: kind and tensor, of nodes that lie on the way to an output."""
        weights = {t.name: t for t in self.proto.graph.initializer}
        live = {node.index for node in self.parts.layout.nodes}
        return [
            (kind, node.output[0])
            for index, node in enumerate(self.proto.graph.node)
            if index in live
            for kind in saboteur.possible(node, weights)
        ]


def subject(name: str, folder: Path, cache: Cache) -> Subject:
    reference = str(several_outputs(folder)) if name == "several_outputs" else name
    resolved = resolve(reference, cache, shapes={})
    file = onnxfile.read(resolved.model.path)
    layout = lay_out(onnxfile.nodes(file), resolved.model.signature, onnxfile.weights(file), onnxfile.types(file))
    light = onnxfile.light(file, folder / f"{Path(name).stem}-light")
    parts = Parts(light, layout, folder / f"{Path(name).stem}-parts")
    feeds = resolved.data_sets[0].feeds
    judged = Reference(parts, InProcess(OrtCpu(), optimization="off"), feeds)
    return Subject(name, parts, judged, resolved.model, feeds, judged.values(layout.outputs), file.proto)


@dataclass
class Result:
    """What one search came to."""

    planted: list[str]
    named: list[str]
    kinds: list[str]
    probes: list[int]
    seconds: float


def hunt(subject: Subject, plants: list[tuple[str, str]]) -> Result | None:
    """Search for the plants; None where they do not make the output fail."""
    text = ";".join(f"{kind}@{name}" for kind, name in plants)
    backend = InProcess(saboteur.Saboteur(), plants=text)
    tolerance = TOLERANCES["fp32"]
    report = compare(subject.expected, backend.run(subject.model, subject.feeds), tolerance)
    if report.passed:
        return None
    begin = time.perf_counter()
    prober = Prober(subject.parts, backend, subject.reference, tolerance)
    whole = Outcome(effect_of(report), errors_of(report), errors_of(report))
    found, _ = search(prober, whole, most=len(plants) + 1)
    named = [name for f in found if f.blamed for node in f.nodes for name in node.outputs[:1]]
    return Result(
        [name for _, name in plants],
        named,
        [f.kind for f in found],
        [f.probes for f in found],
        time.perf_counter() - begin,
    )


def singles(subject: Subject, count: int, rng: np.random.Generator, verbose: bool) -> list[Result]:
    found: list[Result] = []
    by_kind: dict[str, list[str]] = defaultdict(list)
    for kind, name in subject.places:
        by_kind[kind].append(name)
    kinds = sorted(by_kind)
    for attempt in range(count * 20):
        if len(found) == count:
            break
        kind = kinds[attempt % len(kinds)]
        name = by_kind[kind][rng.integers(len(by_kind[kind]))]
        result = hunt(subject, [(kind, name)])
        if result is not None:
            found.append(result)
            if verbose or result.named != result.planted:
                print(f"  {subject.name} {kind}@{name}: {result.kinds} {result.named} {result.probes}", flush=True)
    return found


def pairs(subject: Subject, count: int, rng: np.random.Generator, verbose: bool) -> list[Result]:
    """Two plants at once, each of which fails parity by itself."""
    found: list[Result] = []
    places = subject.places
    backend_ok: dict[tuple[str, str], bool] = {}

    def alone(place: tuple[str, str]) -> bool:
        if place not in backend_ok:
            runner = InProcess(saboteur.Saboteur(), plants=f"{place[0]}@{place[1]}")
            got = runner.run(subject.model, subject.feeds)
            backend_ok[place] = not compare(subject.expected, got, TOLERANCES["fp32"]).passed
        return backend_ok[place]

    for _ in range(count * 20):
        if len(found) == count:
            break
        first, second = (places[i] for i in rng.integers(len(places), size=2))
        if first[1] == second[1] or not (alone(first) and alone(second)):
            continue
        result = hunt(subject, [first, second])
        if result is not None:
            found.append(result)
            if verbose or set(result.named) != set(result.planted):
                print(f"  {subject.name} {first} {second}: {result.kinds} {result.named} {result.probes}", flush=True)
    return found


def budget(nodes: int) -> int:
    return math.floor(2 * math.log2(nodes) + 6)


def row(name: str, nodes: int, results: list[Result], twos: list[Result], made: dict[str, int]) -> tuple[Any, ...]:
    exact = sum(r.named == r.planted for r in results)
    wrong = sum(bool(set(r.named) - set(r.planted)) for r in (*results, *twos))
    both = sum(set(r.planted) <= set(r.named) for r in twos)
    most = max((p for r in (*results, *twos) for p in r.probes), default=0)
    seconds = np.median([r.seconds for r in results]) if results else math.nan
    return name, nodes, len(results), exact, wrong, len(twos), both, most, budget(nodes), seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plants", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    wanted = args.model or MODELS
    rows = []
    print(f"seed {args.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for index, name in enumerate(wanted):
            rng = np.random.default_rng([args.seed, MODELS.index(name)])
            one = subject(name, Path(folder), Cache(default_cache()))
            share = [total // len(wanted) + (index < total % len(wanted)) for total in (args.plants, args.pairs)]
            results = singles(one, share[0], rng, args.verbose)
            twos = pairs(one, share[1], rng, args.verbose)
            rows.append(row(name, one.parts.layout.end, results, twos, {}))
            show(rows[-1:], header=index == 0)
    show([("all", "", *(sum(r[i] for r in rows) for i in range(2, 7)), max(r[7] for r in rows), "", math.nan)])


def show(rows: list[tuple[Any, ...]], header: bool = False) -> None:
    if header:
        print(
            f"{'model':20}{'nodes':>6}{'plants':>8}{'exact':>7}{'wrongly named':>15}{'pairs':>7}{'both':>6}"
            f"{'most parts':>12}{'allowed':>9}{'s, median':>11}"
        )
    for name, nodes, plants, exact, wrong, two, both, most, allowed, seconds in rows:
        text = f"{name:20}{nodes:>6}{plants:8}{exact:7}{wrong:15}{two:7}{both:6}{most:12}{allowed:>9}{seconds:11.2f}"
        print(text, flush=True)


if __name__ == "__main__":
    main()
