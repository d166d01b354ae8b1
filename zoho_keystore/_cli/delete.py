"""``delete``: tokens that nobody needs any more."""

from __future__ import annotations

import sys

import click

from zoho_keystore._cli.common import (
    Settings,
    complete_ids,
    confirm,
    echo_escaped,
    fail_as_usage,
    pass_settings,
    tokens,
)
from zoho_keystore.errors import TokenNotFoundError


@click.command("delete")
@click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=complete_ids)
@click.option("--all", "all_", is_flag=True, help="Delete all tokens.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_settings
def command(settings: Settings, ids: tuple[str, ...], all_: bool, yes: bool) -> None:  # noqa: FBT001 - by name
    """Delete tokens, all that are named or none.

    At Zoho they stay valid: revoke them there, or with the SDK, if somebody else may have them.
    """
    if bool(ids) is all_:
        fail_as_usage("Give the ids of tokens, or --all.")
    keystore = settings.open()
    records = {record.id: record for record in keystore.records()}
    chosen = list(records) if all_ else list(dict.fromkeys(ids))
    for id in chosen:
        if id not in records:
            raise TokenNotFoundError(
                f"there is no token with the id {id!r}; nothing was deleted", "See: zoho-keystore list", keystore.path
            )
    if not chosen:
        click.echo("There are no tokens.", err=True)
        return
    if not yes and sys.stdin.isatty():
        for id in chosen:
            echo_escaped(f"{id}  {records[id].user_name or records[id].client_id or '-'}", err=True)
    confirm(f"Delete {tokens(len(chosen))}?", yes=yes)
    keystore.delete(*chosen)
    click.echo(f"Deleted {tokens(len(chosen))}.")
