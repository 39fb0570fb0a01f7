"""A matrix run that is killed again and again: is every cell recorded exactly once, and what does the bookkeeping cost?

    python tests/benchmarks/matrix_kills.py [--cells 1000] [--devices 20] [--kills 50]

`deploybench matrix` runs whole, in a process of its own: reading the file, planning, journal, lanes, retries, record
files, resume. Simulated is what a device would do: contact, the machine's peaks, and the trials. First a run that
nobody disturbs, with trials that take no time, so all of its time is bookkeeping; then one that is killed with SIGKILL
at random moments and taken up with `--resume` each time, until it ends by itself. Target: every cell exactly once, no
finished record lost, under 20 ms per cell.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TARGET_MS = 20.0
# What a simulated trial takes in the run that is killed, so that kills strike within trials as well.
TRIAL_S = 0.2
CHILD = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='child')"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a matrix run left. `seconds`, `cpu_s`: of all its processes; `once`: each cell has one complete record."""

    cells: int
    seconds: float
    cpu_s: float
    kills: int
    once: bool
    lost: int
    """Records that had been finished before a kill and are not there at the end."""
    half_done: int
    """Executions that kills cut short, and that others took the place of."""
    cut_lines: int

    @property
    def ms_per_cell(self) -> float:
        return 1e3 * self.seconds / self.cells


