"""A folder for the runtime's authors: the smallest part that shows the fault, its inputs, the right answers, a script.

The script needs numpy, the runtime and nothing of ours. It runs the runtime in a process of its own, and so outlives
the crash that it shows.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import pprint
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.interface import Backend, Value
from bench.localize import report
from bench.localize.located import Subject
from bench.localize.parts import Parts, Reference, spec_of
from bench.localize.search import Finding
from bench.parity.compare import Tolerance
from bench.place import Limits

# What the rest of the script needs beside the runtime's own part.
_IMPORTS = ("faulthandler", "os", "signal", "subprocess", "sys", "tempfile", "traceback")
_MAIN = '''

# What the part takes and what it must give: made by {reference}.
MODEL = "part.onnx"
INPUTS = {inputs}
EXPECTED = {expected}
OPTIONS = {options}
SEEN = {seen!r}
HUNG = {hung!r}
# It is reproduced where an output is off by more than this share of its scale, or where the runtime fails.
SHOWN = {shown!r}
# How long the runtime may take; python reproduce.py SECONDS gives it another limit.
LIMIT_S = {limit_s!r}
HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    """0: the fault is gone, 1: it is still there, 2: it could not be tried."""
    limit_s = float(sys.argv[1]) if sys.argv[1:] else LIMIT_S
    print(f"seen: {{SEEN}}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        code = apart(folder, limit_s)
        if code is None and not HUNG:
            print(f"not tried: no answer within {{limit_s:g}} s; to give it longer: python reproduce.py SECONDS")
            return 2
        if said := left(folder, "lacking"):
            print(f"not tried: {{said}}")
            return 2
        fails = left(folder, "failed") or (f"it ended with exit code {{code}}" if code else "")
        if code is None:
            fails = f"it hung for {{limit_s:g}} s"
        elif code < 0:
            fails = f"it crashed with {{signal.Signals(-code).name}}"
        if fails:
            print(f"REPRODUCED: the runtime fails: {{fails}}")
            return 1
        worst = max(off(name, folder, index) for index, name in enumerate(EXPECTED))
    print("REPRODUCED" if worst > SHOWN else "not reproduced: this version gives the expected answer")
    return 1 if worst > SHOWN else 0


def apart(folder, limit_s):
    """The exit code of a process of its own that runs the part: it may crash, or hang (None)."""
    process = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--apart", folder], start_new_session=True)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # with all that it started
            process.wait()


def inside(folder):
    """In that process: leave the outputs as files, or what went wrong in words."""
    faulthandler.enable()
    said, kind = "", ""
    try:
        feeds = {{name: np.load(os.path.join(HERE, file)) for name, file in INPUTS.items()}}
        got = run(os.path.join(HERE, MODEL), feeds, OPTIONS)
        for index, name in enumerate(EXPECTED):
            if name in got:
                np.save(os.path.join(folder, f"{{index}}.npy"), got[name])
    except (ImportError, FileNotFoundError) as error:
        said, kind = f"{{type(error).__name__}}: {{error}}", "lacking"
    except Exception as error:
        traceback.print_exc()
        said, kind = f"{{type(error).__name__}}: {{error}}", "failed"
    if said:
        with open(os.path.join(folder, kind), "w", encoding="utf-8") as file:
            file.write(said)
    sys.stdout.flush()
    os._exit(0)  # what a runtime does at the end of its process is not what was seen


def left(folder, kind):
    path = os.path.join(folder, kind)
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8") as file:
        return file.read()


def off(name, folder, index):
    """The largest difference, as a share of the largest expected value."""
    path, expected = os.path.join(folder, f"{{index}}.npy"), np.load(os.path.join(HERE, EXPECTED[name]))
    got = np.load(path) if os.path.exists(path) else None
    if got is None or got.shape != expected.shape:
        print(f"{{name}}: got {{None if got is None else got.shape}}, expected {{expected.shape}}")
        return float("inf")
    if expected.dtype.kind not in "fiu" or not expected.size:
        differ = int((got != expected).sum())
        print(f"{{name}}: {{differ}} of {{expected.size}} elements differ")
        return float("inf") if differ else 0.0
    distance = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    at = np.unravel_index(np.nanargmax(distance), distance.shape) if np.isfinite(distance).any() else ()
    scale = float(np.abs(expected.astype(np.float64)).max()) or 1.0
    share = float(distance.max()) / scale
    print(f"{{name}}: off by {{share:.3g}} of its scale; at {{[int(i) for i in at]}} {{got[at]}}, not {{expected[at]}}")
    return share if share == share else float("inf")


if __name__ == "__main__":
    sys.exit(inside(sys.argv[2]) if sys.argv[1:2] == ["--apart"] else main())
'''
_BY_US = """
def run(model, feeds, options):
    raise ImportError("{backend} brings no script of its own; try: deploybench run part.onnx --backend {backend}")
