"""`deploybench reference`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bench.cli.options import batch_option, cache_option, complete_models, json_option, say, shape_option
from bench.cli.parsing import parse_shapes

EXAMPLES = """\b
Examples:
  deploybench reference resnet50
  deploybench reference ./model.onnx --inputs 5 --seed 7 --output checked
  deploybench reference ./model.onnx --producer float64 --batch 1
  deploybench reference ./classifier.onnx --data photos --preprocess imagenet --inputs 20
"""


@click.command("reference", epilog=EXAMPLES)
@click.argument("model", shell_complete=complete_models)
@click.option("--inputs", "count", type=click.IntRange(1, 10_000), help="How many.  [default: 2, or all of --data]")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Of the inputs that are drawn.  [default: 20261120]")
@click.option(
    "--producer",
    type=click.Choice(["framework", "ort", "float64"]),
    help="Who answers: the recipe's own framework, ONNX Runtime without optimisations, or a float64 run.  "
    "[default: framework for catalogue models, else ort]",
)
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="PATH", help=".npz, .npy, .pb, an image, or a folder of them."
)
@click.option("--preprocess", metavar="STEPS", help="How an image becomes an input: imagenet, or resize=...,crop=...")
@batch_option
@shape_option
@click.option("--output", type=click.Path(path_type=Path), help="Folder to write.  [default: MODEL-reference]")
@cache_option
@json_option
def command(
    model: str,
    count: int | None,
    seed: int | None,
    producer: Any,
    data: Path | None,
    preprocess: str | None,
    batch: int | None,
    shapes: Sequence[str],
    output: Path | None,
    cache_dir: Path,
    as_json: bool,
) -> None:
    """Write reference outputs, and measure how far they may be off themselves.

    The folder holds the model, test_data_set_* in ONNX's layout, and provenance.json, which says who made them of what:
    `deploybench run FOLDER` judges by them, and refuses them for any other model.
    """
    from bench import catalog
    from bench.cache import Cache
    from bench.cli import chosen
    from bench.models import resolve
    from bench.reference import moved, noise_floor
    from bench.reference.make import Wanted, make
    from bench.reference.written import check_free, write

    where = chosen.place("local", Cache(cache_dir), say)
    resolved = resolve(model, where.cache, shapes=parse_shapes(shapes), batch=batch, say=say)
    output = (output or Path(f"{resolved.model.name}-reference")).absolute()
    check_free(output, resolved.model)
    wanted = Wanted(producer, count, seed, data, preprocess)
    made = make(resolved, wanted, where, catalogued=model in catalog.load())
    if count and len(made.resolved.data_sets) < count:
        say(f"only {len(made.resolved.data_sets)} different inputs: there is no more choice, or no more was given")
    floor = noise_floor(made.resolved, where, {}, double=True)
    paths = write(output, made.resolved.model, made.resolved.data_sets, made.said)
    facts = _facts(made, floor, moved(made.resolved), output, paths)
    click.echo(json.dumps(facts) if as_json else _text(facts))


def _facts(made: Any, floor: Any, share: float | None, output: Path, paths: Sequence[Path]) -> dict[str, Any]:
    from dataclasses import asdict

    from bench.reference.make import shapes_of

    return {
        "model": made.resolved.model.name,
        **made.said,
        "data_sets": [
            {"source": source, "values": shapes_of(data)}
            for source, data in zip(made.sources, made.resolved.data_sets, strict=True)
        ],
        "moved": share,
        "noise": [asdict(noise) for noise in floor.outputs],
        "noise_reason": floor.reason,
        "output": str(output),
        "files": [path.name for path in paths],
    }


def _text(facts: dict[str, Any]) -> str:
    lines = [f"{facts['model']}: reference outputs by {facts['producer']} {facts['version']} in {facts['precision']}"]
    lines += [f"  {facts['settings']}"] if facts["settings"] else []
    lines += [f"  {index}: {one['values']} ({one['source']})" for index, one in enumerate(facts["data_sets"])]
    if facts["moved"] is not None:
        lines.append(f"the output moves by {facts['moved']:.1%} of its norm between the first two inputs")
    lines += [line for noise in facts["noise"] for line in _noise(noise)]
    lines += [f"not known: {facts['noise_reason']}"] if facts["noise_reason"] else []
    return "\n".join([*lines, *(f"{facts['output']}/{name}" for name in facts["files"])])


def _noise(noise: dict[str, Any]) -> list[str]:
    ways = {
        "optimised": "ONNX Runtime optimised against not",
        "nudged": "inputs off by half of their last place",
        "own": "this reference against ONNX Runtime",
        "float64": "float32 against float64",
    }
    told = [f"  {noise[way]:.1e} {words}" for way, words in ways.items() if noise[way] is not None]
    return [f"noise of float32 in {noise['name']}: {noise['max_rel_scale']:.1e} of its scale, the largest of", *told]
