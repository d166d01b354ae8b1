"""``token``: print a fresh access token."""

from __future__ import annotations

import click

from zoho_keystore._access import MAX_MIN_LIFE_S, MIN_LIFE_S, fresh_record
from zoho_keystore._cli.output import iso_time, print_json
from zoho_keystore._cli.settings import Settings, complete_ids, pass_settings, the_id


@click.command("token")
@click.argument("id", required=False, shell_complete=complete_ids)
@click.option(
    "--min-life",
    metavar="S",
    type=click.FloatRange(0, MAX_MIN_LIFE_S),
    default=MIN_LIFE_S,
    help="For how many seconds it lives at least: up to 3000. Default: 60.",
)
@click.option("--header", "as_header", is_flag=True, help="Print the HTTP header, for: curl -H @-")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with its API domain and expiry.")
@pass_settings
def command(settings: Settings, id: str | None, min_life: float, as_header: bool, as_json: bool) -> None:  # noqa: FBT001 - click passes by name
    """Print an access token, refreshed if need be.

    Without ID, the store has to hold one token. However many programs ask at once, it is refreshed once.
    """
    if as_header and as_json:
        raise click.UsageError("Give --header or --json, not both.")
    keystore = settings.open()
    record = fresh_record(keystore, the_id(keystore, id), min_life_s=min_life)
    if as_json:
        print_json(
            {
                "id": record.id,
                "access_token": record.access_token,
                "api_domain": record.api_domain,
                "expires_at": iso_time(record.expires_at_ms),
            }
        )
    elif as_header:
        click.echo(f"Authorization: Zoho-oauthtoken {record.access_token}")
    else:
        click.echo(record.access_token)
