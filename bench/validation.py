"""Validates the GPU backends on a machine with a GPU: a dated report.

Each step is a process of its own, so that a crash is a line of the report:

1. the probe of every GPU backend, and what the driver says;
2. the tests marked `gpu`, where this is a checkout;
3. every model on every GPU backend that is available: every precision, with and without a CUDA graph: parity, the three
   scopes, what was seen of the GPU;
4. where `trtexec` (or `tensorrt_rtx`) is on the path: the same model by it, and the ratio of the two figures for each
   scope with trtexec's definitions (GPU Compute Time, Enqueue Time; Latency is its sum of copies and compute).
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import bench
from bench.conformance import processes
from bench.conformance.processes import Ended
from bench.cuda_driver import Driver
from bench.record import Record
from bench.report.blocks import Block, Table, markdown
from bench.report.words import escape, milliseconds

BACKENDS = ("ort-cuda", "tensorrt", "ncnn-vulkan")
OPTIONS: Mapping[str, tuple[str, ...]] = {"as it is": (), "CUDA graph": ("-o", "cuda_graph=on")}
TRTEXEC = ("trtexec", "tensorrt_rtx")
# trtexec's names, and ours.
SCOPES = {"Latency": "end_to_end", "GPU Compute Time": "compute", "Enqueue Time": "enqueue"}
STEP_S = 900.0
NO_TESTS = "Not run: the tests are in deploybench's repository, and this is not a checkout of it."


def path_of(results: Path, driver: Driver) -> Path:
    """Where the report belongs: by the day and the first GPU's name."""
    gpu = re.sub(r"\W+", "-", driver.gpus[0].name.lower()).strip("-")
    return results / "gpu" / f"{datetime.now(timezone.utc):%Y-%m-%d}-{gpu}.md"


