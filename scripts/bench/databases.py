"""The databases of the SQL benchmark: real servers on a disk, the bare statements on their drivers, and DBStore."""

from __future__ import annotations

import sqlite3
import sys
from abc import ABC
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from zohocrmsdk.src.com.zoho.api.authenticator.store.db_store import DBStore

from bench import stores

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from servers import mariadb, postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: What the names of the tables of the measured store begin with.
PREFIX = "bench"
_INDEXES = 5

#: The table of the SDK's README.
_DBSTORE_TABLE = """
CREATE TABLE oauthtoken (
  id varchar(10) NOT NULL, user_name varchar(255), client_id varchar(255), client_secret varchar(255),
  refresh_token varchar(255), access_token varchar(255), grant_token varchar(255), expiry_time varchar(20),
  redirect_url varchar(255), api_domain varchar(255), primary key (id)
)
"""


class Database(ABC):
    """A database with a bare connection of its driver, which commits each statement unless a transaction is begun.

    Attributes:
        name: Its name in the tables.
        url: The address for a store.
        version: What the server calls itself.
    """

    name: str
    url: str
    version: str
    #: What stands for a parameter.
    mark = "%s"
    #: Gives the numbers from 1 on in a column ``n``, and a random number of 63 bits.
    numbers: str
    random: str

    def __init__(self, connection: Any, stack: ExitStack) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._stack = stack

    def rows(self, statement: str, *values: object) -> Sequence[Any]:
        """Run a statement, and return its rows, if it has some."""
        self._cursor.execute(statement.replace("?", self.mark), values)
        return self._cursor.fetchall() if self._cursor.description else ()

    def fill(self, rows: int) -> None:
        """Add rows that no look-up finds: sealed ones of the store with other blind indexes."""
        self.rows("BEGIN")
        last, sealed, key_name = self.rows(
            f"SELECT seq, sealed, key_name FROM {PREFIX}_token ORDER BY seq DESC LIMIT 1"
        )[0]
        self.rows(
            f"INSERT INTO {PREFIX}_token (seq, version, key_name, id, user_name, refresh_token, grant_token, "
            "access_token, sealed) "
            f"SELECT {last} + n, 1, '{key_name}', {', '.join([self.random] * _INDEXES)}, '{sealed}' "
            f"FROM {self.numbers.format(rows)}"
        )
        self.rows(f"UPDATE {PREFIX}_store SET next_seq = {last + rows + 1}")
        self.rows("COMMIT")
        self.analyze()

    def analyze(self) -> None:
        self.rows(f"ANALYZE {PREFIX}_token")

    def finder(self, column: str, place: int) -> Callable[[], object]:
        """Return the bare statement that finds a row by a blind index.

        Args:
            column: The look-up's field.
            place: The number of the row, from 1.
        """
        wanted = self.rows(f"SELECT {column} FROM {PREFIX}_token WHERE seq = ?", place)[0][0]
        return partial(self.rows, self._find(column), wanted)

    @staticmethod
    def _find(column: str) -> str:
        return f"SELECT seq, version, key_name, sealed FROM {PREFIX}_token WHERE {column} = ?"

    def save(self, place: int) -> None:
        """Change a row, by three round trips and a commit: the least that a save in a transaction needs."""
        self.rows("BEGIN")
        seq, version, _, sealed = self.rows(self._find("seq"), place)[0]
        self.rows(
            f"UPDATE {PREFIX}_token SET version = ?, access_token = ?, sealed = ? WHERE seq = ? AND version = ?",
            *(version, version, sealed, seq, version),
        )
        self.rows("COMMIT")

    def make_copies(self) -> None:
        """Make an empty table like the one of the tokens, for bare inserts."""
        self.rows(f"CREATE TABLE {PREFIX}_copy AS SELECT * FROM {PREFIX}_token WHERE seq = 0")
        for column in ("seq", "id", "user_name", "refresh_token", "grant_token", "access_token"):
            self.rows(f"CREATE INDEX {PREFIX}_copy_{column} ON {PREFIX}_copy ({column})")

    def insert(self, place: int) -> None:
        """Add a row to the copies, by two round trips and a commit."""
        self.rows("BEGIN")
        self.rows(
            f"INSERT INTO {PREFIX}_copy SELECT seq + {place}, version, key_name, "
            f"{', '.join([self.random] * _INDEXES)}, sealed FROM {PREFIX}_token WHERE seq = 1"
        )
        self.rows("COMMIT")

    def reset(self) -> None:
        """Remove the tables of the store."""
        for table in ("store", "token", "copy"):
            self.rows(f"DROP TABLE IF EXISTS {PREFIX}_{table}")

    def peers(self) -> dict[str, Any]:
        """Return other stores in the same database, by name."""
        return {}

    def fill_peers(self, rows: int) -> None:  # noqa: B027 - most have no peers
        """Make the other stores hold so many tokens, with the fields of :func:`bench.stores.fields`."""

    def close(self) -> None:
        self._connection.close()
        self._stack.close()