"""


def write(
    folder: Path,
    finding: Finding,
    subject: Subject,
    parts: Parts,
    reference: Reference,
    backend: Backend,
    tolerance: Tolerance,
    limits: Limits,
) -> None:
    """Write model, inputs, expected outputs and `reproduce.py` into an empty folder."""
    span = parts.layout.span(finding.start, finding.end, last_only=finding.last_only)
    values = reference.values([*span.inputs, *span.constants, *span.outputs])
    _, feeds = parts.write(span, values, [spec_of(name, values[name]) for name in span.outputs], folder)
    inputs = _saved(folder, "input", feeds)
    expected = _saved(folder, "expected", {name: values[name] for name in span.outputs})
    options = {**subject.options, "precision": subject.precision}
    main = _MAIN.format(
        reference=subject.reference,
        inputs=pprint.pformat(inputs, sort_dicts=False, width=110),
        expected=pprint.pformat(expected, sort_dicts=False, width=110),
        options=pprint.pformat({name: value for name, value in options.items() if value is not None}, width=110),
        seen=report.seen(finding.outcome),
        hung=_hung(finding),
        shown=_shown(finding, tolerance),
        limit_s=_limit_s(finding, limits),
    )
    (folder / "reproduce.py").write_text(_script(backend, finding) + main)


def _shown(finding: Finding, tolerance: Tolerance) -> float:
    """Half of the error that was seen, so that another machine's rounding decides nothing."""
    size = finding.outcome.size
    return float(f"{size / 2:.3g}") if finding.kind != "failure" and math.isfinite(size) else tolerance.atol_of_scale


def _hung(finding: Finding) -> bool:
    return finding.outcome.failure is not None and finding.outcome.failure.kind == "timeout"


def _limit_s(finding: Finding, limits: Limits) -> float:
    """What the search has given it: to the phase that hung, else to all of them together."""
    if finding.outcome.failure and _hung(finding):
        return float(getattr(limits, finding.outcome.failure.phase))
    return limits.prepare + limits.load + limits.first_run


def _saved(folder: Path, what: str, values: Mapping[str, Value]) -> dict[str, str]:
    """Each value in a file that numpy reads without pickle; the files by the tensor's name."""
    found = {}
    for index, (name, value) in enumerate(values.items()):
        if isinstance(value, np.ndarray):
            found[name] = f"{what}_{index}.npy"
            np.save(folder / found[name], value.astype(str) if value.dtype == object else value, allow_pickle=False)
    return found


def _script(backend: Backend, finding: Finding) -> str:
    """The runtime's own part of the script: imports and `run`."""
    what = " + ".join(node.op for node in finding.nodes[:4])
    head = f'"""{what} on {backend.name}: run this script to see it. Exit code 1: it is still there."""\n\n'
    spec = importlib.util.find_spec(backend.alone) if backend.alone else None
    if spec is None or spec.origin is None:
        body = f"import numpy as np\n{_BY_US.format(backend=backend.name)}"
    else:
        text = Path(spec.origin).read_text()
        first = ast.parse(text).body[0]
        body = "\n".join(text.splitlines()[first.end_lineno or 0 :]) if isinstance(first, ast.Expr) else text
    there = body.splitlines()
    imports = "".join(f"import {name}\n" for name in _IMPORTS if f"import {name}" not in there)
    return f"{head}{imports}{body.lstrip()}\n"
