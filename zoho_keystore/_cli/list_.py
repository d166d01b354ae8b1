"""``list``: list all tokens."""

from __future__ import annotations

import click

from zoho_keystore._cli.output import (
    current_time_ms,
    echo_escaped,
    format_data_centre,
    format_status,
    mask,
    print_json,
    print_table,
    record_as_json,
    shortened,
)
from zoho_keystore._cli.settings import Settings, pass_settings


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def command(settings: Settings, as_json: bool) -> None:  # noqa: FBT001 - click passes options by name
    """List all tokens.

    STATUS tells what becomes of a token at its next use: "valid for 42 min", "renews on use", "throttled until 14:05"
    or "sign in again". A refresh token is shown as its first characters and its length; show and --json tell more.
    """
    keystore = settings.open()
    records = keystore.records()
    if as_json:
        print_json(list(map(record_as_json, records)))
        return
    if not records:
        echo_escaped(f"There are no tokens in {keystore.name}.", err=True)
        return
    now_ms = current_time_ms()
    print_table(
        ("ID", "USER", "CLIENT", "DC", "STATUS", "REFRESH TOKEN"),
        (
            (
                record.id,
                record.user_name or "-",
                shortened(record.client_id),
                format_data_centre(record),
                format_status(record, now_ms),
                mask(record.refresh_token),
            )
            for record in records
        ),
    )
