"""``show``: one token."""

from __future__ import annotations

import click

from zoho_keystore._cli.common import (
    SECRETS,
    Settings,
    as_json,
    complete_ids,
    console,
    expiry_in_words,
    lease_in_words,
    masked,
    now_ms,
    pass_settings,
    print_json,
    printable,
)
from zoho_keystore._records import CREDENTIAL_FIELDS
from zoho_keystore.errors import TokenNotFoundError


@click.command("show")
@click.argument("id", shell_complete=complete_ids)
@click.option("--reveal", is_flag=True, help="Show the secrets.")
@click.option("--json", "as_json_", is_flag=True, help="Print JSON.")
@pass_settings
def command(settings: Settings, id: str, reveal: bool, as_json_: bool) -> None:  # noqa: FBT001 - click passes by name
    """Show one token; its secrets only with --reveal."""
    keystore = settings.open()
    record = next((record for record in keystore.records() if record.id == id), None)
    if record is None:
        raise TokenNotFoundError(f"there is no token with the id {id!r}", "See: zoho-keystore list", keystore.path)
    if as_json_:
        print_json(as_json(record, reveal=reveal))
        return
    now = now_ms()
    shape = as_json(record)
    lines = [("id", record.id)]
    for name in CREDENTIAL_FIELDS:
        value = getattr(record, name)
        lines.append((name, masked(value) if name in SECRETS and not reveal else value or "-"))
    lines += [
        ("expires", expiry_in_words(record, now)),
        ("created", shape["created_at"] or "-"),
        ("saved", shape["saved_at"] or "-"),
        ("refreshed by", lease_in_words(record, now)),
    ]
    out = console()
    for name, value in lines:
        out.print(f"{name:<14} {printable(value)}")
