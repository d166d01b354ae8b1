"""What the errors of the drivers mean, by their codes.

The classes of the drivers do not tell: PyMySQL raises the same for a deadlock and for a wrong password.
"""

from __future__ import annotations

import re
import struct
from enum import Enum, auto
from typing import Final

_MAX_LINE_CHARACTERS: Final = 300


class Failure(Enum):
    """What an error of a driver means for the work that met it."""

    #: The server rolled the transaction back, in favour of another one: run it again.
    RETRY = auto()
    #: Another connection held a lock for too long.
    LOCK_TIMEOUT = auto()
    #: No connection, a lost one, or a server that is starting, stopping, full or not ready.
    UNAVAILABLE = auto()
    #: The server does not know whether the transaction was committed. A connection that is lost during a commit
    #: (UNAVAILABLE) means the same.
    UNKNOWN_COMMIT = auto()
    #: The server takes no writes.
    READ_ONLY = auto()
    #: There is no such table, schema or view.
    NO_TABLE = auto()
    #: There is no such database.
    NO_DATABASE = auto()
    #: A table, row or other object is there already: another process was faster.
    EXISTS = auto()
    #: The user is unknown, or the password is wrong or missing.
    LOGIN = auto()
    #: A permission is missing, or the account is locked.
    DENIED = auto()
    #: The file of the database cannot be opened, or not be written.
    FILE = auto()
    #: The file of the database is damaged, or none of a database.
    DAMAGED = auto()
    #: Anything else: a bug, or a server of another kind.
    OTHER = auto()


#: PostgreSQL and its relatives, by SQLSTATE or its class.
_SQLSTATES: Final = {
    "08": Failure.UNAVAILABLE,  # connection exception
    "08007": Failure.UNKNOWN_COMMIT,  # transaction resolution unknown
    "23505": Failure.EXISTS,  # unique violation; also of the catalogue, when two processes make a table
    "25006": Failure.READ_ONLY,  # read-only transaction: a standby
    "25P03": Failure.UNAVAILABLE,  # idle in transaction for too long
    "25P04": Failure.UNAVAILABLE,  # transaction timeout
    "28": Failure.LOGIN,  # invalid authorization: password, pg_hba.conf
    "3D000": Failure.NO_DATABASE,
    "3F000": Failure.NO_TABLE,  # no such schema
    "40": Failure.RETRY,  # transaction rollback
    "40001": Failure.RETRY,  # serialization failure
    "40003": Failure.UNKNOWN_COMMIT,  # statement completion unknown
    "40P01": Failure.RETRY,  # deadlock
    "42501": Failure.DENIED,  # insufficient privilege
    "42710": Failure.EXISTS,  # duplicate object
    "42P01": Failure.NO_TABLE,
    "42P07": Failure.EXISTS,  # duplicate table
    "53": Failure.UNAVAILABLE,  # insufficient resources: connections, memory, disk
    "55P03": Failure.LOCK_TIMEOUT,
    "57014": Failure.UNAVAILABLE,  # cancelled: a statement timeout of the server
    "57P01": Failure.UNAVAILABLE,  # shutdown
    "57P02": Failure.UNAVAILABLE,  # crash
    "57P03": Failure.UNAVAILABLE,  # starting, or recovering
    "57P05": Failure.UNAVAILABLE,  # idle for too long
    "58": Failure.UNAVAILABLE,  # system error: the server's disk
}

