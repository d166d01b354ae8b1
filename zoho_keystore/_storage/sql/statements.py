"""The tables of a store, and all statements, in the words of each dialect. Each statement is built once.

No statement holds a value: only names of tables that :func:`require_prefix` has accepted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from zoho_keystore.errors import ConfigurationError

if TYPE_CHECKING:
    from zoho_keystore._sql.address import Dialect

#: The version of the tables.
FORMAT: Final = 1

#: The fields that look-ups compare; each has a column of the same name with its blind index.
INDEXED_FIELDS: Final = ("id", "user_name", "refresh_token", "grant_token", "access_token")

#: Names of tables and indexes may have 63 bytes in PostgreSQL.
_PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,39}", re.ASCII)

#: The server's time, in milliseconds since the epoch.
_NOW_MS: Final[dict[Dialect, str]] = {
    "postgresql": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
    "mysql": "CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
}


def require_prefix(prefix: str) -> str:
    """Return a prefix of table names.

    Raises:
        ConfigurationError: It is not one that needs no quotes in any database.
    """
    if isinstance(prefix, str) and _PREFIX.fullmatch(prefix):
        return prefix
    raise ConfigurationError(
        "the prefix of the tables is invalid", "Give up to 40 small letters, digits and underscores, no digit first"
    )


class Statements:
    """The statements for the tables of one store.

    Args:
        dialect: The kind of the server.
        prefix: The prefix of the tables' names.
        mark: What stands for a parameter in the driver's statements: ``?`` or ``%s``.
    """

    def __init__(self, dialect: Dialect, prefix: str, mark: str) -> None:
        self.store = f"{require_prefix(prefix)}_store"
        self.token = f"{prefix}_token"
        self._dialect = dialect
        self._mark = mark
        self._finds: dict[tuple[tuple[str, ...], int], str] = {}
        now = _NOW_MS[dialect]
        # Numbered, since a UNION has no order: the row of the store is part 0.
        self._store_part = f"SELECT 0, format, {now}, key_names, store_id FROM {self.store}"  # noqa: S608 - see above
        self._token_part = f"seq, version, key_name, sealed FROM {self.token}"
        self.all = f"{self._store_part} UNION ALL SELECT 1, {self._token_part}"
        self.count = f"SELECT COUNT(*) FROM {self.token}"  # noqa: S608 - as above
        #: The first statement of a transaction that excludes others: it locks the row on every kind of server, and is a
        #: write, on which two nodes of a Galera cluster conflict. SELECT … FOR UPDATE would lock on one node only.
        self.lock = f"UPDATE {self.store} SET writes = writes + 1"  # noqa: S608 - as above
        self.header = f"SELECT format, {now}, key_names, store_id, next_id, next_seq, sealed FROM {self.store}"  # noqa: S608 - as above
        self.set_counters = self._marked(f"UPDATE {self.store} SET next_id = ?, next_seq = ?")  # noqa: S608 - as above
        self.set_header = self._marked(f"UPDATE {self.store} SET sealed = ?")  # noqa: S608 - as above
        self.set_key_names = self._marked(f"UPDATE {self.store} SET key_names = ?, sealed = ?")  # noqa: S608 - as above
        self.insert_store = self._marked(
            f"INSERT INTO {self.store} (format, store_id, writes, next_id, next_seq, key_names, sealed) "  # noqa: S608 - as above
            f"VALUES ({FORMAT}, ?, 0, 1, 1, ?, ?)"
        )
        columns = ", ".join(("version", "key_name", *INDEXED_FIELDS, "sealed"))
        self.insert = self._marked(
            f"INSERT INTO {self.token} ({columns}, seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - as above
        )
        settings = ", ".join(f"{column} = ?" for column in columns.split(", "))
        self.update = self._marked(f"UPDATE {self.token} SET {settings} WHERE seq = ? AND version = ?")  # noqa: S608 - as above
        self.delete = self._marked(f"DELETE FROM {self.token} WHERE seq = ? AND version = ?")  # noqa: S608 - as above
        self.sealed = self._marked(f"SELECT sealed FROM {self.token} WHERE seq = ?")  # noqa: S608 - as above
        self.batch = self._marked(f"SELECT {self._token_part} WHERE key_name = ? AND seq > ? ORDER BY seq LIMIT ?")
        self.next_key_name = self._marked(f"SELECT MIN(key_name) FROM {self.token} WHERE key_name > ?")  # noqa: S608 - as above
        self.count_of_key = self._marked(f"{self.count} WHERE key_name = ?")

    def find(self, fields: tuple[str, ...], keys: int) -> str:
        """Return the statement that looks for rows by the blind indexes of some fields.

        Its rows are ``(0, format, server's time, key names, store id)`` and, for the field of the number n from 1 on,
        ``(n, seq, version, key name, sealed)``.

        Args:
            fields: The fields; its parameters are, for each, the blind index under each key.
            keys: The number of live keys.
        """
        statement = self._finds.get((fields, keys))
        if statement is None:
            marks = ", ".join("?" * keys)
            parts = (
                f" UNION ALL SELECT {number}, {self._token_part} WHERE {field} IN ({marks})"
                for number, field in enumerate(fields, 1)
            )
            statement = self._finds[fields, keys] = self._marked(f"{self._store_part}{''.join(parts)}")
        return statement

    def _marked(self, statement: str) -> str:
        return statement.replace("?", self._mark)

    def tables(self) -> list[str]:
        """Return the statements that make the tables; those that are there stay as they are.

        That of the store's own row comes last: a process that finds it takes the others for made.
        """
        long_text = {"postgresql": "TEXT", "mysql": "LONGTEXT", "sqlite": "TEXT"}[self._dialect]
        # In SQLite, only this type makes the column the key of the table itself.
        number = "INTEGER" if self._dialect == "sqlite" else "BIGINT"
        store = (
            "format INTEGER NOT NULL PRIMARY KEY, store_id VARCHAR(64) NOT NULL, writes BIGINT NOT NULL, "
            "next_id BIGINT NOT NULL, next_seq BIGINT NOT NULL, key_names VARCHAR(255) NOT NULL, "
            f"sealed {long_text} NOT NULL"
        )
        indexed = ", ".join(f"{field} BIGINT{' NOT NULL' if field == 'id' else ''}" for field in INDEXED_FIELDS)
        token = (
            f"seq {number} NOT NULL PRIMARY KEY, version BIGINT NOT NULL, key_name VARCHAR(16) NOT NULL, {indexed}, "
            f"sealed {long_text} NOT NULL"
        )
        indexes = {f"{self.token}_{field}": field for field in INDEXED_FIELDS} | {f"{self.token}_key": "key_name, seq"}
        if self._dialect == "mysql":
            # MySQL has no CREATE INDEX IF NOT EXISTS.
            token += "".join(f", KEY {name} ({columns})" for name, columns in indexes.items())
            options = " ENGINE=InnoDB DEFAULT CHARSET=ascii COLLATE=ascii_bin"
            indexes = {}
        else:
            options = ""
        return [
            f"CREATE TABLE IF NOT EXISTS {self.token} ({token}){options}",
            *(f"CREATE INDEX IF NOT EXISTS {name} ON {self.token} ({columns})" for name, columns in indexes.items()),
            f"CREATE TABLE IF NOT EXISTS {self.store} ({store}){options}",
        ]


def table_statements(dialect: Dialect, prefix: str, user: str | None = None) -> str:
    """Return the SQL that makes the tables of a store, for a user who may not: each statement ends with a semicolon.

    Args:
        dialect: The kind of the server.
        prefix: The prefix of the tables.
        user: Whom to permit the use of the tables; None if the address names no user.
    """
    statements = Statements(dialect, prefix, "?")
    grants = []
    if user is not None and dialect != "sqlite":
        mark = '"' if dialect == "postgresql" else "`"
        quoted = f"{mark}{user.replace(mark, mark * 2)}{mark}"
        # One table at a time: MySQL takes no list.
        tables = (statements.store, statements.token)
        grants = [f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {quoted}" for table in tables]
    return "".join(f"{statement};\n" for statement in (*statements.tables(), *grants))
