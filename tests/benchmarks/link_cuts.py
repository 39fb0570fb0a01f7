"""Cuts the link to a device again and again, at random moments, while short cases are measured over it.

    python tests/benchmarks/link_cuts.py              # 200 cuts
    python tests/benchmarks/link_cuts.py --cuts 10    # what the tests do

The device is a real sshd on loopback behind a relay that resets connections, silences them for good, or freezes them
for a while. Afterwards: the run has ended, every cell has its record, no trial that had ended is missing, and nothing
of ours runs on the device. Exit code 1 where that is not so.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "devices"))

from device_rig import PYTHON, Relay, Sshd, board_processes, scratch, without_sshd

from bench.cache import Cache
from bench.cli import chosen
from bench.hosts import ssh
from bench.hosts.local import LocalHost
from bench.interface import Options, Plan
from bench.measure.scenarios import Scenario
from bench.models import resolve
from bench.place import Limits, Place
from bench.registry import complete_options, find
from bench.runner import Case, Settings, run_cases
from bench.worker.client import Worker

KINDS = ("kill", "drop", "freeze")
# Shorter than a user's, so that two hundred cuts take minutes: a silent link is noticed after about 3 s.
ALIVE = ("ServerAliveInterval=1", "ServerAliveCountMax=2", "ConnectTimeout=5")
SILENCE_S = 6.0
TRIALS = 2
# A cut comes after so long at most, drawn anew each time; a trial here takes about half a second.
EVERY_S = 1.5


@dataclass
class Watch:
    """Counts what the runner says has ended."""

    cases: list[str] = field(default_factory=list)

    def trial_begins(self, case: str, number: int, of: int, noisy: int) -> None: ...

    def left(self, trials: int, at_least_s: float, at_most_s: float) -> None: ...

    def case_ended(self, result: object) -> None:
        self.cases.append(result.id)  # type: ignore[attr-defined]


class Cutter:
    """Cuts a relay's connections at random moments, so often."""

    def __init__(self, relay: Relay, cuts: int, rng: random.Random) -> None:
        self._relay, self._cuts, self._rng = relay, cuts, rng
        self.done: dict[str, int] = dict.fromkeys(KINDS, 0)
        self.enough = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        for number in range(self._cuts):
            time.sleep(self._rng.uniform(0.05, EVERY_S))
            kind = KINDS[number % len(KINDS)]
            if kind == "freeze":
                self._relay.freeze(self._rng.uniform(0.2, 3.0))
            else:
                getattr(self._relay, kind)()
            self.done[kind] += 1
        self.enough.set()


def shortened() -> None:
    """Limits of the link for this process, so that it notices in seconds what a user's notices in a quarter minute."""
    names = {option.partition("=")[0] for option in ALIVE}
    ssh.OPTIONS = (*(o for o in ssh.OPTIONS if o.partition("=")[0] not in names), *ALIVE)
    Worker.__init__.__kwdefaults__["silence_s"] = SILENCE_S  # type: ignore[index]


def place_behind(sshd: Sshd, relay: Relay, folder: Path, cache: Cache) -> Place:
    host = ssh.SshHost(
        ssh.Login("cut", "cut", str(sshd.config("cut", relay.port))), python=PYTHON, cache=str(folder / "board")
    )
    (folder / "leases").mkdir()
    home = Place("local", LocalHost(folder / "work"), cache, lease_folder=str(folder / "leases"))
    limits = Limits(connect=15, lease=60, start=30, load=30, first_run=30, measure=30, close=20)
    return replace(home, device="cut", host=host, limits=limits, home=home, retries=chosen.LINK_RETRIES)


def cut(model: Path, cuts: int, seed: int, folder: Path, *, say: bool = False) -> list[str]:
    """Everything that went wrong, in words; empty where nothing did."""
    shortened()
    sshd = Sshd(folder / "sshd")
    relay = Relay(sshd.port)
    cache = Cache(folder / "cache")
    place = place_behind(sshd, relay, folder, cache)
    fake = find("fake")
    resolved = resolve(str(model), cache, shapes={}, batch=1)
    plan = Plan(
        min_count=5, min_s=0.05, max_s=0.2, warmup_min_count=1, warmup_min_s=0.0, warmup_max_s=0.05, target=None
    )
    settings = Settings(trials=TRIALS, max_trials=TRIALS, plan=plan, max_foreign_cpu=1.0)
    problems: list[str] = []
    cutter = Cutter(relay, cuts, random.Random(seed))
    begin, number, statuses = time.monotonic(), 0, dict[str, int]()
    try:
        while not cutter.enough.is_set() or number == 0:
            number += 1
            cases = [
                Case(resolved, fake, "cut", Options(extra=complete_options(fake.create(), {"latency_us": str(n)})), 1,
                     scenario=Scenario())
                for n in range(100 * number, 100 * number + 5)
            ]  # fmt: skip
            watch = Watch()
            records = run_cases(
                cases, place, settings, results=folder / "results", machine="cut", run=f"r{number}", progress=watch
            )
            problems += _accounted(
                records, len(cases), watch, folder / "results" / "records" / "cut" / f"r{number}.jsonl"
            )
            for record in records:
                statuses[record.status] = statuses.get(record.status, 0) + 1
            if say:
                print(f"{sum(cutter.done.values())} cuts, {number * len(cases)} cells: {statuses}", flush=True)
    finally:
        relay.close()
        place.host.close()  # type: ignore[attr-defined]
        sshd.stop()
    problems += _orphans(folder / "board")
    if not statuses.get("ok"):
        problems.append("no case at all was measured: the cuts left nothing to see")
    print(
        f"{cutter.done} in {time.monotonic() - begin:.0f} s, {number * 5} cells: {statuses}; {problems or 'all well'}"
    )
    return problems


def _accounted(records: list[object], wanted: int, watch: Watch, file: Path) -> list[str]:
    """What is missing: a cell without a record, or a record that is not on the disk with all its trials."""
    from bench import store

    found = []
    if len(records) != wanted or len(watch.cases) != wanted:
        found.append(f"{wanted} cells, {len(records)} records, {len(watch.cases)} told")
    kept = {r.id: r for r in store.read_records(file)}
    for record in records:
        on_disk = kept.get(record.id)  # type: ignore[attr-defined]
        if on_disk is None or on_disk != record:
            found.append(f"{record.id} is not on the disk as it was told")  # type: ignore[attr-defined]
    return found


def _orphans(board: Path) -> list[str]:
    end = time.monotonic() + SILENCE_S + 40
    while (left := board_processes(board)) and time.monotonic() < end:
        time.sleep(0.5)
    return [f"process {pid} is left on the device" for pid in left]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("model", nargs="?", type=Path, help="an .onnx file whose first dimension may be open")
    given = parser.parse_args()
    if reason := without_sshd():
        print(reason, file=sys.stderr)
        return 2
    folder = scratch()
    try:
        model = given.model or _model(folder)
        return 1 if cut(model, given.cuts, given.seed, folder, say=True) else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _model(folder: Path) -> Path:
    from onnx import TensorProto, helper, save

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 16]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    path = folder / "relu.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


if __name__ == "__main__":
    sys.exit(main())
