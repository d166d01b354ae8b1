"""``copy``: copy all tokens into another store."""

from __future__ import annotations

import click

from zoho_keystore._cli.output import echo_escaped
from zoho_keystore._cli.progress import bar
from zoho_keystore._cli.settings import Settings, pass_settings
from zoho_keystore._operations.copying import copy
from zoho_keystore._text import count


@click.command("copy")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DEST")
@click.option("--from-key", metavar="SPEC", help="The source of the keys of SRC. Default: as of DEST.")
@pass_settings
def command(settings: Settings, source: str, destination: str, from_key: str | None) -> None:
    """Copy all tokens of a store into an empty one, and compare the two.

    SRC and DEST are files or addresses of databases: postgresql://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE,
    sqlite:///PATH. A missing DEST is created. Ids and times are kept. --key names the keys of DEST, and --store is not
    used. Stop the programs that use SRC first.
    """
    if settings.store is not None:
        raise click.UsageError("copy takes both stores as arguments: leave --store out.")
    # A command such as "delete --all" in an error would otherwise work on the default store, which may be SRC.
    settings.explains = False
    with bar("copying") as show:
        done = copy(source, destination, key=settings.key, from_key=from_key, progress=show)
    echo_escaped(f"Copied {count(done.count, 'token')} from {done.source} to {done.destination}, and compared them.")
