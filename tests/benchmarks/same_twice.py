"""The same revision measured twice, again and again: `compare` must say nothing but `same`. Run it on a quiet machine.

    python tests/benchmarks/same_twice.py [times, default 10] [argument of `deploybench run` ...]

Every time is two runs and a comparison of them, with the re-runs that it asks for. All records stay in one folder: the
first comparison knows no history and the tenth knows eighteen nights. By default squeezenet is measured on all three
runtimes. What was too noisy to be measured is counted by itself: it is no verdict on the speed.
"""

from __future__ import annotations

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


def once(results: Path, what: tuple[str, ...]) -> list[dict[str, object]]:
    """The verdicts on two runs of the same."""
    for _ in range(2):
        deploybench("run", *what, "--quiet", "--results", str(results))
    old, new = sorted((p for p in results.rglob("*.jsonl")), key=lambda p: p.name)[-2:]
    return [
        json.loads(line)
        for line in deploybench(
            "compare", old.stem, new.stem, "--json", "--quiet", "--results", str(results)
        ).splitlines()
    ]


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    what = tuple(sys.argv[2:]) or DEFAULT
    clean = quiet = 0
    untold: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
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
