"""``verify``: check the integrity of the store."""

from __future__ import annotations

import click

from zoho_keystore._cli.output import echo_escaped
from zoho_keystore._cli.settings import Settings, pass_settings
from zoho_keystore._hidden import Hidden
from zoho_keystore._open import address_of
from zoho_keystore._operations import databases
from zoho_keystore._operations.backup import inspect
from zoho_keystore._text import count


@click.command("verify")
@click.option("--quiet", is_flag=True, help="Print nothing on success.")
@pass_settings
def command(settings: Settings, quiet: bool) -> None:  # noqa: FBT001 - click passes by name
    """Check that the store is intact.

    It opens the store, checks every record, and whether a save would work; the exit code tells a monitor what is wrong.
    """
    if (address := address_of(settings.store)) is not None:
        key = Hidden(settings.key)
        content = databases.read_content(address, key)
        databases.check_writable(address, key)
        if not quiet:
            number, keys = count(len(content.records), "token"), ", ".join(content.key_names)
            echo_escaped(f"{content.name}: intact, {number}, sealed with the key {keys}")
        return
    found = inspect(settings.store, key=settings.key)
    if not quiet:
        number = count(len(found.records), "token")
        echo_escaped(
            f"{settings.path}: intact, {number}, sealed with the key {found.fingerprint}, "
            f"write {found.header.generation}"
        )
