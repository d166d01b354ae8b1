"""``refresh``: force a refresh of access tokens."""

from __future__ import annotations

import click

from zoho_keystore import _access
from zoho_keystore._cli.each import run_for_each
from zoho_keystore._cli.output import current_time_ms, echo_escaped, format_status
from zoho_keystore._cli.settings import Settings, complete_ids, pass_settings


@click.command("refresh")
@click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=complete_ids)
@click.option("--all", "all_", is_flag=True, help="Refresh all tokens that can be refreshed.")
@click.option("--force", is_flag=True, help="Also within a minute of the last refresh.")
@pass_settings
def command(settings: Settings, ids: tuple[str, ...], all_: bool, force: bool) -> None:  # noqa: FBT001 - by name
    """Refresh access tokens now, however long they live.

    Zoho issues 10 access tokens in 10 minutes: a second refresh within a minute needs --force.
    """
    if bool(ids) is all_:
        raise click.UsageError("Give the ids of tokens, or --all.")
    keystore = settings.open()
    if all_:
        chosen = [record.id for record in keystore.records() if _access.is_refreshable(record)]
    else:
        chosen = [keystore.require(id).id for id in dict.fromkeys(ids)]
    if not chosen:
        echo_escaped("There are no tokens that can be refreshed.", err=True)

    def refresh(id: str) -> None:
        record = _access.refresh(keystore, id, min_age_s=0.0 if force else _access.MIN_AGE_S)
        echo_escaped(f"{id}: {format_status(record, current_time_ms())}")

    run_for_each(refresh, chosen)