#: MySQL and MariaDB, by number. 2000 to 2999 are of the client: no connection, or a lost one.
_NUMBERS: Final = {
    -1: Failure.UNAVAILABLE,  # mysql-connector: no number
    0: Failure.UNAVAILABLE,  # PyMySQL: the connection is closed
    1020: Failure.RETRY,  # the record has changed since it was read
    1040: Failure.UNAVAILABLE,  # too many connections
    1042: Failure.UNAVAILABLE,  # the host name cannot be resolved
    1043: Failure.UNAVAILABLE,  # bad handshake
    1044: Failure.DENIED,  # the database
    1045: Failure.LOGIN,  # user or password
    1046: Failure.NO_DATABASE,  # the address names none
    1047: Failure.UNAVAILABLE,  # Galera: the node has not joined, or has no majority
    1049: Failure.NO_DATABASE,
    1050: Failure.EXISTS,  # the table
    1053: Failure.UNAVAILABLE,  # shutdown
    1062: Failure.EXISTS,  # a row with this key
    1080: Failure.UNAVAILABLE,  # forced close
    1114: Failure.UNAVAILABLE,  # the disk or the table is full
    1021: Failure.UNAVAILABLE,  # the disk is full
    1129: Failure.DENIED,  # the host is blocked
    1130: Failure.DENIED,  # the host may not connect
    1142: Failure.DENIED,  # the table
    1143: Failure.DENIED,  # the column
    1146: Failure.NO_TABLE,
    1152: Failure.UNAVAILABLE,  # aborted connection
    1158: Failure.UNAVAILABLE,  # 1158 to 1161: reading and writing packets
    1159: Failure.UNAVAILABLE,
    1160: Failure.UNAVAILABLE,
    1161: Failure.UNAVAILABLE,
    1180: Failure.UNKNOWN_COMMIT,  # an error during COMMIT
    1184: Failure.UNAVAILABLE,  # aborted connection
    1203: Failure.UNAVAILABLE,  # too many connections of this user
    1205: Failure.LOCK_TIMEOUT,
    1206: Failure.UNAVAILABLE,  # too many locks
    1213: Failure.RETRY,  # deadlock; Galera: a conflict with another node
    1226: Failure.UNAVAILABLE,  # a limit of this user
    1227: Failure.DENIED,  # a privilege
    1251: Failure.LOGIN,  # the way to authenticate
    1290: Failure.READ_ONLY,  # --read-only
    1317: Failure.UNAVAILABLE,  # the query was interrupted
    1637: Failure.UNAVAILABLE,  # too many transactions
    1698: Failure.LOGIN,  # the user, by the server's plugin
    1792: Failure.READ_ONLY,  # a read-only transaction
    1820: Failure.DENIED,  # the password has expired
    1836: Failure.READ_ONLY,  # the server runs in read-only mode
    1862: Failure.DENIED,  # the password has expired
    1927: Failure.UNAVAILABLE,  # MariaDB: the connection was killed
    1969: Failure.UNAVAILABLE,  # MariaDB: a statement timeout of the server
    3024: Failure.UNAVAILABLE,  # a statement timeout of the server
    3101: Failure.RETRY,  # MySQL's Group Replication: a conflict with another server
    3118: Failure.DENIED,  # the account is locked
    3169: Failure.UNAVAILABLE,  # MySQL: the connection was killed
    4031: Failure.UNAVAILABLE,  # MySQL: idle for too long
    4151: Failure.DENIED,  # MariaDB: the account is locked
    9001: Failure.UNAVAILABLE,  # ProxySQL: no server behind it takes a connection
}
_CLIENT_NUMBERS: Final = range(2000, 3000)

#: SQLite, by primary result code.
_RESULT_CODES: Final = {
    3: Failure.DENIED,  # PERM
    5: Failure.LOCK_TIMEOUT,  # BUSY
    6: Failure.LOCK_TIMEOUT,  # LOCKED
    8: Failure.FILE,  # READONLY
    10: Failure.UNAVAILABLE,  # IOERR
    11: Failure.DAMAGED,  # CORRUPT
    13: Failure.UNAVAILABLE,  # FULL
    14: Failure.FILE,  # CANTOPEN
    15: Failure.RETRY,  # PROTOCOL: many processes began a transaction at once
    19: Failure.EXISTS,  # CONSTRAINT
    23: Failure.DENIED,  # AUTH
    26: Failure.DAMAGED,  # NOTADB
}
#: SQLite, by extended result code, where it means something else than the primary one.
_EXTENDED_CODES: Final = {
    # A transaction that began with reading, and its snapshot is not the newest: waiting does not help, a new one does.
    517: Failure.RETRY,  # BUSY_SNAPSHOT
    # The file was moved or replaced: a new connection opens what is there now.
    1032: Failure.UNAVAILABLE,  # READONLY_DBMOVED
}

#: Where there is no code: libpq passes the text alone when it cannot connect, SQLite has one code for all statements.
_TEXTS: Final = (
    (re.compile(r"no such table", re.IGNORECASE), Failure.NO_TABLE),
    (re.compile(r"(?:table|index) .* already exists", re.IGNORECASE), Failure.EXISTS),
    (re.compile(r'FATAL: +database ".*" does not exist'), Failure.NO_DATABASE),
    (re.compile(r"permission denied for database"), Failure.DENIED),
    (
        re.compile(r'authentication failed|no password supplied|no pg_hba\.conf entry|FATAL: +role ".*"'),
        Failure.LOGIN,
    ),
)

