"""``init``: the first key ring and the first store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from zoho_keystore._cli.common import Settings, echo_escaped, pass_settings
from zoho_keystore._operations.setup import init

if TYPE_CHECKING:
    from zoho_keystore._operations.setup import Setup


@click.command("init")
@click.option("--keyring", metavar="PATH", help="Make the key ring here, instead of in your config folder.")
@pass_settings
def command(settings: Settings, keyring: str | None) -> None:
    """Make a key ring and an empty store, where there are none yet.

    After it, EncryptedFileStore() without arguments works. Done again, it changes nothing.
    """
    if keyring is not None and settings.key is not None:
        msg = "--keyring and --key both say where the keys are to be. Give one of them."
        raise click.UsageError(msg)
    done = init(settings.store, key=settings.key if keyring is None else f"file:{keyring}")
    keys = ("key " if len(done.fingerprints) == 1 else "keys ") + ", ".join(done.fingerprints)
    echo_escaped(f"{'Made' if done.made_key else 'There is'} {done.source} ({keys})")
    echo_escaped(f"{'Made' if done.made_store else 'There is'} {done.store}")
    if done.made_key:
        echo_escaped("Keep a copy of the key where you keep other secrets: without it nobody can open the store.")
    if done.is_default:
        echo_escaped("EncryptedFileStore() finds both.")
    else:
        echo_escaped(f"Open it with EncryptedFileStore({_arguments(settings, keyring, done)}).")


def _arguments(settings: Settings, keyring: str | None, done: Setup) -> str:
    path = repr(str(done.store))
    if keyring is None and settings.key is None:
        return path
    # The name of a source leaves out the arguments of a program.
    is_whole = settings.key is None or not settings.key.startswith("command:")
    return f"{path}, key={(done.source if is_whole else settings.key)!r}"
