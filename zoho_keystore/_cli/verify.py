"""``verify``: whether the store is whole."""

from __future__ import annotations

import click

from zoho_keystore._cli.common import Settings, echo_escaped, pass_settings, tokens
from zoho_keystore._operations.backup import inspect


@click.command("verify")
@click.option("--quiet", is_flag=True, help="Say nothing when all is well.")
@pass_settings
def command(settings: Settings, quiet: bool) -> None:  # noqa: FBT001 - click passes by name
    """Check that the store is whole.

    It opens the store and looks at all that is in it; the exit code tells a monitor what is wrong.
    """
    seen = inspect(settings.store, key=settings.key)
    if not quiet:
        number = tokens(len(seen.records))
        echo_escaped(
            f"{settings.path}: whole, with {number}; sealed with the key {seen.fingerprint}, "
            f"write {seen.header.generation}"
        )
