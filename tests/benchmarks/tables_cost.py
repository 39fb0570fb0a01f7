"""What tables cost with a long history: python tests/benchmarks/tables_cost.py [--records 100000] [--keep FOLDER]

Writes run files as nights of matrices make them (every cell once a night, each record with its own trials and samples),
then runs `deploybench report` on them in processes of their own and prints seconds and peak memory of each form, beside
what merely reading the bytes takes. Then what appending a line to a run's file takes, by how much lies there already.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from bench.record import CaseLine, EndLine, TrialLine, encode_line
from bench.store import RunFile, read_lines

GOLDEN = Path(__file__).parent.parent / "golden" / "schema-1.jsonl"
COMMAND = [sys.executable, "-P", "-c", "from bench.cli import main; main()"]
replace = msgspec.structs.replace


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--cells", type=int, default=333, help="records of one night")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--samples", type=int, default=300, help="samples of a trial")
    parser.add_argument("--keep", type=Path, help="folder to keep the records in, and to take them from")
    given = parser.parse_args()
    folder = given.keep or Path(tempfile.mkdtemp())
    try:
        results = folder / f"{given.records}x{given.trials}x{given.samples}"
        if not results.exists():
            generate(results, given)
        print_costs(results)
        print_appending(folder / "appending")
    finally:
        if not given.keep:
            shutil.rmtree(folder)


def generate(results: Path, given: argparse.Namespace) -> None:
    """Nights of matrices. Samples differ from trial to trial; a hundred trials' worth are encoded once and shared."""
    lines = list(read_lines(GOLDEN))
    case = next(line for line in lines if isinstance(line, CaseLine))
    trial = next(line for line in lines if isinstance(line, TrialLine) and line.series and not line.error)
    rng = np.random.default_rng(0)
    encoded = [_encoded(trial, rng, given.samples) for _ in range(100)]
    end = encode_line(EndLine(schema=1, id="@", stopped_by="precise enough"))
    nights = -(-given.records // given.cells)
    records = results / "records" / "board-4c-0000"
    records.mkdir(parents=True)
    for night in range(nights):
        day = np.datetime64("2026-01-01") + night
        with (records / f"{str(day).replace('-', '')}T020000Z-{night:08x}.jsonl").open("wb") as file:
            for cell in range(min(given.cells, given.records - night * given.cells)):
                identity = f"{night:08x}{cell:08x}".encode()
                file.write(encode_line(_case(case, str(day), night, cell)).replace(b'"@"', b'"%s"' % identity) + b"\n")
                for index in range(given.trials):
                    text = encoded[(night * 7 + cell * given.trials + index) % len(encoded)]
                    text = text.replace(b'"index":0', b'"index":%d' % index, 1)
                    file.write(text.replace(b'"@"', b'"%s"' % identity, 1) + b"\n")
                file.write(end.replace(b'"@"', b'"%s"' % identity, 1) + b"\n")


def _case(case: CaseLine, day: str, night: int, cell: int) -> CaseLine:
    model = replace(case.case.model, name=f"model{cell // 3}", sha256=f"{cell // 3:064x}")
    facts = replace(case.case, model=model, backend=("ort-cpu", "ncnn", "mnn")[cell % 3])
    started_at = f"{day}T02:{cell // 60 % 60:02}:{cell % 60:02}Z"
    return replace(
        case,
        id="@",
        run=f"{night:08x}",
        cell=f"{cell:016x}",
        machine="board-4c-0000",
        started_at=started_at,
        case=facts,
        trials_wanted=6,
    )


def _encoded(trial: TrialLine, rng: np.random.Generator, samples: int) -> bytes:
    """A trial line whose samples are as hard to compress as real ones: 7 ms, give or take 1 %, with a tail."""
    drawn = 7e6 * (1 + 0.01 * rng.standard_normal(samples) + 0.05 * (rng.random(samples) < 0.02))
    series = replace(trial.series[0], samples_ns=[int(s) for s in drawn])
    return encode_line(replace(trial, id="@", index=0, series=[series], bracket_ns=int(drawn.sum() * 1.01)))


def print_costs(results: Path) -> None:
    """Seconds and peak memory of every form."""
    files = sorted((results / "records").rglob("*.jsonl"))
    size = sum(f.stat().st_size for f in files)
    print(f"{len(files)} files, {size / 2**30:.2f} GiB, {os.cpu_count()} cores\n")
    print(f"{'':44} {'seconds':>8} {'peak MiB':>9}")
    begin = time.perf_counter()
    for path in files:
        with path.open("rb") as file:
            while file.read(1 << 20):
                pass
    print(f"{'reading the bytes':44} {time.perf_counter() - begin:8.2f} {'':>9}")
    newest = str(files[-1])
    for words in (
        ["--output", "table.md"],
        ["--pages", "pages"],
        ["--format", "junit", "--output", "junit.xml"],
        [newest, "--format", "csv", "--output", "newest.csv"],
    ):
        seconds, peak = measured(words, results)
        shown = ["RUN" if word == newest else word for word in words]
        print(f"{'report ' + ' '.join(shown):44} {seconds:8.2f} {peak / 2**20:9.0f}")


def measured(words: list[str], results: Path) -> tuple[float, int]:
    """Seconds and peak memory of one `deploybench report`."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        code = "import resource, subprocess, sys; c = subprocess.run(sys.argv[1:]).returncode; "
        code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(c)"
        argv = [sys.executable, "-c", code, *COMMAND, "report", *words, "--results", str(results)]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True)
        return time.perf_counter() - begin, int(done.stdout.split()[-1]) * 1024


def print_appending(folder: Path) -> None:
    """The median time to append a trial line, by how many the file and the folder hold already."""
    trial = next(line for line in read_lines(GOLDEN) if isinstance(line, TrialLine) and line.series)
    print(f"\n{'appending a trial line':44} {'ms':>8}")
    for held in (0, 1_000, 10_000):
        shutil.rmtree(folder, ignore_errors=True)
        with RunFile(folder, "machine", "run") as file:
            text = encode_line(trial) + b"\n"
            with file.path.open("ab") as direct:
                for _ in range(held):
                    direct.write(text)
            times = []
            for _ in range(200):
                begin = time.perf_counter()
                file.append(trial)
                times.append(time.perf_counter() - begin)
        print(f"{f'{held} lines before it':44} {1e3 * float(np.median(times)):8.3f}")
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
