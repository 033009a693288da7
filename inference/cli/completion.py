"""`inference completion`: the script for a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["command"]


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes this command in a shell.

    \b
    bash:  eval "$(inference completion bash)"                   in ~/.bashrc
    zsh:   eval "$(inference completion zsh)"                    in ~/.zshrc
    fish:  inference completion fish > ~/.config/fish/completions/inference.fish
    """
    script = get_completion_class(shell)
    assert script is not None  # the three above are click's own
    click.echo(script(ctx.find_root().command, {}, "inference", "_INFERENCE_COMPLETE").source())
