#!/usr/bin/env python3
"""Words for a fresh clone, with nothing but Python 3.11+, its venv module and the package index:

    python3 make.py demo    an environment in .venv, then real models on ONNX Runtime, ncnn and MNN, and the table
    python3 make.py test    the same with the test tools, then lint, types, import contracts and the whole test suite
    python3 make.py crosscheck
                            our figures beside a bare loop's, LoadGen's, pytest-benchmark's and Polygraphy's

What follows the word goes to the command it runs (`deploybench run`, pytest). Standard library only.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
RUNTIMES = "cpu,ncnn,mnn"
# No more than the six trials of an interval, and no long ones: on two cores it shall take less than three minutes.
DEMO = ["run", "squeezenet", "shufflenet", "inception_v2", "resnet50", "--budget", "140"]
DEMO += ["--max-trials", "6", "--max-time", "1.5"]
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports",),
)


def main() -> int:
    """Run the word that was given."""
    words = {"demo": demo, "test": test, "crosscheck": crosscheck}
    if len(sys.argv) < 2 or sys.argv[1] not in words:
        print(__doc__)
        return 2
    if sys.version_info < (3, 11):
        print(
            f"deploybench needs Python 3.11 or newer, and this is {sys.version.split()[0]}; "
            f"try python3.12 make.py {sys.argv[1]}, or any newer one that you have"
        )
        return 2
    return words[sys.argv[1]](sys.argv[2:])


def demo(rest: list[str]) -> int:
    """Benchmark zoo models on every runtime; the table is printed, and written below results/."""
    install(RUNTIMES)
    return call("deploybench", *(["run", *rest] if rest else DEMO))


def test(rest: list[str]) -> int:
    """Lint, types, import contracts, then pytest. `--with torch,sklearn` before all else adds extras for more tests."""
    extras = f"{RUNTIMES},dev"
    if rest[:1] == ["--with"] and len(rest) > 1:
        extras += f",{rest[1]}"
        rest = rest[2:]
    install(extras)
    failed = [" ".join(check) for check in CHECKS if call(*check) != 0]
    code = call("pytest", *rest)
    if failed:
        print(f"failed before the tests: {', '.join(failed)}", file=sys.stderr)
    return code or int(bool(failed))


def crosscheck(rest: list[str]) -> int:
    """Measure the same by several harnesses; the table of ratios is printed."""
    install(f"{RUNTIMES},dev,crosscheck")
    return call("python", "tests/benchmarks/crosscheck.py", *rest)


def install(extras: str) -> None:
    """Make .venv hold the package with these extras at the tested versions; quick when it does already."""
    wanted = "".join((ROOT / name).read_text() for name in ("pyproject.toml", "constraints.txt"))
    stamp = VENV / "installed"
    digest = hashlib.sha256(f"{wanted}{extras}{sys.version}".encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    print(f"making {VENV.name} with deploybench[{extras}]", file=sys.stderr)
    make_environment()
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--constraint", str(ROOT / "constraints.txt")]
    if "torch" in extras.split(","):
        run([*pip, "torch"])  # first, and alone: what depends on it must find it there
    run([*pip, "--editable", f"{ROOT}[{extras}]"])
    stamp.write_text(digest)


def make_environment() -> None:
    """A virtual environment, or a sentence on what is missing for one."""
    done = subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        sys.exit("Python's venv module does not work here; on Debian and Ubuntu: apt install python3-venv")


def call(name: str, *argv: str) -> int:
    """Run a command of the environment, here; its exit code."""
    print(f"$ {name} {' '.join(argv)}", file=sys.stderr, flush=True)
    return subprocess.run([str(VENV / "bin" / name), *argv], cwd=ROOT, check=False).returncode


def run(argv: list[str]) -> None:
    """Run a command that must succeed."""
    code = subprocess.run(argv, cwd=ROOT, check=False).returncode
    if code:
        sys.exit(f"failed with {code}: {' '.join(argv)}")


if __name__ == "__main__":
    sys.exit(main())
