"""The options before the command, confirmation prompts, and shell completion of token ids."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, NamedTuple

import click

from zoho_keystore._open import open_keystore, store_path
from zoho_keystore._text import cli_command, count
from zoho_keystore.errors import TokenNotFoundError

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

    def open_writable(self) -> Keystore:
        """Open the store for a command that saves, once it is known that it can be saved; a missing one is an error."""
        keystore = self.open()
        keystore.check_writable()
        return keystore


pass_settings = click.make_pass_decorator(Settings)


def confirm(question: str, *, yes: bool) -> None:
    """Ask for confirmation, and exit with NOT_CONFIRMED if the answer is no.

    Raises:
        click.UsageError: ``yes`` is not set and stdin is not a terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("This needs a confirmation, and stdin is not a terminal. Give --yes to confirm.")
    if not click.confirm(question, err=True):
        click.echo("Nothing was changed.", err=True)
        raise click.exceptions.Exit(NOT_CONFIRMED)


def the_id(keystore: Keystore, id: str | None) -> str:
    """Return the id that was given, or that of the only token.

    Raises:
        TokenNotFoundError: There are no tokens.
        click.UsageError: None was given, and there is more than one.
    """
    if id is not None:
        return id
    records = keystore.records()
    if not records:
        raise TokenNotFoundError("the store has no tokens", "Sign in first: zoho-keystore login", keystore.path)
    if len(records) != 1:
        raise click.UsageError(f"Give an id: the store has {count(len(records), 'token')}.")
    return records[0].id


def parse_duration(option: str, text: str) -> float:
    """Return the seconds of a duration such as 90d, 12h, 30m or 45s.

    Raises:
        click.UsageError: It is not one.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,8})([dhms])", text.strip())
    if match is None:
        raise click.UsageError(f"{option} takes a number from 1 on with a unit: 90d, 12h, 30m or 45s.")
    return int(match[1]) * {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}[match[2]]


def complete_ids(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the token ids with a prefix; none if the store does not open."""
    options = ctx.find_root().params
    try:
        records = Settings(options.get("store"), options.get("key")).open().records()
    except Exception:  # noqa: BLE001 - an error message would be printed into the line that the user is typing
        return []
    # The shell prints ids unescaped and reads one a line.
    return [record.id for record in records if record.id.startswith(incomplete) and record.id.isprintable()]
