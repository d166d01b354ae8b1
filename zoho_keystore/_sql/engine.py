"""Engines: the pools of connections to a database, with their settings, and what happens to them in a forked child."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from zoho_keystore._hidden import Hidden
from zoho_keystore._sql import forks, sessions
from zoho_keystore._sql.address import LEFT_OUT, hidden_parts, import_sqlalchemy, not_installed
from zoho_keystore._sql.failures import Failure, classify, refused_argument
from zoho_keystore._sql.password import PROMPT, password_of_environment
from zoho_keystore.errors import ConfigurationError, DurabilityUnknownError, StoreFileError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection, Engine

    from zoho_keystore._sql.address import SQLAddress

    ConnectArguments: TypeAlias = Mapping[str, Any] | Hidden[Mapping[str, Any] | None] | None

#: PostgreSQL's warning, in place of an error: the commit is on the primary alone.
_NOT_REPLICATED: Final = "01000"

#: Where SQLAlchemy's record of a connection keeps such warnings.
_WARNINGS: Final = "zoho_keystore.warnings"

#: Where it keeps the status of the file of SQLite.
_FILE: Final = "zoho_keystore.file"

#: The names of the password among the arguments of the drivers' connect().
_PASSWORD_ARGUMENTS: Final = ("password", "passwd")


def connect(
    address: SQLAddress,
    *,
    password: str | Hidden[str | None] | None = None,
    lock_timeout: float = 30.0,
    connect_args: ConnectArguments = None,
    may_ask: bool = True,
    create: bool = True,
) -> Engines:
    """Return the engines of a database; the first connection is opened when it is used.

    Args:
        address: The database.
        password: Its password. None is that of the environment, else the driver looks for it (see ``password.py``).
        lock_timeout: For how many seconds a statement waits for the locks of other connections.
        connect_args: Arguments for the driver's ``connect()``; they take precedence over the package's own.
        create: Whether to create the file of an SQLite database when it is missing.
        may_ask: Whether the command line asks for the password, if none is given and the server refuses the user.

    Raises:
        ConfigurationError: SQLAlchemy or the driver is not installed, or ``connect_args`` is no mapping.
    """
    secrets = Hidden.of(connect_args), Hidden.of(password)
    del connect_args, password  # See zoho_keystore.errors.
    if not isinstance(secrets[0].value, Mapping | None):
        raise ConfigurationError("connect_args is not a mapping", 'Pass a dict, such as {"sslmode": "verify-full"}')
    return Engines(_connector(address, *secrets, lock_timeout, may_ask=may_ask, create=create))


def _connector(
    address: SQLAddress,
    connect_args: Hidden[Mapping[str, Any] | None],
    password: Hidden[str | None],
    lock_timeout_s: float,
    *,
    may_ask: bool,
    create: bool,
) -> _Connector:
    arguments = dict(connect_args.value or {})
    given = next((arguments.pop(name) for name in _PASSWORD_ARGUMENTS if name in arguments), None) or password.value
    # A program that gives a password knows it better than its user.
    may_ask = may_ask and given is None
    if address.path is None:
        # An answer comes after the variable's was refused.
        given = given or PROMPT.known(address.name) or password_of_environment()
    return _Connector(address, arguments, given, lock_timeout_s, may_ask=may_ask, create=create)


class Engines:
    """The two engines of a database. They are safe for threads, and usable in a forked child.

    Attributes:
        address: The database.
        reads: Each statement is a transaction of its own.
        writes: Transactions at READ COMMITTED; of SQLite serializable, with the lock from the beginning.

    Where PostgreSQL warns that no standby has confirmed a commit, the commit raises DurabilityUnknownError.
    """

    def __init__(self, connector: _Connector) -> None:
        self.address = connector.address
        self._connector = connector
        is_sqlite = self.address.dialect == "sqlite"
        self.reads = connector.engine(None if is_sqlite else "AUTOCOMMIT")
        self.writes = connector.engine(None if is_sqlite else "READ COMMITTED")
        event = import_sqlalchemy(self.address.dialect).event
        if is_sqlite:
            event.listen(self.writes, "begin", _begin_immediate)
            for engine in (self.reads, self.writes):
                event.listen(engine, "checkout", connector.require_same_file)
        elif self.address.dialect == "postgresql":
            _check_replication(self.writes)
        self._is_in_use_at_fork = False
        _ALL.add(self)
        # SQLAlchemy's engines are in reference cycles: connections of a store that was dropped would be open at a fork.
        weakref.finalize(self, _dispose, self.reads, self.writes).atexit = False

    def dispose(self) -> None:
        """Close the connections that are not in use; another use opens new ones."""
        _dispose(self.reads, self.writes)

    def use(self) -> AbstractContextManager[None]:
        """Return what a use of a connection is in, so that a fork waits for its end, where that is necessary."""
        return contextlib.nullcontext() if self.address.path is None else forks.GATE

    def before_fork(self) -> None:
        """Close the connections to a file of SQLite, when those in use were waited for (see ``forks.py``)."""
        if self.address.path is not None:
            self._is_in_use_at_fork = any(_pool(engine).checkedout() for engine in (self.reads, self.writes))
            if not self._is_in_use_at_fork:
                self.dispose()

    def after_fork_in_child(self) -> None:
        """Leave the connections to the parent: what a child sent on them would reach the parent's transactions."""
        if self.address.path is not None and (
            # The latter after a fork that no hook of Python announced, as by a server in C.
            self._is_in_use_at_fork or any(_pool(engine).checkedin() for engine in (self.reads, self.writes))
        ):
            forks.note_inherited(self.address.path)
        for engine in (self.reads, self.writes):
            # Kept, since some drivers say goodbye to the server when a connection is collected.
            _POOLS_OF_PARENTS.append(engine.pool)
            engine.dispose(close=False)