#: What a driver raises that cannot read an answer: from a server of another kind, or a proxy that breaks it. Its text
#: says nothing to a user.
MALFORMED: Final = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, struct.error)


def classify(error: BaseException) -> Failure:
    """Return what an error of SQLAlchemy or of a driver means."""
    orig = getattr(error, "orig", None) or error
    failure = _by_code(orig)
    if failure is not None:
        return failure
    for pattern, by_text in _TEXTS:
        if pattern.search(str(orig)):
            return by_text
    if _has_no_password(orig):
        return Failure.LOGIN
    if _is_pool_timeout(error):
        return Failure.LOCK_TIMEOUT
    if isinstance(orig, OSError) or getattr(error, "connection_invalidated", False) or _is_of_libpq(orig):
        return Failure.UNAVAILABLE
    return Failure.OTHER


def error_code(error: BaseException) -> int | str | None:
    """Return the driver's code of an error: a number of MySQL or SQLite, an SQLSTATE of PostgreSQL."""
    orig = getattr(error, "orig", None) or error
    number = getattr(orig, "sqlite_errorcode", None) or _number(orig)
    return number if number is not None else _state(orig)


def _by_code(orig: BaseException) -> Failure | None:
    if isinstance(orig, OSError):
        return None  # Its errno is one of the operating system.
    result_code = getattr(orig, "sqlite_errorcode", None)
    if isinstance(result_code, int):
        return _EXTENDED_CODES.get(result_code) or _RESULT_CODES.get(result_code & 0xFF)
    number = _number(orig)
    if number is not None:
        return Failure.UNAVAILABLE if number in _CLIENT_NUMBERS else _NUMBERS.get(number, Failure.OTHER)
    state = _state(orig)
    if state is not None:
        return _SQLSTATES.get(state) or _SQLSTATES.get(state[:2], Failure.OTHER)
    return None


def _number(orig: BaseException) -> int | None:
    """Return MySQL's number: an attribute of the connectors, the first argument of PyMySQL and mysqlclient."""
    candidates = (getattr(orig, "errno", None), *orig.args[:1])
    return next((one for one in candidates if isinstance(one, int)), None)


def _state(orig: BaseException) -> str | None:
    state = getattr(orig, "sqlstate", None) or getattr(orig, "pgcode", None)
    return state if isinstance(state, str) else None


def _has_no_password(orig: BaseException) -> bool:
    """Tell whether psycopg could not connect because the server wants a password; the text may be in any language."""
    return bool(getattr(getattr(orig, "pgconn", None), "needs_password", False))


def _is_of_libpq(orig: BaseException) -> bool:
    """Tell whether an error without SQLSTATE is one of psycopg or psycopg2 about the connection."""
    of_libpq = hasattr(orig, "sqlstate") or hasattr(orig, "pgcode")
    return of_libpq and any(kind.__name__ == "OperationalError" for kind in type(orig).__mro__)


def refused_argument(error: BaseException) -> str | None:
    """Return the name of an argument for a connection that libpq does not know; None if an error is another one.

    Empty if libpq cannot even read the arguments: its text may repeat a part of them.
    """
    if type(error).__name__ != "ProgrammingError" or _by_code(error) is not None:
        return None
    found = re.search(r'invalid (?:connection|URI query) (?:option|parameter)[:]? "(\w+)"', str(error))
    return found[1] if found else ""


def _is_pool_timeout(error: BaseException) -> bool:
    # All connections of the pool were in use. Not isinstance: SQLAlchemy is an extra.
    return type(error).__name__ == "TimeoutError" and type(error).__module__ == "sqlalchemy.exc"


def first_line(error: BaseException) -> str:
    """Return the first line of what the driver or the server says, without SQLAlchemy's statement and parameters."""
    orig = getattr(error, "orig", None) or error
    said = getattr(orig, "msg", None)
    if not isinstance(said, str):
        said = orig.args[-1] if orig.args and isinstance(orig.args[-1], str) else str(orig)
    line = next((line.strip() for line in said.splitlines() if line.strip()), type(orig).__name__)
    printable = "".join(character if character.isprintable() else " " for character in line)
    return printable if len(printable) <= _MAX_LINE_CHARACTERS else f"{printable[:_MAX_LINE_CHARACTERS]}…"


def malformed(error: BaseException) -> str:
    """Return what to say of one of MALFORMED."""
    return f"the server's answer is malformed ({type(error).__name__})"
