"""``key``: the keys themselves, named by their fingerprints."""

from __future__ import annotations

import click

from zoho_keystore._cli.common import Settings, confirm, echo_escaped, pass_settings, print_table
from zoho_keystore._keys.ring import new_key
from zoho_keystore._operations.key_usage import key_usage
from zoho_keystore._operations.rotation import add_key, prune


@click.group("key")
def command() -> None:
    """Make, list and drop keys."""


@command.command("new")
@click.option("--print", "is_printed", is_flag=True, help="Print a new key, and put it nowhere.")
@pass_settings
def new(settings: Settings, is_printed: bool) -> None:  # noqa: FBT001 - click passes by name
    """Put a new key on top of the ring; the next save seals the store with it."""
    if is_printed:
        click.echo(new_key().decode())
        return
    source, name = add_key(key=settings.key)
    echo_escaped(f"Put the key {name} on top of {source}")


@command.command("list")
@pass_settings
def list_(settings: Settings) -> None:
    """Show the keys, newest first, and which files each opens."""
    rows = key_usage(settings.store, key=settings.key)
    print_table(
        ("KEY", "SEALS"),
        ((row.fingerprint, ", ".join(map(str, row.files)) or "nothing found") for row in rows),
    )


@command.command("prune")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_settings
def prune_(settings: Settings, yes: bool) -> None:  # noqa: FBT001 - click passes by name
    """Drop the keys that nothing needs: not the newest, and none that the store or a file beside it is sealed with."""
    settings.open().close()
    rows = key_usage(settings.store, key=settings.key)
    unused = [row.fingerprint for row in rows[1:] if not row.files]
    if not unused:
        click.echo("Every key is needed.")
        return
    click.echo(f"Nothing that was found needs: {', '.join(unused)}", err=True)
    confirm("Drop them? Stores and backups elsewhere that are sealed with them could not be opened any more", yes=yes)
    dropped = prune(settings.store, key=settings.key)
    click.echo(f"Dropped {', '.join(dropped)}")
