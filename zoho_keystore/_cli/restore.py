"""``restore``: a sealed copy back in the store's place."""

from __future__ import annotations

import click

from zoho_keystore._cli.common import Settings, confirm, echo_escaped, pass_settings, tokens
from zoho_keystore._operations.backup import compare, restore


@click.command("restore")
@click.argument("source", metavar="SRC")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_settings
def command(settings: Settings, source: str, yes: bool) -> None:  # noqa: FBT001 - click passes by name
    """Put a sealed copy in the store's place.

    It may be damaged, or gone. What was there is kept beside it.
    """
    change = compare(settings.store, source, key=settings.key)
    echo_escaped(f"{change.copy} opens, and holds {tokens(len(change.records))}.", err=True)
    if change.store_error is not None:
        echo_escaped(f"The store does not open now: {change.store_error.problem}", err=True)
    else:
        for what, ids in (("lost", change.lost), ("changed", change.changed), ("back again", change.returned)):
            if ids:
                echo_escaped(f"{tokens(len(ids))} would be {what}: {', '.join(ids)}", err=True)
        if not (change.lost or change.changed or change.returned):
            echo_escaped("No token would be another one.", err=True)
    confirm("Put it in the store's place?", yes=yes)
    kept = restore(settings.store, source, key=settings.key)
    echo_escaped(f"Restored {change.store}." + (f" What was there is kept in {kept}" if kept is not None else ""))