@dataclass(frozen=True, slots=True)
class Validation:
    """What is to be validated. `say`: told each command before it begins."""

    models: Sequence[str]
    trials: int
    results: Path
    say: Callable[[str], None]

    def report(self, driver: Driver) -> str:
        """The whole of it, as markdown. It takes minutes."""
        told = {name: self._told(name) for name in BACKENDS}
        return markdown([*heading(driver), *probes(told), *self._tests(), *self._cases(told), *self._by_trtexec()])

    def _run(self, *argv: str, cwd: Path | None = None) -> Ended:
        """A command to its end, or to its time limit; it is never waited for without one."""
        self.say(f"$ {' '.join(argv)}")
        try:
            ended = processes.run(list(argv), STEP_S, cwd=cwd)
        except OSError as error:
            return Ended(-1, b"", str(error).encode())
        return ended if ended.code is not None else Ended(-1, ended.output, f"took longer than {STEP_S:g} s".encode())

    def _deploybench(self, *argv: str) -> Ended:
        return self._run(sys.executable, "-P", "-c", "from bench.cli import main; main()", *argv)

    def _told(self, name: str) -> Mapping[str, Any]:
        """What the backend says of itself here."""
        done = self._deploybench("backends", name, "--json")
        if done.code:
            return {"reason": end_of(done.errors, 300)}
        found: dict[str, Any] = json.loads(text(done.output).splitlines()[0])
        return found

    def _tests(self) -> list[Block]:
        checkout = Path(bench.__file__).resolve().parents[1]
        if not (checkout / "tests" / "gpu").is_dir():
            return ["## Tests marked gpu", NO_TESTS]
        words = ("-m", "gpu", "tests/gpu", "-q", "-rfEs", "--tb=line", "-p", "no:randomly")
        done = self._run(sys.executable, "-m", "pytest", *words, cwd=checkout)
        lines = text(done.output).strip().splitlines()
        told = [f"- {line}" for line in lines if line.startswith(("FAILED", "ERROR", "SKIPPED"))]
        summary = lines[-1] if lines else end_of(done.errors, 300)
        return ["## Tests marked gpu", summary, *(["\n".join(told)] if told else [])]

    def _cases(self, told: Mapping[str, Mapping[str, Any]]) -> list[Block]:
        times = (f"{scope} ms" for scope in SCOPES.values())
        head = ("model", "backend", "precision", "options", "status", "error", *times, "GPU")
        rows = []
        for model in self.models:
            for name, facts in told.items():
                known = {option["name"] for option in facts.get("options", ())}
                for precision in facts["precisions"] if facts.get("available") else ():
                    for title, options in OPTIONS.items():
                        if not options or "cuda_graph" in known:
                            found = self._found(model, name, "--precision", precision, *options)
                            rows.append((escape(model), name, precision, title, *found))
        note = (
            "end_to_end: arrays here to arrays here, by the host's clock. compute: inputs and outputs on the GPU; by "
            "the GPU's own marks for tensorrt, by the host's clock around a synchronised run for ort-cuda. end_to_end "
            "is larger by the copies to and fro, by the wait, and by Python."
        )
        return ["## Models", Table(head, rows, right=(5, 6, 7, 8), keys=4), note]

    def _found(self, model: str, name: str, *options: str) -> tuple[str, ...]:
        """Status, error, the three times and what was seen of the GPU."""
        record, said = self._measured(model, name, *options)
        if record is None:
            return "no record", escape(said), *("" for _ in SCOPES), ""
        times = {x.scope: milliseconds(x.p50_ns) for x in record.latencies}
        worst = max((o.max_rel_scale or 0 for o in record.parity.outputs), default=0) if record.parity else None
        seen = record.evidence.observed.gpu if record.evidence.observed else None
        gpu = f"{seen.sm_mhz} MHz, {seen.power_w} W, {seen.temperature_c} C" if seen else "not seen"
        error = "" if worst is None else f"{worst:.1e}"
        status = f"{record.status}: {record.why[:80]}" if record.why else record.status
        if imitated := record.evidence.emulated:
            status += f", emulated: {imitated}"
        return escape(status), error, *(times.get(scope, "") for scope in SCOPES.values()), gpu

    def _measured(self, model: str, name: str, *options: str) -> tuple[Record | None, str]:
        """The record, or None and the last of what was said instead."""
        argv = ("run", model, "-b", name, "--trials", str(self.trials), "--json", *options)
        done = self._deploybench(*argv, "--results", str(self.results))
        if not done.output.startswith(b"{"):
            return None, end_of(done.errors, 120)
        return Record.from_json(done.output.splitlines()[0]), ""

    def _by_trtexec(self) -> list[Block]:
        title = "## Beside trtexec"
        program = next((found for name in TRTEXEC if (found := shutil.which(name))), None)
        if program is None:
            return [title, "Not compared: neither trtexec nor tensorrt_rtx is on the path."]
        rows = []
        for model in self.models:
            with tempfile.TemporaryDirectory() as folder:  # a model may be a path, which names no folder of ours
                self._deploybench("export", model, "-b", "tensorrt", "--output", f"{folder}/export")
                done = self._run(program, f"--loadEngine={folder}/export/model.engine", "--useSpinWait")
            record, _ = self._measured(model, "tensorrt")
            ours = {str(x.scope): x.p50_ns / 1e6 for x in record.latencies} if record else {}
            rows += [
                (escape(model), its, *_beside(its, ours.get(scope), text(done.output))) for its, scope in SCOPES.items()
            ]
        return [title, Table(("model", "what", "trtexec ms", "ours ms", "ratio"), rows, right=(2, 3, 4), keys=2)]


def text(output: bytes) -> str:
    return output.decode(errors="replace")


def end_of(output: bytes, length: int) -> str:
    """The last of what a program wrote, on one line."""
    return text(output).strip()[-length:].replace("\n", " ")


def _beside(title: str, ours: float | None, said: str) -> tuple[str, str, str]:
    """Its figure, ours, and the ratio."""
    found = re.search(rf"{title}:.*?median = ([\d.]+) ms", said)
    ratio = f"{ours / float(found[1]):.3f}" if found and ours else ""
    return found[1] if found else "not told", f"{ours:.3f}" if ours else "", ratio


def heading(driver: Driver) -> list[Block]:
    """When, and on what."""
    gpus = "; ".join(f"{g.words}, {g.memory_bytes >> 30} GiB" for g in driver.gpus)
    when = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    words = f"GPU: {gpus}. Driver {driver.version or 'unknown'}, CUDA {driver.cuda}."
    return [f"# GPU validation of {when}", words]


def probes(told: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """What every backend says of itself."""
    rows = []
    for name, facts in told.items():
        versions = ", ".join(f"{k} {v}" for k, v in facts.get("runtimes", {}).items())
        rows.append((name, str(facts.get("available", False)), escape(versions or facts.get("reason", ""))))
    return ["## Probes", Table(("backend", "here", "what"), rows)]
