"""Connections: their settings, their locks, what a forked child does with them, and passwords that leave no trace."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import math
import os
import socket
import sqlite3
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import mysql.connector
import psycopg
import pymysql
import pytest
import sqlalchemy as sa

from support import assert_hides, failing, failure_of, run_python
from zoho_keystore._fs.directory import Directory
from zoho_keystore._sql import engine as engine_module
from zoho_keystore._sql import forks, sessions
from zoho_keystore._sql.address import parse_address
from zoho_keystore._sql.engine import Engines, connect
from zoho_keystore._sql.failures import Failure, classify, first_line, refused_argument
from zoho_keystore._sql.password import PROMPT
from zoho_keystore.errors import ConfigurationError, DurabilityUnknownError, StoreFileError, UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

PASSWORD = "hunter2-swordfish"

#: Nothing listens there.
POSTGRESQL = "postgresql://ann@127.0.0.1:1/zoho"
MYSQL = "mysql://ann@127.0.0.1:1/zoho"


@pytest.fixture
def opened() -> Iterator[Callable[..., Engines]]:
    """Give a function that connects, and close everything afterwards."""
    with contextlib.ExitStack() as stack:

        def open_(text: str, **options: Any) -> Engines:
            engines = connect(parse_address(text), **options)
            stack.callback(engines.dispose)
            return engines

        yield open_


def pragma(engine: sa.Engine, name: str) -> Any:
    with engine.connect() as connection:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


# --- SQLite ---


def test_connect_sets_up_sqlite(tmp_path: Path, opened: Callable[..., Engines]) -> None:
    """A commit is synced, readers do not block the writer, and a busy lock is waited for."""
    engines = opened(f"sqlite:///{tmp_path}/a.db", lock_timeout=1.5)
    for engine in (engines.reads, engines.writes):
        settings = {name: pragma(engine, name) for name in ("journal_mode", "synchronous", "busy_timeout")}
        assert settings == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 1500}
    assert pragma(opened(f"sqlite:///{tmp_path}/a.db", lock_timeout=math.inf).reads, "busy_timeout") == 2**31 - 1


@pytest.mark.needs_modes
def test_connect_makes_the_database_private(
    tmp_path: Path, opened: Callable[..., Engines], umask: Callable[[int], int]
) -> None:
    """With its side files, and whatever the umask; an existing one that is open to others is restricted."""
    umask(0)
    engines = opened(f"sqlite:///{tmp_path}/a.db")
    for _ in range(2):
        with engines.writes.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (i)")
            files = sorted(tmp_path.iterdir())
            assert [path.name for path in files] == ["a.db", "a.db-shm", "a.db-wal"]
            assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        engines.dispose()
        (tmp_path / "a.db").chmod(0o644)


@pytest.mark.needs_modes
def test_connect_makes_side_files_private_that_are_there(tmp_path: Path, opened: Callable[..., Engines]) -> None:
    """Another program made them, with the mode that the database had then."""
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("CREATE TABLE zoho_keystore_store (i)")
        for create in (True, False):
            for path in tmp_path.glob("a.db*"):
                path.chmod(0o644)
            with opened(f"sqlite:///{tmp_path}/a.db", create=create).reads.connect():
                modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("a.db*")}
            assert modes == dict.fromkeys(("a.db", "a.db-wal", "a.db-shm"), 0o600)


@pytest.mark.needs_modes
@pytest.mark.parametrize("create", [True, False])
def test_connect_opens_side_files_of_a_time_when_the_database_was_read_only(
    tmp_path: Path, opened: Callable[..., Engines], *, create: bool
) -> None:
    """SQLite makes them with the mode of the database, so saves would go on failing after a chmod of that."""
    path = tmp_path / "a.db"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("CREATE TABLE zoho_keystore_store (i)")
        path.chmod(0o600)
        sides = [tmp_path / f"a.db{suffix}" for suffix in ("-wal", "-shm")]
        for side in sides:
            side.chmod(0o400)
        opened_modes: list[int] = []
        configure = sessions.CONFIGURE["sqlite"]
        with pytest.MonkeyPatch.context() as patched:

            def noting(connection: sqlite3.Connection, lock_timeout_s: float) -> None:
                # Before SQLite opens them.
                opened_modes.extend(stat.S_IMODE(side.stat().st_mode) for side in sides)
                configure(connection, lock_timeout_s)

            patched.setitem(sessions.CONFIGURE, "sqlite", noting)
            opened(f"sqlite:///{path}", create=create).reads.connect().close()
    assert opened_modes == [0o600, 0o600]


@pytest.mark.needs_modes
def test_connect_leaves_the_database_of_another_program(tmp_path: Path, opened: Callable[..., Engines]) -> None:
    """A command that only reads was given its address by mistake: that program may need its mode and its journal."""
    path = tmp_path / "a.db"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (zoho_keystore_store)")
    path.chmod(0o644)
    before = path.read_bytes()
    assert pragma(opened(f"sqlite:///{path}", create=False).reads, "journal_mode") == "delete"
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (before, 0o644)
    assert [found.name for found in tmp_path.iterdir()] == ["a.db"]


def test_connect_refuses_what_is_no_file(tmp_path: Path, opened: Callable[..., Engines]) -> None:
    (tmp_path / "directory").mkdir()
    for name, kind in (("directory", UnsafeFileError), ("missing/a.db", StoreFileError)):
        with pytest.raises(kind):
            opened(f"sqlite:///{tmp_path}/{name}").reads.connect()


def test_connect_reports_a_file_that_cannot_be_made(
    tmp_path: Path, opened: Callable[..., Engines], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", failing(errno.ENOSPC))
    with pytest.raises(StoreFileError, match="no space left"):
        opened(f"sqlite:///{tmp_path}/a.db").reads.connect()


def test_connect_reports_a_file_that_cannot_be_examined(
    tmp_path: Path, opened: Callable[..., Engines], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Directory, "status_if_there", failing(errno.EIO))
    with pytest.raises(StoreFileError, match="the database cannot be opened"):
        opened(f"sqlite:///{tmp_path}/a.db").reads.connect()


def test_connect_accepts_a_database_that_another_process_has_just_made(
    tmp_path: Path, opened: Callable[..., Engines], monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = opened(f"sqlite:///{tmp_path}/a.db")
    link = os.link

    def overtaken(source: Any, target: Any, **options: Any) -> None:
        link(source, target, **options)
        link(source, target, **options)

    monkeypatch.setattr(os, "link", overtaken)
    assert pragma(engines.reads, "journal_mode") == "wal"


def test_connect_opens_no_descriptor_of_an_existing_database(tmp_path: Path, opened: Callable[..., Engines]) -> None:
    """Closing it would release the locks that this process holds, and another process would take the writer's."""
    text = f"sqlite:///{tmp_path}/a.db"
    program = (
        f"import sqlite3; sqlite3.connect({str(tmp_path / 'a.db')!r}, timeout=0).execute('PRAGMA journal_mode=DELETE')"
    )
    with opened(text).reads.connect() as connection:
        connection.exec_driver_sql("PRAGMA user_version")
        assert pragma(opened(text).reads, "journal_mode") == "wal"
        # Needs the database for itself alone.
        assert "database is locked" in run_python("-c", program).stderr


