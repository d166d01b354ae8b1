"""``backup``: make a sealed copy of the store."""

from __future__ import annotations

import click

from zoho_keystore._cli.output import echo_escaped
from zoho_keystore._cli.settings import Settings, pass_settings, require_directory_for
from zoho_keystore._operations.backup import backup


@click.command("backup")
@click.argument("destination", metavar="DEST")
@pass_settings
def command(settings: Settings, destination: str) -> None:
    """Make a sealed copy of the store.

    DEST is a new file, or a directory; there the copy is named after the store and the time.

    A rotation keeps the key of a copy beside the store in the ring; if copies are elsewhere, rotate with --keep-old.
    """
    require_directory_for(destination)
    echo_escaped(f"Copied to {backup(settings.store, destination, key=settings.key)}")
