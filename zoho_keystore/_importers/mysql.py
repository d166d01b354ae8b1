"""The table of the SDK's DBStore, on a MySQL or MariaDB server.

Its address is one of these, or the like; what it does not name, the option file may::

    mysql://USER@HOST:3306/zohooauth?table=oauthtoken
    mysql://USER@/zohooauth?unix_socket=/run/mysqld/mysqld.sock
    mysql:///zohooauth?option_file=~/.my.cnf

The password comes from the variable ZOHO_KEYSTORE_MYSQL_PASSWORD, else from the option file, else whoever runs this is
asked for it.
"""

from __future__ import annotations

import os
import re
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from zoho_keystore._fs import permissions
from zoho_keystore._fs.paths import real_path
from zoho_keystore._importers.rows import UnreadableError, from_table
from zoho_keystore.errors import ConfigurationError, UnsafeFileError, os_error_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from urllib.parse import SplitResult

    from zoho_keystore._records import TokenRecord

PASSWORD_VARIABLE = "ZOHO_KEYSTORE_MYSQL_PASSWORD"  # noqa: S105 - the name of a variable

#: How a server is named.
FORM = "mysql://USER@HOST:3306/zohooauth?table=oauthtoken"

#: For how long to wait for the server to answer, and for others that have locked the table, in seconds.
CONNECT_TIMEOUT_S = 10
LOCK_TIMEOUT_S = 10

_PORT = 3306
_SCHEME = re.compile(r"(mysql|mariadb)://", re.IGNORECASE)
#: What the SDK's DBStore allows; the longest name that the servers do.
_TABLE_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_PARAMETERS = {"table", "unix_socket", "option_file"}
_PASSWORD_PARAMETERS = {"password", "passwd", "pwd"}

