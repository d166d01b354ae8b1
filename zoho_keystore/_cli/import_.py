"""``import``: tokens from where they are kept today."""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from zoho_keystore._cli.common import (
    Settings,
    echo_escaped,
    expiry_in_words,
    fail_as_usage,
    now_ms,
    pass_settings,
    print_table,
)
from zoho_keystore._importers import read
from zoho_keystore._keystore import ImportResult
from zoho_keystore._records import CREDENTIAL_FIELDS
from zoho_keystore.errors import ImportSourceError, storage_error

if TYPE_CHECKING:
    from pathlib import Path

    from zoho_keystore._importers import Found
    from zoho_keystore._keystore import ImportedRecord, Keystore

#: From so many records on, a bar shows how far it is.
_MANY = 1_000

_IN_WORDS = {
    ImportResult.ADDED: "added",
    ImportResult.UPDATED: "updated, as they expire later here",
    ImportResult.UNCHANGED: "left, as the stored ones are as good",
    ImportResult.EMPTY: "left out, as they hold no token",
}


@click.command("import")
@click.argument("source", metavar="SOURCE")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option("--from-key", metavar="SPEC", help="Where the key of another keystore comes from.")
@click.option("--remove-source", is_flag=True, help="Delete the source once its tokens are known to be stored.")
@pass_settings
def command(settings: Settings, source: str, dry_run: bool, from_key: str | None, remove_source: bool) -> None:  # noqa: FBT001 - by name
    """Take tokens over from where they are kept today.

    That may be the SDK's FileStore, the SQLite sample, the SDK's DBStore in MySQL or MariaDB, or another keystore.

    SOURCE is a file, or mysql://USER@HOST:3306/DATABASE?table=oauthtoken; the password comes from
    ZOHO_KEYSTORE_MYSQL_PASSWORD, an option file, or is asked for. All tokens are taken over, or none; done again, it
    changes nothing. The source is never changed.
    """
    if remove_source and dry_run:
        fail_as_usage("--remove-source deletes the source, and --dry-run does nothing. Give one of them.")
    keystore = settings.open()
    found = read(source, from_key=from_key, password=_ask if sys.stdin.isatty() else None)
    if remove_source:
        _require_removable(found, settings.path)
    taken = _taken_in(keystore, found, dry_run=dry_run)
    if dry_run:
        _show(taken)
    counts = Counter(one.result for one in taken)
    done = ", ".join(f"{counts[what]:,} {words}" for what, words in _IN_WORDS.items() if counts[what])
    echo_escaped(f"{found.name} ({found.kind}): {done or 'no tokens'}{'; nothing was stored' if dry_run else ''}.")
    if remove_source and found.path is not None:
        _require_stored(settings, taken)
        _remove(found, found.path, from_key)
        echo_escaped(f"Deleted {found.path}. Copies in backups, version control and the disk's free space remain.")


def _ask() -> str:
    return str(click.prompt("Password of the database", hide_input=True, err=True))


def _taken_in(keystore: Keystore, found: Found, *, dry_run: bool) -> list[ImportedRecord]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    err = Console(stderr=True)
    # Off a terminal, the bar would be an empty line in a log.
    is_off = not err.is_terminal or len(found.records) < _MANY
    with Progress(*columns, console=err, transient=True, disable=is_off) as bar:
        task = bar.add_task("importing", total=len(found.records))
        return keystore.import_records(found.records, dry_run=dry_run, progress=lambda: bar.advance(task))


def _show(taken: list[ImportedRecord]) -> None:
    now = now_ms()
    print_table(
        ("ID", "USER", "CLIENT", "EXPIRES", "WOULD BE"),
        (
            (
                one.record.id or "-",
                one.record.user_name or "-",
                one.record.client_id or "-",
                expiry_in_words(one.record, now),
                _IN_WORDS[one.result],
            )
            for one in taken
        ),
    )


def _require_removable(found: Found, store: Path) -> None:
    if found.path is None:
        fail_as_usage("--remove-source deletes files. Drop the table yourself, once its tokens are imported.")
    if found.path == store:
        fail_as_usage("The source is the store itself.")


def _require_stored(settings: Settings, taken: list[ImportedRecord]) -> None:
    """Make sure that the file holds what was taken in, by reading it once more."""
    stored = {record.id: record for record in settings.open().records()}
    # Of several that mean the same token, the last one tells how it was stored.
    expected = {one.record.id: one.record for one in taken if one.result is not ImportResult.EMPTY}
    for id, record in expected.items():
        is_there = id in stored and all(
            getattr(stored[id], name) == getattr(record, name) for name in CREDENTIAL_FIELDS
        )
        if not is_there:
            raise ImportSourceError(
                f"the token {id!r} is not in the store as it was imported; the source was left as it is",
                "Somebody may have changed the token meanwhile: look at it, and import once more",
                settings.path,
            )


def _remove(found: Found, path: Path, from_key: str | None) -> None:
    # The program that the source belongs to may have saved there since it was read.
    if read(str(path), from_key=from_key).records != found.records:
        raise ImportSourceError(
            "the source has changed since it was read; what was read is stored, and the source was left as it is",
            "Stop the program that writes it, and import once more",
            path,
        )
    try:
        os.unlink(path)
    except OSError as error:
        raise storage_error(error, "its tokens are stored, but the source cannot be deleted", path) from error
