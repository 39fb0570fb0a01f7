"""How long a search takes, and how much memory all its processes have at once. Prints a table.

    python tests/benchmarks/localize_time.py [--model resnet50] [--backend mnn] [--verbose]

resnet50 and densenet121 on ncnn and MNN: as they are (a search that finds nothing to search for), and under a tolerance
that makes them fail. Each search is a fresh process with a cache that holds models and tools alone, so that conversion
counts. The lease is a private one: nothing here is timed but the search itself.
Targets: 60 s on 2 cores; three times the model's size and 512 MB, over all processes.
Memory is the sum of each process's proportional share (PSS), looked at ten times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.cache import Cache
from bench.cli.options import default_cache
from bench.hosts.local import LocalHost
from bench.interface import Options
from bench.localize.run import Settings, localize
from bench.models import resolve
from bench.parity.compare import Tolerance
from bench.place import Place
from bench.registry import complete_options, find
from bench.runner import Case

MODELS = ("resnet50", "densenet121")
# What makes them fail. Source: measured on x86-64, November 2026; ncnn in fp32 agrees to the last digits.
FAILING = {"mnn": ("model", (1e-4, 3e-5)), "ncnn": ("bf16", (1e-3, 1e-3))}
LIMIT_S = 60.0
LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class Wanted:
    """One search."""

    model: str
    backend: str
    precision: str
    tolerance: tuple[float, float] | None

    def case(self, cache: Cache) -> Case:
        registered = find(self.backend)
        extra = complete_options(registered.create(), {})
        options = Options(threads=2, precision=self.precision, extra=extra)
        return Case(resolve(self.model, cache, shapes={}), registered, "local", options)


def search(wanted: Wanted, folder: Path, verbose: bool) -> None:
    """Search, and print what came of it as JSON."""
    cache = Cache(folder / "cache")
    say = (lambda message: print(message, file=sys.stderr, flush=True)) if verbose else (lambda message: None)
    place = Place("local", LocalHost(folder / "work"), cache, lease_folder=str(folder), say=say)
    tolerance = Tolerance("given", *wanted.tolerance, "") if wanted.tolerance else None
    found = localize(wanted.case(cache), place, Settings(tolerance, output=folder / "out", say=say))
    size = wanted.case(cache).resolved.model.path.stat().st_size
    print(json.dumps([found.verdict, [f.nodes[0].label for f in found.blamed], found.probes, size]))


class Memory:
    """The largest sum of the shares that a process and all below it have had, and whose they were."""

    def __init__(self, pid: int) -> None:
        self._pid, self.peak_bytes, self.shares, self._done = pid, 0, dict[str, int](), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(LOOK_EVERY_S):
            shares = {f"{_named(pid)} {pid}": _share(pid) for pid in _family(self._pid)}
            if (total := sum(shares.values())) > self.peak_bytes:
                self.peak_bytes, self.shares = total, shares

    def end(self) -> int:
        self._done.set()
        self._thread.join()
        return self.peak_bytes


def _named(pid: int) -> str:
    """The program, or the module of ours, that a process runs."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return "?"
    ours = [word for word in ("supervisor", "child", "converter.py", "localize_time.py") if word in " ".join(words)]
    return ours[0] if ours else Path(words[0]).name


def _family(pid: int) -> list[int]:
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        with suppress(OSError):  # it has ended
            for task in Path(f"/proc/{one}/task").glob("*/children"):
                waiting += map(int, task.read_text().split())
    return found


def _share(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def timed(wanted: Wanted, verbose: bool) -> None:
    """One row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in ("models", "tools", "bound"):
            if (default_cache() / kind).is_dir():
                shutil.copytree(default_cache() / kind, folder / "cache" / kind, copy_function=_linked)
        facts = json.dumps([wanted.model, wanted.backend, wanted.precision, wanted.tolerance])
        argv = [sys.executable, __file__, "--one", facts, "--folder", name, *(["--verbose"] if verbose else [])]
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        memory = Memory(process.pid)
        said, _ = process.communicate()
        peak, wall = memory.end(), time.perf_counter() - begin
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if process.returncode:
        print(f"{wanted.model:13}{wanted.backend:9}failed", flush=True)
        return
    verdict, culprits, parts, size = json.loads(said)
    allowed = (3 * size + (512 << 20)) >> 20
    print(
        f"{wanted.model:13}{wanted.backend:9}{wanted.precision:11}{verdict:11}{len(culprits):8}{parts:7}"
        f"{wall:8.1f}{LIMIT_S:9.0f}{cpu:8.1f}{peak >> 20:10}{allowed:9}",
        flush=True,
    )
    if verbose:
        print(f"  {'; '.join(culprits)}", flush=True)
        print(f"  {', '.join(f'{n} {b >> 20} MiB' for n, b in memory.shares.items() if b >> 24)}", flush=True)


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--backend", action="append", choices=FAILING)
    parser.add_argument("--failing", action="store_true", help="only those that fail")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        search(Wanted(*json.loads(args.one)), args.folder, args.verbose)
        return
    print(
        f"{'model':13}{'backend':9}{'precision':11}{'verdict':11}{'culprits':>8}{'parts':>7}"
        f"{'wall s':>8}{'allowed':>9}{'CPU s':>8}{'peak MiB':>10}{'allowed':>9}",
        flush=True,
    )
    for model in args.model or MODELS:
        for backend in args.backend or FAILING:
            precision, tolerance = FAILING[backend]
            if not args.failing:
                timed(Wanted(model, backend, "model", None), args.verbose)
            timed(Wanted(model, backend, precision, tolerance), args.verbose)


if __name__ == "__main__":
    main()
