"""Read a table of another program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoho_keystore._sql.engine import Engines

#: A view may call a function that writes: the server then refuses it.
_BEGIN: Final = {
    "postgresql": "START TRANSACTION READ ONLY",
    "mysql": "START TRANSACTION READ ONLY",
    "sqlite": "BEGIN",
}


def read_table(
    engines: Engines, table: str, choose: Callable[[Sequence[str]], Sequence[str]]
) -> Sequence[Sequence[Any]]:
    """Return the rows of a table or view, in one read-only transaction.

    Args:
        engines: The database.
        table: The name, which may follow the name of a schema and a dot.
        choose: Returns those of the columns that are read, in their order. What it raises ends the transaction.
    """
    dialect = engines.reads.dialect
    name = ".".join(map(dialect.identifier_preparer.quote_identifier, table.split(".")))
    with engines.reads.connect() as connection:
        try:
            connection.exec_driver_sql(_BEGIN[engines.address.dialect])
            names = list(connection.exec_driver_sql(f"SELECT * FROM {name} LIMIT 0").keys())  # noqa: S608 - quoted
            columns = ", ".join(map(dialect.identifier_preparer.quote_identifier, choose(names)))
            return connection.exec_driver_sql(f"SELECT {columns} FROM {name}").fetchall()  # noqa: S608 - quoted
        finally:
            # Not given back: it may be in the middle of a transaction.
            connection.invalidate()
