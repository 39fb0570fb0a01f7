"""A folder for the runtime's authors: the smallest part that shows the fault, its inputs, the right answers, a script.

The script needs numpy, the runtime and nothing of ours.
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
from bench.localize.located import Subject
from bench.localize.parts import Parts, Reference, spec_of
from bench.localize.search import Finding
from bench.parity.compare import Tolerance

_MAIN = '''

# What the part takes and what it must give: made by {reference}.
MODEL = "part.onnx"
INPUTS = {inputs}
EXPECTED = {expected}
OPTIONS = {options}
# It is reproduced where an output is off by more than this share of its scale, or where the runtime fails.
SHOWN = {shown!r}


def main():
    folder = os.path.dirname(os.path.abspath(__file__))
    feeds = {{name: np.load(os.path.join(folder, file)) for name, file in INPUTS.items()}}
    try:
        got = run(os.path.join(folder, MODEL), feeds, OPTIONS)
    except Exception as error:
        print(f"REPRODUCED: the runtime fails: {{type(error).__name__}}: {{error}}")
        return 1
    worst = 0.0
    for name, file in EXPECTED.items():
        worst = max(worst, off(name, got.get(name), np.load(os.path.join(folder, file))))
    print("REPRODUCED" if worst > SHOWN else "not reproduced: this version gives the expected answer")
    return 1 if worst > SHOWN else 0


def off(name, got, expected):
    """The largest difference, as a share of the largest expected value."""
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
    sys.exit(main())
'''
_BY_US = """
def run(model, feeds, options):
    raise SystemExit("{backend} brings no script of its own; try: deploybench run part.onnx --backend {backend}")
"""


def write(
    folder: Path,
    finding: Finding,
    subject: Subject,
    parts: Parts,
    reference: Reference,
    backend: Backend,
    tolerance: Tolerance,
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
        shown=_shown(finding, tolerance),
    )
    (folder / "reproduce.py").write_text(_script(backend, finding) + main)


def _shown(finding: Finding, tolerance: Tolerance) -> float:
    """Half of the error that was seen, so that another machine's rounding decides nothing."""
    size = finding.outcome.size
    return float(f"{size / 2:.3g}") if finding.kind != "failure" and math.isfinite(size) else tolerance.atol_of_scale


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
    head = f'"""{what} on {backend.name}: run this script to see it. Exit code 1: it is still there."""\n\nimport sys\n'
    spec = importlib.util.find_spec(backend.alone) if backend.alone else None
    if spec is None or spec.origin is None:
        return f"{head}import os\n\nimport numpy as np\n{_BY_US.format(backend=backend.name)}"
    text = Path(spec.origin).read_text()
    first = ast.parse(text).body[0]
    body = "\n".join(text.splitlines()[first.end_lineno or 0 :]) if isinstance(first, ast.Expr) else text
    needs_os = "" if "\nimport os\n" in body else "import os\n"
    return f"{head}{needs_os}{body.lstrip()}\n"
