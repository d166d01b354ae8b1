"""``key``: create, list and drop keys. Output names a key by its fingerprint."""

from __future__ import annotations

import click

from zoho_keystore._cli.output import echo_escaped, print_table
from zoho_keystore._cli.settings import Settings, confirm, pass_settings, settings_options
from zoho_keystore._keys.ring import new_key
from zoho_keystore._operations.key_usage import key_usage
from zoho_keystore._operations.rotation import add_key, prune


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
    """List the keys, newest first, with the files that each one opens."""
    rows = key_usage(settings.store, key=settings.key)
    print_table(
        ("KEY", "SEALS"), ((row.fingerprint, ", ".join(map(str, row.files)) or "no file found") for row in rows)
    )


@command.command("prune")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@pass_settings
def prune_(settings: Settings, yes: bool) -> None:  # noqa: FBT001 - click passes by name
    """Drop unused keys.

    The newest key stays, and so do keys that seal the store or a file beside it.
    """
    settings.open().close()
    rows = key_usage(settings.store, key=settings.key)
    unused = [row.fingerprint for row in rows[1:] if not row.files]
    if not unused:
        click.echo("All keys are in use.")
        return
    click.echo(f"No file was found that needs: {', '.join(unused)}", err=True)
    confirm("Drop them? Stores and backups elsewhere that are sealed with them could not be opened any more", yes=yes)
    dropped = prune(settings.store, key=settings.key)
    click.echo(f"Dropped {', '.join(dropped)}")
