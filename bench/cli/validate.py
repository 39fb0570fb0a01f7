"""`deploybench validate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from bench.cli.options import complete_models, results_option, say

EXAMPLES = """\b
Examples:
  deploybench validate
  deploybench validate --model resnet50 --model ./detector --trials 3
"""


@click.command("validate", epilog=EXAMPLES)
@click.option(
    "--model",
    "models",
    multiple=True,
    default=("resnet50", "squeezenet", "transformer_encoder"),
    show_default=True,
    metavar="MODEL",
    shell_complete=complete_models,
    help="A model to measure; several times.",
)
@click.option("--trials", type=click.IntRange(1), default=6, show_default=True, help="Trials of every case.")
@results_option
@click.pass_context
def command(ctx: click.Context, /, models: Sequence[str], trials: int, results: Path) -> None:
    """Validate the GPU backends on this machine's GPU, and write a dated report.

    Probes, the tests that only a GPU can pass (in a checkout), every model in every precision with and without a CUDA
    graph, and trtexec beside ours where it is installed. The report is RESULTS/gpu/DATE-GPU.md, and its path is
    printed. Without an NVIDIA driver it says why and exits with 3.
    """
    from bench import cuda_driver, validation

    try:
        driver = cuda_driver.ask()
    except cuda_driver.NoGpu as why:
        say(f"nothing can be validated here: {why.reason}; {why.remedy}")
        ctx.exit(3)
    path = validation.path_of(results, driver)
    text = validation.Validation(models, trials, results, say).report(driver)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    click.echo(path)
