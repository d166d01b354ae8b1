"""``import``: import the tokens of another store."""

from __future__ import annotations

import os
import sys
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import click

from zoho_keystore._cli.init import create_missing
from zoho_keystore._cli.output import SECRETS, current_time_ms, echo_escaped, format_expiry, print_table
from zoho_keystore._cli.progress import bar
from zoho_keystore._cli.settings import Settings, complete_paths, pass_settings
from zoho_keystore._fs.paths import is_same_file
from zoho_keystore._importers import read
from zoho_keystore._open import open_memory_keystore
from zoho_keystore._platform import is_terminal, retried
from zoho_keystore._saving import ImportResult
from zoho_keystore._text import count
from zoho_keystore.errors import ImportSourceError, storage_error

if TYPE_CHECKING:
    from pathlib import Path

    from zoho_keystore._importers import ImportSource
    from zoho_keystore._keystore import Keystore
    from zoho_keystore._records import TokenRecord
    from zoho_keystore._saving import ImportedRecord

#: At most so many problems of rows are shown.
_SHOWN_PROBLEMS = 10

_RESULTS = {
    ImportResult.ADDED: "added",
    ImportResult.UPDATED: "updated (expires later than the stored one)",
    ImportResult.UNCHANGED: "unchanged (the stored one is as good)",
    ImportResult.EMPTY: "skipped (holds no token)",
}


@click.command("import")
@click.argument("source", metavar="SOURCE", shell_complete=complete_paths)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and store nothing.")
@click.option("--from-key", metavar="SPEC", help="The source of the other keystore's keys.")
@click.option("--remove-source", is_flag=True, help="Delete the source once the store holds each of its secrets.")
@pass_settings
def command(settings: Settings, source: str, dry_run: bool, from_key: str | None, remove_source: bool) -> None:  # noqa: FBT001 - by name
    """Import the tokens of another store.

    SOURCE is a file of the SDK's FileStore, a database of the SQLite sample, another keystore, or the table of the
    SDK's DBStore, or a view of its columns: mysql://USER@HOST:3306/DATABASE?table=oauthtoken,
    postgresql://USER@HOST:5432/DATABASE?table=oauthtoken or sqlite:///PATH?table=oauthtoken. The database password
    comes from ZOHO_KEYSTORE_MYSQL_PASSWORD, ZOHO_KEYSTORE_SQL_PASSWORD, an option file or ~/.pgpass, or is asked for.
    A server on another machine has to offer TLS, unless the address says ssl=off.

    A missing store is created, and its key ring. All tokens that can be read are imported, or none. Running it
    again changes nothing. The source is only read.
    """
    if remove_source and dry_run:
        raise click.UsageError("--remove-source deletes the source, --dry-run changes nothing. Give one of them.")
    found = read(source, from_key=from_key, password=_prompt if is_terminal(sys.stdin) else None)
    if remove_source:
        _require_removable(found, settings)
    keystore = _open(settings, dry_run=dry_run)
    imported = _import(keystore, found, dry_run=dry_run)
    if dry_run:
        _print_records(imported)
    counts = Counter(one.result for one in imported)
    summary = ", ".join(f"{counts[result]:,} {text}" for result, text in _RESULTS.items() if counts[result])
    echo_escaped(f"{found.name} ({found.kind}): {summary or 'no tokens'}{'; nothing was stored' if dry_run else ''}.")
    _require_whole(found, dry_run=dry_run, remove_source=remove_source)
    if remove_source and found.path is not None:
        _require_stored(settings, found, imported)
        files = ", ".join(map(str, _remove(found, source, found.path, from_key)))
        echo_escaped(f"Deleted {files}. Copies in backups, version control and the disk's free space remain.")


def _prompt() -> str:
    return str(click.prompt("Password of the database", hide_input=True, err=True))


def _open(settings: Settings, *, dry_run: bool) -> Keystore:
    """Open the store, and create a missing one with its key ring, as login does."""
    if dry_run and not settings.is_there:
        return open_memory_keystore()
    create_missing(settings)
    return settings.open()


def _import(keystore: Keystore, found: ImportSource, *, dry_run: bool) -> list[ImportedRecord]:
    total = len(found.records)
    done = iter(range(1, total + 1))
    with bar("importing") as show:
        return keystore.import_records(found.records, dry_run=dry_run, progress=lambda: show(next(done), total))


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


def _require_removable(found: ImportSource, settings: Settings) -> None:
    if found.path is None:
        raise click.UsageError("--remove-source deletes files only. Drop the table yourself, after the import.")
    if not settings.is_in_database and is_same_file(found.path, settings.path):
        raise click.UsageError("The source is the store itself.")
    if found.other_tables:
        names = ", ".join(found.other_tables)
        raise ImportSourceError(
            f"the database has other tables too ({names}), so it is not deleted; nothing was imported",
            "Import it without --remove-source, then drop the table oauthtoken and run VACUUM",
            found.path,
        )


def _require_whole(found: ImportSource, *, dry_run: bool, remove_source: bool) -> None:
    if not found.skipped:
        return
    shown, rest = found.skipped[:_SHOWN_PROBLEMS], len(found.skipped) - _SHOWN_PROBLEMS
    if rest > 0:
        shown.append(f"and {rest:,} more")
    raise ImportSourceError(
        f"{count(len(found.skipped), 'row')} cannot be read: {'; '.join(shown)}"
        + ("" if dry_run else "; the other rows were imported")
        + ("; the source was not deleted" if remove_source else ""),
        "Correct the source, and run the import again",
        found.path,
    )


def _require_stored(settings: Settings, found: ImportSource, imported: list[ImportedRecord]) -> None:
    """Check that the store holds each secret of the source, by reading it again."""
    stored = {record.id: record for record in settings.open().records()}
    held = {(name, getattr(record, name)) for record in stored.values() for name in SECRETS}
    differences = [
        f"the {name} of {f'the token {given.id!r}' if given.id else f'token {number}'}"
        for number, (given, one) in enumerate(zip(found.records, imported, strict=True), 1)
        for name in SECRETS
        if getattr(given, name)
        and (name, getattr(given, name)) not in held
        and not (name == "access_token" and _is_superseded(given, stored.get(one.record.id)))
    ]
    if differences:
        raise ImportSourceError(
            f"the store does not hold {', '.join(differences)} of the source; the source was not deleted",
            "Compare the two (zoho-keystore list), and delete the source yourself when nothing of it is needed",
            None if settings.is_in_database else settings.path,
        )


def _is_superseded(given: TokenRecord, stored: TokenRecord | None) -> bool:
    """Tell whether an access token was replaced by one that expires later; the refresh token is compared by itself."""
    if stored is None or given.expires_at_ms is None or not stored.access_token:
        return False
    return (stored.expires_at_ms or 0) >= given.expires_at_ms


def _remove(found: ImportSource, source: str, path: Path, from_key: str | None) -> list[Path]:
    # The program that uses the source may have saved a token since it was read.
    if read(source, from_key=from_key).records != found.records:
        raise ImportSourceError(
            "the source has changed since it was read: what was read is stored, and the source was not deleted",
            "Stop the program that writes it, and run the import again",
            path,
        )
    files = found.files
    for file in files:
        try:
            retried(partial(os.unlink, file), file)
        except OSError as error:
            raise storage_error(error, "its tokens are stored, but the source cannot be deleted", file) from error
    return files
