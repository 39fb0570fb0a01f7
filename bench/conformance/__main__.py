"""`python -m bench.conformance`: the kit without the command line's comforts, for where only Python is at hand."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.conformance.checks import resolve
from bench.conformance.isolated import isolated_checks
from bench.errors import BenchError


def main(argv: Sequence[str] | None = None) -> int:
    """Print the outcome of each check named, one JSON object per line; 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.conformance", description=(__doc__ or "").strip())
    parser.add_argument("spec", metavar="MODULE:CLASS", help="the backend")
    parser.add_argument("check", nargs="*", help="names of checks (default: all)")
    parser.add_argument("--workdir", type=Path, required=True, help="a folder to write into")
    parser.add_argument("--tool", action="append", default=[], metavar="NAME=PATH", help="where a declared tool is")
    parser.add_argument("--option", type=json.loads, default={}, metavar="JSON", help="the backend's options to set")
    given = parser.parse_args(argv)
    tools = {name: Path(path) for name, _, path in (entry.partition("=") for entry in given.tool)}
    failed = False
    try:
        resolve(given.spec)
        for outcome in isolated_checks(given.spec, given.check, workdir=given.workdir, tools=tools, extra=given.option):
            print(json.dumps(asdict(outcome)), flush=True)
            failed |= outcome.status == "failed"
    except BenchError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
