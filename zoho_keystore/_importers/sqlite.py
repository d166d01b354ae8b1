"""The database of the SQLite sample in Zoho's article: the table ``oauthtoken``, opened read-only."""

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

#: The first bytes of every database.
MAGIC = b"SQLite format 3\0"

TABLE = "oauthtoken"

#: How long to wait for another program's lock, in seconds.
LOCK_TIMEOUT_S = 5.0

#: The header byte that tells whether the database has a write-ahead log.
_READ_VERSION_OFFSET = 19
_READ_VERSION_WAL = 2

_PROBLEMS = {
    sqlite3.SQLITE_BUSY: (
        "the database is locked by another program",
        "Stop that program, or try again when it has finished",
    ),
    # A reader would have to roll the writer's journal back first, which changes the file.
    sqlite3.SQLITE_READONLY: (
        "a program was killed in the middle of a change, which has to be rolled back before the database can be read",
        "Open the database once with the program that uses it, or with: sqlite3 FILE .tables",
    ),
    sqlite3.SQLITE_CORRUPT: ("the database is damaged", "Restore it from a backup"),
    sqlite3.SQLITE_NOTADB: ("the file starts like an SQLite database, but is damaged", "Restore it from a backup"),
}


def read(path: Path) -> list[TokenRecord]:
    """Return the records of a database.

    Raises:
        UnreadableError: The database cannot be read at present, or has no table of tokens.
    """
    try:
        has_idle_log = _has_wal(path) and not _is_log_in_use(path)
        before = _signature(path)
        names, rows = _read_table(path, immutable=has_idle_log)
        if has_idle_log and (_is_log_in_use(path) or _signature(path) != before):
            raise UnreadableError("another program changed the database during the import", "Try again")
    except (sqlite3.Error, OSError) as error:
        # Without SQLite's message: it quotes values.
        code = getattr(error, "sqlite_errorcode", 0)
        problem, advice = _PROBLEMS.get(
            code & 0xFF, (f"the database cannot be read (SQLite error {code})", "Check the file, and who may read it")
        )
        raise UnreadableError(problem, advice) from None
    return from_table(TABLE, names, rows)


def _read_table(path: Path, *, immutable: bool) -> tuple[list[str], list[Sequence[object]]]:
    # A read-only connection to a WAL database creates the -wal and -shm files and cannot remove them. Without a -wal
    # file no other program has the database open, so immutable=1 (ignore the log) is safe.
    uri = f"{path.as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
    with closing(sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None)) as connection:
        # With str, text that is not UTF-8 is an error that quotes the value.
        connection.text_factory = bytes
        tables = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE"
        if connection.execute(tables, (TABLE,)).fetchone() is None:
            raise UnreadableError(f"the database has no table {TABLE}", "Check the path")
        cursor = connection.execute(f"SELECT * FROM {TABLE}")  # noqa: S608 - a constant
        return [column[0] for column in cursor.description], cursor.fetchall()


def _has_wal(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(_READ_VERSION_OFFSET)
        return file.read(1) == bytes([_READ_VERSION_WAL])


def _is_log_in_use(path: Path) -> bool:
    return os.path.exists(f"{path}-wal")


def _signature(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns
