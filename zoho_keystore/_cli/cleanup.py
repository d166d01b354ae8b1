"""``cleanup``: delete tokens that cannot be used any more, or were not used for long."""

from __future__ import annotations

import click

from zoho_keystore._cli.each import run_for_each
from zoho_keystore._cli.output import current_time_ms, echo_escaped, format_status, print_table
from zoho_keystore._cli.settings import Settings, confirm, parse_duration, pass_settings
from zoho_keystore._operations import revocation
from zoho_keystore._operations.cleanup import Policy
from zoho_keystore._text import count


@click.command("cleanup")
@click.option("--unusable", is_flag=True, help="Those that Zoho refuses, and expired ones that cannot be refreshed.")
@click.option("--not-saved-for", metavar="AGE", help="Those that were not refreshed or saved for so long: 90d, 12h.")
@click.option(
    "--revoke",
    "is_revoked",
    is_flag=True,
    help="Revoke them at Zoho first, unless a token that is kept ends with them.",
)
@click.option("--dry-run", is_flag=True, help="Show them, and delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation; print nothing if there is nothing to delete.")
@pass_settings
def command(
    settings: Settings,
    *,
    unusable: bool,
    not_saved_for: str | None,
    is_revoked: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Delete tokens that are not needed any more, and show them first.

    For cron: zoho-keystore cleanup --unusable --not-saved-for 90d --yes
    """
    if not unusable and not_saved_for is None:
        raise click.UsageError("Give --unusable or --not-saved-for, or both.")
    age_s = None if not_saved_for is None else parse_duration("--not-saved-for", not_saved_for)
    keystore = settings.open() if dry_run else settings.open_writable()
    now_ms = current_time_ms()
    policy = Policy(now_ms=now_ms, unusable=unusable, not_saved_for_s=age_s)
    chosen = {record.id: (record, reason) for record in keystore.records() if (reason := policy.reason(record))}
    if not chosen:
        if not yes:
            echo_escaped("There are no such tokens.", err=True)
        return
    print_table(
        ("ID", "USER", "STATUS", "REASON"),
        (
            (record.id, record.user_name or "-", format_status(record, now_ms), reason)
            for record, reason in chosen.values()
        ),
    )
    if dry_run:
        return
    confirm(f"{'Revoke and delete' if is_revoked else 'Delete'} {count(len(chosen), 'token')}?", yes=yes)
    # Meanwhile they may have been used or signed in again.
    if is_revoked:

        def revoke(id: str) -> None:
            record = keystore.get(id)
            if record is None or not policy.reason(record):
                return
            sharing = {one: keystore.get(one) for one in revocation.sharing(keystore, id)}
            kept = [one for one, other in sharing.items() if other is not None and not policy.reason(other)]
            if kept:
                # A token in use would end with this one.
                echo_escaped(f"{id} is not revoked: it shares its refresh token with {', '.join(kept)}.", err=True)
                deleted.extend(keystore.delete_if(lambda one: bool(policy.reason(one)), id))
            else:
                revocation.revoke(keystore, id)
                deleted.append(id)

        deleted: list[str] = []
        try:
            run_for_each(revoke, list(chosen))
        finally:
            _report(deleted)
    else:
        _report(keystore.delete_if(lambda record: bool(policy.reason(record)), *chosen))


def _report(deleted: list[str]) -> None:
    echo_escaped(f"Deleted {count(len(deleted), 'token')}.")
