"""``revoke``: revoke tokens at Zoho, and delete them."""

from __future__ import annotations

import click

from zoho_keystore._cli.each import run_for_each
from zoho_keystore._cli.output import echo_escaped
from zoho_keystore._cli.settings import Settings, complete_ids, confirm, pass_settings
from zoho_keystore._operations import revocation
from zoho_keystore._text import count


@click.command("revoke")
@click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=complete_ids)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@pass_settings
def command(settings: Settings, ids: tuple[str, ...], yes: bool) -> None:  # noqa: FBT001 - click passes by name
    """Revoke tokens at Zoho, then delete them.

    A token that Zoho does not know any more is deleted, too. If Zoho does not answer, nothing is changed.
    """
    keystore = settings.open_writable()
    chosen = list(dict.fromkeys(ids))
    for id in chosen:
        keystore.require(id)
    for id in chosen:
        others = [one for one in revocation.sharing(keystore, id) if one not in chosen]
        if others:
            echo_escaped(
                f"{id} shares its refresh token with {', '.join(others)}, which cannot be used afterwards.", err=True
            )
    confirm(
        f"Revoke {count(len(chosen), 'token')} at Zoho, and delete {'it' if len(chosen) == 1 else 'them'}?", yes=yes
    )

    def revoke(id: str) -> None:
        is_known = revocation.revoke(keystore, id)
        echo_escaped(f"{id}: {'revoked and deleted' if is_known else 'deleted; Zoho does not know it (any more)'}")

    run_for_each(revoke, chosen)
