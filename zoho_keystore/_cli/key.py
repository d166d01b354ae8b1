"""``key``: create, list and drop keys. Output names a key by its fingerprint."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import click

from zoho_keystore._cli.output import echo_escaped, print_table
from zoho_keystore._cli.settings import Settings, confirm, pass_settings, settings_options
from zoho_keystore._keys.ring import new_key
from zoho_keystore._operations.key_usage import key_usage, require_findable
from zoho_keystore._operations.ring_keys import add_key, prune, require_droppable, writable_source

if TYPE_CHECKING:
    from zoho_keystore._operations.key_usage import KeyUse


@click.group("key")
@settings_options
def command() -> None:
    """Create, list and drop keys."""


@command.command("new")
@click.option("--print", "is_printed", is_flag=True, help="Print a new key instead of adding it to the ring.")
@pass_settings
def new(settings: Settings, is_printed: bool) -> None:  # noqa: FBT001 - click passes by name
    """Add a new key to the ring; the next save seals the store with it."""
    if is_printed:
        click.echo(new_key().decode())
        return
    source, name = add_key(key=settings.key)
    echo_escaped(f"Added the key {name} to {source}")


@command.command("list")
@pass_settings
def list_(settings: Settings) -> None:
    """List the keys with the files that each one opens.

    The primary key seals the store. A retired key only opens; the files are those found beside the store, and your
    default store.
    """
    rows = key_usage(settings.store, key=settings.key)
    print_table(("KEY", "STATE", "SEALS"), ((row.fingerprint, _state(row), _files(row)) for row in rows))


@command.command("prune")
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option("--all-retired", is_flag=True, help="Drop all retired keys that no file needs which is found here.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@pass_settings
def prune_(settings: Settings, keys: tuple[str, ...], all_retired: bool, yes: bool) -> None:  # noqa: FBT001 - by name
    """Drop old keys for good, by their fingerprints.

    Stores and backups that are sealed with a dropped key can only be opened with a copy of the key afterwards. Only
    files beside the store, and your default store, are found: make sure that no other store uses this ring. Backups of
    a store on a database server are not found, so --all-retired is refused for it.
    """
    if all_retired and keys:
        raise click.UsageError("KEY and --all-retired exclude each other. Give one of them.")
    if all_retired:
        require_findable(settings.store)
    with closing(settings.open()) as keystore:
        pass  # A store that does not open may need any of the keys.
    source = writable_source(settings.key)
    rows = key_usage(settings.store, key=settings.key)
    require_droppable(rows, set(keys), settings.store, keystore.path or keystore.name, source)
    old = [row for row in rows if row.state != "primary"]
    if not old:
        click.echo("The ring holds no old keys.")
        return
    if not (keys or all_retired):
        for row in old:
            echo_escaped(f"{row.fingerprint} ({_state(row)}) seals: {_files(row)}", err=True)
        raise click.UsageError("Give the keys to drop, or --all-retired.")
    asked = [row for row in old if (row.fingerprint in keys if keys else row.state == "retired" and not row.files)]
    for row in asked:
        echo_escaped(f"{row.fingerprint} ({_state(row)}) seals: {_files(row)}", err=True)
    if all_retired and not asked:
        click.echo(
            "Nothing was dropped: there is no retired key that no file needs. See: " + settings.command("key", "list")
        )
        return
    confirm(
        "Drop them? What is sealed with them, such as stores in other directories and databases, which were not "
        "searched, can only be opened with a copy of the key afterwards.",
        yes=yes,
    )
    dropped = prune(settings.store, keys or None, key=settings.key)
    click.echo(f"Dropped {', '.join(dropped)}")


def _state(row: KeyUse) -> str:
    return f"{row.state} {row.retired_on}".rstrip()


def _files(row: KeyUse) -> str:
    return ", ".join(map(str, row.files)) or "no file found"