def test_writes_of_sqlite_begin_with_the_lock(tmp_path: Path, opened: Callable[..., Engines]) -> None:
    """A transaction that had begun with reading would fail at its first write, whatever the timeout."""
    engines = opened(f"sqlite:///{tmp_path}/a.db", lock_timeout=0)
    with (
        engines.writes.begin(),
        engines.writes.connect() as other,
        pytest.raises(sa.exc.OperationalError) as caught,
    ):
        other.begin()
    assert classify(caught.value) is Failure.LOCK_TIMEOUT


def test_reads_of_sqlite_hold_no_lock(tmp_path: Path, opened: Callable[..., Engines]) -> None:
    """Each statement sees what was committed before it."""
    engines = opened(f"sqlite:///{tmp_path}/a.db", lock_timeout=0)
    with engines.writes.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (i)")
    with engines.reads.connect() as reader:
        for count in range(3):
            assert reader.exec_driver_sql("SELECT count(*) FROM t").scalar() == count
            with engines.writes.begin() as connection:
                connection.exec_driver_sql("INSERT INTO t VALUES (1)")


@pytest.mark.skipif(sys.platform == "win32", reason="opening a directory fails there with another error")
@pytest.mark.parametrize("passes", [True, False])
def test_side_file_that_cannot_be_opened_is_waited_for(
    tmp_path: Path, opened: Callable[..., Engines], monkeypatch: pytest.MonkeyPatch, *, passes: bool
) -> None:
    """A backup that runs as root makes the log as root's, and then gives it to the owner of the database."""
    monkeypatch.setattr(sessions, "_SIDE_FILES_TIMEOUT_S", 10 if passes else 0.1)
    text, log = f"sqlite:///{tmp_path}/a.db", tmp_path / "a.db-wal"
    engines = opened(text)
    assert pragma(engines.reads, "journal_mode") == "wal"
    engines.dispose()
    log.mkdir()
    given = threading.Timer(0.2, log.rmdir)
    with contextlib.nullcontext() if passes else pytest.raises(sa.exc.OperationalError, match="unable to open"):
        if passes:
            given.start()
        assert pragma(opened(text).reads, "journal_mode") == "wal"


