"""``rotate``: seal the store with a new key."""

from __future__ import annotations

import click

from zoho_keystore._cli.output import echo_escaped
from zoho_keystore._cli.progress import bar
from zoho_keystore._cli.settings import Settings, pass_settings
from zoho_keystore._operations.rotation import rotate


@click.command("rotate")
@click.option(
    "--drop-old",
    is_flag=True,
    help="For a leaked key: remove the old keys from the ring at once. Other stores and backups that are sealed with "
    "them can only be opened with a copy of the key afterwards.",
)
@click.option("--new-key", metavar="SPEC", help="The source of the new key. Default: a key is generated.")
@click.option("--quiet", is_flag=True, help="Print nothing on success, for cron.")
@pass_settings
def command(settings: Settings, drop_old: bool, new_key: str | None, quiet: bool) -> None:  # noqa: FBT001 - by name
    """Seal the store with a new key, and retire the old ones.

    Retired keys stay in the ring, for opening only: other stores and backups may need them. When nothing does, drop
    them with key prune.

    Running programs follow by themselves. If the rotation is interrupted, everything stays readable: run it again.

    Keys from env: and command: are distributed by you: give NEW,OLD to all programs; rotate with --new-key, or where
    both keys are set; then give NEW alone to all programs.
    """
    with bar("sealing") as show:
        done = rotate(settings.store, key=settings.key, new=new_key, drop_old=drop_old, progress=show)
    if not quiet:
        for line in done.report().splitlines():
            echo_escaped(line)
