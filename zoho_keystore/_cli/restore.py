"""``restore``: replace the store with a sealed copy."""

from __future__ import annotations

import click

from zoho_keystore._cli.output import echo_escaped
from zoho_keystore._cli.settings import Settings, complete_paths, confirm, pass_settings
from zoho_keystore._operations.backup import compare, restore
from zoho_keystore._text import count


@click.command("restore")
@click.argument("source", metavar="SRC", shell_complete=complete_paths)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@pass_settings
def command(settings: Settings, source: str, yes: bool) -> None:  # noqa: FBT001 - click passes by name
    """Restore the store from a sealed copy.

    The store may be damaged or missing. The file that is replaced is kept beside it.
    """
    change = compare(settings.store, source, key=settings.key)
    echo_escaped(f"{change.copy} opens, and holds {count(len(change.records), 'token')}.", err=True)
    if change.store_error is not None:
        echo_escaped(f"The store does not open now: {change.store_error.problem}", err=True)
    else:
        for what, ids in (("lost", change.lost), ("changed", change.changed), ("back again", change.returned)):
            if ids:
                echo_escaped(f"{count(len(ids), 'token')} would be {what}: {', '.join(ids)}", err=True)
        if not (change.lost or change.changed or change.returned):
            echo_escaped("No token would change.", err=True)
    confirm("Replace the store with the copy?", yes=yes)
    kept = restore(settings.store, source, key=settings.key)
    what = "The replaced tokens are" if settings.is_in_database else "The replaced file is"
    echo_escaped(f"Restored {change.store}." + (f" {what} kept as {kept}" if kept is not None else ""))
