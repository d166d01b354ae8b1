"""``verify``: check the integrity of the store."""

from __future__ import annotations

import click

from zoho_keystore._cli.output import echo_escaped
from zoho_keystore._cli.settings import Settings, pass_settings
from zoho_keystore._operations.backup import inspect
from zoho_keystore._text import count


@click.command("verify")
@click.option("--quiet", is_flag=True, help="Print nothing on success.")
@pass_settings
def command(settings: Settings, quiet: bool) -> None:  # noqa: FBT001 - click passes by name
    """Check that the store is intact.

    It opens the store, checks every record, and whether a save could replace the file; the exit code tells a monitor
    what is wrong.
    """
    found = inspect(settings.store, key=settings.key)
    if not quiet:
        number = count(len(found.records), "token")
        echo_escaped(
            f"{settings.path}: intact, {number}, sealed with the key {found.fingerprint}, "
            f"write {found.header.generation}"
        )
