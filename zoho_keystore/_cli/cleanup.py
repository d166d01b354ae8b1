"""``cleanup``: delete tokens that cannot be used any more, or were not used for long."""

from __future__ import annotations

import time

import click

from zoho_keystore._cli.output import echo_escaped, format_status, print_table
from zoho_keystore._cli.settings import Settings, confirm, parse_duration, pass_settings
from zoho_keystore._operations import sign_in
from zoho_keystore._operations.cleanup import candidates
from zoho_keystore._text import count


@click.command("cleanup")
@click.option("--unusable", is_flag=True, help="Those that Zoho refuses, and expired ones that cannot be refreshed.")
@click.option("--not-saved-for", metavar="AGE", help="Those that were not saved for so long: 90d, 12h.")
@click.option("--revoke", "is_revoked", is_flag=True, help="Revoke them at Zoho, too.")
@click.option("--dry-run", is_flag=True, help="Show them, and delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@pass_settings
def command(
    settings: Settings,
    unusable: bool,  # noqa: FBT001 - click passes by name
    not_saved_for: str | None,
    is_revoked: bool,  # noqa: FBT001 - as above
    dry_run: bool,  # noqa: FBT001 - as above
    yes: bool,  # noqa: FBT001 - as above
) -> None:
    """Delete tokens that are not needed any more, and show them first."""
    if not unusable and not_saved_for is None:
        raise click.UsageError("Give --unusable or --not-saved-for, or both.")
    age_s = None if not_saved_for is None else parse_duration("--not-saved-for", not_saved_for)
    keystore = settings.open() if dry_run else settings.open_writable()
    now_ms = time.time_ns() // 1_000_000
    chosen = candidates(keystore.records(), now_ms=now_ms, unusable=unusable, not_saved_for_s=age_s)
    if not chosen:
        echo_escaped("No token is to be deleted.", err=True)
        return
    print_table(
        ("ID", "USER", "STATUS", "REASON"),
        ((one.record.id, one.record.user_name or "-", format_status(one.record, now_ms), one.reason) for one in chosen),
    )
    if dry_run:
        return
    confirm(f"Delete {count(len(chosen), 'token')}?", yes=yes)
    for one in chosen:
        if is_revoked:
            sign_in.revoke(keystore, one.record.id)
        else:
            keystore.delete(one.record.id)
    echo_escaped(f"Deleted {count(len(chosen), 'token')}.", err=True)
