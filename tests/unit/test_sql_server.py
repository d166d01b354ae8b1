"""The settings of servers that ``doctor`` reports."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import stat
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from zoho_keystore._fs import permissions
from zoho_keystore._platform import choose, icacls_command, quote
from zoho_keystore._sql.address import parse_address
from zoho_keystore._sql.engine import connect
from zoho_keystore._sql.server import Finding, examine, findings, is_local, of_mysql, of_postgresql
from zoho_keystore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POSTGRESQL: dict[str, Any] = {
    "version": "15.1",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "synchronous_standby_names": "",
    "read_only": "off",
    "standbys": 0,
    "ssl": True,
}
MYSQL = {
    "version": "8.4.0",
    "innodb_flush_log_at_trx_commit": "1",
    "innodb_flush_method": "O_DIRECT",
    "log_bin": "ON",
    "sync_binlog": "1",
    "read_only": "OFF",
    "ssl_cipher": "TLS_AES_256_GCM_SHA384",
}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"fsync": "off"}, "fsync is off"),
        ({"full_page_writes": "off"}, "full_page_writes is off"),
        ({"synchronous_commit": "off"}, "synchronous_commit is off"),
        ({"standbys": 2}, "its standby servers (2) are asynchronous"),
        ({"standbys": 2, "synchronous_standby_names": "ANY 1 (*)"}, None),
        ({"read_only": "on"}, "takes no writes"),
        ({"ssl": False}, "not encrypted"),
    ],
)
def test_postgresql_settings_that_break_a_promise_are_problems(changes: dict[str, Any], problem: str | None) -> None:
    first, *found = of_postgresql(POSTGRESQL | changes, is_local=False)
    assert first == Finding("PostgreSQL 15.1")
    assert_finds(found, problem)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"innodb_flush_log_at_trx_commit": "2"}, "innodb_flush_log_at_trx_commit is 2"),
        ({"innodb_flush_method": "nosync"}, "innodb_flush_method is nosync"),
        ({"sync_binlog": "0"}, "sync_binlog is 0"),
        ({"sync_binlog": "0", "log_bin": "OFF"}, None),
        ({"slaves_connected": "1"}, "its replicas (1) are asynchronous"),
        ({"slaves_connected": "1", "rpl_semi_sync_master_enabled": "ON"}, None),
        ({"super_read_only": "ON", "read_only": "ON"}, "takes no writes: read_only, super_read_only is ON"),
        ({"ssl_cipher": ""}, "not encrypted"),
    ],
)
def test_mysql_settings_that_break_a_promise_are_problems(changes: dict[str, str], problem: str | None) -> None:
    first, *found = of_mysql(MYSQL | changes, is_local=False)
    assert first == Finding("MySQL 8.4.0")
    assert_finds(found, problem)


def assert_finds(found: list[Finding], problem: str | None) -> None:
    assert len(found) == (problem is not None)
    for one in found:
        assert problem is not None
        assert problem in one.what
        assert one.fix


def test_mysql_galera_cluster_is_synchronous() -> None:
    settings = {"version": "10.11-MariaDB", "wsrep_on": "ON", "wsrep_cluster_size": "3", "slaves_connected": "1"}
    assert [one.what for one in of_mysql(MYSQL | settings, is_local=True)] == [
        "MariaDB 10.11-MariaDB",
        "Galera cluster of 3 nodes",
    ]


@pytest.mark.parametrize("changes", [{"ssl": False}, {"ssl": None}])
def test_clear_text_on_this_machine_is_no_problem(changes: dict[str, Any]) -> None:
    assert len(list(of_postgresql(POSTGRESQL | changes, is_local=True))) == 1
    assert len(list(of_mysql(MYSQL | {"ssl_cipher": ""}, is_local=True))) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://localhost/d", True),
        ("postgresql://127.0.0.5:99/d", True),
        ("postgresql://[::1]/d", True),
        ("postgresql:///d?host=/run/postgresql", True),
        ("postgresql:///d", True),
        ("mysql://db.example.com/d?unix_socket=/run/mysqld.sock", True),
        ("postgresql://db.example.com/d", False),
        ("postgresql://10.0.0.1/d", False),
        ("postgresql:///d?host=127.0.0.1:1&host=db.example.com:2", False),
        ("postgresql:///d?host=127.0.0.1:1&host=127.0.0.1:2", True),
    ],
)
def test_is_local_goes_by_the_address(text: str, monkeypatch: pytest.MonkeyPatch, *, expected: bool) -> None:
    monkeypatch.delenv("PGHOST", raising=False)
    assert is_local(parse_address(text)) is expected


def test_is_local_knows_the_host_of_libpq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example.com")
    assert not is_local(parse_address("postgresql:///d"))


def test_examine_checks_an_sqlite_database(tmp_path: Path) -> None:
    """A page that was overwritten is found, also where no token is."""
    path = tmp_path / "a.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE t (i); CREATE INDEX n ON t (i); INSERT INTO t VALUES (1), (2), (3)")
    engines = connect(parse_address(f"sqlite:///{path}"))
    try:
        assert examine(engines) == []
        engines.dispose()
        content = bytearray(path.read_bytes())
        content[-20:] = bytes(20)
        path.write_bytes(content)
        [found] = examine(engines)
        assert found.what.startswith("the database is damaged: ")
        assert found.fix == "Restore it from a backup"
    finally:
        engines.dispose()


class TestUnwritable:
    """An SQLite database that this user cannot write; the tests of privileged users do it by modes."""

    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Give a database that SQLite opens for reading alone."""
        path = tmp_path / "a.db"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE t (i)")
        # What follows the fragment is ignored.
        monkeypatch.setattr(type(path), "as_uri", lambda self: f"file:{self}?mode=ro#")
        return path

    def found(self, path: Path) -> Finding:
        [found] = findings(parse_address(f"sqlite:///{path}"))
        return found

    def test_database_that_cannot_be_written_is_a_problem(self, path: Path) -> None:
        found = self.found(path)
        assert found.what == "the database cannot be written: attempt to write a readonly database"
        assert "immutable" in found.fix

    @pytest.mark.parametrize("place", ["a.db", ""])
    def test_fix_names_the_place_that_is_not_writable(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, place: str
    ) -> None:
        unwritable = path.parent / place
        monkeypatch.setattr(os, "access", lambda one, _: one != unwritable)
        assert self.found(path).fix == choose(f"chmod u+w {quote(str(unwritable))}", icacls_command(unwritable))

    @pytest.mark.needs_modes
    def test_fix_names_a_directory_of_another_user(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whose mode this user cannot change."""
        monkeypatch.setattr(os, "access", lambda one, _: one != path.parent)
        monkeypatch.setattr(permissions, "is_ours", lambda status: stat.S_ISREG(status.st_mode))
        assert self.found(path).fix == (
            f"Let the user who runs this write {path.parent}, or keep the store in a directory of that user"
        )

    @pytest.mark.needs_modes
    def test_fix_names_a_read_only_file_system(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
        assert self.found(path).fix == f"Mount the file system of {path} writable"

    def test_database_that_another_program_writes_is_no_problem(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript("CREATE TABLE t (i); PRAGMA journal_mode = WAL; BEGIN IMMEDIATE")
            assert findings(parse_address(f"sqlite:///{path}")) == []

    def test_database_that_cannot_be_opened_is_a_problem(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(path), "as_uri", lambda self: f"file:{self}.none?mode=ro#")
        assert self.found(path).what == "the database cannot be used: unable to open database file"


class PlayedRows(list[Any]):
    """The result of a statement."""

    def mappings(self) -> PlayedRows:
        return self

    def one(self) -> Any:
        [row] = self
        return row


class PlayedEngines:
    """Engines whose connections answer by the start of a statement."""

    def __init__(self, text: str, **answers: list[Any]) -> None:
        self.address = parse_address(text)
        self._answers = answers

    @property
    def reads(self) -> PlayedEngines:
        return self

    @contextlib.contextmanager
    def connect(self) -> Iterator[PlayedEngines]:
        yield self

    def exec_driver_sql(self, statement: str) -> PlayedRows:
        name = "status" if "STATUS" in statement else "settings"
        return PlayedRows(self._answers[name])


def test_server_of_another_kind_is_a_problem() -> None:
    """PyMySQL raises IndexError or struct.error, for example."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as client:
                client.sendall(bytes(64))

        server = threading.Thread(target=answer)
        server.start()
        [found] = findings(parse_address(f"mysql://ann@127.0.0.1:{listener.getsockname()[1]}/zoho"))
        server.join()
    assert found.what.endswith("the server's answer is malformed (IndexError)")


def test_argument_that_the_driver_does_not_accept_is_no_answer_of_the_server() -> None:
    with pytest.raises(ConfigurationError, match="the driver does not accept an argument"):
        findings(parse_address("postgresql://ann@127.0.0.1:1/zoho?no_such=1"))


def test_examine_asks_a_postgresql_server() -> None:
    engines: Any = PlayedEngines("postgresql://db.example.com/d", settings=[POSTGRESQL | {"ssl": False}])
    assert [one.what.partition(" ")[0] for one in examine(engines)] == ["PostgreSQL", "the"]


def test_examine_asks_a_mysql_server() -> None:
    """For variables and for its status; names may be in any case."""
    engines: Any = PlayedEngines(
        "mysql://db.example.com/d",
        settings=[*MYSQL.items(), ("sync_binlog", 0)],
        status=[("Ssl_cipher", ""), ("Slaves_connected", 2)],
    )
    assert [one.what.partition(" ")[0] for one in examine(engines)] == ["MySQL", "sync_binlog", "its", "the"]
