"""`deploybench completion`."""

from __future__ import annotations

import click

EXAMPLES = """\b
Examples:
  eval "$(deploybench completion bash)"                                     # in ~/.bashrc
  eval "$(deploybench completion zsh)"                                      # in ~/.zshrc
  deploybench completion fish > ~/.config/fish/completions/deploybench.fish
"""


@click.command("completion", epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script for your shell. It completes verbs, options, catalogue models and backends."""
    from click.shell_completion import get_completion_class

    from bench.cli import app

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(app, {}, "deploybench", "_DEPLOYBENCH_COMPLETE").source())
