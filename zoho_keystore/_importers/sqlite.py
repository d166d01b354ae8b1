"""The database of the SQLite sample in Zoho's article, or a table or view of the same columns, opened read-only.

A file is named by its path, or by an address, which may name the table::

    sqlite:///PATH?table=oauthtoken

The standard library reads it, so that no extra is needed.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

from zoho_keystore._importers.rows import (
    ADVICE_ON_ENCRYPTED_STORE,
    Row,
    Rows,
    UnreadableError,
    columns,
    require_columns,
    to_records,
)
from zoho_keystore.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

#: The first bytes of every database.
MAGIC = b"SQLite format 3\0"

TABLE = "oauthtoken"

#: The form of an address, for messages.
FORM = f"sqlite:///PATH?table={TABLE}"

_ADDRESS = re.compile(r"sqlite://(?:/(?P<path>[^?]+)(?:\?table=(?P<table>[A-Za-z0-9_]{1,64}))?)?", re.IGNORECASE)

#: What a database may have beside it, each with parts of its content.
SIDE_FILE_SUFFIXES = ("-wal", "-shm", "-journal")

#: The longest value that is read. A generated column can have any length, whatever the size of the file.
MAX_VALUE_BYTES = 1024 * 1024

#: How long to wait for another program's lock, in seconds.
LOCK_TIMEOUT_S = 5.0

#: How long reading may take, in seconds: a view can compute without end.
READ_TIMEOUT_S = 60.0
_INSTRUCTIONS_BETWEEN_CHECKS = 100_000

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
    sqlite3.SQLITE_TOOBIG: (
        f"a value has more than {MAX_VALUE_BYTES:,} bytes, so it is not a token",
        "Check the table",
    ),
    sqlite3.SQLITE_INTERRUPT: (
        f"reading takes longer than {READ_TIMEOUT_S:.0f} s",
        "Check the view, or import the table that it reads",
    ),
    sqlite3.SQLITE_NOTADB: ("the file starts like an SQLite database, but is damaged", "Restore it from a backup"),
}


def is_address(source: str) -> bool:
    """Tell whether a source is an address of an SQLite database."""
    return source.lower().startswith("sqlite:")


def parse_address(source: str) -> tuple[str, str]:
    """Return the path and the table of an address.

    Raises:
        ConfigurationError: The address is malformed.
    """
    match = _ADDRESS.fullmatch(source)
    if match is None or not match["path"]:
        raise ConfigurationError("the address of the database is malformed", f"Write {FORM}, or the path alone")
    return match["path"], match["table"] or TABLE


def read(path: Path, table: str = TABLE) -> tuple[Rows, list[str]]:
    """Return the records of a table or view, and the names of the other tables and views.

    Args:
        path: The file.
        table: The table's name: letters, digits and underscores.

    Raises:
        UnreadableError: The database cannot be read at present, or has no table of tokens.
    """
    try:
        has_idle_log = _has_wal(path) and not _is_log_in_use(path)
        before = _signature(path)
        found = _read_table(path, table, immutable=has_idle_log)
        if has_idle_log and (_is_log_in_use(path) or _signature(path) != before):
            raise UnreadableError("another program changed the database during the import", "Try again")
    except (sqlite3.Error, OSError) as error:
        # Without SQLite's message: it quotes values.
        code = getattr(error, "sqlite_errorcode", 0)
        problem, advice = _PROBLEMS.get(
            code & 0xFF, (f"the database cannot be read (SQLite error {code})", "Check the file, and who may read it")
        )
        raise UnreadableError(problem, advice) from None
    return found


def _read_table(path: Path, table: str, *, immutable: bool) -> tuple[Rows, list[str]]:
    # A read-only connection to a WAL database creates the -wal and -shm files and cannot remove them. Without a -wal
    # file no other program has the database open, so immutable=1 (ignore the log) is safe.
    uri = f"{path.as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
    with closing(sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None)) as connection:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        deadline_s = time.monotonic() + READ_TIMEOUT_S
        connection.set_progress_handler(lambda: time.monotonic() > deadline_s, _INSTRUCTIONS_BETWEEN_CHECKS)
        # A view must not call functions that do more than compute.
        connection.execute("PRAGMA trusted_schema = OFF")
        # With str, text that is not UTF-8 is an error that quotes the value.
        connection.text_factory = bytes
        tables = (
            "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        )
        names = [name.decode("utf-8", "replace") for (name,) in connection.execute(tables)]
        others = [name for name in names if name.lower() != table.lower()]
        if len(others) == len(names):
            raise UnreadableError(
                f"the database has no table {table}",
                f"Check the path, or name the table: {FORM}; {ADVICE_ON_ENCRYPTED_STORE}",
            )
        # Without generated columns (hidden is 2 or 3): no sample has any.
        info = connection.execute(f'PRAGMA table_xinfo("{table}")')
        found = columns(name.decode("utf-8", "replace") for _, name, _, _, _, _, hidden in info if not hidden)
        require_columns(f"the table {table}", found)
        cursor = connection.execute(f'SELECT {", ".join(found.values())} FROM "{table}"')  # noqa: S608 - known names
        rows = (Row(f"row {number}", dict(zip(found, row, strict=True))) for number, row in enumerate(cursor, 1))
        return to_records(rows, found), others


def _has_wal(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(_READ_VERSION_OFFSET)
        return file.read(1) == bytes([_READ_VERSION_WAL])


def _is_log_in_use(path: Path) -> bool:
    return os.path.exists(f"{path}-wal")


def _signature(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns
