"""Validates the GPU backends on a machine with a GPU, and writes a dated report.

    python tests/benchmarks/gpu_validation.py [--results results] [--models resnet50 squeezenet]

What it does, each step in a process of its own, so that a crash is a line of the report:

1. the probe of both backends, and what the driver and NVML say;
2. the tests marked `gpu`;
3. every model on ort-cuda and tensorrt as they are found: fp32, the other precisions, with and without a CUDA graph:
   parity, the three scopes, what was seen of the GPU;
4. where `trtexec` (or `tensorrt_rtx`) is on the path: the same model by it, and the ratio of the two figures for each
   scope with trtexec's definitions (GPU Compute Time, Enqueue Time; Latency is its sum of copies and compute).

The report is `<results>/gpu/<date>-<gpu>.md`. Without a GPU it says why and exits with 3: nothing is made up.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from bench.cuda_driver import Driver, NoGpu, ask
from bench.record import Record
from bench.registry import find
from bench.report.words import milliseconds

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = ("ort-cuda", "tensorrt")
OPTIONS = {"as it is": [], "CUDA graph": ["-o", "cuda_graph=on"]}
TRTEXEC = ("trtexec", "tensorrt_rtx")
STEP_S = 900


def main() -> int:
    parser = argparse.ArgumentParser(description="validate the GPU backends, write a dated report")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--models", nargs="+", default=["resnet50", "squeezenet", "transformer_encoder"])
    parser.add_argument("--trials", default="6")
    given = parser.parse_args()
    try:
        driver = ask()
    except NoGpu as why:
        print(f"nothing can be validated here: {why.reason}; {why.remedy}", file=sys.stderr)
        return 3
    lines = [*heading(driver), *probes(), *tests(), *cases(given), *by_trtexec(given)]
    gpu = re.sub(r"\W+", "-", driver.gpus[0].name.lower()).strip("-")
    path = given.results / "gpu" / f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}-{gpu}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    print(path)
    return 0


def heading(driver: Driver) -> list[str]:
    now = datetime.datetime.now(datetime.timezone.utc)
    gpus = "; ".join(f"{g.words}, {g.memory_bytes >> 30} GiB" for g in driver.gpus)
    return [
        f"# GPU validation of {now:%Y-%m-%d %H:%M} UTC", "",
        f"GPU: {gpus}. Driver {driver.version or 'unknown'}, CUDA {driver.cuda}.", "",
    ]  # fmt: skip


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    """A command to its end, or to its time limit; it is never waited for without one."""
    print("$", *argv, file=sys.stderr, flush=True)
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=STEP_S, check=False, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, -1, "", f"took longer than {STEP_S} s")
    except OSError as error:
        return subprocess.CompletedProcess(argv, -1, "", str(error))


def deploybench(*argv: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-c", "from bench.cli import main; main()", *argv)


def probes() -> list[str]:
    lines = ["## Probes", "", "| backend | here | what |", "|---|---|---|"]
    for name in BACKENDS:
        done = deploybench("backends", name, "--json")
        told = json.loads(done.stdout.splitlines()[0]) if done.returncode == 0 else {"reason": done.stderr[-300:]}
        facts = ", ".join(f"{k} {v}" for k, v in told.get("runtimes", {}).items())
        lines.append(f"| {name} | {told.get('available', False)} | {facts or told.get('reason', '')} |")
    return [*lines, ""]


def tests() -> list[str]:
    done = run(
        sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-q", "-rfEs", "--tb=line", "-p", "no:randomly"
    )
    told = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR", "SKIPPED"))]
    summary = done.stdout.strip().splitlines()[-1:] or [done.stderr.strip()[-300:]]
    return ["## Tests marked gpu", "", *summary, "", *(f"- {line}" for line in told), ""]


def cases(given: argparse.Namespace) -> list[str]:
    head = "| model | backend | precision | options | status | error | end to end ms | compute ms | enqueue ms | GPU |"
    lines = ["## Models", "", head, "|" + "---|" * 10]
    for model in given.models:
        for name in BACKENDS:
            for precision in find(name).create().probe().precisions:
                for title, options in OPTIONS.items():
                    lines.append(row(given, model, name, precision, title, options))
    note = (
        "End to end: arrays here to arrays here, by the host's clock. Compute: inputs and outputs on the GPU; by the "
        "GPU's own marks for tensorrt, by the host's clock around a synchronised run for ort-cuda. End to end is "
        "larger by the copies to and fro, by the wait, and by Python."
    )
    return [*lines, "", note, ""]


def row(given: argparse.Namespace, model: str, name: str, precision: str, title: str, options: list[str]) -> str:
    argv = ["run", model, "-b", name, "--precision", precision, "--trials", given.trials, "--json", *options]
    done = deploybench(*argv, "--results", str(given.results))
    start = f"| {model} | {name} | {precision} | {title} "
    if not done.stdout.startswith("{"):
        return f"{start}| no record | {done.stderr.strip()[-120:]} | | | | |"
    record = Record.from_json(done.stdout.splitlines()[0].encode())
    times = {x.scope: milliseconds(x.p50_ns) for x in record.latencies}
    worst = max((o.max_rel_scale or 0 for o in record.parity.outputs), default=0) if record.parity else None
    seen = record.evidence.observed.gpu if record.evidence.observed else None
    gpu = f"{seen.sm_mhz} MHz, {seen.power_w} W, {seen.temperature_c} C" if seen else "not seen"
    error = "" if worst is None else f"{worst:.1e}"
    scopes = " | ".join(times.get(scope, "") for scope in ("end_to_end", "compute", "enqueue"))
    status = record.status if record.status == "ok" else f"{record.status}: {record.why[:80]}"
    return f"{start}| {status} | {error} | {scopes} | {gpu} |"


def by_trtexec(given: argparse.Namespace) -> list[str]:
    program = next((found for name in TRTEXEC if (found := shutil.which(name))), None)
    if program is None:
        return ["## Beside trtexec", "", "Not compared: neither trtexec nor tensorrt_rtx is on the path.", ""]
    lines = ["## Beside trtexec", "", "| model | what | trtexec ms | ours ms | ratio |", "|---|---|---|---|---|"]
    for model in given.models:
        folder = given.results / "gpu" / f"export-{model}"
        deploybench("export", model, "-b", "tensorrt", "--output", str(folder))
        done = run(program, f"--loadEngine={folder / 'model.engine'}", "--useSpinWait")
        ours = scopes_of(given, model)
        shutil.rmtree(folder, ignore_errors=True)
        for title, scope in (("GPU Compute Time", "compute"), ("Enqueue Time", "enqueue"), ("Latency", "end_to_end")):
            found = re.search(rf"{title}:.*?median = ([\d.]+) ms", done.stdout)
            if found and ours.get(scope):
                theirs = float(found[1])
                lines.append(f"| {model} | {title} | {theirs:.3f} | {ours[scope]:.3f} | {ours[scope] / theirs:.3f} |")
            else:
                lines.append(f"| {model} | {title} | {found[1] if found else 'not told'} | {ours.get(scope, '')} | |")
    return [*lines, ""]


def scopes_of(given: argparse.Namespace, model: str) -> dict[str, float]:
    """Medians in milliseconds of the tensorrt backend, by scope."""
    argv = ("run", model, "-b", "tensorrt", "--trials", given.trials, "--json", "--results", str(given.results))
    done = deploybench(*argv)
    if not done.stdout.startswith("{"):
        return {}
    return {x.scope: x.p50_ns / 1e6 for x in Record.from_json(done.stdout.splitlines()[0].encode()).latencies}


if __name__ == "__main__":
    sys.exit(main())
