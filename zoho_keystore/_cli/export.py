"""``export``: write the tokens as the SDK's FileStore keeps them, in plain text."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from zoho_keystore._cli.output import echo_escaped
from zoho_keystore._cli.settings import Settings, complete_paths, pass_settings, require_directory_for
from zoho_keystore._fs import atomic
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.paths import real_path
from zoho_keystore._fs.unnamed import create_unnamed
from zoho_keystore._importers.filestore import export
from zoho_keystore._operations.backup import make_file
from zoho_keystore._text import count

if TYPE_CHECKING:
    from pathlib import Path


@click.command("export")
@click.argument("destination", metavar="DEST", shell_complete=complete_paths)
@click.option("--plaintext", is_flag=True, help="Confirm that the tokens are written in plain text.")
@pass_settings
def command(settings: Settings, destination: str, plaintext: bool) -> None:  # noqa: FBT001 - click passes by name
    """Export all tokens in plain text, for the SDK's FileStore.

    DEST is a new file; it gets mode 0600.
    """
    if not plaintext:
        raise click.UsageError(
            "This writes all tokens in plain text. Give --plaintext to confirm. For a sealed copy: "
            + settings.command("backup", destination)
        )
    require_directory_for(destination)
    records = settings.open().records()
    path = real_path(destination)
    _write(path, export(records))
    echo_escaped(f"Wrote {count(len(records), 'token')} in plain text to {path}. Delete it as soon as you can.")


def _write(path: Path, content: bytes) -> None:
    with Directory.opened(path.parent, may_restrict=False) as directory:
        # What an export that was killed has left: plain text.
        atomic.remove_stale_temp_files(directory, path.name)
        with suppress(atomic.AlreadyThereError):  # make_file() says it.
            if create_unnamed(directory, path.name, content):
                return
    make_file(path, content)