def matrix_file(folder: Path, model: Path, cells: int, devices: int) -> Path:
    """A file of so many cells. The devices' names are fakes' with faults that nothing here meets."""
    names = [f"fake:cut={10**9 + number}" for number in range(devices)]
    values = [float(10 + number) for number in range(cells // devices)]
    path = folder / "kills.toml"
    path.write_text(
        f"[matrix]\nmodel = {json.dumps([str(model)])}\nbackend = ['fake']\n"
        f"device = {json.dumps(names)}\noptions = {{ latency_us = {json.dumps(values)} }}\n"
        "[measure]\ntrials = 1\nmax_trials = 1\nmax_foreign_cpu = 1\n[retry]\nwait = 0\n"
    )
    return path


def command(file: Path, folder: Path, results: str, trial_s: float, *flags: str) -> list[str]:
    argv = [
        "matrix",
        str(file),
        "--results",
        str(folder / results),
        "--cache",
        str(folder / "cache"),
        "--quiet",
        *flags,
    ]
    return [sys.executable, "-P", "-c", CHILD, __file__, str(trial_s), *argv]


def undisturbed(file: Path, folder: Path) -> Outcome:
    """One run to its end; the first fills the cache with what cells share, the second is timed."""
    environment = {**os.environ, "NO_COLOR": "1"}
    for results in ("first", "second"):
        begin, before_s = time.monotonic(), cpu_s()
        done = subprocess.run(
            command(file, folder, results, 0.0),
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=900,
        )
        seconds = time.monotonic() - begin
        if done.returncode:
            raise SystemExit(f"the run failed ({done.returncode}):\n{done.stderr[-4000:]}")
    return _outcome(folder / "second", (seconds, cpu_s() - before_s), 0, set())


def disturbed(file: Path, folder: Path, kills: int, seed: int) -> Outcome:
    """One run, killed so often: every other time while a process starts, else once it has begun to measure."""
    rng = random.Random(seed)
    start_s, work_s = _lengths(file, folder)
    results = folder / "killed"
    finished: set[str] = set()
    seconds, before_s = 0.0, cpu_s()
    killed = 0
    while True:
        begin = time.monotonic()
        written = _written(results)
        process = subprocess.Popen(
            command(file, folder, "killed", TRIAL_S, "--resume"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        if killed < kills:
            if killed % 2:
                while process.poll() is None and _written(results) == written:
                    time.sleep(0.005)
                # So that about a third of the work is left to the last process.
                time.sleep(rng.uniform(0.0, 8 / 3 * work_s / kills))
            else:
                time.sleep(rng.uniform(0.0, start_s))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        _, stderr = process.communicate(timeout=900)
        seconds += time.monotonic() - begin
        if process.returncode == 0:
            return _outcome(results, (seconds, cpu_s() - before_s), killed, finished)
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(f"the run failed ({process.returncode}):\n{stderr.decode()[-4000:]}")
        killed += 1
        finished |= _ended(results)


def _lengths(file: Path, folder: Path) -> tuple[float, float]:
    """How long a process takes to its first trial, about, and all trials together."""
    begin = time.monotonic()
    done = subprocess.run(command(file, folder, "dry", 0.0, "--dry-run"), capture_output=True, check=True)
    start_s = time.monotonic() - begin
    titles = [line.split("\t")[1] for line in done.stdout.decode().splitlines()[1:]]
    devices = len({title.split(", ")[1] for title in titles})
    return start_s, TRIAL_S * len(titles) / devices


def _written(results: Path) -> int:
    """Bytes of all records."""
    return sum(path.stat().st_size for path in (results / "records").rglob("*.jsonl"))


def _ended(results: Path) -> set[str]:
    """The executions that have ended for good by now."""
    from bench.record import EndLine
    from bench.store import read_lines

    found = set()
    for path in (results / "records").rglob("*.jsonl"):
        found |= {line.id for line in read_lines(path) if isinstance(line, EndLine)}
    return found


def cpu_s() -> float:
    """What the processes that have ended used of the CPU."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _outcome(results: Path, took: tuple[float, float], kills: int, finished: set[str]) -> Outcome:
    from bench.matrix import journal
    from bench.record import CaseLine
    from bench.store import read_lines, read_run

    (plan,) = [journal.read(path) for path in (results / "matrix").glob("*.json")]
    files = sorted((results / "records").rglob("*.jsonl"))
    records = read_run(files)
    counts = Counter(r.cell for r in records)
    planned = {c.cell for c in plan.cells}
    executions = sum(isinstance(line, CaseLine) for path in files for line in read_lines(path))
    return Outcome(
        cells=len(planned),
        seconds=took[0],
        cpu_s=took[1],
        kills=kills,
        once=set(counts) == planned
        and set(counts.values()) == {1}
        and all(r.evidence.complete and r.status == "ok" for r in records),
        lost=len(finished - {r.id for r in records}),
        half_done=executions - len(records),
        cut_lines=len(list((results / "records").rglob("*.cut"))),
    )


def child(argv: Sequence[str]) -> None:
    """The command, on simulated devices."""
    import bench.runner
    from bench import cli
    from bench.matrix import execute
    from bench.matrix.contact import Contact
    from bench.plausible.peaks import Peaks
    from bench.record import ColdFacts, JudgedFacts, LoadFacts, OutputFacts, Series, TrialLine
    from bench.store import now

    trial_s = float(argv[1])
    facts = {"threads": 1, "flop_per_s": None, "copy_bytes_per_s": None, "arch": "", "clock_hz": None}
    facts |= {"features": [], "numpy": "", "foreign_cpu": None, "reason": "simulated"}
    none = {"max_abs": 0.0, "max_rel_scale": 0.0, "rms": 0.0, "cosine": 1.0, "exceed": 0.0, "share_out": 0.0}
    rest = {"worst": None, "worst_got": None, "worst_expected": None, "nan": 0, "shape_ok": True}
    right = OutputFacts(name="y", passed=True, problem="", **none, **rest)

    def trial(place, plan, index, wait=None):
        time.sleep(trial_s)
        return TrialLine(
            schema=1,
            id=plan.case_id,
            index=index,
            started_at=now(),
            environment={},
            runtimes={"fake": "1"},
            cold=ColdFacts(start_s=trial_s, import_s=0.0, load_s=0.0, first_run_s=0.0),
            series=[Series(scope="end_to_end", clock="host", samples_ns=[100_000 + n % 7 for n in range(100)])],
            bracket_ns=20_000_000,
            fits=True,
            stopped_by="precise enough",
            parity=JudgedFacts(passed=True, grade="fp32", at="verify", feed=0, problem="", outputs=[right]),
            load=LoadFacts(wall_s=0.02, foreign_cpu=0.0, steal=0.0, involuntary_switches=0, major_faults=0),
        )

    bench.runner.run_trial = trial
    Peaks.of = lambda self, backend, options: facts
    execute.Run = functools.partial(execute.Run, contact=lambda place, backend: Contact("simulated", place.device))
    sys.argv = ["deploybench", *argv[2:]]
    cli.main()


def model_file(folder: Path) -> Path:
    """A model of one operator: `float32[2]` x to y."""
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", ends[:1], ends[1:])
    path = folder / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def main() -> None:
    """Print what became of it, beside the targets."""
    parser = argparse.ArgumentParser(description="kill a matrix run again and again")
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = matrix_file(folder, model_file(folder), given.cells, given.devices)
        calm = undisturbed(file, folder)
        print(f"{calm.cells} cells on {given.devices} devices, seed {given.seed}")
        print(
            f"undisturbed: {calm.seconds:.1f} s, {calm.ms_per_cell:.1f} ms per cell, start and table included "
            f"(target {TARGET_MS:g}), {1e3 * calm.cpu_s / calm.cells:.1f} ms of CPU; "
            f"every cell exactly once: {calm.once}"
        )
        begin = time.monotonic()
        killed = disturbed(file, folder, given.kills, given.seed)
        print(
            f"killed {killed.kills} times in {time.monotonic() - begin:.0f} s: every cell exactly once: {killed.once}; "
            f"finished records lost: {killed.lost}; executions cut short: {killed.half_done}; "
            f"lines cut: {killed.cut_lines}"
        )


if __name__ == "child":
    child(sys.argv)
elif __name__ == "__main__":
    main()
