"""Use connections: statements, commits, and errors of every driver as one."""

from __future__ import annotations

import math
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from zoho_keystore._sql.failures import MALFORMED, Failure, classify, first_line, malformed
from zoho_keystore._sql.sessions import MAX_LOCK_WAIT_S
from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from zoho_keystore._sql.address import Dialect
    from zoho_keystore._sql.engine import Engines

_T = TypeVar("_T")

#: Failures after which the connection can be used on, once its transaction is rolled back.
_HARMLESS = frozenset((Failure.RETRY, Failure.LOCK_TIMEOUT, Failure.EXISTS, Failure.NO_TABLE, Failure.DENIED))


_MAX_MS = 2**31 - 1


class _Limit(NamedTuple):
    """Statements that limit the wait for locks in one transaction: before it, in it, and after it."""

    before: str = ""
    inside: str = ""
    after: str = ""


_NO_LIMIT = _Limit()
_LIMITS: dict[Dialect, _Limit] = {
    "postgresql": _Limit(inside="SET LOCAL lock_timeout = {ms}"),
    "mysql": _Limit(
        before="SET @zoho_keystore_wait = @@SESSION.innodb_lock_wait_timeout, "
        "SESSION innodb_lock_wait_timeout = LEAST({s}, @@SESSION.innodb_lock_wait_timeout)",
        after="SET SESSION innodb_lock_wait_timeout = @zoho_keystore_wait",
    ),
    "sqlite": _Limit(before="PRAGMA busy_timeout = {ms}", after="PRAGMA busy_timeout = {ms}"),
}


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
        self._discards = 0
        dbapi: Any = engines.reads.dialect.loaded_dbapi
        self._errors: tuple[type[Exception], ...] = (dbapi.Error, SQLAlchemyError, OSError)

    def call(self, function: Callable[..., _T], *arguments: object, in_commit: bool = False) -> _T:
        """Return what a function of the driver returns.

        Raises:
            SQLFailedError: It has failed.
        """
        try:
            return function(*arguments)
        except KeystoreError:  # ConfigurationError is a ValueError too.
            raise
        except self._errors as error:
            failed = SQLFailedError(classify(error), first_line(error), in_commit=in_commit)
        except MALFORMED as error:
            failed = SQLFailedError(Failure.UNAVAILABLE, malformed(error), in_commit=in_commit)
        raise failed

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Give a connection each of whose statements is a transaction of its own.

        Not one of SQLAlchemy's: those send a ROLLBACK in the end, which takes as long as a query.
        """
        with self.engines.use(), self._reading() as session:
            yield session

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        discards = self._discards
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
            if discards != self._discards:
                connection.invalidate()
            connection.close()

    @contextmanager
    def writing(self, longest_wait_s: float) -> Iterator[Session]:
        """Give a connection in a transaction, which is rolled back unless it is committed.

        Args:
            longest_wait_s: For how many seconds a statement waits for a lock; in MySQL at least 1 s.
        """
        with self.engines.use(), self._writing(longest_wait_s) as session:
            yield session

    @contextmanager
    def _writing(self, longest_wait_s: float) -> Iterator[Session]:
        # Not for the moments since the call began: another statement takes as long as the rest.
        limit = _LIMITS[self._dialect] if longest_wait_s < self._lock_timeout_s * 0.9 else _NO_LIMIT
        discards = self._discards
        connection = self.call(self.engines.writes.connect)
        try:
            raw: Any = connection.connection
            cursor = raw.cursor()
            session = Session(self, cursor, connection.commit)
            if limit.before:
                session.run(limit.before.format(ms=int(longest_wait_s * 1000), s=math.ceil(longest_wait_s) or 1))
            self.call(connection.begin)
            if limit.inside:
                session.run(limit.inside.format(ms=int(min(longest_wait_s, MAX_LOCK_WAIT_S) * 1000) or 1))
            yield session
            if not session.is_committed:
                self.call(connection.rollback)
            if limit.after:
                session.run(limit.after.format(ms=int(min(self._lock_timeout_s * 1000, _MAX_MS))))
            cursor.close()
        except BaseException as error:
            if _is_in_doubt(error) or limit.after:
                connection.invalidate()
            raise
        finally:
            with suppress(*self._errors):
                if discards != self._discards:
                    connection.invalidate()
                connection.close()

    def discard(self) -> None:
        """Close the connections: the server has gone away from all of them. Those in use are closed after it."""
        # They would go back into a pool that is not used any more, and stay open.
        self._discards += 1
        with suppress(*self._errors):
            self.engines.dispose()


def _is_in_doubt(error: BaseException) -> bool:
    """Return whether it is unknown in which state an error has left its connection."""
    if isinstance(error, SQLFailedError):
        return error.in_commit or error.failure not in _HARMLESS
    return not isinstance(error, Exception)
