"""What looking at the machine during a measurement costs the measured: pairs with and without, interleaved.

    python tests/benchmarks/evidence_cost.py [--pairs 24] [--seconds 1.5] [--threads 1] [--backend ort-cpu] [--made-up]

A worker measures squeezenet again and again, on off, off on. What its supervisor looks at is reached through a link
that leads, by turns, to the machine and to an empty folder, where a look finds nothing to read (3 us); and with it go
the worker's own looks between two inferences, at how fast its core is. Every six pairs the worker is a fresh one.
Target: the upper 95 % bound of the median ratio on/off, from at least 20 pairs, under 1.005.

Where the machine tells nothing (most virtual ones), or with --made-up, the link leads to files like a 16-thread
desktop's: as many are read as there. The kernel's work behind a real one, reading a register of another core, is not in
it.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bench.artifacts import prepare
from bench.cache import Cache
from bench.cli.options import default_cache
from bench.evidence import clocks
from bench.hosts.base import Link
from bench.hosts.local import LocalHost
from bench.interface import Options, Plan
from bench.models import resolve
from bench.place import Limits, Place, started
from bench.record import MAX_FOREIGN_CPU
from bench.registry import complete_options, find
from bench.trial import run_once
from bench.worker import wire
from bench.worker.client import Worker
from bench.worker.protocol import Unpacker

PAIRS_PER_WORKER = 6
QUIET = {"wait_s": 20.0, "max_foreign_cpu": MAX_FOREIGN_CPU, "max_temperature_c": None}


class Told(LocalHost):
    """This machine, whose supervisors are told where to look."""

    machine = "/"

    def start(self, argv: Sequence[str]) -> Link:
        return super().start([*argv, self.machine])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="ort-cpu")
    parser.add_argument("--made-up", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path("/")
        if given.made_up or not (clocks.megahertz([0]) or clocks.thermometers()):
            root = desktop(Path(folder) / "desktop")
        print(f"looking at {'this machine' if root == Path('/') else 'a made-up desktop'}", file=sys.stderr)
        compare(given, root, Path(folder))


def compare(given: argparse.Namespace, root: Path, folder: Path) -> None:
    cache = Cache(default_cache())
    link, nothing = folder / "machine", folder / "nothing"
    nothing.mkdir()
    host = Told(cache.root / "work")
    host.machine = str(link)
    place = Place("local", host, cache, Limits(), say=lambda message: print(message, file=sys.stderr))
    registered = find(given.backend)
    resolved = resolve("squeezenet", cache, shapes={})
    options = Options(threads=given.threads, extra=complete_options(registered.create(), {}))
    prepared = prepare(place, registered, resolved.model, options)
    plan = Plan(11, given.seconds, given.seconds, warmup_min_s=0.1, warmup_max_s=0.2, target=None)

    def measure(worker: Worker, on: bool) -> tuple[float, float | None]:
        """Median in ms, and the share of the CPU that others used."""
        link.unlink(missing_ok=True)
        link.symlink_to(root if on else nothing)
        answer, body = worker.ask("measure", {"plan": asdict(plan), "look": on}, limit_s=60)
        assert on or answer["observed"]["turbo"] is None
        samples = Unpacker(body).value(answer["series"][0]["samples"])
        return float(np.median(samples)) / 1e6, answer["load"]["foreign_cpu"]

    ratios: list[float] = []
    tried = 0
    while len(ratios) < given.pairs and tried < 4 * given.pairs:
        with started(place, registered, purpose="evidence_cost") as ready:
            args = {"artifact": wire.plain(prepared.artifact), "options": wire.plain(options)}
            ready.worker.ask("load", args, limit_s=60)
            for data in resolved.data_sets:
                run_once(ready.worker, data, place.limits)
            measure(ready.worker, True)  # whatever only a fresh process has is over after this
            for _ in range(PAIRS_PER_WORKER):
                ready.worker.ask("quiet", QUIET, limit_s=60)
                ways = (True, False) if tried % 2 == 0 else (False, True)
                found = {on: measure(ready.worker, on) for on in ways}
                tried += 1
                if all(share is not None and share <= MAX_FOREIGN_CPU for _, share in found.values()):
                    on, off = found[True][0], found[False][0]
                    ratios.append(on / off)
                    print(f"pair {len(ratios):2}: on {on:.3f} ms, off {off:.3f} ms", file=sys.stderr)
    report(ratios, tried - len(ratios))


def report(ratios: list[float], noisy: int) -> None:
    ordered, n = sorted(ratios), len(ratios)
    if n < 20:
        print(f"{n} quiet pairs, {noisy} noisy: the target takes 20")
        return
    bound = ordered[upper_rank(n) - 1]
    print(f"{n} pairs ({noisy} noisy ones left out): median ratio on/off {statistics.median(ratios):.4f}")
    print(f"spread {ordered[0]:.4f} to {ordered[-1]:.4f}; upper 95 % bound of the median {bound:.4f}")
    print(f"target under 1.005: {'met' if bound < 1.005 else 'MISSED'}")


def upper_rank(n: int) -> int:
    """The rank k (from 1) whose order statistic is above the median with 95 %: P(Binomial(n, 1/2) >= k) <= 5 %."""
    tail, k = 0.0, n + 1
    while tail + math.comb(n, k - 1) / 2**n <= 0.05:
        tail += math.comb(n, k - 1) / 2**n
        k -= 1
    return k


def desktop(root: Path) -> Path:
    """Files as a desktop with 16 CPUs has them."""
    files = {
        "sys/devices/system/cpu/intel_pstate/no_turbo": "0\n",
        "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
        "sys/class/thermal/thermal_zone0/temp": "51000\n",
        "sys/class/powercap/intel-rapl:0/name": "package-0\n",
        "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850\n",
        "sys/class/powercap/intel-rapl:0/energy_uj": "1234567\n",
    }
    for c in range(16):
        cpu = f"sys/devices/system/cpu/cpu{c}"
        files |= {
            f"{cpu}/cpufreq/scaling_cur_freq": "3000000\n",
            f"{cpu}/cpufreq/scaling_governor": "powersave\n",
            f"{cpu}/thermal_throttle/core_throttle_count": "0\n",
            f"{cpu}/thermal_throttle/package_throttle_count": "0\n",
            f"sys/class/thermal/cooling_device{c}/type": "Processor\n",
            f"sys/class/thermal/cooling_device{c}/cur_state": "0\n",
        }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "proc").symlink_to("/proc")  # which CPUs the measured process is on is real
    return root


if __name__ == "__main__":
    main()
