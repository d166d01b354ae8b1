"""``rotate``: a new key for the store."""

from __future__ import annotations

import click

from zoho_keystore._cli.common import Settings, echo_escaped, pass_settings
from zoho_keystore._operations.rotation import rotate


@click.command("rotate")
@click.option("--keep-old", is_flag=True, help="Leave the old keys in the ring.")
@click.option("--new-key", metavar="SPEC", help="Where the new key comes from. Default: it is made.")
@click.option("--quiet", is_flag=True, help="Say nothing when it is done, for cron.")
@pass_settings
def command(settings: Settings, keep_old: bool, new_key: str | None, quiet: bool) -> None:  # noqa: FBT001 - by name
    """Seal the store with a new key, and drop the old ones.

    Running programs follow by themselves. If it is interrupted, everything stays readable: do it again.

    Keys of env: and command: are handed out by you: hand NEW,OLD to all programs; rotate with --new-key, or where both
    keys are handed out; then hand out NEW alone.
    """
    done = rotate(settings.store, key=settings.key, new=new_key, keep_old=keep_old)
    if not quiet:
        echo_escaped(done.report())
