"""The same revision measured twice, again and again: `compare` must say nothing but `same`. Run it on a quiet machine.

    python tests/benchmarks/same_twice.py [--times 10] [--nights 0] [argument of `deploybench run` ...]

Every time is two runs and a comparison of them, with the re-runs that it asks for. All records stay in one folder: the
first comparison knows no history and the tenth knows eighteen nights, and those of --nights, which are recorded first:
with one or two the gate says of many cells that it cannot tell (`gate.py` has the curve). By default squeezenet is
measured on all three runtimes. What was too noisy to be measured is counted by itself: it is no verdict on the speed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

DEFAULT = ("squeezenet", "--backend", "ort-cpu", "--backend", "ncnn", "--backend", "mnn")
COMMAND = (sys.executable, "-P", "-c", "from bench.cli import main; main()")


def deploybench(*argv: str) -> str:
    """What it prints."""
    done = subprocess.run([*COMMAND, *argv], stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout


def night(results: Path, what: tuple[str, ...]) -> None:
    """One run."""
    deploybench("run", *what, "--quiet", "--results", str(results))


def once(results: Path, what: tuple[str, ...]) -> list[dict[str, object]]:
    """The verdicts on two runs of the same."""
    for _ in range(2):
        night(results, what)
    old, new = sorted((p for p in results.rglob("*.jsonl")), key=lambda p: p.name)[-2:]
    return [
        json.loads(line)
        for line in deploybench(
            "compare", old.stem, new.stem, "--json", "--quiet", "--results", str(results)
        ).splitlines()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--nights", type=int, default=0, help="recorded before the first comparison")
    asked, rest = parser.parse_known_args()
    times, what = asked.times, tuple(rest) or DEFAULT
    clean = quiet = 0
    untold: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(asked.nights):
            night(Path(folder), what)
        print("| time | verdicts | largest change | re-run |\n| ---: | --- | ---: | ---: |")
        for number in range(1, times + 1):
            found = once(Path(folder), what)
            counts = Counter(str(v["verdict"]) for v in found)
            told = ", ".join(f"{count} {word}" for word, count in counts.items())
            largest = max((abs(float(str(v["effect"]))) for v in found if v["effect"] is not None), default=0.0)
            again = sum(v["again"] is not None for v in found)
            print(f"| {number} | {told} | {largest:.2%} | {again} |", flush=True)
            untold += [f"{number}: {v['detail']}" for v in found if v["verdict"] == "cannot tell"]
            clean += set(counts) == {"same"}
            quiet += set(counts) <= {"same", "cannot tell"}
    print(f"\nno change told: {quiet} of {times}; nothing but `same`: {clean} of {times}")
    print("\n".join(["", "cannot tell:", *untold]) if untold else "")


if __name__ == "__main__":
    main()
