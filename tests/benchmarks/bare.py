"""The runtimes without deploybench: loaded and called as their documents say, in a loop of one clock and one call."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from bench.interface import Feeds

Run = Callable[[Feeds], Any]

# Whose turn was before has had the CPU's caches: behind the first inference of a turn the next ones take 4 to 6, 1.0 to
# 1.7 and 0.4 to 0.9 % longer, most on the session whose last turn is longest ago (squeezenet on ONNX Runtime, x86-64,
# 2026-11).
AHEAD = 4


def loop(run: Run, feeds: list[Feeds], count: int) -> float:
    ahead(run, feeds)
    outputs: Any = None
    taken: list[int] = []
    while len(taken) < count:
        for feed in feeds:
            outputs = None  # freed outside the timed span, as ours are: memory may go back to the system with them
            begin = perf_counter_ns()
            outputs = run(feed)
            taken.append(perf_counter_ns() - begin)
    del outputs
    return statistics.median(taken[:count])


def ahead(run: Run, feeds: list[Feeds]) -> None:
    """The inferences that begin a turn, for no sample."""
    for number in range(AHEAD):
        run(feeds[number % len(feeds)])


def session(job: dict[str, Any]) -> tuple[Run, Any]:
    """How to run the artefact without deploybench, and the runtime's own session."""
    makers = {"ort-cpu": ort_session, "ncnn": ncnn_session, "mnn": mnn_session}
    return makers[job["backend"]](job["artifact"], job["options"])


def ort_session(artifact: dict[str, Any], options: dict[str, Any]) -> tuple[Run, Any]:
    import onnxruntime as ort

    asked = ort.SessionOptions()
    asked.intra_op_num_threads, asked.inter_op_num_threads = options["threads"], 1
    asked.log_severity_level = 3
    path = str(Path(artifact["root"], artifact["files"][0]))
    session = ort.InferenceSession(path, asked, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed), session


def ncnn_session(artifact: dict[str, Any], options: dict[str, Any]) -> tuple[Run, Any]:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = options["threads"]
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    for name, of_ours in (
        ("use_winograd_convolution", "winograd"),
        ("use_sgemm_convolution", "sgemm"),
        ("use_packing_layout", "packing_layout"),
        ("lightmode", "light_mode"),
        ("openmp_blocktime", "openmp_blocktime"),
    ):
        setattr(net.opt, name, options["extra"][of_ours])
    param, weights = (str(Path(artifact["root"], name)) for name in artifact["files"])
    assert net.load_param(param) == 0
    assert net.load_model(weights) == 0
    ((taken, given),) = [(artifact["meta"]["inputs"][0], artifact["meta"]["outputs"][0])]

    def run(feed: Feeds) -> Any:
        extractor = net.create_extractor()
        mat = ncnn.Mat(feed[taken["name"]], batch_index=taken["batch_index"])
        extractor.input(taken["blob"], mat if taken["batch_index"] != 233 else mat.clone())
        _, out = extractor.extract(given["blob"])
        view = out.numpy(batch_index=given["batch_index"])
        return view if view.flags.owndata else np.array(view)

    return run, net


def mnn_session(artifact: dict[str, Any], options: dict[str, Any]) -> tuple[Run, Any]:
    import MNN

    interpreter = MNN.Interpreter(str(Path(artifact["root"], artifact["files"][0])))
    interpreter.setSessionHint(3, int(options["extra"]["winograd"]))
    names = {"memory": options["extra"]["memory"], "power": options["extra"]["power"]}
    session = interpreter.createSession(
        {"backend": "CPU", "numThread": options["threads"], "precision": "high", **names}
    )
    ((name, taken),) = interpreter.getSessionInputAll(session).items()
    (given,) = interpreter.getSessionOutputAll(session).values()

    def host(tensor: Any) -> tuple[Any, Any]:
        empty = np.zeros(tensor.getShape(), np.float32)
        made = MNN.Tensor(empty.shape, MNN.Halide_Type_Float, empty, MNN.Tensor_DimensionType_Caffe)
        return made, made.getNumpyData()

    (inside, into), (outside, out_of) = host(taken), host(given)

    def run(feed: Feeds) -> Any:
        np.copyto(into, feed[name])
        taken.copyFrom(inside)
        assert interpreter.runSession(session) == 0
        given.copyToHostTensor(outside)
        return out_of.copy()

    return run, (interpreter, session)
