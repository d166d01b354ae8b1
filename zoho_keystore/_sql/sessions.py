"""The settings of a connection, by dialect and driver. They are made once, when it is opened."""

from __future__ import annotations

import math
import sqlite3
import stat
import time
from contextlib import closing, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from zoho_keystore._fs import atomic, permissions
from zoho_keystore._fs.directory import Directory
from zoho_keystore.errors import StoreFileError, storage_error

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator
    from pathlib import Path

_T = TypeVar("_T")

#: How long connecting to one host may take, in seconds.
CONNECT_TIMEOUT_S: Final = 3

#: After this time without a byte of the server, in seconds, the connection is given up.
NETWORK_TIMEOUT_S: Final = 10

#: The server's wait for a lock has to end before the network timeout: a client that is gone would still hold its place.
MAX_LOCK_WAIT_S: Final = 5
_MAX_MILLISECONDS: Final = 2**31 - 1

_RETRY_S: Final = 0.01

#: What SQLite adds to the name of a database for the files that it makes beside it.
_SIDE_FILES: Final = ("-wal", "-shm")

#: For how long side files of SQLite that cannot be opened are waited for, in seconds.
_SIDE_FILES_TIMEOUT_S: Final = 0.5

_KEEPALIVES: Final = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": NETWORK_TIMEOUT_S * 1000,
}
_TIMEOUTS: Final = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "read_timeout": NETWORK_TIMEOUT_S,
    "write_timeout": NETWORK_TIMEOUT_S,
}
#: The arguments of the drivers' connect(). A driver that is not here gets none.
ARGUMENTS: Final[dict[str, dict[str, Any]]] = {
    # Prepared statements belong to a server connection, which pgbouncer in transaction mode changes.
    "psycopg": _KEEPALIVES | {"prepare_threshold": None},
    "psycopg2": _KEEPALIVES,
    # The server must not be able to request files of this machine.
    "pymysql": _TIMEOUTS | {"charset": "utf8mb4", "local_infile": False},
    "mysqldb": _TIMEOUTS | {"charset": "utf8mb4"},
    "mysqlconnector": {
        "connection_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": NETWORK_TIMEOUT_S,
        "write_timeout": NETWORK_TIMEOUT_S,
        "charset": "utf8mb4",
        "allow_local_infile": False,
    },
    "mariadbconnector": _TIMEOUTS,
}


@cache
def psycopg_connection() -> Any:
    """Return the class of psycopg's connections with a network timeout, which the driver lacks.

    TCP notices a machine that is gone, but neither a server that is stopped, nor a proxy that has lost the server.
    """
    import psycopg  # noqa: PLC0415 - an extra

    class Connection(psycopg.Connection[Any]):
        def wait(self, gen: Generator[Any, Any, _T], *arguments: Any, **named: Any) -> _T:
            return super().wait(limited(gen, psycopg.OperationalError), *arguments, **named)

    return Connection


def limited(gen: Generator[Any, Any, _T], error: type[Exception]) -> Generator[Any, Any, _T]:
    """Pass on what psycopg waits for; it is told of the socket at short intervals, also when nothing has happened."""
    deadline_s = time.monotonic() + NETWORK_TIMEOUT_S
    ready = None
    with closing(gen):
        while True:
            try:
                awaited = gen.send(ready)
            except StopIteration as end:
                return cast("_T", end.value)
            ready = yield awaited
            if ready:
                deadline_s = time.monotonic() + NETWORK_TIMEOUT_S
            elif time.monotonic() > deadline_s:
                raise error(f"the server has not answered for {NETWORK_TIMEOUT_S} s")


def configure_postgresql(connection: Any, lock_timeout_s: float) -> None:
    # 0 would be no limit. A commit that is not synced may be lost in a crash of the server.
    limit_ms = max(round(min(lock_timeout_s, MAX_LOCK_WAIT_S) * 1000), 1)
    _execute(
        connection,
        f"SELECT set_config('lock_timeout', '{limit_ms}', false), "
        # The warning about a commit that no standby has confirmed must arrive.
        "set_config('client_min_messages', 'warning', false), "
        "CASE WHEN current_setting('synchronous_commit') = 'off' "
        "THEN set_config('synchronous_commit', 'on', false) END",
    )
    connection.commit()


def configure_mysql(connection: Any, lock_timeout_s: float) -> None:
    limit_s = max(math.ceil(min(lock_timeout_s, MAX_LOCK_WAIT_S)), 1)
    # Without a strict mode, a value that is too long for its column is cut off, with a warning.
    _execute(
        connection,
        f"SET SESSION innodb_lock_wait_timeout = {limit_s}, lock_wait_timeout = {limit_s}, "
        "sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')",
    )
    # Galera: a read waits until this node has applied what was committed on the others before.
    if any(str(value).upper() == "ON" for _, value in _execute(connection, "SHOW VARIABLES LIKE 'wsrep_on'")):
        _execute(connection, "SET SESSION wsrep_sync_wait = @@SESSION.wsrep_sync_wait | 1")
    connection.commit()


