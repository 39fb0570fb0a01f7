"""The command line. This module imports click and nothing else: a verb's module is loaded when the verb is used."""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
from typing import Any

import click

from bench import __version__

VERBS = {
    "run": ("bench.cli.run", "Measure models on backends, prove their answers, print the table."),
    "matrix": ("bench.cli.matrix", "Measure every cell of a matrix file, on all its devices at once; resumable."),
    "merge": ("bench.cli.merge", "Join the results of a matrix that was run in shards."),
    "rerun": ("bench.cli.rerun", "Measure a recorded case again, with the same options."),
    "report": ("bench.cli.report", "Make markdown tables from records."),
    "compare": ("bench.cli.compare", "Judge whether cells got slower, worse or larger; exit 1 on a regression."),
    "history": ("bench.cli.history", "Show all nights of a cell, and when its level moved."),
    "localize": ("bench.cli.localize", "Find the nodes that make a backend's answers wrong, or that it cannot run."),
    "export": ("bench.cli.export", "Write the very artefact that is measured (.param/.bin, .mnn, .onnx)."),
    "reference": ("bench.cli.reference", "Write reference outputs with their provenance, and how far they may be off."),
    "models": ("bench.cli.models", "List the catalogue of models, or show what a model takes and gives."),
    "backends": ("bench.cli.backends", "List the backends: what is available here, or why not and what would help."),
    "devices": ("bench.cli.devices", "List devices, say what is there and what is missing, or clean one."),
    "cache": ("bench.cli.cache", "List, limit or clean the cache of models and artefacts."),
    "selfcheck": ("bench.cli.selfcheck", "Say how well this machine can measure, and what would quiet it."),
    "validate": ("bench.cli.validate", "Validate the GPU backends on this machine's GPU, and write a dated report."),
    "conformance": ("bench.cli.conformance", "Check a backend against the rules of the interface."),
    "completion": ("bench.cli.completion", "Print the completion script for your shell."),
}

EXAMPLES = """\b
Examples:
  deploybench backends
  deploybench run squeezenet resnet50 --backend ort-cpu --backend ncnn --backend mnn
  deploybench run ./detector.onnx --shape images=1,3,640,640 --threads 4
  deploybench report --output table.md
"""


class Verbs(click.Group):
    """A group that knows its verbs by name and one line each, and imports the one that is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        return importlib.import_module(VERBS[cmd_name][0]).command  # type: ignore[no-any-return]  # every verb's module has a command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], VERBS, n=2)
            meant = f" Did you mean {' or '.join(close)}?" if close else ""
            raise click.UsageError(f"there is no verb {args[0]!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Verbs, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="deploybench")
def app() -> None:
    """Deploy ONNX models with evidence.

    Where can this model run, are its answers right there, how fast is it, and how sure are we? A latency is printed
    only if, in the same process, the outputs were right and the machine was quiet. Everything else is recorded with the
    reason.

    Exit codes: 0 done, 1 a case is wrong, failed, crashed, timed out or implausible, 2 usage, 3 nothing ran.
    """


def main() -> None:
    """Entry point: our errors become one line and an exit code, never a traceback."""
    from bench.errors import BenchError, UsageError

    _say_what_the_terminal_can()
    try:
        code = app.main(standalone_mode=False, prog_name="deploybench")
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = _said("interrupted; records hold the trials that had ended, and nothing is left half-made", 130)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except UsageError as error:
        code = _said(str(error), 2)
    except BenchError as error:
        code = _said(str(error), 1)
    except BrokenPipeError:
        # The reader has gone: not our error, and Python must not report it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _say_what_the_terminal_can() -> None:
    """An encoding that lacks a letter shows `?` for it; a run shall not end in a traceback for that."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _said(message: str, code: int) -> int:
    click.echo(f"deploybench: {message}", err=True)
    return code
