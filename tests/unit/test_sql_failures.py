"""The errors of the drivers, played: each code of each driver leads to one failure, and no message has a statement."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

import psycopg
import pymysql
import pytest
import sqlalchemy

from zoho_keystore._sql.failures import Failure, classify, first_line

STATES = {
    Failure.RETRY: ["40001", "40P01", "40002"],
    Failure.LOCK_TIMEOUT: ["55P03"],
    Failure.UNAVAILABLE: [
        *("08000", "08003", "08006", "25P03", "25P04", "53100", "53300", "57014", "57P01", "57P02", "57P03", "57P05"),
        "58030",
    ],
    Failure.UNKNOWN_COMMIT: ["08007", "40003"],
    Failure.READ_ONLY: ["25006"],
    Failure.NO_TABLE: ["42P01", "3F000"],
    Failure.NO_DATABASE: ["3D000"],
    Failure.EXISTS: ["23505", "42710", "42P07"],
    Failure.LOGIN: ["28000", "28P01"],
    Failure.DENIED: ["42501"],
    Failure.OTHER: ["22001", "42703", "XX000", "57P04"],
}
NUMBERS = {
    Failure.RETRY: [1020, 1213, 3101],
    Failure.LOCK_TIMEOUT: [1205],
    Failure.UNAVAILABLE: [
        *(-1, 0, 1021, 1040, 1042, 1043, 1047, 1053, 1080, 1114, 1152, 1158, 1159, 1160, 1161, 1184, 1203, 1206, 1226),
        *(1317, 1637, 1927, 1969, 2002, 2003, 2005, 2006, 2013, 2014, 2026, 2055, 3024, 3169, 4031, 9001),
    ],
    Failure.UNKNOWN_COMMIT: [1180],
    Failure.READ_ONLY: [1290, 1792, 1836],
    Failure.NO_TABLE: [1146],
    Failure.NO_DATABASE: [1046, 1049],
    Failure.EXISTS: [1050, 1062],
    Failure.LOGIN: [1045, 1251, 1698],
    Failure.DENIED: [1044, 1129, 1130, 1142, 1143, 1227, 1820, 1862, 3118, 4151],
    Failure.OTHER: [1064, 1406, 3948],
}


class Psycopg2Error(Exception):
    """As psycopg2's."""

    def __init__(self, text: str, pgcode: str | None = None) -> None:
        super().__init__(text)
        self.pgcode = pgcode


class OperationalError(Psycopg2Error):
    """As psycopg2's."""


