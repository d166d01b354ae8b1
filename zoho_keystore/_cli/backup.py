"""``backup``: make a sealed copy of the store."""

from __future__ import annotations

import click

from zoho_keystore._cli.output import echo_escaped
from zoho_keystore._cli.settings import Settings, complete_paths, pass_settings, require_directory_for
from zoho_keystore._operations.backup import backup


@click.command("backup")
@click.argument("destination", metavar="DEST", shell_complete=complete_paths)
@pass_settings
def command(settings: Settings, destination: str) -> None:
    """Make a sealed copy of the store.

    DEST is a new file, or a directory; there the copy is named after the store and the time.

    The copy needs the key that seals the store now, also after a rotation: key prune must not drop that key.
    """
    require_directory_for(destination)
    echo_escaped(f"Copied to {backup(settings.store, destination, key=settings.key)}")
