"""``list``: all tokens."""

from __future__ import annotations

import click

from zoho_keystore._cli.common import (
    Settings,
    as_json,
    expiry_in_words,
    lease_in_words,
    masked,
    now_ms,
    pass_settings,
    print_json,
    print_table,
)


@click.command("list")
@click.option("--json", "as_json_", is_flag=True, help="Print JSON.")
@pass_settings
def command(settings: Settings, as_json_: bool) -> None:  # noqa: FBT001 - click passes options by name
    """Show all tokens, a row each.

    Of secrets, it shows the first characters and the length.
    """
    records = settings.open().records()
    if as_json_:
        print_json([as_json(record) for record in records])
        return
    if not records:
        click.echo("There are no tokens.", err=True)
        return
    now = now_ms()
    print_table(
        ("ID", "USER", "CLIENT", "DOMAIN", "ACCESS TOKEN", "EXPIRES", "REFRESH TOKEN", "REFRESHED BY"),
        (
            (
                record.id,
                record.user_name or "-",
                record.client_id or "-",
                record.api_domain or "-",
                masked(record.access_token),
                expiry_in_words(record, now),
                masked(record.refresh_token),
                lease_in_words(record, now),
            )
            for record in records
        ),
    )