def test_switch_to_wal_waits_for_another_process(tmp_path: Path, opened: Callable[..., Engines]) -> None:
    path = tmp_path / "a.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as holder:
        # A reader: the mode can be read, and not be changed.
        holder.executescript("CREATE TABLE t (i); INSERT INTO t VALUES (1); BEGIN; SELECT * FROM t")
        with pytest.raises(sa.exc.OperationalError, match="locked"):
            opened(f"sqlite:///{path}", lock_timeout=0.05).reads.connect()
        threading.Timer(0.2, holder.execute, ["COMMIT"]).start()
        assert pragma(opened(f"sqlite:///{path}", lock_timeout=10).reads, "journal_mode") == "wal"


@pytest.mark.parametrize(
    ("code", "tries"), [(sqlite3.SQLITE_READONLY, 1), (sqlite3.SQLITE_BUSY, 2), (sqlite3.SQLITE_LOCKED, 2)]
)
def test_switch_to_wal_meets_a_busy_or_read_only_database(code: int, tries: int) -> None:
    """SQLite does not always wait, where two processes make a store at once. What is read-only stays as it is."""
    done: list[str] = []

    class Database:
        def execute(self, statement: str) -> Any:
            if "=" in statement:
                done.append(statement)
                if len(done) == 1:
                    error = sqlite3.OperationalError()
                    error.sqlite_errorcode = code
                    raise error
            return self

        def fetchone(self) -> tuple[str]:
            return ("delete",)

    sessions._switch_to_wal(Database(), time.monotonic() + 10)  # type: ignore[arg-type]  # as far as it is used
    assert len(done) == tries


def test_pool_timeout_is_a_lock_timeout(tmp_path: Path, opened: Callable[..., Engines]) -> None:
    """More threads than the pool has connections wait as for a lock."""
    engines = opened(f"sqlite:///{tmp_path}/a.db", lock_timeout=0.1)
    with contextlib.ExitStack() as stack:

        def use_many() -> None:
            for _ in range(100):
                stack.enter_context(engines.reads.connect())

        with pytest.raises(sa.exc.TimeoutError) as caught:
            use_many()
    assert classify(caught.value) is Failure.LOCK_TIMEOUT


