"""Use connections: statements, commits, and errors of every driver as one."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from zoho_keystore._sql.failures import Failure, classify, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from zoho_keystore._sql.engine import Engines

_T = TypeVar("_T")

#: Failures after which the connection can be used on, once its transaction is rolled back.
_HARMLESS = frozenset((Failure.RETRY, Failure.LOCK_TIMEOUT, Failure.EXISTS, Failure.NO_TABLE, Failure.DENIED))


class SQLFailedError(Exception):
    """A statement or a connection has failed.

    It is made anew, without the driver's error: that leads to frames with the password of the connection.

    Attributes:
        failure: What it means.
        said: The first line of what the driver said.
        in_commit: Whether it was the commit, so that it may have worked.
    """

    def __init__(self, failure: Failure, said: str, *, in_commit: bool) -> None:
        super().__init__(said)
        self.failure = failure
        self.said = said
        self.in_commit = in_commit


class Session:
    """A connection in use. None of its parameters is a secret: they are sealed, or fingerprints."""

    def __init__(self, database: Database, cursor: Any, commit: Callable[[], None] | None = None) -> None:
        self._database = database
        self._cursor = cursor
        self._commit = commit
        self.is_committed = False

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        """Return all rows of a query."""
        return self._database.call(self._rows, statement, parameters)

    def _rows(self, statement: str, parameters: Sequence[object]) -> list[Any]:
        self._cursor.execute(statement, parameters)
        return self._cursor.fetchall()  # type: ignore[no-any-return] # drivers are Any

    def run(self, statement: str, *rows: Sequence[object]) -> int:
        """Run a statement once for each row of parameters, and return how many rows it has changed."""
        if not rows:
            return self._database.call(self._run, statement, ())
        if len(rows) == 1:
            return self._database.call(self._run, statement, rows[0])
        return self._database.call(self._run_many, statement, rows)

    def _run(self, statement: str, parameters: Sequence[object]) -> int:
        self._cursor.execute(statement, parameters)
        return self._cursor.rowcount  # type: ignore[no-any-return] # drivers are Any

    def _run_many(self, statement: str, rows: Sequence[Sequence[object]]) -> int:
        self._cursor.executemany(statement, rows)
        return self._cursor.rowcount  # type: ignore[no-any-return] # drivers are Any

    def commit(self) -> None:
        """Commit the transaction.

        Raises:
            DurabilityUnknownError: It is committed, and no standby server has confirmed it.
        """
        assert self._commit is not None  # noqa: S101 - only sessions of writing() are committed
        self._database.call(self._commit, in_commit=True)
        self.is_committed = True


class Database:
    """The connections of one store.

    Args:
        engines: The engines.
        lock_timeout: For how many seconds a statement waits for a lock by the settings of the connections.
    """

    def __init__(self, engines: Engines, lock_timeout: float) -> None:
        self.engines = engines
        self._lock_timeout_s = lock_timeout
        self._dialect = engines.address.dialect
        dbapi: Any = engines.reads.dialect.loaded_dbapi
        self._errors: tuple[type[Exception], ...] = (dbapi.Error, SQLAlchemyError, OSError)

    def call(self, function: Callable[..., _T], *arguments: object, in_commit: bool = False) -> _T:
        """Return what a function of the driver returns.

        Raises:
            SQLFailedError: It has failed.
        """
        try:
            return function(*arguments)
        except self._errors as error:
            failed = SQLFailedError(classify(error), first_line(error), in_commit=in_commit)
        raise failed

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Give a connection each of whose statements is a transaction of its own.

        Not one of SQLAlchemy's: those send a ROLLBACK in the end, which takes as long as a query.
        """
        connection: Any = self.call(self.engines.reads.raw_connection)
        try:
            cursor = connection.cursor()
            yield Session(self, cursor)
            cursor.close()
        except BaseException as error:
            if _is_in_doubt(error):
                connection.invalidate()
            raise
        finally:
            connection.close()

    @contextmanager
    def writing(self, longest_wait_s: float) -> Iterator[Session]:
        """Give a connection in a transaction, which is rolled back unless it is committed.

        Args:
            longest_wait_s: For how many seconds a statement waits for a lock; in MySQL it is 5 s anyway.
        """
        # Not for the moments since the call began: another statement takes as long as the rest.
        is_limited = longest_wait_s < self._lock_timeout_s * 0.9
        connection = self.call(self.engines.writes.connect)
        try:
            raw: Any = connection.connection
            cursor = raw.cursor()
            session = Session(self, cursor, connection.commit)
            if is_limited and self._dialect == "sqlite":
                session.rows(f"PRAGMA busy_timeout = {int(longest_wait_s * 1000)}")
            self.call(connection.begin)
            if is_limited and self._dialect == "postgresql":
                session.run(f"SET LOCAL lock_timeout = {max(1, int(longest_wait_s * 1000))}")
            yield session
            if not session.is_committed:
                self.call(connection.rollback)
            if is_limited and self._dialect == "sqlite":
                session.rows(f"PRAGMA busy_timeout = {int(min(self._lock_timeout_s * 1000, 2**31 - 1))}")
            cursor.close()
        except BaseException as error:
            if _is_in_doubt(error) or (is_limited and self._dialect == "sqlite"):
                connection.invalidate()
            raise
        finally:
            with suppress(*self._errors):
                connection.close()

    def discard(self) -> None:
        """Close the connections that are not in use: the server has gone away from all of them."""
        with suppress(*self._errors):
            self.engines.dispose()


def _is_in_doubt(error: BaseException) -> bool:
    """Return whether it is unknown in which state an error has left its connection."""
    if isinstance(error, SQLFailedError):
        return error.in_commit or error.failure not in _HARMLESS
    return not isinstance(error, Exception)