class SQLite(Database):
    """SQLite in a file."""

    name = "SQLite"
    mark = "?"
    numbers = "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT {}) SELECT n FROM c)"
    random = "random()"

    def __init__(self, directory: Path) -> None:
        path = directory / "tokens.sqlite3"
        self.url = f"sqlite:///{path}"
        self.version = f"SQLite {sqlite3.sqlite_version}"
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # Else filling the indexes in random order takes an hour.
        connection.execute("PRAGMA cache_size = -1000000")
        super().__init__(connection, ExitStack())


class PostgreSQL(Database):
    """A PostgreSQL server."""

    name = "PostgreSQL"
    numbers = "generate_series(1, {}) AS n"
    random = "(random() * 9e18)::bigint"

    def __init__(self, directory: Path) -> None:
        import psycopg  # noqa: PLC0415 - may be missing

        stack = ExitStack()
        server = stack.enter_context(
            closing(postgres.Postgres(15, base=directory, shared_buffers="512MB", max_wal_size="4GB"))
        )
        server.start()
        self.url = server.url
        super().__init__(psycopg.connect(server.url, autocommit=True, prepare_threshold=None), stack)
        self.version = f"PostgreSQL {self.rows('SHOW server_version')[0][0].split()[0]}"


class MariaDB(Database):
    """A MariaDB server, with a DBStore in it."""

    name = "MariaDB"
    numbers = "(SELECT seq AS n FROM seq_1_to_{}) AS numbers"
    random = "CAST(RAND() * 9e18 AS SIGNED)"

    def __init__(self, directory: Path) -> None:
        import pymysql  # noqa: PLC0415 - may be missing

        stack = ExitStack()
        server = stack.enter_context(closing(mariadb.MariaDB("--innodb-buffer-pool-size=1G", base=directory)))
        server.start()
        self.url = server.url
        self._port = server.port
        parts = urlsplit(server.url)
        self._database = parts.path.removeprefix("/")
        self._user = str(parts.username)
        connection = pymysql.connect(
            host="127.0.0.1", port=server.port, user=self._user, database=self._database, autocommit=True
        )
        super().__init__(connection, stack)
        self.version = f"MariaDB {self.rows('SELECT VERSION()')[0][0].split('-')[0]}"

    def analyze(self) -> None:
        self.rows(f"ANALYZE TABLE {PREFIX}_token")

    def peers(self) -> dict[str, Any]:
        options = {"database_name": self._database, "user_name": self._user, "password": "", "port_number": self._port}
        return {"DBStore": DBStore(host="127.0.0.1", **options)}

    def fill_peers(self, rows: int) -> None:
        self.rows("DROP TABLE IF EXISTS oauthtoken")
        self.rows(_DBSTORE_TABLE)
        self.rows("BEGIN")
        given = stores.fields(1)
        common = ", ".join(f"'{given[name]}'" for name in ("redirect_url", "api_domain"))
        # Names and tokens as long as those of bench.stores, by the number of the row.
        self.rows(
            "INSERT INTO oauthtoken SELECT n, CONCAT('user', n, '@example.com:', 700000000 + n), "
            f"'{given['client_id']}', '{given['client_secret']}', CONCAT('1000.', SHA2(CONCAT('refresh', n), 256)), "
            f"CONCAT('1000.', SHA2(CONCAT('access', n), 256)), CONCAT('1000.', SHA2(CONCAT('grant', n), 256)), "
            f"'{given['expires_in']}', {common} FROM {self.numbers.format(rows)}"
        )
        last = stores.fields(rows)
        self.rows(
            "UPDATE oauthtoken SET user_name = ?, refresh_token = ?, access_token = ?, grant_token = ? WHERE id = ?",
            *(last[name] for name in ("user_name", "refresh_token", "access_token", "grant_token", "id")),
        )
        self.rows("COMMIT")


DATABASES = (SQLite, PostgreSQL, MariaDB)


def missing() -> dict[str, str]:
    """Return how to install the databases that are not here, by name."""
    needed = {"PostgreSQL": postgres.missing(), "MariaDB": mariadb.missing()}
    return {name: command for name, command in needed.items() if command}
