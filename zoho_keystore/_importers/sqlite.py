"""The database of the SQLite sample in Zoho's article: the table ``oauthtoken``, opened for reading only."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from zoho_keystore._importers.rows import UnreadableError, from_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zoho_keystore._records import TokenRecord

#: How every database begins.
MAGIC = b"SQLite format 3\0"

TABLE = "oauthtoken"

#: For how long another program may keep the database locked, in seconds.
LOCK_TIMEOUT_S = 5.0

#: The byte of the header that tells whether the database has a write-ahead log.
_READ_VERSION_OFFSET = 19
_READ_VERSION_WAL = 2

_PROBLEMS = {
    sqlite3.SQLITE_BUSY: (
        "the database is locked by another program",
        "Stop the program that uses it, or try again when it has finished",
    ),
    # Reading would first have to undo what the writer left half-done, which changes the file.
    sqlite3.SQLITE_READONLY: (
        "a program was stopped in the middle of a change, which has to be undone before the database can be read",
        "Open the database once with the program that it belongs to, or with: sqlite3 FILE .tables",
    ),
    sqlite3.SQLITE_CORRUPT: ("the database is damaged", "Restore it from a backup"),
    sqlite3.SQLITE_NOTADB: ("this begins like an SQLite database, and is none", "Restore it from a backup"),
}


def read(path: Path) -> list[TokenRecord]:
    """Return the records of a database.

    Raises:
        UnreadableError: It cannot be read now, or is no database with such a table.
    """
    try:
        has_idle_log = _has_wal(path) and not _is_log_in_use(path)
        before = _stamp(path)
        names, rows = _table(path, immutable=has_idle_log)
        if has_idle_log and (_is_log_in_use(path) or _stamp(path) != before):
            raise UnreadableError("another program has changed the database meanwhile", "Try again")
    except (sqlite3.Error, OSError) as error:
        # What SQLite says is left out: it quotes values.
        code = getattr(error, "sqlite_errorcode", 0)
        problem, advice = _PROBLEMS.get(
            code & 0xFF, (f"the database cannot be read (SQLite error {code})", "Check the file, and who may read it")
        )
        raise UnreadableError(problem, advice) from None
    return from_table(TABLE, names, rows)


def _table(path: Path, *, immutable: bool) -> tuple[list[str], list[Sequence[object]]]:
    # A reader of a database with a write-ahead log makes its two files beside it, and cannot remove them. Where nobody
    # has them open there is no log to be read: then SQLite is told to look at the one file alone.
    uri = f"{path.as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
    with closing(sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None)) as connection:
        # Otherwise text that is no UTF-8 is an error that quotes it.
        connection.text_factory = bytes
        tables = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE"
        if connection.execute(tables, (TABLE,)).fetchone() is None:
            raise UnreadableError(
                f"the database has no table {TABLE}", "Check the path: the tokens are in the table of that name"
            )
        cursor = connection.execute(f"SELECT * FROM {TABLE}")  # noqa: S608 - a name of ours
        return [column[0] for column in cursor.description], cursor.fetchall()


def _has_wal(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(_READ_VERSION_OFFSET)
        return file.read(1) == bytes([_READ_VERSION_WAL])


def _is_log_in_use(path: Path) -> bool:
    return os.path.exists(f"{path}-wal")


def _stamp(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns
