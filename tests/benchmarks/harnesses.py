"""Other harnesses, driving what is given to them: LoadGen, pytest-benchmark and Polygraphy."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import platform
import queue
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bare import AHEAD, Run, ahead

from bench.interface import Feeds, Session


def missing() -> dict[str, str]:
    """What cannot be compared with, and what would help."""
    found = {}
    if not loadgen_is_there():
        wheels = "" if platform.machine() == "x86_64" else "; it has wheels for x86-64 alone"
        found["LoadGen (and with it the rows under load)"] = f'pip install "deploybench[loadgen]"{wheels}'
    if importlib.util.find_spec("pytest_benchmark") is None:
        found["pytest-benchmark"] = "pip install pytest-benchmark"
    if importlib.util.find_spec("polygraphy") is None:
        found["Polygraphy"] = "pip install polygraphy"
    return found


def loadgen_is_there() -> bool:
    return importlib.util.find_spec("mlperf_loadgen") is not None


def loadgen_settings(scenario: str, count: int) -> Any:
    import mlperf_loadgen as lg

    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, scenario)
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_query_count = count
    settings.min_duration_ms = 0
    return settings


def loadgen(settings: Any, issue: Callable[[Any], None]) -> str:
    """The summary of a test."""
    import mlperf_loadgen as lg

    with tempfile.TemporaryDirectory() as folder:
        log = lg.LogSettings()
        log.log_output.outdir = folder
        log.enable_trace = False
        sut = lg.ConstructSUT(issue, lambda: None)
        library = lg.ConstructQSL(2, 2, lambda samples: None, lambda samples: None)
        lg.StartTestWithLogSettings(sut, library, settings, log)
        lg.DestroyQSL(library)
        lg.DestroySUT(sut)
        return Path(folder, "mlperf_log_summary.txt").read_text()


def figure(summary: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)}\s*:\s*([\d.]+)", summary, re.MULTILINE)
    if found is None:
        raise ValueError(f"LoadGen's summary has no {name!r}:\n{summary[:800]}")
    return float(found[1])


def loadgen_single_stream(run: Run, feeds: list[Feeds], count: int) -> float:
    import mlperf_loadgen as lg

    def issue(samples: Any) -> None:
        for sample in samples:
            run(feeds[sample.index])
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0)])

    settings = loadgen_settings("SingleStream", count)
    settings.max_query_count = count
    settings.single_stream_expected_latency_ns = 1_000_000
    ahead(run, feeds)
    return figure(loadgen(settings, issue), "50.00 percentile latency (ns)")


def pedantic(run: Run, feeds: list[Feeds], count: int) -> float:
    """pytest-benchmark in this process, on the same session."""
    import pytest

    medians = []

    class Target:
        @pytest.fixture
        def target(self) -> tuple[Run, Feeds, int, list[float]]:
            return run, feeds[0], count, medians

    text = (
        "def test_it(benchmark, target):\n"
        "    run, feed, count, medians = target\n"
        f"    benchmark.pedantic(run, args=(feed,), rounds=count, iterations=1, warmup_rounds={AHEAD})\n"
        "    medians.append(benchmark.stats.stats.median * 1e9)\n"
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder, f"test_crosscheck_{time.monotonic_ns()}.py")
        path.write_text(text)
        flags = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--rootdir", folder, "-c", os.devnull]
        pytest.main([*flags, str(path)], plugins=[Target()])
    return float(medians[0])


def polygraphy(session: Any, feeds: list[Feeds], count: int) -> float:
    """The time that Polygraphy's own runner reports, on the same session."""
    from polygraphy.backend.onnxrt import OnnxrtRunner

    taken: list[float] = []
    with contextlib.redirect_stdout(io.StringIO()), OnnxrtRunner(session) as runner:
        ahead(runner.infer, feeds)
        while len(taken) < count:
            runner.infer(feeds[len(taken) % len(feeds)])
            taken.append(runner.last_inference_time() * 1e9)
    return statistics.median(taken)


def through_threads(settings: Any, sessions: Sequence[Session], feeds: list[Feeds]) -> str:
    """LoadGen's summary with a system of one queue and a thread per session, as its own examples have it."""
    import mlperf_loadgen as lg

    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def work(session: Session) -> None:
        while (sample := waiting.get()) is not None:
            session.run(feeds[sample[1]])
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample[0], 0, 0)])

    def issue(samples: Any) -> None:
        for sample in samples:
            waiting.put((sample.id, sample.index))

    threads = [threading.Thread(target=work, args=(session,), daemon=True) for session in sessions]
    for thread in threads:
        thread.start()
    summary = loadgen(settings, issue)
    for _ in threads:
        waiting.put(None)
    for thread in threads:
        thread.join()
    return summary