class _Connector:
    """Opens connections. The password is in no argument that SQLAlchemy or a frame of it holds."""

    def __init__(
        self,
        address: SQLAddress,
        arguments: dict[str, Any],
        password: str | None,
        lock_timeout_s: float,
        *,
        may_ask: bool,
        create: bool,
    ) -> None:
        self.address = address
        self._arguments = arguments
        self._password = password
        self._lock_timeout_s = lock_timeout_s
        self._may_ask = may_ask
        self._create = create
        self._is_made = False

    def engine(self, isolation_level: Any) -> Engine:
        sqlalchemy = import_sqlalchemy(self.address.dialect)
        dialect = self.address.dialect
        options: dict[str, Any] = {} if isolation_level is None else {"isolation_level": isolation_level}
        if self.address.driver in ("psycopg", "psycopg2") and dialect == "postgresql":
            # Saves a query at the first connection.
            options["use_native_hstore"] = False
        try:
            engine: Engine = sqlalchemy.create_engine(
                self.address.url,
                hide_parameters=True,
                # Our own transactions always end; without this, each return to the pool is a round trip.
                pool_reset_on_return=None,
                pool_timeout=min(self._lock_timeout_s, _LONGEST_POOL_TIMEOUT_S),
                **options,
            )
        except ImportError:
            raise not_installed(self.address.driver, dialect) from None
        if self.address.driver == "psycopg":
            engine.dialect.connect = sessions.psycopg_connection().connect  # type: ignore[method-assign] # of this engine
        sqlalchemy.event.listen(engine, "do_connect", self.open)
        return engine

    def open(self, dialect: Any, record: Any, positional: list[Any], named: dict[str, Any]) -> Any:
        """Open a connection and make its settings; SQLAlchemy calls it."""
        opened = self._opened(dialect, record, positional, named)
        if isinstance(opened, Exception) and self._may_ask and classify(opened) is Failure.LOGIN:
            answer = PROMPT.answer(self.address.name)
            if answer is not None:
                self._password = answer
                del answer  # See zoho_keystore.errors.
                opened = self._opened(dialect, record, positional, named)
        # Raised out here, without the frames that hold the password (see zoho_keystore.errors).
        if isinstance(opened, Exception):
            raise opened
        return opened

    def _opened(self, dialect: Any, record: Any, positional: list[Any], named: dict[str, Any]) -> Any:
        """Return a connection, or the error that it has ended in, without its frames."""
        try:
            return self._open(dialect, record, positional, named)
        except (TypeError, AttributeError) as error:
            # The drivers' message names the argument, and no value.
            problem: Exception = _not_accepted(f": {error}")
        except Exception as error:  # noqa: BLE001 - SQLAlchemy sorts them
            refused = refused_argument(error)
            problem = error if refused is None else _not_accepted(refused and f": {refused}")
        _leave_out(problem, hidden_parts({**self.address.url.query, **self._arguments}))
        problem.__cause__ = problem.__context__ = None
        return problem.with_traceback(None)

    def _open(self, dialect: Any, record: Any, positional: list[Any], named: dict[str, Any]) -> Any:
        path = self.address.path
        if path is not None:
            forks.require_not_inherited(path)
            if self._is_made and not os.path.lexists(path):
                # Not made again: what is moved back later would meet the log of an empty database.
                raise StoreFileError(
                    "the store is gone: the file was removed or renamed",
                    "Restore it from a backup, or start again with a new, empty store",
                    path,
                )
            record.info[_FILE] = sessions.prepare_file(path, create=self._create)
            self._is_made = True
            # Another process may remove the file just now; an empty one in its place would be readable for others.
            positional = [f"{path.as_uri()}?mode=rw"]
            named = named | {"uri": True}
        else:
            named = sessions.ARGUMENTS.get(self.address.driver, {}) | named
        arguments = named | self._arguments | ({} if self._password is None else {"password": self._password})
        connection = dialect.connect(*positional, **arguments)
        try:
            sessions.CONFIGURE[self.address.dialect](connection, self._lock_timeout_s)
            # A database without our tables is another program's, if none are to be made.
            if path is not None and (self._create or sessions.has_table(connection, self.address.store_table)):
                sessions.adapt_file(connection, path, self._lock_timeout_s)
            if self.address.driver == "psycopg":
                _note_warnings(connection, record.info)
        except BaseException:
            with contextlib.suppress(Exception):
                connection.close()
            raise
        return connection

    def require_same_file(self, _connection: Any, record: Any, _proxy: Any) -> None:
        """Replace a connection whose file was removed or replaced: what is saved over it would be lost.

        SQLite itself does not notice it in WAL mode.
        """
        path = self.address.path
        try:
            is_same = path is None or os.path.samestat(os.stat(path), record.info[_FILE])
        except OSError:
            is_same = False
        if not is_same:
            raise import_sqlalchemy(self.address.dialect).exc.DisconnectionError


