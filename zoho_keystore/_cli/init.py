"""``init``: create the key ring and the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from zoho_keystore._cli.output import echo_escaped
from zoho_keystore._cli.settings import Settings, complete_paths, pass_settings
from zoho_keystore._open import address_of
from zoho_keystore._operations.databases import table_sql
from zoho_keystore._operations.setup import init_store
from zoho_keystore._text import plural

if TYPE_CHECKING:
    from zoho_keystore._operations.setup import Setup


@click.command("init")
@click.option(
    "--keyring",
    metavar="PATH",
    shell_complete=complete_paths,
    help="Create the key ring here, instead of in your config directory.",
)
@click.option(
    "--print-sql",
    "is_printed",
    is_flag=True,
    help="Print the SQL that makes the tables and permits their use, and do nothing.",
)
@pass_settings
def command(settings: Settings, keyring: str | None, is_printed: bool) -> None:  # noqa: FBT001 - click passes by name
    """Create a key ring and an empty store, if they do not exist.

    Afterwards, EncryptedFileStore() works without arguments. Running it again changes nothing.

    In a database, the tables are made if they are missing. Where the user may not make tables, an administrator makes
    them by what --print-sql prints, and init is run after that.
    """
    if is_printed:
        address = address_of(settings.store)
        if address is None:
            raise click.UsageError("--print-sql needs the address of a database: give --store.")
        click.echo(table_sql(address), nl=False)
        return
    if keyring is not None and settings.key is not None:
        raise click.UsageError("--keyring and --key both name the key source. Give one of them.")
    done = init_store(settings.store, key=settings.key if keyring is None else f"file:{keyring}")
    keys = f"{plural(len(done.fingerprints), 'key')} {', '.join(done.fingerprints)}"
    echo_escaped(f"{'Created' if done.made_key else 'Exists already:'} {done.source} ({keys})")
    echo_escaped(f"{'Created' if done.made_store else 'Exists already:'} {done.name}")
    if done.made_key:
        echo_escaped("Keep a copy of the key where you keep other secrets: without it, the store cannot be opened.")
    if done.is_default:
        echo_escaped("EncryptedFileStore() finds both.")
    elif settings.is_in_database:
        echo_escaped(f"Open it with EncryptedSQLStore({_arguments(settings, keyring, done)}).")
    else:
        echo_escaped(f"Open it with EncryptedFileStore({_arguments(settings, keyring, done)}).")


def create_missing(settings: Settings) -> None:
    """Create the store if it is missing, with its key ring if that is missing too, and say so on stderr."""
    if settings.is_there:
        return
    made = init_store(settings.store, key=settings.key)
    if made.made_key:
        echo_escaped(
            f"Created the key ring {made.source}. Keep a copy of it: without it, the store cannot be opened.", err=True
        )
    echo_escaped(f"Created the store {made.name}.", err=True)


def _arguments(settings: Settings, keyring: str | None, done: Setup) -> str:
    path = repr(done.name)
    if keyring is None and settings.key is None:
        return path
    # The printed form of a command source leaves out the program's arguments, which may hold a secret.
    is_whole = settings.key is None or not settings.key.startswith("command:")
    return f"{path}, key={(done.source if is_whole else settings.key)!r}"