def configure_sqlite(connection: sqlite3.Connection, lock_timeout_s: float) -> None:
    # The driver must not begin transactions by itself: it would not begin them with the lock.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {_milliseconds(lock_timeout_s)}")
    _open_side_files(connection, time.monotonic() + _SIDE_FILES_TIMEOUT_S)
    # NORMAL would lose the last commits in a power cut.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = 1")  # macOS
    connection.execute("PRAGMA trusted_schema = OFF")


def _open_side_files(connection: sqlite3.Connection, deadline_s: float) -> None:
    """Read the database for the first time. Side files that a program of root makes are root's for a moment."""
    while True:
        try:
            connection.execute("PRAGMA schema_version").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CANTOPEN or time.monotonic() > deadline_s:
                raise
            time.sleep(_RETRY_S)
        else:
            return


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Return whether an SQLite database has a table; it is only read."""
    query = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = ?"
    return bool(connection.execute(query, (name,)).fetchone()[0])


def adapt_file(connection: sqlite3.Connection, path: Path, lock_timeout_s: float) -> None:
    """Take other users' access to a database of ours and its side files away, and let readers not block the writer."""
    _switch_to_wal(connection, time.monotonic() + lock_timeout_s)
    with Directory.opened(path.parent) as directory:
        # The side files get the mode that the file has when they are made.
        for suffix in ("", *_SIDE_FILES):
            # A file system without modes refuses, and the user could not change that.
            with suppress(OSError):
                _restrict(directory, f"{path.name}{suffix}")


def _open_to_owner(directory: Directory, name: str) -> None:
    """Let the owner write a side file that SQLite made while the database itself was read-only, with its mode."""
    with suppress(OSError):
        status = directory.status_if_there(name)
        if status is not None and permissions.is_closed_to_owner(status) and permissions.is_ours(status):
            directory.chmod(name)


def _restrict(directory: Directory, name: str) -> None:
    status = directory.status(name)
    if stat.S_ISREG(status.st_mode) and permissions.is_open_to_others(status) and permissions.is_ours(status):
        directory.chmod(name)


def _milliseconds(seconds: float) -> int:
    return _MAX_MILLISECONDS if math.isinf(seconds) else min(round(seconds * 1000), _MAX_MILLISECONDS)


def _switch_to_wal(connection: sqlite3.Connection, deadline_s: float) -> None:
    # SQLite does not wait for the lock of this switch by itself.
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            code = error.sqlite_errorcode & 0xFF
            if code == sqlite3.SQLITE_READONLY:
                return
            if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > deadline_s:
                raise
            time.sleep(_RETRY_S)
        else:
            return


def _execute(connection: Any, statement: str) -> list[tuple[Any, ...]]:
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
        return [] if cursor.description is None else list(cursor.fetchall())
    finally:
        cursor.close()


CONFIGURE: Final[dict[str, Callable[[Any, float], None]]] = {
    "postgresql": configure_postgresql,
    "mysql": configure_mysql,
    "sqlite": configure_sqlite,
}


def prepare_file(path: Path, *, create: bool) -> os.stat_result:
    """Return the status of the file of an SQLite database.

    If it is missing, it is created with mode 0600, where that is wanted. One that is to hold a store is restricted
    before side files are made. Otherwise it may be another program's.

    An existing file is not opened: closing any descriptor of it would release the locks of SQLite in this process.

    Raises:
        StoreFileError: It cannot be created, or is missing and is not to be created.
        UnsafeFileError: It or its directory belongs to another user, or it is no file.
    """
    with Directory.opened(path.parent) as directory:
        try:
            if directory.status_if_there(path.name) is None:
                if not create:
                    raise StoreFileError("there is no such database", "Make the store: zoho-keystore init", path)
                with suppress(atomic.AlreadyThereError):
                    atomic.write(directory, path.name, b"", create=True)
            status = directory.status(path.name)
            permissions.require_regular(status, path)
            permissions.require_owner(status, path)
            if create:
                with suppress(OSError):
                    _restrict(directory, path.name)
            if permissions.HAS_OWNERS and stat.S_IMODE(status.st_mode) == permissions.PRIVATE_FILE:
                for suffix in _SIDE_FILES:
                    _open_to_owner(directory, f"{path.name}{suffix}")
        except OSError as error:
            raise storage_error(error, "the database cannot be opened", path) from error
    return status