class ConnectorError(Exception):
    """As the errors of mysql-connector and of MariaDB's connector: the number is an attribute, the text comes first."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.errno = number
        self.sqlstate = "HY000"
        self.msg = text


def cases(failures: dict[Failure, list[Any]]) -> list[Any]:
    return [pytest.param(code, kind, id=f"{code}-{kind.name}") for kind, codes in failures.items() for code in codes]


@pytest.mark.parametrize(("state", "failure"), cases(STATES))
def test_classify_tells_postgresql_by_sqlstate(state: str, failure: Failure) -> None:
    """Psycopg has a class for each state; its relatives and psycopg2 share one for many."""

    class PsycopgError(psycopg.Error):
        sqlstate = state

    for error in (PsycopgError("any text"), Psycopg2Error("any text", state)):
        assert classify(error) is failure
        assert classify(wrapped(error)) is failure


@pytest.mark.parametrize(("number", "failure"), cases(NUMBERS))
def test_classify_tells_mysql_by_number(number: int, failure: Failure) -> None:
    """PyMySQL and mysqlclient raise one class for a deadlock and for a wrong password."""
    for error in (pymysql.err.OperationalError(number, "any text"), ConnectorError(number, "any text")):
        assert classify(error) is failure
        assert classify(wrapped(error)) is failure


def wrapped(orig: BaseException, *, is_lost: bool = False) -> sqlalchemy.exc.DBAPIError:
    """Return an error as SQLAlchemy raises it, with a statement and parameters."""
    return sqlalchemy.exc.DBAPIError("SELECT secret", {"p": "swordfish"}, orig, connection_invalidated=is_lost)


def test_classify_tells_sqlite_by_result_code(tmp_path: Any) -> None:
    path = tmp_path / "a.db"
    statements = {
        "SELECT * FROM missing": Failure.NO_TABLE,
        "CREATE TABLE t (i)": Failure.EXISTS,
        "INSERT INTO t VALUES (1)": Failure.EXISTS,
        "SELEC": Failure.OTHER,
    }
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
        connection.executescript("CREATE TABLE t (i UNIQUE); INSERT INTO t VALUES (1)")
        for statement, failure in statements.items():
            assert classify(raised(connection, statement)) is failure
        connection.execute("BEGIN IMMEDIATE")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
            assert classify(raised(other, "BEGIN IMMEDIATE")) is Failure.LOCK_TIMEOUT
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)) as connection:
        assert classify(raised(connection, "DELETE FROM t")) is Failure.FILE


def raised(connection: sqlite3.Connection, statement: str) -> sqlite3.Error:
    with pytest.raises(sqlite3.Error) as caught:
        connection.execute(statement)
    return caught.value


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (517, Failure.RETRY),
        (3, Failure.DENIED),
        (10, Failure.UNAVAILABLE),
        (14, Failure.FILE),
        (1032, Failure.UNAVAILABLE),
        (13, Failure.UNAVAILABLE),
        (11, Failure.DAMAGED),
        (26, Failure.DAMAGED),
        (21, Failure.OTHER),
    ],
)
def test_classify_tells_sqlite_by_played_result_code(code: int, failure: Failure) -> None:
    """A transaction that waits in vain, since it began with reading (517); a file that was replaced (1032)."""
    error = sqlite3.OperationalError("any text")
    error.sqlite_errorcode = code
    assert classify(error) is failure


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ('FATAL:  password authentication failed for user "ann"', Failure.LOGIN),
        ("fe_sendauth: no password supplied", Failure.LOGIN),
        ('FATAL:  no pg_hba.conf entry for host "h", user "ann", database "d", no encryption', Failure.LOGIN),
        ('FATAL:  role "ann" does not exist', Failure.LOGIN),
        ('FATAL:  permission denied for database "d"', Failure.DENIED),
        ('FATAL:  database "d" does not exist', Failure.NO_DATABASE),
        ("FATAL:  the database system is starting up", Failure.UNAVAILABLE),
        ("connection refused", Failure.UNAVAILABLE),
        ("server closed the connection unexpectedly", Failure.UNAVAILABLE),
    ],
)
def test_classify_reads_the_text_where_libpq_has_no_code(text: str, failure: Failure) -> None:
    """It passes no SQLSTATE of a connection that fails."""
    for error in (psycopg.OperationalError(f"connection failed: {text}"), OperationalError(text)):
        assert classify(wrapped(error)) is failure


def test_classify_login_needs_no_english() -> None:
    class Connection:
        needs_password = True

    error = psycopg.OperationalError("Kein Passwort", pgconn=Connection())  # type: ignore[arg-type]  # what is read of one
    assert classify(error) is Failure.LOGIN


def test_classify_without_a_code_looks_at_the_connection() -> None:
    """A connection that the driver gave up, and errors of the network; a bug is neither."""
    assert classify(wrapped(ValueError("packet out of order"), is_lost=True)) is Failure.UNAVAILABLE
    assert classify(ConnectionResetError(104, "reset")) is Failure.UNAVAILABLE
    assert classify(sqlalchemy.exc.TimeoutError("QueuePool limit reached")) is Failure.LOCK_TIMEOUT
    assert classify(psycopg.ProgrammingError("the query has 2 placeholders")) is Failure.OTHER
    assert classify(ValueError("x")) is Failure.OTHER


@pytest.mark.parametrize(
    ("orig", "line"),
    [
        (psycopg.OperationalError("first\nsecond swordfish"), "first"),
        (pymysql.err.OperationalError(1045, "Access denied"), "Access denied"),
        (ConnectorError(1045, "Access denied"), "Access denied"),
        (ValueError(), "ValueError"),
        (ValueError("\n a\x1b[2Jb"), "a [2Jb"),
        (ValueError("x" * 1000), "x" * 300 + "…"),
    ],
    ids=["psycopg", "pymysql", "connector", "empty", "control", "long"],
)
def test_first_line_has_no_statement_and_no_parameters(orig: Exception, line: str) -> None:
    assert first_line(wrapped(orig)) == first_line(orig) == line