def _leave_out(error: Exception, parts: list[str]) -> None:
    """Take the values of parameters out of what an error says, for messages and the log of SQLAlchemy."""

    def cleaned(text: Any) -> Any:
        for part in parts if isinstance(text, str) else ():
            text = text.replace(part, LEFT_OUT)
        return text

    error.args = tuple(map(cleaned, error.args))
    # The text of MySQL's own connector is not in its arguments alone.
    for name in ("msg", "_full_msg"):
        if isinstance(text := getattr(error, name, None), str):
            setattr(error, name, cleaned(text))


def _not_accepted(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"the driver does not accept an argument{what}", "Check connect_args, and the parameters of the address"
    )


#: Longer than any process waits; SQLAlchemy passes it to the standard library, which refuses infinity.
_LONGEST_POOL_TIMEOUT_S: Final = 365 * 86_400.0


def _dispose(*engines: Engine) -> None:
    for engine in engines:
        engine.dispose()


def _pool(engine: Engine) -> Any:
    """Return the pool of an engine: of the kind that counts its connections, also for files of SQLite."""
    return engine.pool


def _begin_immediate(connection: Connection) -> None:
    # A transaction that began with reading could not always get the lock later.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _check_replication(engine: Engine) -> None:
    """Make commits raise DurabilityUnknownError for PostgreSQL's warning, which no driver turns into an error."""
    commit = engine.dialect.do_commit

    def checked(connection: Any) -> None:
        _warnings(connection).clear()
        commit(connection)
        _require_replicated(connection)

    engine.dialect.do_commit = checked  # type: ignore[assignment, method-assign] # of this engine alone


def _require_replicated(connection: Any) -> None:
    warnings = _warnings(connection)
    if warnings:
        warnings.clear()
        raise DurabilityUnknownError(
            "the database has saved the change, and no standby server has confirmed it",
            "Check the standby server: until it confirms, the change may be lost together with the primary server",
        )


def _warnings(connection: Any) -> list[object]:
    """Return the warnings of a connection that were not dealt with: our own list, else that of psycopg2."""
    noted: list[object] | None = connection.info.get(_WARNINGS)
    return connection.notices if noted is None else noted


def _note_warnings(connection: Any, info: dict[str, Any]) -> None:
    # The driver swallows what a handler raises, so this one only notes the warnings.
    noted = info[_WARNINGS] = []

    def note(diagnostic: Any) -> None:
        if diagnostic.sqlstate == _NOT_REPLICATED:
            noted.append(diagnostic.sqlstate)

    connection.add_notice_handler(note)


_ALL: weakref.WeakSet[Engines] = weakref.WeakSet()
_POOLS_OF_PARENTS: list[Any] = []


def _before_fork() -> None:
    forks.GATE.close()
    for engines in list(_ALL):
        engines.before_fork()


def _after_fork_in_child() -> None:
    forks.GATE.after_fork_in_child()
    for engines in list(_ALL):
        engines.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=forks.GATE.open, after_in_child=_after_fork_in_child)
