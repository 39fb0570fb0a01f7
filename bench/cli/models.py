"""`deploybench models`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bench.cli.options import cache_option, complete_models, json_option

EXAMPLES = """\b
Examples:
  deploybench models
  deploybench models squeezenet
  deploybench models ./detector.onnx
"""


@click.command("models", epilog=EXAMPLES)
@click.argument("references", nargs=-1, metavar="[MODEL]...", shell_complete=complete_models)
@cache_option
@json_option
def command(references: tuple[str, ...], cache_dir: Path, as_json: bool) -> None:
    """List the catalogue of models; with a MODEL, show what it takes and gives.

    A catalogue model is made by its recipe when it is first used, without any download.
    """
    from bench.cli import tables

    rows = [_inspected(r, cache_dir) for r in references] if references else _catalogue()
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    elif references:
        for row in rows:
            click.echo("\n".join(f"{name}: {_text(value)}" for name, value in row.items()))
    else:
        tables.show(("model", "ready", "what"), [(r["name"], r["ready"], r["summary"]) for r in rows])


def _catalogue() -> list[dict[str, Any]]:
    from bench import catalog

    found = []
    for entry in catalog.load().values():
        lacking = entry.missing()
        remedy = f'pip install "deploybench[{entry.extra}]"' if entry.extra else f"pip install {' '.join(lacking)}"
        ready = f"needs {', '.join(lacking)}: {remedy}" if lacking else "yes"
        found.append({"name": entry.name, "ready": ready, "summary": entry.summary, "seed": entry.seed})
    return found


def _inspected(reference: str, cache_dir: Path) -> dict[str, Any]:
    from bench import onnxfile
    from bench.cache import Cache
    from bench.models import locate

    path, name = locate(reference, Cache(cache_dir), lambda message: click.echo(message, err=True))
    file = onnxfile.read(path)
    found = onnxfile.infer_outputs(file, onnxfile.signature(file.proto))
    operators: dict[str, int] = {}
    for node in file.proto.graph.node:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    return {
        "name": name,
        "sha256": file.sha256,
        "opset": file.opset,
        "precision": file.precision,
        "inputs": [f"{s.dtype} {onnxfile.describe({s.name: file.open_dims.get(s.name, ())})}" for s in found.inputs],
        "outputs": [f"{s.dtype or s.kind} {onnxfile.describe({s.name: s.shape or ()})}" for s in found.outputs],
        "operators": dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        **_work(file, path),
        "data sets": len(list(path.parent.glob("test_data_set_*"))),
    }


def _work(file: Any, path: Path) -> dict[str, Any]:
    """How much one inference computes, null where that depends on dimensions left open, and the number of weights."""
    from bench.plausible.operations import count

    counts = count(path)
    sizes = (size for dims in file.open_dims.values() for size in dims or (None,))
    gflop = 2 * counts.macs / 1e9 if all(isinstance(size, int) and size > 0 for size in sizes) else None
    return {"gflop": gflop, "parameters": counts.parameters, "not counted": list(counts.uncounted)}


def _text(value: Any) -> str:
    if value is None:
        return "depends on the dimensions left open"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)
