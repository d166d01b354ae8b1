"""``export``: back to the SDK's plain text."""

from __future__ import annotations

import click

from zoho_keystore._cli.common import Settings, echo_escaped, fail_as_usage, pass_settings, tokens
from zoho_keystore._fs.paths import real_path
from zoho_keystore._importers.filestore import export
from zoho_keystore._operations.backup import make_file


@click.command("export")
@click.argument("destination", metavar="DEST")
@click.option("--plaintext", is_flag=True, help="Say that you know: whoever reads the file has the tokens.")
@pass_settings
def command(settings: Settings, destination: str, plaintext: bool) -> None:  # noqa: FBT001 - click passes by name
    """Write all tokens in plain text, for FileStore.

    DEST is a new file of mode 0600, as the SDK's FileStore writes and reads it.
    """
    if not plaintext:
        fail_as_usage(
            "This writes all tokens in plain text. Give --plaintext if you mean it. A sealed copy is made by: backup"
        )
    records = settings.open().records()
    path = real_path(destination)
    make_file(path, export(records))
    echo_escaped(f"Wrote {tokens(len(records))} in plain text to {path}. Delete it as soon as you can.")
