"""Checks in a process apart from the caller's, so that a crash or a hang is a failed check and nothing more."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

from bench.conformance.checks import checks, named, resolve, run_check
from bench.conformance.kit import Check, Outcome, Subject, no_tools
from bench.conformance.processes import group, last_line, signal_name, written
from bench.interface import OptionValue

CHECK_LIMIT_S = 120.0
# Of a process, until it has imported the backend's module.
START_LIMIT_S = 60.0
_POLL_S = 0.02
_READY = b"ready"
_CHILD_SCRIPT = """
import json, sys
request = json.loads(sys.argv[1])
sys.path[:] = request["path"]
from bench.conformance.isolated import answer
answer(request)
"""


def isolated(
    spec: str,
    check: str,
    *,
    workdir: Path,
    tools: Mapping[str, Path] | None = None,
    limit_s: float = CHECK_LIMIT_S,
    extra: Mapping[str, OptionValue] | None = None,
) -> Outcome:
    """The outcome of one check on the backend `MODULE:CLASS`, in a process of its own; dying or hanging is failing."""
    return next(isolated_checks(spec, [check], workdir=workdir, tools=tools, limit_s=limit_s, extra=extra))


def isolated_checks(
    spec: str,
    names: Sequence[str] = (),
    *,
    workdir: Path,
    tools: Mapping[str, Path] | None = None,
    limit_s: float = CHECK_LIMIT_S,
    extra: Mapping[str, OptionValue] | None = None,
) -> Iterator[Outcome]:
    """The outcomes of checks (default: all), each as it is known, in as few processes as they survive.

    After a death the next check gets a new process. `limit_s` is for each check.

    Raises:
        UsageError: there is no check of a name.
    """
    left = [named(name) for name in names] or list(checks())
    request = {
        "path": sys.path,
        "spec": spec,
        "workdir": str(workdir),
        "tools": {name: str(path) for name, path in (tools or {}).items()},
        "extra": dict(extra or {}),
    }
    while left:
        for outcome in _one_process(request, tuple(left), limit_s):
            del left[0]
            yield outcome


def _one_process(request: Mapping[str, Any], left: Sequence[Check], limit_s: float) -> Iterator[Outcome]:
    """The outcomes up to a death, for which its check answers; for a death before the first check, all do."""
    argv = [sys.executable, "-I", "-c", _CHILD_SCRIPT]
    argv.append(json.dumps({**request, "checks": [check.name for check in left]}))
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started, count, size, limit = False, 0, 0, START_LIMIT_S
        with group(argv, output, errors) as process:
            until = monotonic() + limit
            while True:
                code = process.poll()  # asked before reading: once it has ended, all that it wrote is there
                lines, newline, _ = written(output, size).rpartition(b"\n")
                size += len(lines + newline)
                for line in lines.splitlines():
                    started, limit = True, limit_s
                    if line != _READY:
                        count += 1
                        yield Outcome(**json.loads(line))
                if lines:
                    until = monotonic() + limit
                if count == len(left) or code is not None or monotonic() > until:
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_S)
        if count < len(left):
            how = _death(code, written(errors), limit)
            for check in left[count : count + 1] if started else left:
                yield Outcome(check.name, check.rule, "failed", how if started else f"before the first check: {how}")


def _death(code: int | None, errors: bytes, limit_s: float) -> str:
    if code is None:
        return f"did not end within {limit_s:g} s"
    if code < 0:
        return f"died by {signal_name(code)}"
    return f"the process ended by itself with code {code}: {last_line(errors)}"


def answer(request: Mapping[str, Any]) -> None:
    """The far side: print that the backend's module is imported, then the outcome of each check, a line each."""
    tools = request["tools"]

    def tool_path(name: str) -> Path:
        return Path(tools[name]) if name in tools else no_tools(name)

    # Runtimes print to file descriptor 1: it goes to standard error, and the outcomes to where it pointed before.
    with os.fdopen(os.dup(1), "w") as report:
        os.dup2(2, 1)
        backend = resolve(request["spec"])
        subject = Subject(backend, Path(request["workdir"]), tool_path=tool_path, extra=request["extra"])
        print(_READY.decode(), file=report, flush=True)
        for name in request["checks"]:
            print(json.dumps(asdict(run_check(subject, name))), file=report, flush=True)
