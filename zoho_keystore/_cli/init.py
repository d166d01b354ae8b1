"""``init``: create the key ring and the store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from zoho_keystore._cli.output import echo_escaped
from zoho_keystore._cli.settings import Settings, complete_paths, pass_settings
from zoho_keystore._operations.setup import init
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
@pass_settings
def command(settings: Settings, keyring: str | None) -> None:
    """Create a key ring and an empty store, if they do not exist.

    Afterwards, EncryptedFileStore() works without arguments. Running it again changes nothing.
    """
    if keyring is not None and settings.key is not None:
        raise click.UsageError("--keyring and --key both name the key source. Give one of them.")
    done = init(settings.store, key=settings.key if keyring is None else f"file:{keyring}")
    keys = f"{plural(len(done.fingerprints), 'key')} {', '.join(done.fingerprints)}"
    echo_escaped(f"{'Created' if done.made_key else 'Exists already:'} {done.source} ({keys})")
    echo_escaped(f"{'Created' if done.made_store else 'Exists already:'} {done.store}")
    if done.made_key:
        echo_escaped("Keep a copy of the key where you keep other secrets: without it, the store cannot be opened.")
    if done.is_default:
        echo_escaped("EncryptedFileStore() finds both.")
    else:
        echo_escaped(f"Open it with EncryptedFileStore({_arguments(settings, keyring, done)}).")


def create_missing(settings: Settings) -> None:
    """Create the store if it is missing, with its key ring if that is missing too, and say so on stderr."""
    if os.path.lexists(settings.path):
        return
    made = init(settings.store, key=settings.key)
    if made.made_key:
        echo_escaped(
            f"Created the key ring {made.source}. Keep a copy of it: without it, the store cannot be opened.", err=True
        )
    echo_escaped(f"Created the store {made.store}.", err=True)


def _arguments(settings: Settings, keyring: str | None, done: Setup) -> str:
    path = repr(str(done.store))
    if keyring is None and settings.key is None:
        return path
    # The printed form of a command source leaves out the program's arguments, which may hold a secret.
    is_whole = settings.key is None or not settings.key.startswith("command:")
    return f"{path}, key={(done.source if is_whole else settings.key)!r}"
