"""``delete``: delete tokens by id, or all of them."""

from __future__ import annotations

import sys

import click

from zoho_keystore._cli.output import echo_escaped
from zoho_keystore._cli.settings import Settings, complete_ids, confirm, pass_settings
from zoho_keystore._platform import is_terminal
from zoho_keystore._text import count
from zoho_keystore.errors import TokenNotFoundError


@click.command("delete")
@click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=complete_ids)
@click.option("--all", "all_", is_flag=True, help="Delete all tokens.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@pass_settings
def command(settings: Settings, ids: tuple[str, ...], all_: bool, yes: bool) -> None:  # noqa: FBT001 - by name
    """Delete tokens: all the given ids, or none.

    Zoho still accepts a deleted token: if others may have it, revoke it at Zoho or with the SDK.
    """
    if bool(ids) is all_:
        raise click.UsageError("Give the ids of tokens, or --all.")
    keystore = settings.open()
    records = {record.id: record for record in keystore.records()}
    chosen = list(records) if all_ else list(dict.fromkeys(ids))
    for id in chosen:
        if id not in records:
            raise TokenNotFoundError(
                f"no token has the id {id!r}; nothing was deleted",
                f"List the ids: {settings.command('list')}",
                keystore.path,
            )
    if not chosen:
        echo_escaped(f"There are no tokens in {keystore.name}.", err=True)
        return
    if not yes and is_terminal(sys.stdin):
        for id in chosen:
            echo_escaped(f"{id}  {records[id].user_name or records[id].client_id or '-'}", err=True)
    confirm(f"Delete {count(len(chosen), 'token')}?", yes=yes)
    keystore.delete(*chosen)
    click.echo(f"Deleted {count(len(chosen), 'token')}.")
