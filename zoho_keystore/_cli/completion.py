"""``completion``: print the script that makes a shell complete commands, options, paths and ids."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from zoho_keystore.errors import ConfigurationError

#: The variable that the scripts set when they ask the program; click takes its name from the program's.
VARIABLE = "_ZOHO_KEYSTORE_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish", "powershell")))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that sets up completion in a shell.

    It completes commands, options, paths and ids. Put the line of your shell into its start-up file:

    \b
    ~/.bashrc:  eval "$(zoho-keystore completion bash)"
    ~/.zshrc:   eval "$(zoho-keystore completion zsh)"     (after compinit)
    ~/.config/fish/config.fish:
                zoho-keystore completion fish | source
    $PROFILE:   zoho-keystore completion powershell | Out-String | Invoke-Expression

    Ids are completed if the key comes from a file or a variable: other sources may ask for a password.
    """  # noqa: D301 - click's mark of a block that keeps its lines
    program = ctx.find_root()
    kind = get_completion_class(shell)
    if kind is None:
        raise ConfigurationError(
            f"the installed release of click has no completion for {shell}",
            'Install a newer one with: pip install "click>=8.5"',
        )
    click.echo(kind(program.command, {}, program.info_name or "zoho-keystore", VARIABLE).source())
