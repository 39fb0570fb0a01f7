"""Whether a search accuses anybody where nothing is wrong: the whole catalogue on each backend. Prints a table.

    python tests/benchmarks/false_alarms.py [--model resnet50]... [--backend ncnn]...

Every cell is judged apart from the search first: the model's own reference outputs against those of a process of its
own. Target: where that passes, the search says that it agrees and names nothing. What does not pass is searched, too,
and must not be said to agree. `seconds` are those of the search; it finds the whole model converted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from bench import catalog, reference
from bench.cache import Cache
from bench.cli.options import default_cache
from bench.errors import BenchError
from bench.hosts.local import LocalHost
from bench.interface import Options
from bench.localize.located import Located
from bench.localize.run import Settings, localize
from bench.localize.runners import BackendRunner
from bench.models import resolve
from bench.parity.compare import compare
from bench.place import Place
from bench.registry import complete_options, find
from bench.runner import Case, default_tolerance
from bench.worker.client import WorkerError

BACKENDS = ("ncnn", "mnn", "ort-cpu")


def case_of(model: str, backend: str, place: Place) -> Case:
    """The model on the backend, as the command line has it without options, with a reference for each input."""
    registered = find(backend)
    options = Options(threads=2, extra=complete_options(registered.create(), {}))
    resolved = reference.complete(resolve(model, place.cache, shapes={}), place, {})
    return Case(resolved, registered, "local", options)


def parity(case: Case, place: Place) -> tuple[bool, str]:
    """Whether the answers to all inputs are right, and how far they are off, or why there are none."""
    runner = BackendRunner(place, case.backend, case.options)
    runner.prepare(case.resolved.model)
    try:
        got = runner.runs(case.resolved.model, [data.feeds for data in case.resolved.data_sets])
    except WorkerError as error:
        return False, error.failure.error
    reports = [
        compare(data.expected or {}, outputs, default_tolerance(case))
        for data, outputs in zip(case.resolved.data_sets, got, strict=True)
    ]
    worst = max(report.max_rel_scale or 0.0 for report in reports)
    return all(report.passed for report in reports), f"off by {worst:.1e}"


def verdict(passed: bool, found: Located) -> str:
    """What the benchmark looks for."""
    silent = found.verdict == "agrees" and not found.findings
    return "ok" if silent == passed else "FALSE ALARM" if passed else "MISSED"


def main() -> int:
    """Print the table; 1 where a search was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", choices=catalog.load())
    parser.add_argument("--backend", action="append", choices=BACKENDS)
    args = parser.parse_args()
    wrong = passes = cells = 0
    print(f"{'model':21}{'backend':9}{'parity':24}{'verdict':12}{'parts':>5}{'seconds':>9}  {'':12}named", flush=True)
    with tempfile.TemporaryDirectory() as name:
        place = Place("local", LocalHost(Path(name) / "work"), Cache(default_cache()), lease_folder=name)
        for model in args.model or catalog.load():
            for backend in args.backend or BACKENDS:
                try:
                    case = case_of(model, backend, place)
                    passed, figure = parity(case, place)
                    begin = time.perf_counter()
                    found = localize(case, place, Settings(again=True))
                except BenchError as error:
                    print(f"{model:21}{backend:9}not tried: {error.message}", flush=True)
                    continue
                seconds, said = time.perf_counter() - begin, verdict(passed, found)
                cells, passes, wrong = cells + 1, passes + passed, wrong + (said != "ok")
                judged = f"{'passes' if passed else 'fails'}, {figure}"
                names = "; ".join(" + ".join(node.label for node in f.nodes[:3]) for f in found.blamed)
                figures = f"{judged:24}{found.verdict:12}{found.probes:5}{seconds:9.1f}"
                print(f"{model:21}{backend:9}{figures}  {said:12}{names}", flush=True)
    print(f"{cells} cells, {passes} pass parity, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
