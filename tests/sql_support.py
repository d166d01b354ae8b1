"""What the tests of the storage in a database share: a store in SQLite, its rows as the database has them, faults."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zoho_keystore._keys.ring import key_ring
from zoho_keystore._sql.address import parse_address
from zoho_keystore._storage.sql.storage import SQLStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

    from zoho_keystore._records import TokenRecord
    from zoho_keystore._storage import Transaction

#: Errors as a driver raises them, by SQLSTATE.
RETRY, LOCK_TIMEOUT, GONE, READ_ONLY, DENIED, OTHER, EXISTS = (
    "40001", "55P03", "57P01", "25006", "42501", "XX000", "23505",
)  # fmt: skip


def open_storage(directory: Path, key: bytes | str, *, lock_timeout: float = 5, **options: Any) -> SQLStorage:
    """Open the storage in a file of SQLite."""
    address = parse_address(f"sqlite:///{directory}/s.db")
    return SQLStorage(address, key_ring(key), lock_timeout=lock_timeout, **options)


def put(storage: SQLStorage, *records: TokenRecord) -> None:
    """Put some records in one transaction."""

    def work(transaction: Transaction) -> None:
        for record in records:
            transaction.put(record)

    storage.transact(work)


@contextmanager
def database(directory: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection to the database as another program has it; what it changes is committed."""
    connection = sqlite3.connect(directory / "s.db")
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def column(directory: Path, statement: str, *parameters: object) -> list[Any]:
    """Return the first column of what a statement finds, or change something by it."""
    with database(directory) as connection:
        return [row[0] for row in connection.execute(statement, parameters)]


class DriverError(sqlite3.OperationalError):
    """An error of a driver with an SQLSTATE."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(f"the server says {sqlstate}")
        self.sqlstate = sqlstate


class Faults:
    """Makes calls of the driver fail: a plan gives the kinds of calls and what happens at each.

    Args:
        storage: Whose calls.
        monkeypatch: Sets the faults.
    """

    def __init__(self, storage: SQLStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = storage.database.call
        #: By the name of the function: what to raise at its next calls, and whether before the call or after it.
        self.plan: dict[str, list[tuple[str, bool]]] = {}
        self.calls: list[str] = []
        monkeypatch.setattr(storage.database, "call", self._call)

    def at(self, name: str, *sqlstates: str, after: bool = False) -> None:
        """Make the next calls of a function fail, one with each state."""
        self.plan.setdefault(name, []).extend((sqlstate, after) for sqlstate in sqlstates)

    def _call(self, function: Callable[..., Any], *arguments: Any, in_commit: bool = False) -> Any:
        name = "commit" if in_commit else function.__name__.strip("_")
        self.calls.append(name)
        plan = self.plan.get(name)
        if not plan:
            return self._real(function, *arguments, in_commit=in_commit)
        sqlstate, after = plan.pop(0)

        def fails(*arguments: Any) -> None:
            if after:
                function(*arguments)
            raise DriverError(sqlstate)

        return self._real(fails, *arguments, in_commit=in_commit)
