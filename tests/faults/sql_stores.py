"""Stores in databases for the fault engines: opened with the package under test, and read without it."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from faults.store import StoreProblem
from zoho_keystore._hidden import Hidden
from zoho_keystore._open import open_sql_keystore
from zoho_keystore._sql.address import parse_address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoho_keystore._keystore import Keystore

#: Told apart from ours: this reader must not share the package's way to connect.
_DRIVERS = {"postgresql://": "postgresql+psycopg://", "mysql://": "mysql+pymysql://"}


@dataclass(frozen=True)
class SQLStore:
    """A store in a database.

    Attributes:
        urls: Addresses of the database; processes are spread over them.
        key: A Fernet key, or where keys come from, as a spec of a key ring file.
        prefix: What the names of its tables begin with.
        lock_timeout: For how many seconds a save waits for others and for the server.
    """

    urls: tuple[str, ...]
    key: bytes | str
    prefix: str
    lock_timeout: float = 30.0

    def open(self, **options: Any) -> Keystore:
        """Open the store, or make it; the process decides through which address."""
        address = parse_address(self.urls[os.getpid() % len(self.urls)])
        given: dict[str, Any] = {"refresh_wait": 10.0, "session_timeout": None, "lock_timeout": self.lock_timeout}
        return open_sql_keystore(address, key=Hidden(self.key), prefix=self.prefix, **{**given, **options})

    def keys(self) -> list[bytes]:
        """Return the keys, newest first."""
        if isinstance(self.key, bytes):
            return [self.key]
        lines = Path(self.key.removeprefix("file:")).read_bytes().splitlines()
        return [line for line in lines if line.strip() and b"#" not in line]

    def document(self) -> dict[str, Any] | None:
        """Return what the store holds as one document, by three lines of ``cryptography`` a row.

        Raises:
            StoreProblem: A row does not open.
        """
        fernet = MultiFernet([Fernet(key) for key in self.keys()])

        def opened(sealed: str) -> dict[str, Any]:
            try:
                held: dict[str, Any] = json.loads(fernet.decrypt(sealed))
            except (InvalidToken, ValueError):
                raise StoreProblem("a row does not open") from None
            return held

        [[header]] = self.rows(f"SELECT sealed FROM {self.prefix}_store")
        rows = self.rows(f"SELECT sealed FROM {self.prefix}_token ORDER BY seq")
        tokens = [token for (sealed,) in rows for token in opened(sealed)["tokens"]]
        return {**opened(header), "tokens": tokens}

    def tokens(self) -> dict[str, str] | None:
        """Return the refresh token of each id."""
        document = self.document() or {"tokens": []}
        return {token["id"]: token["refresh_token"] for token in document["tokens"]}

    def rows(self, statement: str, url: str | None = None) -> Sequence[Any]:
        """Return what a statement finds on a connection of its own.

        Args:
            statement: The statement.
            url: Through which address; None is the first.
        """
        address = url or self.urls[0]
        for scheme, driver in _DRIVERS.items():
            address = address.replace(scheme, driver)
        engine = sa.create_engine(address, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            if engine.dialect.name == "mysql":
                # Galera: what was committed on other nodes counts.
                connection.exec_driver_sql("SET SESSION wsrep_sync_wait = 1")
            return connection.exec_driver_sql(statement).all()

    def require_no_leftovers(self) -> None:
        """A database keeps nothing beside the tables."""

    def require_private(self) -> None:
        """Who may read the tables is the server's task; of SQLite's files it is ours."""
        for url in self.urls:
            if url.startswith("sqlite:///"):
                database = Path(url.removeprefix("sqlite:///"))
                for path in database.parent.glob(f"{database.name}*"):
                    if path.stat().st_mode & 0o077:
                        raise StoreProblem(f"{path.name} is open to other users")


def new_prefix() -> str:
    """Return a prefix of tables that no other store has; a counter would be the same in each fork."""
    return f"t{secrets.token_hex(6)}"


def on_server(
    urls: Sequence[str], *, key: bytes | str | None = None, lock_timeout: float = 30.0
) -> Callable[[Path], SQLStore]:
    """Return what names a new store in a database, with tables that no other store has."""

    def make(_directory: Path) -> SQLStore:
        return SQLStore(tuple(urls), key or Fernet.generate_key(), new_prefix(), lock_timeout)

    return make


def on_sqlite(directory: Path) -> SQLStore:
    """Name a new store in an SQLite file."""
    return SQLStore((f"sqlite:///{directory}/tokens.sqlite3",), Fernet.generate_key(), "zoho_keystore")
