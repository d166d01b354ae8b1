"""``refresh``: force a refresh of access tokens."""

from __future__ import annotations

import time

import click

from zoho_keystore import _access
from zoho_keystore._cli.output import echo_escaped, format_status
from zoho_keystore._cli.settings import Settings, complete_ids, pass_settings
from zoho_keystore.errors import KeystoreError, ThrottledError

#: Zoho issues 10 access tokens in 10 minutes; a refresh so shortly after another one is a mistake, in seconds.
MIN_PAUSE_S = 60.0


@click.command("refresh")
@click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=complete_ids)
@click.option("--all", "all_", is_flag=True, help="Refresh all tokens that can be refreshed.")
@click.option("--force", is_flag=True, help="Also within a minute of the last refresh.")
@pass_settings
def command(settings: Settings, ids: tuple[str, ...], all_: bool, force: bool) -> None:  # noqa: FBT001 - by name
    """Refresh access tokens now, however long they live."""
    if bool(ids) is all_:
        raise click.UsageError("Give the ids of tokens, or --all.")
    keystore = settings.open_writable()
    chosen = [one.id for one in keystore.records() if one.refresh_token] if all_ else list(dict.fromkeys(ids))
    failed: KeystoreError | None = None
    for id in chosen:
        try:
            record = keystore.require(id)
            ago_s = time.time() - record.saved_at / 1_000
            if record.access_token and 0 <= ago_s < MIN_PAUSE_S and not force:
                raise ThrottledError(
                    f"the token {id!r} was saved {ago_s:.0f} s ago; it was left as it is",
                    "Zoho issues 10 access tokens in 10 minutes. Give --force to refresh it all the same",
                    settings.path,
                )
            record = _access.refresh(keystore, id)
        except KeystoreError as error:
            failed = error
            if len(chosen) > 1:
                echo_escaped(f"{id}: {error.problem}", err=True)
        else:
            echo_escaped(f"{id}: {format_status(record, time.time_ns() // 1_000_000)}")
    if failed is not None:
        raise failed