_DENIED = (
    "the server denies access",
    f"Check the user, what it may read, and its password, which {PASSWORD_VARIABLE} or an option file holds",
)
_UNREACHABLE = ("the server cannot be reached", "Check the host and the port, and whether the server runs")
_NO_TLS = (
    "no encrypted connection came about",
    "Check the server's certificate, and the ssl options of the option file",
)
_PROBLEMS = {
    1044: _DENIED,
    1045: _DENIED,
    1142: _DENIED,
    1143: _DENIED,
    1698: _DENIED,
    1049: ("the server has no such database", "Check its name in the address"),
    1146: ("the database has no such table", "Name it in the address: ?table=NAME"),
    1205: ("the table is locked by another connection", "Try again when that has finished"),
    2002: _UNREACHABLE,
    2003: _UNREACHABLE,
    2005: _UNREACHABLE,
    2006: _UNREACHABLE,
    2013: _UNREACHABLE,
    2055: _UNREACHABLE,
    2026: _NO_TLS,
    3024: ("the server has not answered in time", "Check the host and the port; try again when it is less busy"),
}


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a table is.

    Attributes:
        name: What messages call it.
        table: The table's name.
        options: What the library is told of the connection; an option file never changes these.
        option_file: The file that tells the rest.
    """

    name: str
    table: str
    options: Mapping[str, Any] = field(repr=False)
    option_file: Path | None


def is_address(source: str) -> bool:
    """Tell whether a source is a server, and no file."""
    return bool(_SCHEME.match(source))


def parsed(source: str) -> Address:
    """Return what the address of a server says.

    Raises:
        ConfigurationError: It is not understood, or holds a password. It is not repeated then.
    """
    parts, parameters = _split(source)
    database = unquote(parts.path.strip("/")) or "zohooauth"
    table = parameters.get("table", "oauthtoken")
    if not _TABLE_NAME.fullmatch(table):
        raise ConfigurationError(
            "what follows table= is not the name of a table", "Only letters, digits and underscores are allowed in it"
        )
    option_file = real_path(parameters["option_file"]) if "option_file" in parameters else None
    socket = parameters.get("unix_socket")
    where: dict[str, Any] = {}
    if socket:
        where = {"unix_socket": os.path.expanduser(socket)}
    elif parts.hostname:
        # None, so that a socket in the option file does not lead to another server than the one that is named here.
        where = {"host": parts.hostname, "port": parts.port or _PORT, "unix_socket": None}
    if parts.username:
        where["user"] = unquote(parts.username)
    return Address(
        name=_name(parts, database, table, socket),
        table=table,
        options={
            **where,
            "database": database,
            "charset": "utf8mb4",
            "connection_timeout": CONNECT_TIMEOUT_S,
            # A server that asks for a file of this machine does not get it.
            "allow_local_infile": False,
        },
        option_file=option_file,
    )


def read(address: Address, ask: Callable[[], str] | None) -> list[TokenRecord]:
    """Return the records of a table.

    Args:
        address: Where it is.
        ask: Returns the password, when it is set nowhere.

    Raises:
        UnreadableError: It cannot be read, or is no table of tokens.
    """
    try:
        import mysql.connector  # noqa: PLC0415 - an extra, and slow to import
        import mysql.connector.optionfiles  # noqa: PLC0415 - as above
    except ImportError:
        raise UnreadableError(
            "the library mysql-connector-python is not installed",
            'Install it with: pip install "zoho_keystore[mysql]"',
        ) from None
    options = _options(address, ask, mysql.connector.optionfiles.read_option_files)
    try:
        names, rows = _table(address.table, mysql.connector.connect, options)
    except mysql.connector.Error as error:
        # What the server says is left out: it may quote what it was asked or what it holds.
        other = (f"the server has failed (error {error.errno})", "See the server's log")
        raise UnreadableError(*_PROBLEMS.get(error.errno, other)) from None
    except Exception as error:  # noqa: BLE001 - what answers may be no such server, and then anything goes wrong
        raise UnreadableError(
            f"what answers is not understood ({type(error).__name__})", "Check the host, the port and the option file"
        ) from None
    return from_table(address.table, names, rows)


def _table(
    table: str, connect: Callable[..., Any], options: Mapping[str, Any]
) -> tuple[Sequence[str], list[Sequence[object]]]:
    with closing(connect(**options)) as connection, closing(connection.cursor()) as cursor:
        # The servers' own limit is a day.
        cursor.execute(f"SET SESSION lock_wait_timeout = {LOCK_TIMEOUT_S}")
        # Not start_transaction(): MariaDB says that it is version 5.5.5, and the library refuses a read-only one there.
        cursor.execute("START TRANSACTION READ ONLY")
        cursor.execute(f"SELECT * FROM `{table}`")  # noqa: S608 - the name was checked, to the letter
        rows = cursor.fetchall()
        connection.rollback()
        return list(cursor.column_names), rows


def _options(
    address: Address, ask: Callable[[], str] | None, read_option_files: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    options = dict(address.options)
    if address.option_file is not None:
        options = _with_option_file(address.option_file, options, read_option_files)
    if not options.get("user"):
        raise UnreadableError("no user is named", f"Write {FORM}, or name one in the option file")
    password = os.environ.get(PASSWORD_VARIABLE) or _unquoted(options.pop("passwd", "") or options.pop("password", ""))
    options["password"] = password or (ask() if ask is not None else "")
    return options


def _with_option_file(
    path: Path, options: dict[str, Any], read_option_files: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    try:
        with permissions.opened(path):
            pass
        return read_option_files(option_files=str(path), **options)
    except UnsafeFileError as error:
        problem = error.problem
    except OSError as error:
        problem = os_error_text(error)
    except Exception:  # noqa: BLE001 - the library raises what its parser does, and quotes the line
        problem = "it is not understood"
    raise UnreadableError(f"the option file {path} cannot be read: {problem}", "Check its path and its content")


def _unquoted(value: str) -> str:
    """Return a value without the quotes that the servers' own programs take away, and the library does not."""
    match = re.fullmatch(r"""(["'])(.*)\1""", value, re.DOTALL)
    return match[2] if match else value


def _split(source: str) -> tuple[SplitResult, dict[str, str]]:
    understood = _understood(source)
    if understood is None:
        raise ConfigurationError("the address of the database is not understood", f"Write {FORM}")
    parts, parameters = understood
    if parts.password is not None or _PASSWORD_PARAMETERS & parameters.keys():
        raise ConfigurationError(
            "there is a password in the address of the database, where others on this machine can see it",
            f"Take it out, and put it into the variable {PASSWORD_VARIABLE}",
        )
    if not parameters.keys() <= _PARAMETERS or not all(parameters.values()):
        raise ConfigurationError(
            "the address of the database has a parameter that is not known, or empty",
            "There are table=NAME, unix_socket=PATH and option_file=PATH",
        )
    return parts, parameters


def _understood(source: str) -> tuple[SplitResult, dict[str, str]] | None:
    """Return the parts and the parameters of an address; None for what may be a password with a special character."""
    try:
        parts = urlsplit(source)
        if parts.port == 0 or parts.fragment or "/" in parts.path[1:] or "@" in parts.path:
            return None
        parameters = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else []
    except ValueError:
        return None
    return parts, dict(parameters)


def _name(parts: SplitResult, database: str, table: str, socket: str | None) -> str:
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    user = f"{quote(unquote(parts.username), safe='')}@" if parts.username else ""
    port = f":{parts.port or _PORT}" if host else ""
    where = f"&unix_socket={quote(socket)}" if socket else ""
    return f"{parts.scheme}://{user}{host}{port}/{quote(database, safe='')}?table={table}{where}"
