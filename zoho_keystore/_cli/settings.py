"""The options that name the store and its keys, confirmation prompts, and shell completion of paths and ids."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from zoho_keystore import _platform as platform
from zoho_keystore._keys.fernet_key import looks_like_key
from zoho_keystore._keys.ring import key_ring
from zoho_keystore._keys.sources import key_source
from zoho_keystore._keys.sources.environment import EnvironmentVariable
from zoho_keystore._keys.sources.ring_file import RingFile
from zoho_keystore._open import address_of, explained, open_keystore, spec_for_messages, store_path
from zoho_keystore._operations.databases import is_store_there
from zoho_keystore._sql.address import is_sql_address, name_of
from zoho_keystore._text import cli_command, count
from zoho_keystore.errors import KeystoreError, KeyUnavailableError, StoreFileError, TokenNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoho_keystore._keystore import Keystore

#: The exit code when the user answers a confirmation prompt with no.
NOT_CONFIRMED = 11


_C = TypeVar("_C", bound="Callable[..., Any]")


@dataclass
class Settings:
    """The options that name the store and its keys; they may stand before the command or behind it.

    Attributes:
        store: ``--store``: the store's path or address, or None for the default.
        key: ``--key``: the spec of the store's key source, or None for the default.
        explains: Whether errors are about the store that the options name. Those of ``copy`` name theirs.
    """

    store: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    explains: bool = True

    @property
    def path(self) -> Path:
        """Return the store's file.

        Raises:
            ConfigurationError: The store is in a database.
        """
        return store_path(self.store)

    @property
    def is_in_database(self) -> bool:
        """Return whether the store is in a database."""
        return address_of(self.store) is not None

    @property
    def is_there(self) -> bool:
        """Return whether there is a store, be it a damaged one.

        Raises:
            StoreUnavailableError: The database cannot be asked.
        """
        address = address_of(self.store)
        return os.path.lexists(self.path) if address is None else is_store_there(address)

    @property
    def named(self) -> tuple[str | None, str | None]:
        """Return what a printed command repeats of them: not a key or a password that was given by mistake."""
        store = self.store
        if store is not None and looks_like_key(store):
            store = None
        elif store is not None and is_sql_address(store):
            store = name_of(store)
        return store, spec_for_messages(self.key)

    def command(self, *arguments: str) -> str:
        """Return a command to paste that works on the same store."""
        store, key = self.named
        return cli_command(*arguments, store=store, key=key)

    def explained(self, error: KeystoreError) -> KeystoreError:
        """Return an error of a command; its commands work on the same store."""
        if not self.explains:
            return error
        if isinstance(error, KeyUnavailableError) and error.is_missing:
            error = self._explained(error)
        error.name_store(*self.named)
        return error

    def _explained(self, error: KeyUnavailableError) -> KeystoreError:
        # The missing key may be another one than the store's, such as the new one of a rotation.
        try:
            key_ring(self.key)
        except KeyUnavailableError as own:
            with suppress(KeystoreError):  # The store is in a database, or its path or address is refused.
                return explained(own, self.path)
            return own
        return error

    def open(self) -> Keystore:
        """Open the store until the command ends. A missing one is an error: no command but ``init`` creates one."""
        return closed_at_end(open_keystore(self.store, key=self.key, create=False))

    def open_writable(self) -> Keystore:
        """Open the store for a command that saves, once it is known that it can be saved; a missing one is an error."""
        keystore = self.open()
        keystore.check_writable()
        return keystore


def closed_at_end(keystore: Keystore) -> Keystore:
    """Return a keystore that is closed when the command ends: connections of drivers warn when they are dropped."""
    click.get_current_context().call_on_close(keystore.close)
    return keystore


_pass_settings = click.make_pass_decorator(Settings)


def _set(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    settings = ctx.ensure_object(Settings)  # All contexts of a run share it.
    if value is not None:
        setattr(settings, str(parameter.name), value)


def settings_options(function: _C) -> _C:
    """Give a command or group the options ``--store`` and ``--key``."""
    store = click.option(
        "--store",
        metavar="PATH|ADDRESS",
        expose_value=False,
        callback=_set,
        shell_complete=complete_paths,
        help="The store's file, or the address of its database: postgresql://USER@HOST/DATABASE, mysql://… or "
        "sqlite:///PATH. Default: ZOHO_KEYSTORE_FILE, else tokens.keystore in your data directory.",
    )
    key = click.option(
        "--key",
        metavar="SPEC",
        expose_value=False,
        callback=_set,
        help="The source of its keys: env:NAME, file:PATH, keyring:SERVICE/USER or command:ARGV. "
        "Default: ZOHO_KEYSTORE_KEY, ZOHO_KEYSTORE_KEYRING, else the key ring in your config directory.",
    )
    return store(key(function))


def pass_settings(function: _C) -> _C:
    """Give a command the options ``--store`` and ``--key``, and pass the settings as its first argument."""
    return settings_options(_pass_settings(function))  # type: ignore[return-value] # click's decorators change it


def require_directory_for(destination: str) -> None:
    """Refuse a destination that is written as a directory and is none: it would become a file.

    Raises:
        StoreFileError: There is no such directory.
    """
    if destination.endswith(tuple(filter(None, (os.sep, os.altsep)))) and not os.path.isdir(destination):
        raise StoreFileError(
            f"there is no directory {destination}", f"Make it: {platform.make_directory_command(destination)}"
        )


def confirm(question: str, *, yes: bool) -> None:
    """Ask for confirmation, and exit with NOT_CONFIRMED if the answer is no.

    Raises:
        click.UsageError: ``yes`` is not set and stdin is not a terminal.
    """
    if yes:
        return
    if not platform.is_terminal(sys.stdin):
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


def complete_paths(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leave the completion of a path to the shell."""
    return [CompletionItem(incomplete, type="file")]


def complete_ids(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the token ids with a prefix; none if the store does not open at once, and without a question."""
    settings = ctx.ensure_object(Settings)
    try:
        # Another source may ask for a password in the middle of the line, or a server, as a database would.
        is_quiet = isinstance(key_source(settings.key), EnvironmentVariable | RingFile)
        if not is_quiet or settings.is_in_database or not settings.path.is_file():
            return []
        with ctx.scope():
            records = settings.open().records()
    except Exception:  # noqa: BLE001 - an error message would be printed into the line that the user is typing
        return []
    # The shell puts an id on the line as it is: "$(…)" would be run, and "-x" is an option.
    return [
        record.id
        for record in records
        if record.id.startswith(incomplete) and platform.quote(record.id) == record.id and record.id[0] != "-"
    ]
