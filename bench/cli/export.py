"""`deploybench export`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bench.cli.options import (
    cache_option,
    case_options,
    complete_backends,
    complete_models,
    json_option,
    results_option,
    say,
)

EXAMPLES = """\b
Examples:
  deploybench export squeezenet --backend ncnn --output squeezenet-ncnn
  deploybench export model.onnx --backend mnn --shape input=1,3,224,224 --output out
  deploybench export --record 3f2a91 --output out
"""


@click.command("export", epilog=EXAMPLES)
@click.argument("model", required=False, shell_complete=complete_models)
@click.option(
    "-b", "--backend", metavar="NAME", shell_complete=complete_backends, help="The backend whose artefact is wanted."
)
@click.option(
    "--record",
    "record_id",
    metavar="ID",
    help="Export what this record measured instead; its id, or the beginning of it.",
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder to write; it must not exist.")
@case_options
@results_option
@cache_option
@json_option
def command(
    model: str | None,
    backend: str | None,
    record_id: str | None,
    output: Path,
    threads: int,
    precision: str,
    batch: int | None,
    shapes: Sequence[str],
    extra: Sequence[str],
    cpus: str | None,
    results: Path,
    cache_dir: Path,
    as_json: bool,
) -> None:
    """Write the very artefact that is measured.

    That is .param and .bin for ncnn, .mnn for MNN, the (bound) .onnx for ONNX Runtime. It comes from the same cache
    that `run` measures from. With --record, its hash is compared with the recorded one.
    """
    from bench.artifacts import prepare
    from bench.cache import Cache
    from bench.cli import chosen, recorded
    from bench.errors import UsageError

    if output.exists():
        raise UsageError(f"{output} is there already", "choose a folder that does not exist")
    where = chosen.place("local", Cache(cache_dir), say)
    wanted = chosen.Wanted(threads, precision, batch, shapes, extra, cpus)
    if record_id:
        record = recorded.find(record_id, results)
        case = recorded.case(record, model, where)
    elif model and backend:
        record = None
        case = chosen.cases([model], chosen.backends([backend], where), wanted, where)[0]
    else:
        raise UsageError("nothing to export", "give MODEL and --backend, or --record")
    prepared = prepare(where, case.backend, case.resolved.model, case.options, to_run=False)
    if record and record.prepare and record.prepare.artefact_sha256 != prepared.sha256:
        click.echo(
            "deploybench: this artefact differs from the recorded one: a converter or the backend has changed", err=True
        )
    if prepared.doubt:
        say(prepared.doubt)
    facts = {
        "model": case.resolved.model.name,
        "model_sha256": case.resolved.source_sha256,
        "backend": case.backend.name,
        "artefact_sha256": prepared.sha256,
        "doubt": prepared.doubt,
        "converter": dict(prepared.converter),
        "files": list(prepared.artifact.files),
        "meta": dict(prepared.artifact.meta),
    }
    _copy(prepared.artifact, facts, output)
    click.echo(json.dumps(facts) if as_json else "\n".join(str(output / name) for name in prepared.artifact.files))


def _copy(artifact: Any, facts: dict[str, Any], output: Path) -> None:
    """The files and `artefact.json` beside them; whole or not at all."""
    from bench.errors import UsageError

    making = output.with_name(f".{output.name}.making")
    try:
        shutil.rmtree(making, ignore_errors=True)
        for name in artifact.files:
            (making / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artifact.root / name, making / name)
        (making / "artefact.json").write_text(json.dumps(facts, indent=1) + "\n")
        making.rename(output)
    except OSError as error:
        shutil.rmtree(making, ignore_errors=True)
        raise UsageError(f"{output} cannot be written: {error.strerror}") from error
