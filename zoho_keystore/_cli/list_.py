"""``list``: list all tokens."""

from __future__ import annotations

import click

from zoho_keystore._cli.output import (
    current_time_ms,
    echo_escaped,
    format_expiry,
    format_lease,
    mask,
    print_json,
    print_table,
    record_as_json,
)
from zoho_keystore._cli.settings import Settings, pass_settings


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def command(settings: Settings, as_json: bool) -> None:  # noqa: FBT001 - click passes options by name
    """List all tokens.

    A secret is shown as its first characters and its length.
    """
    records = settings.open().records()
    if as_json:
        print_json(list(map(record_as_json, records)))
        return
    if not records:
        echo_escaped(f"There are no tokens in {settings.path}.", err=True)
        return
    now_ms = current_time_ms()
    print_table(
        ("ID", "USER", "CLIENT", "DOMAIN", "ACCESS TOKEN", "EXPIRES", "REFRESH TOKEN", "REFRESHED BY"),
        (
            (
                record.id,
                record.user_name or "-",
                record.client_id or "-",
                record.api_domain or "-",
                mask(record.access_token),
                format_expiry(record, now_ms),
                mask(record.refresh_token),
                format_lease(record, now_ms),
            )
            for record in records
        ),
    )
