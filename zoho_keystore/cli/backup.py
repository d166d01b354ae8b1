"""``backup``: a sealed copy of the store."""

from __future__ import annotations

import click

from zoho_keystore.backups import backup
from zoho_keystore.cli.common import Settings, pass_settings, say


@click.command("backup")
@click.argument("destination", metavar="DEST")
@pass_settings
def command(settings: Settings, destination: str) -> None:
    """Make a sealed copy of the store.

    DEST is a new file, or a folder, in which the copy is named by the store and the time.

    A copy that lies beside the store keeps its key in the ring when the key is changed; for one that lies elsewhere,
    rotate with --keep-old.
    """
    say(f"Copied to {backup(settings.store, destination, key=settings.key)}")
