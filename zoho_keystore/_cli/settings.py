"""The options before the command, confirmation prompts, and shell completion of token ids."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

import click

from zoho_keystore._open import open_keystore, store_path
from zoho_keystore._platform import is_terminal
from zoho_keystore._text import cli_command

if TYPE_CHECKING:
    from pathlib import Path

    from zoho_keystore._keystore import Keystore

#: The exit code when the user answers a confirmation prompt with no.
NOT_CONFIRMED = 11


class Settings(NamedTuple):
    """The options before the command.

    Attributes:
        store: ``--store``: the store's path, or None for the default.
        key: ``--key``: the spec of the store's key source, or None for the default.
    """

    store: str | None
    key: str | None

    @property
    def path(self) -> Path:
        """Return the store's file."""
        return store_path(self.store)

    def command(self, *arguments: str) -> str:
        """Return a command to paste that works on the same store. Call it only after the store has been opened."""
        return cli_command(*arguments, store=self.store, key=self.key)

    def open(self) -> Keystore:
        """Open the store. A missing store is an error: no command but ``init`` creates one."""
        return open_keystore(self.store, key=self.key, create=False)


pass_settings = click.make_pass_decorator(Settings)


def confirm(question: str, *, yes: bool) -> None:
    """Ask for confirmation, and exit with NOT_CONFIRMED if the answer is no.

    Raises:
        click.UsageError: ``yes`` is not set and stdin is not a terminal.
    """
    if yes:
        return
    if not is_terminal(sys.stdin):
        raise click.UsageError("This needs a confirmation, and stdin is not a terminal. Give --yes to confirm.")
    if not click.confirm(question, err=True):
        click.echo("Nothing was changed.", err=True)
        raise click.exceptions.Exit(NOT_CONFIRMED)


def complete_ids(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the token ids with a prefix; none if the store does not open."""
    options = ctx.find_root().params
    try:
        records = Settings(options.get("store"), options.get("key")).open().records()
    except Exception:  # noqa: BLE001 - an error message would be printed into the line that the user is typing
        return []
    # The shell prints ids unescaped and reads one a line.
    return [record.id for record in records if record.id.startswith(incomplete) and record.id.isprintable()]
