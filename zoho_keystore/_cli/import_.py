"""``import``: import the tokens of another store."""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from zoho_keystore._cli.output import current_time_ms, echo_escaped, format_expiry, print_table
from zoho_keystore._cli.settings import Settings, pass_settings
from zoho_keystore._fs.paths import is_same_file
from zoho_keystore._importers import read
from zoho_keystore._keystore import ImportResult
from zoho_keystore._platform import is_terminal
from zoho_keystore._records import CREDENTIAL_FIELDS
from zoho_keystore.errors import ImportSourceError, storage_error

if TYPE_CHECKING:
    from pathlib import Path

    from zoho_keystore._importers import ImportSource
    from zoho_keystore._keystore import ImportedRecord, Keystore

#: From this many records on, a terminal shows a progress bar.
_PROGRESS_BAR_RECORDS = 1_000

_RESULTS = {
    ImportResult.ADDED: "added",
    ImportResult.UPDATED: "updated (expires later than the stored one)",
    ImportResult.UNCHANGED: "unchanged (the stored one is as good)",
    ImportResult.EMPTY: "skipped (holds no token)",
}


@click.command("import")
@click.argument("source", metavar="SOURCE")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and store nothing.")
@click.option("--from-key", metavar="SPEC", help="The source of the other keystore's keys.")
@click.option("--remove-source", is_flag=True, help="Delete the source after its tokens were read back from the store.")
@pass_settings
def command(settings: Settings, source: str, dry_run: bool, from_key: str | None, remove_source: bool) -> None:  # noqa: FBT001 - by name
    """Import the tokens of another store.

    SOURCE is a file of the SDK's FileStore, a database of the SQLite sample, another keystore, or the table of the
    SDK's DBStore in MySQL or MariaDB: mysql://USER@HOST:3306/DATABASE?table=oauthtoken. The database password comes
    from ZOHO_KEYSTORE_MYSQL_PASSWORD or an option file, or is asked for.

    All tokens are imported, or none. Running it again changes nothing. The source is only read.
    """
    if remove_source and dry_run:
        raise click.UsageError("--remove-source deletes the source, --dry-run changes nothing. Give one of them.")
    keystore = settings.open()
    found = read(source, from_key=from_key, password=_prompt if is_terminal(sys.stdin) else None)
    if remove_source:
        _require_removable(found, settings.path)
    imported = _import(keystore, found, dry_run=dry_run)
    if dry_run:
        _print_records(imported)
    counts = Counter(one.result for one in imported)
    summary = ", ".join(f"{counts[result]:,} {text}" for result, text in _RESULTS.items() if counts[result])
    echo_escaped(f"{found.name} ({found.kind}): {summary or 'no tokens'}{'; nothing was stored' if dry_run else ''}.")
    if remove_source and found.path is not None:
        _require_stored(settings, imported)
        _remove(found, found.path, from_key)
        echo_escaped(f"Deleted {found.path}. Copies in backups, version control and the disk's free space remain.")


def _prompt() -> str:
    return str(click.prompt("Password of the database", hide_input=True, err=True))


def _import(keystore: Keystore, found: ImportSource, *, dry_run: bool) -> list[ImportedRecord]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    err = Console(stderr=True)
    # On a pipe, rich would print an empty line for the bar.
    is_off = not err.is_terminal or len(found.records) < _PROGRESS_BAR_RECORDS
    with Progress(*columns, console=err, transient=True, disable=is_off) as bar:
        task = bar.add_task("importing", total=len(found.records))
        return keystore.import_records(found.records, dry_run=dry_run, progress=lambda: bar.advance(task))


def _print_records(imported: list[ImportedRecord]) -> None:
    now_ms = current_time_ms()
    print_table(
        ("ID", "USER", "CLIENT", "EXPIRES", "WOULD BE"),
        (
            (
                record.id or "-",
                record.user_name or "-",
                record.client_id or "-",
                format_expiry(record, now_ms),
                _RESULTS[result],
            )
            for record, result in imported
        ),
    )


def _require_removable(found: ImportSource, store: Path) -> None:
    if found.path is None:
        raise click.UsageError("--remove-source deletes files only. Drop the table yourself, after the import.")
    if is_same_file(found.path, store):
        raise click.UsageError("The source is the store itself.")


def _require_stored(settings: Settings, imported: list[ImportedRecord]) -> None:
    """Check that the file holds what was imported, by reading it again."""
    stored = {record.id: record for record in settings.open().records()}
    # Where several source records became one stored record, only the last result is in the store.
    expected = {record.id: record for record, result in imported if result is not ImportResult.EMPTY}
    for id, record in expected.items():
        is_there = id in stored and all(
            getattr(stored[id], name) == getattr(record, name) for name in CREDENTIAL_FIELDS
        )
        if not is_there:
            raise ImportSourceError(
                f"the token {id!r} is not in the store as it was imported; the source was not deleted",
                "Another process may have changed the token: look at it, and run the import again",
                settings.path,
            )


def _remove(found: ImportSource, path: Path, from_key: str | None) -> None:
    # The program that uses the source may have saved a token since it was read.
    if read(str(path), from_key=from_key).records != found.records:
        raise ImportSourceError(
            "the source has changed since it was read: what was read is stored, and the source was not deleted",
            "Stop the program that writes it, and run the import again",
            path,
        )
    try:
        os.unlink(path)
    except OSError as error:
        raise storage_error(error, "its tokens are stored, but the source cannot be deleted", path) from error
