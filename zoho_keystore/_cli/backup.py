"""``backup``: a sealed copy of the store."""

from __future__ import annotations

import click

from zoho_keystore._cli.common import Settings, echo_escaped, pass_settings
from zoho_keystore._operations.backup import backup


@click.command("backup")
@click.argument("destination", metavar="DEST")
@pass_settings
def command(settings: Settings, destination: str) -> None:
    """Make a sealed copy of the store.

    DEST is a new file, or a folder, in which the copy is named by the store and the time.

    A copy that lies beside the store keeps its key in the ring when the key is changed; for one that lies elsewhere,
    rotate with --keep-old.
    """
    echo_escaped(f"Copied to {backup(settings.store, destination, key=settings.key)}")
