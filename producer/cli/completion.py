"""`celeriac completion`: shell --click's script for it--> stdout."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

VARIABLE = "_CELERIAC_COMPLETE"  # by which the script asks; the name is click's


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes commands and options in SHELL.

    \b
    bash  celeriac completion bash > ~/.local/share/bash-completion/completions/celeriac
    zsh   eval "$(celeriac completion zsh)"     in ~/.zshrc, after compinit
    fish  celeriac completion fish > ~/.config/fish/completions/celeriac.fish
    """
    kind = get_completion_class(shell)
    if kind is not None:
        click.echo(kind(context.find_root().command, {}, "celeriac", VARIABLE).source())