@pytest.mark.needs_fork
def test_forked_child_leaves_the_connections_to_its_parent(
    tmp_path: Path, opened: Callable[..., Engines], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a child did on them would reach the transactions of the parent. Those of SQLite are closed before."""
    engines = opened(f"sqlite:///{tmp_path}/a.db")
    # As a server's: they stay open.
    monkeypatch.setattr(Engines, "before_fork", lambda _self: None)
    monkeypatch.setattr(forks, "note_inherited", lambda _path: None)
    with engines.reads.connect() as connection:
        connection.exec_driver_sql("CREATE TEMP TABLE of_the_parent (i)")
    child = os.fork()
    if not child:
        code = 99
        try:
            code = temporary_tables(engines)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert temporary_tables(engines) == 1
    # Here, where coverage sees it; the connection of before stays open.
    engine_module._after_fork_in_child()
    assert temporary_tables(engines) == 0


def test_fork_leaves_connections_to_servers_open(opened: Callable[..., Engines]) -> None:
    """Only SQLite takes note of locks in the memory that a child inherits."""
    engines = opened(POSTGRESQL)
    pool = engines.reads.pool
    engines.before_fork()
    assert engines.reads.pool is pool


def temporary_tables(engines: Engines) -> int:
    with engines.reads.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM sqlite_temp_master").scalar_one())


def test_engines_that_are_gone_are_not_kept(tmp_path: Path) -> None:
    """A service that opens stores all day would collect them."""
    engines = connect(parse_address(f"sqlite:///{tmp_path}/a.db"))
    engines.dispose()
    pool = id(engines)
    del engines
    gc.collect()
    assert pool not in {id(one) for one in gc.get_objects() if isinstance(one, Engines)}


# --- Servers, played ---


class Cursor:
    """A cursor that notes its statements."""

    def __init__(self, statements: list[str], rows: dict[str, list[tuple[Any, ...]]]) -> None:
        self._statements, self._rows = statements, rows
        self.description: object = None
        self._found: list[tuple[Any, ...]] = []

    def execute(self, statement: str) -> None:
        self._statements.append(statement)
        found = [rows for start, rows in self._rows.items() if statement.startswith(start)]
        self.description, self._found = (found or None), (found[0] if found else [])

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._found

    def close(self) -> None:
        """Do nothing."""


class Connection:
    """A connection of a driver that notes what is done."""

    def __init__(self, **rows: list[tuple[Any, ...]]) -> None:
        self.done: list[str] = []
        self._rows = rows
        self.handlers: list[Callable[[Any], None]] = []

    def cursor(self) -> Cursor:
        return Cursor(self.done, self._rows)

    def commit(self) -> None:
        self.done.append("COMMIT")

    def close(self) -> None:
        self.done.append("CLOSE")

    def add_notice_handler(self, handler: Callable[[Any], None]) -> None:
        self.handlers.append(handler)


@pytest.mark.parametrize(("seconds", "setting"), [(30.0, 5000), (1.2, 1200), (0.0, 1), (math.inf, 5000)])
def test_postgresql_sessions_wait_for_locks_and_sync_commits(seconds: float, setting: int) -> None:
    """A lock timeout of 0 would mean none; a role with synchronous_commit off would lose commits in a crash.

    It is less than the network timeout, as with MySQL.
    """
    connection = Connection(SELECT=[("", "", "")])
    sessions.configure_postgresql(connection, seconds)
    statement, end = connection.done
    assert end == "COMMIT"
    assert f"set_config('lock_timeout', '{setting}', false)" in statement
    assert (
        "current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', false)" in statement
    )


class SilentServer:
    """Begins a session as PostgreSQL does, and then answers no statement; TCP goes on to acknowledge them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._clients: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self._clients.append(client)
                # Requests for encryption have 8 bytes, and are refused.
                while len(client.recv(4096)) == 8:
                    client.sendall(b"N")
                # AuthenticationOk, ParameterStatus, ReadyForQuery
                client.sendall(b"R\0\0\0\x08\0\0\0\0S\0\0\0\x19client_encoding\0UTF8\0Z\0\0\0\x05I")

    def close(self) -> None:
        for one in (self._listener, *self._clients):
            one.close()


def test_postgresql_server_that_does_not_answer_is_unavailable(
    opened: Callable[..., Engines], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is stopped, or behind a proxy that has lost it, would keep the caller without an end."""
    monkeypatch.setattr(sessions, "NETWORK_TIMEOUT_S", 0.3)
    with contextlib.closing(SilentServer()) as server:
        engines = opened(f"postgresql://ann@127.0.0.1:{server.port}/zoho")
        start_s = time.monotonic()
        with pytest.raises(sa.exc.OperationalError, match=r"the server has not answered for 0\.3 s") as caught:
            engines.reads.connect()
    assert classify(caught.value) is Failure.UNAVAILABLE
    assert time.monotonic() - start_s < 5


def test_postgresql_server_that_answers_in_parts_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows take longer than the network timeout, which counts the time without any of them."""
    monkeypatch.setattr(sessions, "NETWORK_TIMEOUT_S", 0.1)

    def rows() -> Generator[str, int, int]:
        parts = 0
        while parts < 4:
            parts += yield "read"
        return parts

    limited = sessions.limited(rows(), RuntimeError)
    assert next(limited) == "read"
    for _ in range(3):
        time.sleep(0.06)
        limited.send(0)
        time.sleep(0.06)
        limited.send(1)
    with pytest.raises(StopIteration) as caught:
        limited.send(1)
    assert caught.value.value == 4


@pytest.mark.parametrize(("seconds", "setting"), [(30.0, 5), (0.0, 1), (1.2, 2), (math.inf, 5)])
def test_mysql_sessions_wait_for_locks(seconds: float, setting: int) -> None:
    """For less than the network timeout: the server would go on waiting for a client that has given up."""
    connection = Connection(SHOW=[])
    sessions.configure_mysql(connection, seconds)
    assert f"innodb_lock_wait_timeout = {setting}, lock_wait_timeout = {setting}," in connection.done[0]
    assert connection.done[-1] == "COMMIT"
    assert setting < sessions.NETWORK_TIMEOUT_S


@pytest.mark.parametrize(("value", "is_galera"), [("ON", True), ("OFF", False)])
def test_mysql_sessions_on_galera_read_what_was_committed_on_other_nodes(value: str, *, is_galera: bool) -> None:
    connection = Connection(SHOW=[("wsrep_on", value)])
    sessions.configure_mysql(connection, 1)
    assert any("wsrep_sync_wait" in statement for statement in connection.done) is is_galera


def played(engines: Engines, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let the driver of both engines return a connection, and return the arguments that it gets."""
    arguments: dict[str, Any] = {}

    def open_(*_: Any, **named: Any) -> Connection:
        arguments.update(named)
        return connection

    for engine in (engines.reads, engines.writes):
        monkeypatch.setattr(engine.dialect, "connect", open_)
    return arguments


class Record:
    """As SQLAlchemy's record of a connection."""

    def __init__(self) -> None:
        self.info: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://h/d", {"connect_timeout": 3, "prepare_threshold": None}),
        ("mysql://h/d", {"connect_timeout": 3, "read_timeout": 10, "write_timeout": 10, "local_infile": False}),
        ("mysql+mysqlconnector://h/d", {"connection_timeout": 3, "read_timeout": 10}),
    ],
)
def test_connect_gives_the_driver_timeouts(
    text: str, expected: dict[str, Any], opened: Callable[..., Engines], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them a server that is gone is waited for without end; arguments of the caller take precedence."""
    engines = opened(text, connect_args={"mine": 1, "passwd": PASSWORD})
    arguments = played(engines, Connection(SELECT=[], SHOW=[]), monkeypatch)
    engines._connector.open(engines.reads.dialect, Record(), [], {"given": 2})
    assert expected.items() <= arguments.items()
    assert (arguments["mine"], arguments["given"], arguments["password"]) == (1, 2, PASSWORD)
    assert "passwd" not in arguments


def test_connect_takes_the_password_of_the_environment(
    opened: Callable[..., Engines], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is given takes precedence; without any, the driver looks into files of its own."""
    for variable, given, expected in (("a", None, "a"), ("a", "b", "b"), ("", None, None)):
        monkeypatch.setenv("ZOHO_KEYSTORE_SQL_PASSWORD", variable)
        engines = opened(MYSQL, password=given)
        arguments = played(engines, Connection(SHOW=[]), monkeypatch)
        engines._connector.open(engines.reads.dialect, Record(), [], {})
        assert arguments.get("password") == expected


def test_sqlite_ignores_the_password_of_a_server(
    tmp_path: Path, opened: Callable[..., Engines], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOHO_KEYSTORE_SQL_PASSWORD", PASSWORD)
    assert pragma(opened(f"sqlite:///{tmp_path}/a.db").reads, "journal_mode") == "wal"


def test_connection_whose_settings_fail_is_closed(
    opened: Callable[..., Engines], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Connection):
        def cursor(self) -> Cursor:
            raise sqlite3.OperationalError

    engines = opened(MYSQL)
    connection = Failing()
    played(engines, connection, monkeypatch)
    with pytest.raises(sqlite3.OperationalError):
        engines._connector.open(engines.reads.dialect, Record(), [], {})
    assert connection.done == ["CLOSE"]


class Diagnostic:
    """A warning of PostgreSQL."""

    def __init__(self, sqlstate: str) -> None:
        self.sqlstate = sqlstate


def nothing() -> None:
    """Do nothing."""


class Fairy:
    """A connection as SQLAlchemy passes it on, with the record's info and the driver's own list of notices."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.info = info
        self.notices: list[str] = []
        self.on_commit: Callable[[], None] = nothing

    def commit(self) -> None:
        self.on_commit()


def test_commit_without_a_standby_is_of_unknown_durability(
    opened: Callable[..., Engines], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL reports it as a warning beside its OK; other warnings, and those of before, are none."""
    engines = opened(POSTGRESQL)
    connection, record = Connection(SELECT=[("", "", "")]), Record()
    played(engines, connection, monkeypatch)
    engines._connector.open(engines.writes.dialect, record, [], {})
    [warn] = connection.handlers
    fairy = Fairy(record.info)
    warn(Diagnostic("01000"))
    fairy.on_commit = lambda: warn(Diagnostic("01007"))
    engines.writes.dialect.do_commit(fairy)  # type: ignore[arg-type]  # what of a connection it uses
    fairy.on_commit = lambda: warn(Diagnostic("01000"))
    with pytest.raises(DurabilityUnknownError, match="no standby"):
        engines.writes.dialect.do_commit(fairy)  # type: ignore[arg-type]  # as above
    fairy.on_commit = nothing
    engines.writes.dialect.do_commit(fairy)  # type: ignore[arg-type]  # as above


def test_commit_without_a_standby_is_noticed_with_psycopg2(opened: Callable[..., Engines]) -> None:
    """Which lists its notices; the engines of other drivers are made without their library."""
    engines = opened(POSTGRESQL)
    fairy = Fairy({})
    fairy.on_commit = lambda: fairy.notices.append("WARNING:  canceling wait for synchronous replication")
    with pytest.raises(DurabilityUnknownError):
        engines.writes.dialect.do_commit(fairy)  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(("text", "driver"), [(POSTGRESQL, "psycopg"), (MYSQL, "pymysql")])
def test_connect_without_the_driver_names_the_extra(text: str, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = parse_address(text)
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(ConfigurationError, match=rf"{driver} is not installed.*zoho_keystore\[{address.dialect}\]"):
        connect(address)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("postgresql+psycopg2://h/d", "pip install psycopg2-binary; or leave the driver out"),
        ("postgresql+pg8000://h/d", "pip install pg8000; or leave the driver out"),
        ("mysql+mysqldb://h/d", "pip install mysqlclient; or leave the driver out"),
        ("mysql+cymysql://h/d", "Install it; or leave the driver out"),
    ],
)
def test_connect_without_a_named_driver_names_its_package(
    text: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra would bring another one, and the error would stay."""
    for module in ("psycopg2", "pg8000", "MySQLdb", "cymysql"):
        monkeypatch.setitem(sys.modules, module, None)
    address = parse_address(text)
    with pytest.raises(ConfigurationError, match=rf"{address.driver} is not installed\..*{advice}"):
        connect(address)


@pytest.mark.parametrize(
    ("password", "may_ask", "is_there", "asked"),
    [(None, True, True, 1), ("wrong", True, True, 0), (None, False, True, 0), (None, True, False, 0)],
)
def test_connect_asks_the_user_when_the_server_refuses_it(
    opened: Callable[..., Engines],
    monkeypatch: pytest.MonkeyPatch,
    password: str | None,
    *,
    may_ask: bool,
    is_there: bool,
    asked: int,
) -> None:
    """Once, and only if there is no password; libpq or an option file may have one, so the server is tried first."""
    names: list[str] = []
    passwords: list[str | None] = []
    engines = opened(MYSQL, password=password, may_ask=may_ask)

    def ask(name: str) -> str:
        names.append(name)
        return PASSWORD

    def open_(*_: Any, password: str | None = None, **__: Any) -> Connection:
        passwords.append(password)
        if password != PASSWORD:
            raise pymysql.err.OperationalError(1045, "Access denied")
        return Connection(SHOW=[])

    monkeypatch.setattr(engines.reads.dialect, "connect", open_)
    PROMPT.use(ask if is_there else None)
    try:
        for _ in range(2):
            with contextlib.suppress(pymysql.err.OperationalError):
                engines._connector.open(engines.reads.dialect, Record(), [], {})
        assert names == [MYSQL] * asked
        assert passwords == ([None, PASSWORD, PASSWORD] if asked else [password, password])
        assert (opened(MYSQL)._connector._password == PASSWORD) is bool(asked)
    finally:
        PROMPT.use(None)


# --- Secrets ---


@pytest.mark.parametrize("how", ["argument", "variable", "connect_args"])
@pytest.mark.parametrize("text", [POSTGRESQL, MYSQL])
def test_failed_connection_shows_no_password(  # noqa: PLR0917 - pytest passes fixtures by name
    text: str,
    how: str,
    opened: Callable[..., Engines],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Not in the error, what it links to, the logs at their most talkative, or the variables of a frame."""
    for name in (None, "sqlalchemy", "sqlalchemy.engine", "sqlalchemy.pool"):
        caplog.set_level(logging.DEBUG, logger=name)
    if how == "variable":
        monkeypatch.setenv("ZOHO_KEYSTORE_SQL_PASSWORD", PASSWORD)
    options: dict[str, Any] = {
        "argument": {"password": PASSWORD},
        "connect_args": {"connect_args": {"password": PASSWORD}},
    }
    engines = opened(text, **options.get(how, {}))
    caught, shown = failure_of(engines.reads.connect, sa.exc.OperationalError)
    assert classify(caught) is Failure.UNAVAILABLE
    output = capfd.readouterr()
    texts = [shown, repr(engines), repr(vars(engines)), caplog.text, output.out, output.err, *locals_of(caught)]
    assert_hides("\n".join(texts), PASSWORD.encode())


def locals_of(error: BaseException) -> list[str]:
    """Return the variables of all frames of an error and of those that it links to, except for those of this module."""
    texts = []
    linked: BaseException | None = error
    while linked is not None:
        trace = linked.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename != __file__:
                texts.append(repr(trace.tb_frame.f_locals))
            trace = trace.tb_next
        linked = linked.__cause__ or linked.__context__
    return texts


def test_error_of_a_statement_shows_no_parameters(tmp_path: Path, opened: Callable[..., Engines]) -> None:
    engines = opened(f"sqlite:///{tmp_path}/a.db")

    def fail() -> None:
        with engines.reads.connect() as connection:
            connection.execute(sa.text("SELECT * FROM missing WHERE a = :a"), {"a": PASSWORD})

    caught, _ = failure_of(fail, sa.exc.OperationalError)
    assert_hides(str(caught), PASSWORD.encode())


@pytest.mark.parametrize("text", [POSTGRESQL, MYSQL, "mysql+mysqlconnector://ann@127.0.0.1:1/zoho"])
def test_connect_refuses_an_argument_that_the_driver_lacks(text: str, opened: Callable[..., Engines]) -> None:
    with pytest.raises(ConfigurationError, match=r"no_such_argument.*connect_args"):
        opened(text, connect_args={"no_such_argument": 1}).reads.connect()


def test_connect_refuses_arguments_that_libpq_cannot_read(opened: Callable[..., Engines]) -> None:
    """Its text repeats a part of them, which may be a password; and what a server refuses is no argument."""
    engines = opened(POSTGRESQL, connect_args={"conninfo": f"host = h {PASSWORD}"})
    error, shown = failure_of(engines.reads.connect, ConfigurationError)
    assert error.problem == "the driver does not accept an argument"
    assert_hides(shown, PASSWORD.encode())
    syntax = psycopg.errors.lookup("42601")("syntax error")
    assert (refused_argument(syntax), refused_argument(OSError())) == (None, None)


def test_connect_asks_the_user_when_the_password_of_the_variable_is_refused(
    opened: Callable[..., Engines], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: further connections, and further engines of the command, take the answer and not the variable."""
    monkeypatch.setenv("ZOHO_KEYSTORE_SQL_PASSWORD", "old")
    tried: list[str | None] = []

    def open_(*_: Any, password: str | None = None, **__: Any) -> Connection:
        tried.append(password)
        if password != PASSWORD:
            raise pymysql.err.OperationalError(1045, "Access denied")
        return Connection(SHOW=[])

    asked: list[str] = []

    def ask(name: str) -> str:
        asked.append(name)
        return PASSWORD

    PROMPT.use(ask)
    try:
        for _ in range(2):
            engines = opened(MYSQL)
            monkeypatch.setattr(engines.reads.dialect, "connect", open_)
            engines._connector.open(engines.reads.dialect, Record(), [], {})
    finally:
        PROMPT.use(None)
    assert (tried, asked) == (["old", PASSWORD, PASSWORD], [MYSQL])
    # Without a user, the variable's password is kept for the next try.
    engines = opened(MYSQL)
    monkeypatch.setattr(engines.reads.dialect, "connect", open_)
    for _ in range(2):
        with pytest.raises(pymysql.err.OperationalError):
            engines._connector.open(engines.reads.dialect, Record(), [], {})
    assert tried[3:] == ["old", "old"]


@pytest.mark.parametrize(
    "make",
    [
        psycopg.OperationalError,
        lambda text: pymysql.err.OperationalError(1105, text),
        lambda text: mysql.connector.errors.OperationalError(errno=1105, msg=text),
    ],
    ids=["psycopg", "pymysql", "connector"],
)
def test_server_that_quotes_a_parameter_is_not_repeated(
    opened: Callable[..., Engines], monkeypatch: pytest.MonkeyPatch, make: Callable[[str], Exception]
) -> None:
    """It quotes what it refuses: the value or a part of it, of the address or of connect_args."""
    engines = opened(f"{POSTGRESQL}?options=-cx.y%3D{PASSWORD}", connect_args={"other": "value-of-it", "port": 1})

    def refuse(*_: object, **__: object) -> None:
        raise make(f"bad option {PASSWORD}, bad value-of-it, 1")

    monkeypatch.setattr(engines.reads.dialect, "connect", refuse)
    with pytest.raises(Exception, match="bad option …, bad …, 1") as caught:
        engines._connector.open(engines.reads.dialect, Record(), [], {})
    assert first_line(caught.value).endswith("bad option …, bad …, 1")
    assert_hides(f"{caught.value!r} {caught.value} {vars(caught.value)}", PASSWORD.encode(), b"value-of-it")
