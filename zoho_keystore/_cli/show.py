"""``show``: show one token."""

from __future__ import annotations

import click

from zoho_keystore._cli.output import (
    SECRETS,
    TIME_FIELDS,
    console,
    current_time_ms,
    escape,
    format_expiry,
    format_lease,
    format_status,
    mask,
    print_json,
    record_as_json,
)
from zoho_keystore._cli.settings import Settings, complete_ids, pass_settings
from zoho_keystore._records import CREDENTIAL_FIELDS, SIGN_IN_FIELDS
from zoho_keystore.errors import TokenNotFoundError


@click.command("show")
@click.argument("id", shell_complete=complete_ids)
@click.option("--reveal", is_flag=True, help="Show the secrets in full.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def command(settings: Settings, id: str, reveal: bool, as_json: bool) -> None:  # noqa: FBT001 - click passes by name
    """Show one token; its secrets in full only with --reveal."""
    keystore = settings.open()
    record = keystore.get(id)
    if record is None:
        raise TokenNotFoundError(
            f"no token has the id {id!r}", f"List the ids: {settings.command('list')}", keystore.path
        )
    shape = record_as_json(record, reveal=reveal)
    if as_json:
        print_json(shape)
        return
    lines = [("id", record.id)]
    for name in CREDENTIAL_FIELDS:
        value = getattr(record, name)
        lines.append((name, mask(value) if name in SECRETS and not reveal else value or "-"))
    lines += [(name, getattr(record, name) or "-") for name in SIGN_IN_FIELDS]
    now_ms = current_time_ms()
    lines += [
        ("status", format_status(record, now_ms)),
        ("expires", format_expiry(record, now_ms)),
        *((name.removesuffix("_at").replace("_", " "), shape[name] or "-") for name in TIME_FIELDS),
        ("created", shape["created_at"] or "-"),
        ("saved", shape["saved_at"] or "-"),
        ("refreshed by", format_lease(record, now_ms)),
    ]
    out = console()
    for name, value in lines:
        out.print(f"{name:<14} {escape(value)}")
